"""JupyterLab on the login node, kernels on compute nodes: what the user sees."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.cluster import Site
from tests.slurm.browser.notebook import HOSTNAME, KNL, ON_KNL, PENDING, Notebook, OpenNotebook, Shoot, saved_cells
from tests.slurm.browser.server import Server
from tests.slurm.squeue import Occupation, all_jobs, cancel, jobs, only_job, wait_for_no_job

APPLICATION = "lab/tree"


@pytest.fixture
def lab(page: Page, server: Server) -> Page:
    """Open JupyterLab's launcher."""
    page.goto(server.url("lab"))
    expect(page.locator(".jp-Launcher")).to_be_visible()
    return page


def test_a_session_from_the_launcher_to_the_running_panel(
    cluster: Site, lab: Page, server: Server, shoot: Shoot
) -> None:
    card = lab.locator(".jp-LauncherCard[data-category=Notebook]", has_text=re.compile(rf"{KNL}$"))
    expect(card.locator("img")).to_be_visible()
    expect(card.locator("img")).to_have_js_property("complete", True)
    assert card.locator("img").evaluate("img => img.naturalWidth") > 0
    shoot("launcher")
    card.click()

    notebook = Notebook(lab)
    expect(notebook.kernel_name).to_have_text(KNL)
    server.wait_for_client()
    first = notebook.cell(0)
    first.write(HOSTNAME)
    first.run()
    first.expect_output(ON_KNL)
    first.expect_number(1)
    shoot("first-result")
    job = only_job(cluster)

    second = notebook.cell(1)
    second.write("import time\nprint('asleep')\ntime.sleep(600)")
    second.run()
    expect(second.output_area).to_contain_text("asleep")
    notebook.interrupt()
    expect(second.output_area).to_contain_text("KeyboardInterrupt")
    second.expect_number(2)
    shoot("interrupted")

    third = notebook.cell(2)
    third.write("name = input('Who? ')\nprint('Hello', name)")
    third.run()
    third.stdin.fill("Alice")
    third.stdin.press("Enter")
    expect(third.output_area).to_contain_text("Hello Alice")
    shoot("input")

    fourth = notebook.cell(3)
    fourth.write("import ipywidgets\nipywidgets.IntSlider(value=7, description='Nodes')")
    fourth.run()
    expect(fourth.locator.locator(".widget-slider .widget-readout")).to_have_text("7")
    shoot("widget")

    notebook.restart()
    fifth = notebook.cell(4)
    fifth.write("import os\nprint('name' in globals(), os.getcwd())")
    fifth.run()
    fifth.expect_output(f"False {server.notebooks}")
    fifth.expect_number(1)
    assert only_job(cluster) == job
    shoot("restarted")

    lab.locator('.lm-TabBar-tab[data-id="jp-running-sessions"]').click()
    running = lab.locator("#jp-running-sessions .jp-RunningSessions-item.jp-mod-kernel", has_text="Untitled.ipynb")
    running.locator(".jp-RunningSessions-item-label-kernel-id").hover()
    shoot("running-panel")
    running.locator(".jp-RunningSessions-itemShutdown").click()
    expect(notebook.kernel_name).to_have_text("No Kernel")
    wait_for_no_job(cluster)
    shoot("shut-down")


def test_a_kernel_in_an_image(cluster: Site, lab: Page, server: Server, shoot: Shoot) -> None:
    card = lab.locator(".jp-LauncherCard[data-category=Notebook]", has_text="Cori KNL (Shifter)")
    expect(card.locator("img")).to_have_js_property("complete", True)
    assert card.locator("img").evaluate("img => img.naturalWidth") > 0
    shoot("launcher")
    card.click()

    notebook = Notebook(lab)
    expect(notebook.kernel_name).to_have_text("Cori KNL (Shifter)")
    server.wait_for_client()
    first = notebook.cell(0)
    first.write("import os, platform, sys\nprint(platform.node(), sys.executable, os.environ['SHIFTER_IMAGEREQUEST'])")
    first.run()
    first.expect_output(re.compile(r"^nid0230\d /usr/bin/python3 docker:nersc/pyhep:2.0\s*$"))
    shoot("result")
    notebook.shut_down()
    wait_for_no_job(cluster)


def test_an_image_that_is_not_there_is_told_in_the_dialog(lab: Page, server: Server, shoot: Shoot) -> None:
    server.install("cori-knl-shifter", "--image=docker:nope/nope:1", "--name=nope", "--display-name=Nope")
    lab.reload()
    lab.locator(".jp-LauncherCard[data-category=Notebook]", has_text="Nope").click()

    dialog = lab.locator(".jp-Dialog")
    expect(dialog).to_contain_text('Kernel "Nope" (kernelspec nope) cannot run in the image docker:nope/nope:1')
    expect(dialog).to_contain_text("farkernel images list")
    shoot("dialog")
    dialog.get_by_role("button").first.click()


def test_cells_wait_for_the_queue(
    cluster: Site, no_free_knl: Occupation, open_notebook: OpenNotebook, server: Server, shoot: Shoot
) -> None:
    notebook = open_notebook(APPLICATION, HOSTNAME, "x = 1", "print('x is', x)")
    first, second, third = notebook.run_first(3)
    expect(first.output_area).to_have_text(PENDING)
    for cell in (first, second, third):
        cell.expect_busy()
    shoot("pending")

    no_free_knl.end()
    first.expect_output(ON_KNL)
    second.expect_no_output()
    third.expect_output("x is 1")
    for number, cell in enumerate((first, second, third), start=1):
        cell.expect_number(number)
    shoot("result")

    notebook.save()
    node = first.output_area.inner_text().strip()
    saved = saved_cells(server.notebooks / "work.ipynb")
    assert [output["text"] for cell in saved for output in cell.outputs] == [f"{node}\n", "x is 1\n"]
    notebook.shut_down()
    wait_for_no_job(cluster)


