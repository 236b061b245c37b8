"""What is wrong with one kernel.json, without starting anything; also with one that Jupyter hides."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager

from farkernel.kernelspecs import check
from farkernel.kernelspecs.check import Checked, Placed
from farkernel.kernelspecs.flaws import printable, warning
from farkernel.kernelspecs.folder import KERNEL_FILE
from farkernel.kernelspecs.install import copies
from farkernel.kernelspecs.model import LARGEST, read_spec
from farkernel.provisioners.cli.findings import Finding, Level, ok
from farkernel.provisioners.errors import RequestError

_LOGOS = ("logo-64x64.png", "logo-32x32.png", "logo-svg.svg")


def check_file(file: Path) -> list[Finding]:
    """Look at a kernel.json and its directory; ends with one finding that is ok if there is no problem."""
    checked = check.check_file(file)
    named = Checked((*checked.wrong, *_same_name(checked, file)), checked.here)
    findings = [*map(as_finding, named.all), *_folder(file), *_copies(file)]
    if any(finding.level is Level.PROBLEM for finding in findings):
        return findings
    return [*findings, ok(f"kernelspec {file.absolute().parent.name}", f"{_display_name(file)} ({file})")]


def as_finding(placed: Placed) -> Finding:
    """Return a flaw of a kernelspec as checks have it."""
    flaw = placed.flaw
    level = Level.PROBLEM if flaw.serious else Level.WARNING
    words = printable(flaw.found), printable(flaw.advice)
    return Finding(level, placed.subject, *words, placed.file, *placed.place, placed.key)


def kernelspec_files() -> dict[str, Path]:
    """Return every kernel.json that Jupyter looks at, by its kernelspec's name; also those that it then hides."""
    manager = KernelSpecManager(ensure_native_kernel=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that it does not like: that is for us to say
        return {name: Path(folder) / KERNEL_FILE for name, folder in sorted(manager.find_kernel_specs().items())}


def farkernels_files() -> list[Path]:
    """Return the files of those that are, or are meant to be, farkernel's."""
    return [file for file in kernelspec_files().values() if _is_meant_for_us(file)]


def _is_meant_for_us(file: Path) -> bool:
    """Whether a kernelspec, which may be broken, is one of farkernel's."""
    try:
        return b'"farkernel' in file.read_bytes()[:LARGEST]
    except OSError:
        return True  # one that cannot be read is to be told of


_NAME = re.compile(r"[a-z0-9._-]+", re.IGNORECASE)


def _folder(file: Path) -> Iterator[Finding]:
    """Look at the kernelspec's directory."""
    if file.name != KERNEL_FILE:
        return
    folder = file.absolute().parent
    if not _NAME.fullmatch(folder.name):
        advice = "Rename the directory: letters, digits, hyphens, underscores and full stops."
        yield Finding(
            Level.PROBLEM, "directory", f"Jupyter takes no kernelspec of the name {folder.name!r}", advice, str(folder)
        )
    if os.access(folder, os.X_OK) and not any((folder / logo).is_file() for logo in _LOGOS):
        found = "there is no logo: JupyterLab's launcher shows a letter"
        yield Finding(Level.HINT, "logo", found, f"Put {' or '.join(_LOGOS)} beside kernel.json.", str(folder))


def _copies(file: Path) -> Iterator[Finding]:
    """Look for those of the same name in Jupyter's other directories, which take its place or are hidden by it."""
    name = file.absolute().parent.name
    there = copies(name)
    if len(there) < 2 or file.resolve() not in {path.resolve() for path in there}:
        return
    used, *hidden = there
    level, found = Level.WARNING, f"Jupyter takes another one of this name, {used}, which hides this one"
    if used.resolve() == file.resolve():
        level, found = Level.HINT, f"Jupyter takes this one, which hides {', '.join(map(str, hidden))}"
    yield Finding(level, f"kernelspec {name}", found, "Remove one of them, or rename its directory.", str(file))


def _same_name(checked: Checked, file: Path) -> Iterator[Placed]:
    """Look at the kernelspecs beside this one."""
    if file.name != KERNEL_FILE or not (name := _display_name(file)):
        return
    for other, path in kernelspec_files().items():
        hides_it = other == file.absolute().parent.name.lower()  # see `_copies`
        if not hides_it and path.resolve() != file.resolve() and _display_name(path) == name:
            found = f"the kernelspec {other} ({path}) has the same name: users cannot tell them apart"
            yield checked.placed(warning(("display_name",), found, "Give each a name of its own."))


def _display_name(file: Path) -> str:
    try:
        return str(read_spec(file).get("display_name") or "")
    except RequestError:
        return ""
