"""A browser on the login node, and a Jupyter server for it to look at."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.cluster import Site
from tests.slurm.browser.notebook import KNL, Notebook, OpenNotebook, Shoot
from tests.slurm.browser.server import Own, Server

_CHROMIUM = "/usr/bin/chromium"
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PATIENCE_MS = 120_000


@pytest.fixture
def browser(cluster: Site) -> Iterator[Browser]:
    """Start a browser; one for each test, since its crash handler, a daemon, ends only with it."""
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_ARGUMENTS, timeout=_PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def server(cluster: Site, tmp_path: Path) -> Iterator[Server]:
    """Start a server; its notebooks are in alice's home, which the compute nodes see too."""
    with tempfile.TemporaryDirectory(prefix="notebooks-", dir=Path.home()) as notebooks:
        server = Server(Own(tmp_path), Path(notebooks))
        server.install("cori-knl")
        server.install("cori-haswell")
        server.install("cori-knl-shifter")
        with server:
            yield server


@pytest.fixture
def page(browser: Browser, server: Server, shots: Path) -> Iterator[Page]:
    """Open an empty page; what it shows at the end is kept."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(_PATIENCE_MS)
    yield page
    page.screenshot(path=shots / "end.png")
    page.close()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Make a directory for screenshots, on the login host's own /tmp."""
    directory = tmp_path / "screenshots"
    directory.mkdir()
    return directory


@pytest.fixture
def shoot(page: Page, shots: Path) -> Shoot:
    """Take a screenshot and give it a name."""

    def take(name: str) -> None:
        page.screenshot(path=shots / f"{name}.png")

    return take


@pytest.fixture
def open_notebook(page: Page, server: Server) -> OpenNotebook:
    """Write `work.ipynb` with some cells, and open it with JupyterLab or Notebook 7."""

    def open_it(application: str, *cells: str) -> Notebook:
        server.notebook("work.ipynb", *cells, kernel="cori-knl")
        page.goto(server.url(f"{application}/work.ipynb"))
        server.wait_for_client()
        notebook = Notebook(page)
        expect(notebook.kernel_name).to_have_text(KNL)
        return notebook

    return open_it
