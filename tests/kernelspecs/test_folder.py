"""A kernelspec's folder is there as a whole, or as it was."""

import subprocess
import sys
from pathlib import Path

import pytest

from farkernel.kernelspecs.folder import MOST_FILES, Content, File, read_files, remove_folder, write_folder
from farkernel.provisioners.errors import FarkernelError

SPEC = {"argv": ["x"], "display_name": "x"}

FULL = """
import resource, signal, sys
from pathlib import Path
from farkernel.kernelspecs.folder import Content, File, write_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # nothing larger fits
write_folder(Content({"argv": []}, {"big": File(bytes(2000))}), Path(sys.argv[1]), replace=True, for_all=False)
"""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    files = {"logo.png": File(b"\0\xff"), "bin/start": File(b"#!", executable=True)}

    write_folder(Content(SPEC, files), tmp_path / "k/x", replace=False, for_all=True)

    assert read_files(tmp_path / "k/x") == files
    assert (tmp_path / "k/x").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "k/x/kernel.json").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (tmp_path / "k").iterdir()] == ["x"]


@pytest.mark.parametrize("there", [False, True])
def test_where_there_is_no_room_all_is_as_it_was(tmp_path: Path, there: bool) -> None:
    if there:
        write_folder(Content(SPEC, {"old": File(b"old")}), tmp_path / "x", replace=False, for_all=False)

    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "x"], capture_output=True, text=True, check=False)

    assert "OSError" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == (["x"] if there else [])
    assert not there or read_files(tmp_path / "x") == {"old": File(b"old")}


def test_replacing_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    write_folder(Content(SPEC, {"old": File(b"")}), tmp_path / "x", replace=False, for_all=False)

    write_folder(Content(SPEC, {"new": File(b"")}), tmp_path / "x", replace=True, for_all=False)

    assert set(read_files(tmp_path / "x")) == {"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_folder_that_is_no_kernelspecs_is_not_copied(tmp_path: Path) -> None:
    for number in range(MOST_FILES + 1):
        (tmp_path / str(number)).touch()
    with pytest.raises(FarkernelError, match="no kernelspec's folder"):
        read_files(tmp_path)


def test_a_circle_of_links_is_told(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "logo").touch()
    with pytest.raises(FarkernelError, match="cannot be read as a whole"):
        read_files(tmp_path)


def test_a_link_is_removed_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    remove_folder(tmp_path / "link")
    assert (tmp_path / "real").is_dir()

    remove_folder(tmp_path / "real")
    assert list(tmp_path.iterdir()) == []
