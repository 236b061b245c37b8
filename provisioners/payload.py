"""The launcher's code, packed for its way to the node."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import importlib.util
import io
import marshal
import zipfile
from dataclasses import dataclass

from farkernel.launcher import bootstrap

_PACKAGE = "farkernel.launcher"
_MARSHAL = 2  # later formats depend on what else refers to an object: not the same bytes each time


@dataclass(frozen=True)
class Payload:
    """The launcher as a zip.

    :param data: the zip
    :param digest: its SHA-256 in hexadecimal digits
    """

    data: bytes
    digest: str

    def command(self, python: str) -> list[str]:
        """Return the command that runs the launcher on the node with that Python."""
        return [python, "-c", bootstrap.SOURCE, self.digest]

    def on_stdin(self) -> bytes:
        """Return what the command reads first."""
        return b"%d\n%b" % (len(self.data), self.data)

    def keeper(self, python: str) -> list[str]:
        """Return the command that runs a keeper on a login node; `on_keepers_stdin` is what it reads first."""
        return [*python_code(python), self.digest, "keeper"]

    def on_keepers_stdin(self) -> bytes:
        """Return what the command of `keeper` reads first."""
        return as_code(bootstrap.SOURCE) + self.on_stdin()


def python_code(python: str) -> list[str]:
    """Return a command that any shell takes as it is; it runs the Python code that it reads first (`as_code`)."""
    return [python, "-c", bootstrap.LOADER]


def as_code(source: str) -> bytes:
    """Return Python code as the command of `python_code` reads it."""
    return repr(source).encode() + b"\n"


@functools.cache
def payload() -> Payload:
    """Pack the launcher that is installed here, sources and compiled code, the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "farkernel/__init__.py", b"")
        folder = importlib.resources.files(_PACKAGE)
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".py"):
                stem = f"farkernel/launcher/{file.name.removesuffix('.py')}"
                _add(archive, f"{stem}.py", file.read_bytes())
                _add(archive, f"{stem}.pyc", _compiled(file.name.removesuffix(".py")))
    data = buffer.getvalue()
    return Payload(data, hashlib.sha256(data).hexdigest())


def _compiled(module: str) -> bytes:
    # A node with this very Python need not compile; any other one ignores these files. The flags say that
    # the code is not to be compared with the source (PEP 552, unchecked hash-based).
    name = _PACKAGE if module == "__init__" else f"{_PACKAGE}.{module}"
    spec = importlib.util.find_spec(name)
    assert spec
    loader = spec.loader
    assert isinstance(loader, importlib.machinery.SourceFileLoader)
    flags = (1).to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + flags + bytes(8) + marshal.dumps(loader.get_code(name), _MARSHAL)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # ZipInfo's date is fixed: 1980
