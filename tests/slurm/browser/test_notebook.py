"""Notebook 7 on the login node, kernels on compute nodes: what the user sees."""

from playwright.sync_api import expect

from tests.cluster import Site
from tests.slurm.browser.notebook import HOSTNAME, ON_KNL, PENDING, OpenNotebook, Shoot, saved_cells
from tests.slurm.browser.server import Server
from tests.slurm.squeue import Occupation, only_job, wait_for_no_job

APPLICATION = "notebooks"


def test_a_session(cluster: Site, open_notebook: OpenNotebook, shoot: Shoot) -> None:
    notebook = open_notebook(
        APPLICATION, HOSTNAME, "import time\nprint('asleep')\ntime.sleep(600)", "print('Hello', input('Who? '))"
    )
    first, second, third = (notebook.cell(index) for index in range(3))
    first.run()
    first.expect_output(ON_KNL)
    job = only_job(cluster)

    second.run()
    expect(second.output_area).to_contain_text("asleep")
    notebook.interrupt()
    expect(second.output_area).to_contain_text("KeyboardInterrupt")
    second.expect_number(2)

    third.run()
    third.stdin.fill("Alice")
    third.stdin.press("Enter")
    expect(third.output_area).to_contain_text("Hello Alice")
    shoot("session")

    notebook.restart()
    first.run()
    first.expect_number(1)
    assert only_job(cluster) == job

    notebook.shut_down()
    wait_for_no_job(cluster)
    shoot("shut-down")


def test_cells_wait_for_the_queue(
    cluster: Site, no_free_knl: Occupation, open_notebook: OpenNotebook, server: Server, shoot: Shoot
) -> None:
    notebook = open_notebook(APPLICATION, "x = 1", HOSTNAME)
    first, second = notebook.run_first(2)
    expect(first.output_area).to_have_text(PENDING)
    second.expect_busy()
    assert only_job(cluster).state == "PENDING"
    shoot("pending")

    no_free_knl.end()
    second.expect_output(ON_KNL)
    first.expect_number(1)
    second.expect_number(2)
    first.expect_no_output()
    shoot("result")

    notebook.save()
    first_saved, second_saved = saved_cells(server.notebooks / "work.ipynb")[:2]
    assert first_saved.outputs == []
    assert [output["text"] for output in second_saved.outputs] == [f"{second.output_area.inner_text().strip()}\n"]
