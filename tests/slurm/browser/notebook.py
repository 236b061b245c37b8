"""A notebook as a user sees it; JupyterLab and Notebook 7 are made of the same parts."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page, expect

HOSTNAME = "import socket; print(socket.gethostname())"
KNL = "Cori KNL"
ON_KNL = re.compile(r"^nid0230\d\s*$")
PENDING = re.compile(r"^Slurm job \d+ PENDING \(.+\)")

OpenNotebook = Callable[..., "Notebook"]
Shoot = Callable[[str], None]


class Cell:
    """One code cell."""

    def __init__(self, page: Page, locator: Locator) -> None:
        self.locator = locator
        self.editor = locator.locator(".jp-InputArea-editor .cm-content")
        self.prompt = locator.locator(".jp-InputArea-prompt")
        self.outputs = locator.locator(".jp-OutputArea-output")
        self.output_area = locator.locator(".jp-Cell-outputArea")
        self.stdin = locator.locator("input.jp-Stdin-input")
        self._page = page

    def write(self, code: str) -> None:
        """Type code into it."""
        self.editor.click()
        self._page.keyboard.insert_text(code)

    def run(self) -> None:
        """Press Shift+Enter in it."""
        self.editor.click()
        self._page.keyboard.press("Shift+Enter")

    def expect_number(self, number: int) -> None:
        """Wait until it has run as the kernel's n-th."""
        expect(self.prompt).to_have_text(f"[{number}]:")

    def expect_busy(self) -> None:
        """Wait until it is shown as running or waiting."""
        expect(self.prompt).to_have_text("[*]:")

    def expect_output(self, text: str | re.Pattern[str]) -> None:
        """Wait until its output is this and nothing else."""
        expect(self.output_area).to_have_text(text, use_inner_text=True)

    def expect_no_output(self) -> None:
        """Wait until it shows nothing below its code."""
        expect(self.outputs).to_have_count(0)


class Notebook:
    """The notebook that a page shows."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.cells = page.locator(".jp-Notebook .jp-CodeCell")
        self.kernel_name = page.locator(".jp-KernelName")
        self.dialog = page.locator(".jp-Dialog")

    def cell(self, index: int) -> Cell:
        """Return a code cell by its place."""
        return Cell(self.page, self.cells.nth(index))

    def run_first(self, count: int) -> list[Cell]:
        """Run the first cells, and return them."""
        cells = [self.cell(index) for index in range(count)]
        for cell in cells:
            cell.run()
        return cells

    def interrupt(self) -> None:
        """Press the toolbar's square."""
        self._toolbar("interrupt").click()

    def restart(self) -> None:
        """Press the toolbar's round arrow, and confirm."""
        self._toolbar("restart").click()
        self.dialog.locator(".jp-mod-accept").click()
        expect(self.dialog).to_have_count(0)

    def start_again(self) -> None:
        """Press the same arrow where there is no kernel, so that there is nothing to confirm."""
        self._toolbar("restart").click()

    def shut_down(self) -> None:
        """Choose Kernel > Shut Down Kernel."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Kernel$")).click()
        self.page.locator('.lm-Menu-item[data-command="kernelmenu:shutdown"]').click()
        expect(self.kernel_name).to_have_text("No Kernel")

    def save(self) -> None:
        """Press the toolbar's disk."""
        with self.page.expect_response(
            lambda response: response.request.method == "PUT" and "/api/contents/" in response.url
        ):
            self._toolbar("save").click()

    def _toolbar(self, name: str) -> Locator:
        return self.page.locator(f'.jp-Toolbar [data-jp-item-name="{name}"] jp-button').first


def saved_cells(path: Path) -> list[Any]:
    """Return the code cells of a notebook file."""
    book = nbformat.read(path, as_version=4)
    return [cell for cell in book.cells if cell.cell_type == "code"]
