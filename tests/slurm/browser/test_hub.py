"""JupyterHub on the login node: a kernel is picked, its node knows nothing of the hub, and nothing is left behind."""

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.cluster import Site
from tests.cluster.site import CONTROLLER, LOGIN, PATH
from tests.slurm import intruder
from tests.slurm.browser.hub import Hub
from tests.slurm.browser.notebook import Notebook
from tests.slurm.browser.server import Own
from tests.slurm.squeue import PATIENCE, Occupation, jobs, only_job, wait_for_no_job

SHIFTER = "Cori KNL (Shifter)"
WHERE = """
import os, platform, sys
print(platform.node(), sys.executable, os.environ["SHIFTER_IMAGEREQUEST"])
print([name for name in os.environ if "HUB" in name or "TOKEN" in name])
"""
NAMES = {name: name for name in ("JUPYTERHUB_", "JPY_API_TOKEN", "CONFIGPROXY_AUTH_TOKEN")}
PLACES = ["/tmp", "/dev/shm", "/run", "/var/log", "/var/spool"]

pytestmark = pytest.mark.usefixtures("no_directories_left")


@pytest.fixture
def hub(cluster: Site, tmp_path: Path) -> Iterator[Hub]:
    """Start a hub as alice, who has no privilege."""
    folder = tmp_path / "hub"
    folder.mkdir(mode=0o700)
    with tempfile.TemporaryDirectory(prefix="notebooks-", dir=Path.home()) as notebooks:
        own = Own(tmp_path / "own")
        own.install("cori-knl")
        own.install("cori-knl-shifter")
        with Hub(own, folder, Path(notebooks)) as hub:
            yield hub


@pytest.fixture
def page(browser: Browser, hub: Hub, tmp_path: Path) -> Iterator[Page]:
    """Open an empty page; what it shows at the end is kept."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(120_000)
    yield page
    page.screenshot(path=tmp_path / "end.png")
    page.close()


def attempt(cluster: Site, host: str, user: str, name: str, **request: Any) -> Any:
    """Look for something on a host."""
    argv = [sys.executable, "-B", intruder.__file__]
    done = cluster.run(host, user, argv, json.dumps({"attempt": name, **request}))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_kernel_in_an_image_is_picked_and_knows_nothing_of_the_hub(cluster: Site, hub: Hub, page: Page) -> None:
    page.goto(f"{hub.url}/hub/login")
    page.fill("input[name=username]", "alice")
    page.fill("input[name=password]", "any")
    page.click("input[type=submit]")
    page.locator(".jp-LauncherCard[data-category=Notebook]", has_text=SHIFTER).click()
    notebook = Notebook(page)
    expect(notebook.kernel_name).to_have_text(SHIFTER)
    hub.wait_for_client()
    first = notebook.cell(0)
    first.write(WHERE)
    first.run()
    first.expect_output(re.compile(r"^nid0230\d /usr/bin/python3 docker:nersc/pyhep:2.0\s+\[\]\s*$"))

    needles, node = hub.secrets, first.output_area.inner_text().split()[0]
    server = attempt(cluster, LOGIN, "alice", "processes", needles=needles)
    found = {tuple(pair) for pair in server["found"]}
    assert {place for name, place in found if name == "JUPYTERHUB_API_TOKEN"} == {"environ of jupyterhub-sing"}
    assert not {place for _, place in found} & {"ps", "environ of srun"}
    assert "environ of srun" in server["places"]

    on_node = attempt(cluster, node, "root", "processes", needles=needles | NAMES)
    assert "alice" in on_node["environments of"]
    assert on_node["found"] == []
    for host in (node, CONTROLLER):
        assert attempt(cluster, host, "root", "search", roots=PLACES, needles=needles)["found"] == []
    told = cluster.run(CONTROLLER, "root", ["scontrol", "show", "job", str(only_job(cluster).id)]).stdout
    assert "UserId=alice" in told
    assert not [name for name, needle in (needles | NAMES).items() if needle in told]

    hub.stop()
    wait_for_no_job(cluster)


def start_kernel(hub: Hub) -> None:
    hub.spawn()
    hub.request("user/alice/api/kernels", "POST", {"name": "cori-knl"})


def wait_for_states(cluster: Site, *states: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while [job.state for job in jobs(cluster)] != list(states):
        assert time.monotonic() < deadline, jobs(cluster)
        time.sleep(0.1)


@pytest.mark.parametrize("end", [Hub.stop, Hub.end], ids=["the server is stopped", "the hub is ended"])
def test_the_job_ends(cluster: Site, hub: Hub, end: Callable[[Hub], None]) -> None:
    start_kernel(hub)
    wait_for_states(cluster, "RUNNING")
    end(hub)
    wait_for_no_job(cluster)
    hub.wait_for_no_server()


def test_a_job_that_waits_is_cancelled(cluster: Site, no_free_knl: Occupation, hub: Hub) -> None:
    start_kernel(hub)
    wait_for_states(cluster, "PENDING")
    hub.stop()
    wait_for_no_job(cluster)
    hub.spawn()  # and the next server starts with nothing
    assert hub.request("user/alice/api/kernels") == []


IN_A_JOB = {
    "JupyterHub": {"spawner_class": "batchspawner.SlurmSpawner"},
    "SlurmSpawner": {
        "exec_prefix": "",  # the hub is alice's own
        "batchspawner_singleuser_cmd": f"{sys.prefix}/bin/batchspawner-singleuser",
        "req_runtime": "10",
        "req_options": "--qos=shared --constraint=haswell",
        "req_prologue": f"export PATH={sys.prefix}/bin:{PATH}",
    },
}


def test_a_server_in_a_job_gets_kernels_in_jobs_of_their_own(cluster: Site, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="hub-", dir=Path.home()) as shared:
        own = Own(Path(shared, "own"))
        own.install("cori-knl")
        with Hub(own, tmp_path, Path(shared), IN_A_JOB) as hub:
            start_kernel(hub)
            hub.wait_for_kernel()
            wait_for_states(cluster, "RUNNING", "RUNNING")  # what was heard may be the waiting room
            nodes = cluster.run(LOGIN, "alice", ["squeue", "--me", "--noheader", "--format=%T %N"]).stdout
            assert re.fullmatch(
                r"RUNNING nid0000\d\nRUNNING nid0230\d\n", "".join(sorted(nodes.splitlines(keepends=True)))
            )
            (kernel,) = hub.request("user/alice/api/kernels")
            hub.request(f"user/alice/api/kernels/{kernel['id']}", "DELETE")
            hub.stop()
            wait_for_no_job(cluster)
