"""`farkernel kernelspec edit`: a copy is edited, and takes the kernelspec's place once it is valid."""

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from farkernel.provisioners.cli.kernelspec_places import AsJson, Name, OfPrefix, OfSysPrefix, OfUser, chosen, tell
from farkernel.provisioners.errors import FarkernelError, RequestError


def edit(
    name: Name,
    user: OfUser = False,
    sys_prefix: OfSysPrefix = False,
    prefix: OfPrefix = None,
    as_json: AsJson = False,
) -> None:
    """Edit a kernelspec's kernel.json with $VISUAL or $EDITOR (vi if there is none); checked before it is saved."""
    spec = chosen(name, user=user, sys_prefix=sys_prefix, prefix=prefix)
    target = Path(spec.source).resolve()
    _check_writable(target, spec.name)
    editor = _editor()
    before = target.read_bytes()
    copy = Path(tempfile.mkdtemp(prefix="farkernel-edit-"), target.name)
    copy.write_bytes(before)
    try:
        kept = _until_valid(editor, copy, spec.source, before)
        if kept:
            _save(target, before, copy)
    except BaseException as error:
        if copy.exists() and copy.read_bytes() != before:
            Console(stderr=True, soft_wrap=True).print(Text(f"What you have edited is in {copy}.", style="yellow"))
        else:
            _forget(copy)
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(130) from error
        raise
    _forget(copy)
    done = f"Saved {spec.source}" if kept else "Nothing was changed."
    tell(done, spec.folder, warnings=_remarks(spec.source) if kept else (), as_json=as_json, changed=kept)


def _remarks(source: str) -> list[str]:
    from farkernel.kernelspecs.check import check_file  # noqa: PLC0415

    return check_file(Path(source)).remarks


def _check_writable(target: Path, name: str) -> None:
    if not (os.access(target, os.W_OK) and os.access(target.parent, os.W_OK)):
        raise FarkernelError(
            f"You may not write {target}.",
            hint=f"Make one of your own, and edit that: `farkernel kernelspec wrap {name} --name {name} --user`.",
        )


def _editor() -> list[str]:
    words = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        editor = shlex.split(words)
    except ValueError as error:
        raise FarkernelError(f"VISUAL or EDITOR is no command: {words}", said=str(error)) from error
    return editor or ["vi"]


def _until_valid(editor: list[str], copy: Path, source: str, before: bytes) -> bool:
    """Have the copy edited until it is valid; return whether it is to be saved."""
    from farkernel.kernelspecs.check import check_file  # noqa: PLC0415 (imports late, see app.py)
    from farkernel.provisioners.process import foreground  # noqa: PLC0415

    while True:
        code = asyncio.run(foreground([*editor, str(copy)]))
        if code:
            raise FarkernelError(f"{editor[0]} ended with code {code}: {source} is as it was.")
        try:
            after = copy.read_bytes()
        except OSError as error:
            raise FarkernelError(f"{copy} cannot be read: {source} is as it was.", said=str(error)) from error
        if after == before:
            return False
        try:
            check_file(copy, source=source).refuse()
        except RequestError as error:
            if not sys.stdin.isatty():
                raise
            Console(stderr=True, soft_wrap=True).print(Text(str(error), style="red"))
        else:
            return True
        if not typer.confirm("Edit it again? (If not, it is discarded.)", default=True, err=True):
            return False


def _save(target: Path, before: bytes, copy: Path) -> None:
    from farkernel.kernelspecs.folder import replace_file  # noqa: PLC0415

    try:
        if target.read_bytes() != before:
            raise FarkernelError(f"Somebody else has changed {target} meanwhile: it is as they left it.")
        replace_file(target, copy.read_bytes())
    except OSError as error:
        raise FarkernelError(f"{target} cannot be written: it is as it was.", said=str(error)) from error


def _forget(copy: Path) -> None:
    shutil.rmtree(copy.parent, ignore_errors=True)  # an editor may leave a backup beside it
