"""What is said of a kernel that has ended before it answered."""

import errno
import os

import pytest

from farkernel.launcher.protocol import KernelEnded, KernelRefused
from farkernel.provisioners.containers.registry import container_of
from farkernel.provisioners.errors import DirectoryUnusable, KernelCommandMissing
from farkernel.provisioners.image_failures import in_image
from farkernel.provisioners.kernel_failures import early_end, may_lack_ipc, refused
from farkernel.provisioners.request import parse_request

TRACEBACK = """Traceback (most recent call last):
  File "paths.py", line 71, in get_ipython_dir
    os.makedirs(ipdir, exist_ok=True)
OSError: [Errno {number}] {words}: '/home/alice/.ipython'"""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("shared", [False, True])
def test_a_kernel_that_finds_no_room_is_no_riddle(number: int, shared: bool) -> None:
    said = TRACEBACK.format(number=number, words=os.strerror(number))
    error = early_end(KernelEnded(1, 1, 1, False, said), ["python3"], "KNL", "nid00001", shared=shared)
    assert error.what == 'Kernel "KNL" found no room on nid00001 for /home/alice/.ipython.'
    assert error.said == said.splitlines()[-1]
    assert "quota" in error.hint


def test_the_file_need_not_be_named() -> None:
    said = f"R: cannot create session: {os.strerror(errno.ENOSPC)}"
    error = early_end(KernelEnded(1, 1, 1, False, said), ["R"], "KNL", "nid00001", shared=False)
    assert error.what == 'Kernel "KNL" found no room on nid00001 for its files.'
    assert error.said == said


@pytest.mark.parametrize(("image", "named"), [("", False), ("docker:a:1", True)])
def test_the_image_that_it_was_to_run_in_is_named(image: str, named: bool) -> None:
    config = {"container": {"runtime": "shifter", "image": image}} if image else {}
    container = container_of(parse_request(config, source="k"), source="k")
    error = early_end(KernelEnded(1, 1, 127, False, "sh: R: not found"), ["R"], "R", "nid00001", shared=False)
    error = in_image(error, container, kernelspec="my-r")
    assert isinstance(error, KernelCommandMissing)
    assert ("Its kernelspec is my-r, its image docker:a:1." in error.what) is named
    assert ("images check --kernel=my-r" in error.hint) is named
    assert error.said == "sh: R: not found"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_launcher_that_finds_no_room_names_what_names_its_directory(number: int) -> None:
    event = KernelRefused(1, 1, number, "/scratch/farkernel-1/1.1/kernel.json", os.strerror(number))
    error = refused(event, ["/home/alice"], "KNL", "nid00001", directory="/scratch")
    assert isinstance(error, DirectoryUnusable)
    assert error.what == "There is no room in /scratch on nid00001 for the kernel's files."
    assert "launcher.directory" in error.hint


@pytest.mark.parametrize(
    ("code", "said", "may"),
    [
        (1, "RuntimeError: Invalid argument", True),
        (-6, "terminate called after throwing an instance of 'std::runtime_error'", True),
        (1, "ZMQError: Operation not supported", True),
        (1, "", True),
        (1, "ModuleNotFoundError: No module named 'ipykernel'", False),
        (127, "", False),
    ],
)
def test_what_makes_a_second_try_with_tcp_worth_while(code: int, said: str, may: bool) -> None:
    assert may_lack_ipc(KernelEnded(1, 1, code, False, said)) is may
