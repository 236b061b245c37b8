"""A kernelspec as one file: nothing is lost on the way, and a hostile one writes nothing."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farkernel.kernelspecs.folder import Content, File
from farkernel.kernelspecs.single_file import MOST, pack, unpack
from farkernel.provisioners.errors import RequestError

PATHS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,8}", fullmatch=True).filter(lambda path: path != "kernel.json")
FILES = st.dictionaries(PATHS, st.builds(File, st.binary(max_size=40), st.booleans()), max_size=4)


@given(files=FILES)
def test_what_is_exported_is_imported(files: dict[str, File]) -> None:
    files = {path: file for path, file in files.items() if path.lower() != "kernel.json"}
    content = Content({"argv": ["x"], "env": {"A": "ü"}}, {**files, "lib/x.py": File(b"x")})

    assert unpack(pack("name", content).encode(), source="x") == ("name", content)


def hostile(**changes: Any) -> bytes:
    whole: dict[str, Any] = {"farkernel_kernelspec": 1, "name": "x", "spec": {}, "files": {}}
    return json.dumps(whole | changes).encode()


def one(path: str, **more: Any) -> bytes:
    return hostile(files={path: {"base64": base64.b64encode(b"x").decode(), **more}})


@pytest.mark.parametrize(
    "path",
    [
        *("../x", "/etc/x", "a/../b", "", ".", "..", "a//b", "a/", ".hidden", "a\x00b", "a\nb", "é", "kernel.json"),
        *("KERNEL.JSON", "kernel.json/x", "a/b/c/d/e", "x" * 300, "a\\..\\b", "~/x"),
    ],
)
def test_a_path_out_of_the_folder_is_refused(path: str) -> None:
    with pytest.raises(RequestError, match="untrusted: files"):
        unpack(one(path), source="untrusted")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"x" * (MOST + 1),
        hostile(farkernel_kernelspec=2),
        hostile(more=1),
        hostile(name=3),
        hostile(spec=[]),
        hostile(files=[]),
        hostile(files={str(number): {"base64": ""} for number in range(1000)}),
        hostile(files={"a": {"base64": "@"}}),
        hostile(files={"a": {"base64": ""}, "a/b": {"base64": ""}}),
        one("a", link="/etc/passwd"),
        one("a", executable="yes"),
    ],
    ids=range(16),
)
def test_what_is_none_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        unpack(data, source="untrusted")
    assert str(caught.value).startswith("untrusted: ")
    assert len(str(caught.value)) < 3000
