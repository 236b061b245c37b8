"""A kernelspec as one file, to hand on: JSON, with the files beside kernel.json in base64. No I/O.

JSON, and no archive: it can be read and compared before it is imported, and what it may hold is what is checked here,
where an archive also has links, modes, owners and paths out of its folder.
"""

import base64
import binascii
import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from farkernel.kernelspecs.folder import KERNEL_FILE, MOST_BYTES, MOST_FILES, Content, File
from farkernel.provisioners.errors import RequestError

MOST = 2 * MOST_BYTES
"""Bytes of such a file: base64 takes a third more, and JSON its own."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@ -]*", re.ASCII)


def _plain_path(path: str) -> str:
    parts = path.split("/")
    if len(path) > 255 or len(parts) > 4 or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError("a path inside the folder, such as logo-64x64.png, without dots before a name")
    if parts[0].lower() == KERNEL_FILE:
        raise ValueError("a file beside kernel.json, whose content is spec")
    return path


def _plain_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("base64") from None
    return text


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _File(_Part):
    base64: Annotated[str, AfterValidator(_plain_base64)]
    executable: bool = False


class _Whole(_Part):
    farkernel_kernelspec: Literal[1]
    name: str
    spec: dict[str, Any]
    files: dict[Annotated[str, AfterValidator(_plain_path)], _File] = Field(default={}, max_length=MOST_FILES)


def pack(name: str, content: Content) -> str:
    """Return the one file of a kernelspec.

    :raises RequestError: a file beside kernel.json has a name that `unpack` would refuse
    """
    files = {
        path: {"base64": base64.b64encode(file.content).decode()} | ({"executable": True} if file.executable else {})
        for path, file in sorted(content.files.items())
    }
    whole = {"farkernel_kernelspec": 1, "name": name, "spec": content.spec, "files": files}
    _validated(whole, source=f"the kernelspec {name}")
    return json.dumps(whole, indent=2) + "\n"


def unpack(data: bytes, *, source: str) -> tuple[str, Content]:
    """Read such a file, whoever has made it; return the kernelspec's name, and what its folder is to hold.

    :param source: where it comes from; messages begin with it
    :raises RequestError: it is none, or holds what no kernelspec has
    """
    if len(data) > MOST:
        raise RequestError(f"{source}: larger than {MOST // 2**20} MB: no kernelspec")
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"{source}: not JSON: {error}", hint="It should come from `farkernel kernelspec export`."
        ) from error
    whole = _validated(content, source=source)
    files = {
        path: File(base64.b64decode(file.base64), executable=file.executable) for path, file in whole.files.items()
    }
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents}
    if clash := folders & set(files):
        raise RequestError(f"{source}: files.{min(clash)}: a file and a folder at once")
    return whole.name, Content(whole.spec, files)


def _validated(content: object, *, source: str) -> _Whole:
    if not isinstance(content, dict) or "farkernel_kernelspec" not in content:
        raise RequestError(
            f"{source}: no kernelspec as one file: it has no farkernel_kernelspec.",
            hint="`farkernel kernelspec export` makes one; a kernelspec's folder is for `farkernel kernelspec wrap`.",
        )
    try:
        return _Whole.model_validate(content)
    except ValidationError as failure:
        lines = [
            f"{source}: {'.'.join(str(part) for part in error['loc'] if part != '[key]')}: {_words(error)}"
            for error in failure.errors(include_input=False)[:20]
        ]
        raise RequestError("\n".join(lines)) from None


def _words(error: Any) -> str:
    if error["type"] == "literal_error":
        return "written by another version of farkernel"
    return f"expected {error['ctx']['error']}" if error["type"] == "value_error" else str(error["msg"])