def test_nothing_of_the_queue_stays_in_a_cell_without_output(
    no_free_knl: Occupation, open_notebook: OpenNotebook, server: Server, shoot: Shoot
) -> None:
    notebook = open_notebook(APPLICATION, "x = 1", "print(x + 1)")
    first, second = notebook.run_first(2)
    expect(first.output_area).to_have_text(PENDING)

    no_free_knl.end()
    second.expect_output("2")
    first.expect_number(1)
    first.expect_no_output()
    shoot("result")

    notebook.save()
    assert saved_cells(server.notebooks / "work.ipynb")[0].outputs == []


def test_a_reload_while_the_job_waits_keeps_the_job(
    cluster: Site, no_free_knl: Occupation, open_notebook: OpenNotebook, server: Server, shoot: Shoot
) -> None:
    notebook = open_notebook(APPLICATION, "print('first')", HOSTNAME)
    (first,) = notebook.run_first(1)
    expect(first.output_area).to_have_text(PENDING)
    job, (kernel,) = only_job(cluster), server.kernels()

    notebook.page.reload()
    expect(notebook.kernel_name).to_have_text(KNL)
    server.wait_for_client()
    second = notebook.cell(1)
    second.run()
    expect(second.output_area).to_have_text(PENDING)
    second.expect_busy()
    shoot("reloaded")
    assert only_job(cluster) == job
    assert [found["id"] for found in server.kernels()] == [kernel["id"]]

    no_free_knl.end()
    second.expect_output(ON_KNL)
    assert only_job(cluster).id == job.id
    shoot("result")


def test_slurms_refusal_is_shown(cluster: Site, page: Page, server: Server, shoot: Shoot) -> None:
    server.install("cori-knl", "--name=refused", "--display-name=Cori KNL (nope)", "--account=nope")
    page.goto(server.url("lab"))
    page.locator(".jp-LauncherCard[data-category=Notebook]", has_text="Cori KNL (nope)").click()

    dialog = Notebook(page).dialog
    expect(dialog.locator(".jp-Dialog-header")).to_have_text("Error Starting Kernel")
    expect(dialog).to_contain_text("Invalid account or account/partition combination specified")
    expect(dialog).to_contain_text("slurm.account")
    shoot("refused")
    assert jobs(cluster) == []
    server.wait_for_no_kernel()


def test_the_end_of_the_job_is_told_and_no_other_job_follows(
    cluster: Site, open_notebook: OpenNotebook, server: Server, shoot: Shoot
) -> None:
    notebook = open_notebook(APPLICATION, "import time\nprint('asleep')\ntime.sleep(600)", "x = 1")
    running, queued = notebook.run_first(2)
    expect(running.output_area).to_contain_text("asleep")
    job = only_job(cluster)

    cancel(cluster, job)
    expect(running.output_area).to_contain_text(f"Slurm job {job.id}")
    expect(running.prompt).not_to_have_text("[*]:")
    expect(queued.prompt).not_to_have_text("[*]:")
    shoot("cancelled")
    server.wait_for_no_kernel()  # from here on nothing of the server's would start one
    wait_for_no_job(cluster)
    assert [seen.id for seen in all_jobs(cluster) if seen.id >= job.id] == [job.id]
    expect(notebook.kernel_name).to_have_text("No Kernel")
    shoot("dead")

    notebook.start_again()
    server.wait_for_client()
    queued.run()
    queued.expect_number(1)
    assert only_job(cluster).id != job.id
    shoot("restarted")


def test_an_interrupt_while_the_job_waits_cancels_the_cells_alone(
    cluster: Site, no_free_knl: Occupation, open_notebook: OpenNotebook, shoot: Shoot
) -> None:
    notebook = open_notebook(APPLICATION, HOSTNAME, "x = 1")
    first, second = notebook.run_first(2)
    expect(first.output_area).to_have_text(PENDING)
    job = only_job(cluster)

    notebook.interrupt()
    expect(first.output_area).to_have_text(re.compile("^cancelled while the kernel was waiting"))
    expect(second.prompt).not_to_have_text("[*]:")
    shoot("interrupted")
    assert only_job(cluster) == job

    first.run()
    expect(first.output_area).to_have_text(PENDING)
    no_free_knl.end()
    first.expect_output(ON_KNL)
    assert only_job(cluster).id == job.id
    shoot("result")


def test_a_restart_while_the_job_waits(
    cluster: Site, no_free_knl: Occupation, open_notebook: OpenNotebook, shoot: Shoot
) -> None:
    notebook = open_notebook(APPLICATION, HOSTNAME)
    (first,) = notebook.run_first(1)
    expect(first.output_area).to_have_text(PENDING)

    notebook.restart()
    expect(first.prompt).not_to_have_text("[*]:")
    shoot("restarted")
    first.run()
    expect(first.output_area).to_have_text(PENDING)
    assert only_job(cluster).state == "PENDING"
    shoot("pending-again")

    no_free_knl.end()
    first.expect_output(ON_KNL)


def test_a_shutdown_while_the_job_waits_withdraws_it(
    cluster: Site, no_free_knl: Occupation, open_notebook: OpenNotebook, shoot: Shoot
) -> None:
    notebook = open_notebook(APPLICATION, HOSTNAME)
    (first,) = notebook.run_first(1)
    expect(first.output_area).to_have_text(PENDING)

    notebook.shut_down()
    wait_for_no_job(cluster)
    expect(first.prompt).not_to_have_text("[*]:")
    expect(first.output_area).to_contain_text("waiting for its job")
    expect(first.output_area).not_to_contain_text("PENDING")
    shoot("shut-down")
