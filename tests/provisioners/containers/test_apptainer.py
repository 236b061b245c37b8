"""What Apptainer is given, and how its words are read. Apptainer itself runs nowhere in this suite."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from farkernel.provisioners.containers.apptainer import Apptainer
from farkernel.provisioners.containers.base import HOSTS_OWN, Command, Inside
from farkernel.provisioners.request import ContainerRequest

IMAGE = "/images/a.sif"
ARGV = ["python3", "-f", "{connection_file}"]


def apptainer(image: str | None = IMAGE, **keys: object) -> Apptainer:
    return Apptainer(ContainerRequest.model_validate({"runtime": "apptainer", "image": image, **keys}))


def inside(argv: list[str] = ARGV, directory: str = "/tmp", **env: str) -> Inside:
    return Inside(argv=argv, env=env, home="/home/alice", cwd=["/home/alice"], directory=directory)


def options(command: Command) -> list[str]:
    """Everything between `exec` and the image."""
    return command.argv[command.argv.index("exec") + 1 : command.argv.index(IMAGE)]


def problems(container: Apptainer) -> str:
    return "\n".join(container.problems(directory="/tmp"))


# ---- what it would refuse, or change ----


@pytest.mark.parametrize(
    "image", [IMAGE, "/images/sandbox/", "docker://rocker/r-ver:4", "library://a/b/c:1", "oras://x/y", "own.sif"]
)
def test_images_of_every_kind(image: str) -> None:
    assert problems(apptainer(image)) == ""


@pytest.mark.parametrize("volume", ["/a:/b", "/a:/b:ro", "/my data:/b:rw", "/a.img:/b:image-src=/,id=1,ro"])
def test_a_volume_that_apptainer_understands(volume: str) -> None:
    assert problems(apptainer(volumes=[volume])) == ""


@pytest.mark.parametrize(
    ("volume", "why"),
    [("/a,b:/c", "comma"), ("/a:/b\\c", "backslash"), ("/a:/b:rec", "flags"), ("/a:/b:ro,z", "flags")],
)
def test_a_volume_that_apptainer_would_divide_or_refuse(volume: str, why: str) -> None:
    assert why in problems(apptainer(volumes=[volume]))
    assert f'"{volume}"' in problems(apptainer(volumes=[volume]))


@pytest.mark.parametrize("word", ["--bind=/a", "-B/a", "--env=A=b", "--env-file=x", "-C", "--pid", "--compat", "-p"])
def test_an_option_that_has_a_key_or_would_break_it(word: str) -> None:
    assert word in problems(apptainer(args=[word]))


@pytest.mark.parametrize("args", [["--nv"], ["--writable-tmpfs", "--cleanenv"], ["--overlay=/scratch/o.img"]])
def test_options_that_pass(args: list[str]) -> None:
    assert problems(apptainer(args=args)) == ""
    assert options(apptainer(args=args).command(inside()))[-len(args) :] == args


def test_home_cannot_be_another_one() -> None:
    assert "container.env" in problems(apptainer(env={"HOME": "/x"}))


# ---- the command line ----


def test_the_command_line() -> None:
    command = apptainer(volumes=["/a:/b:ro"], workdir="/data").command(inside())

    assert options(command) == ["--no-eval", "--bind=/a:/b:ro", "--pwd=/data"]
    assert command.argv[-3:] == ARGV
    assert (command.files, command.cleanup) == ({}, [])


def test_a_directory_is_named_only_if_the_kernelspec_does() -> None:
    assert not [word for word in apptainer().command(inside()).argv if word.startswith("--pwd")]


@pytest.mark.parametrize(
    ("directory", "binds"),
    [("/tmp", []), ("/var/tmp", []), ("/dev/shm", []), ("/scratch", ["--bind=/scratch:/scratch"])],
)
def test_the_launchers_directory_is_seen_inside(directory: str, binds: list[str]) -> None:
    assert options(apptainer().command(inside(directory=directory))) == ["--no-eval", *binds]


# ---- the environment ----


def test_no_variable_is_in_the_command_line() -> None:
    command = apptainer(env={"TOKEN2": "s3cret2"}).command(inside(TOKEN="s3cret", LINES="a\nb", EMPTY="", V="$x `y`"))

    assert "s3cret" not in " ".join(command.argv)
    assert command.env == {
        "APPTAINERENV_PYTHONNOUSERSITE": "1",
        "APPTAINERENV_TOKEN": "s3cret",
        "APPTAINERENV_TOKEN2": "s3cret2",
        "APPTAINERENV_LINES": "a\nb",
        "APPTAINERENV_EMPTY": "",
        "APPTAINERENV_V": "$x `y`",
    }


def test_no_shell_looks_at_a_value() -> None:
    assert "--no-eval" in options(apptainer().command(inside()))


def test_the_hosts_own_do_not_get_in_but_the_kernelspecs_do() -> None:
    command = apptainer().command(inside(PYTHONPATH="/opt/image", LD_LIBRARY_PATH="/opt/lib"))

    before = command.argv[: command.argv.index("apptainer")]
    assert before == ["/usr/bin/env", *(f"--unset={name}" for name in HOSTS_OWN)]
    assert command.env["APPTAINERENV_PYTHONPATH"] == "/opt/image"
    assert command.env["APPTAINERENV_LD_LIBRARY_PATH"] == "/opt/lib"


def test_the_containers_variables_win() -> None:
    command = apptainer(env={"A": "container", "PYTHONNOUSERSITE": ""}).command(inside(A="kernelspec"))

    assert command.env == {"APPTAINERENV_A": "container", "APPTAINERENV_PYTHONNOUSERSITE": ""}


# ---- what runs inside: it needs no Apptainer ----


def run_inside(folder: Path, argv: list[str], **env: str) -> tuple[int, int, str]:
    """Run what comes after the image as a child that leads no group, as Apptainer does; give pid, code and output."""
    command = apptainer().command(inside(argv))
    words = command.argv[command.argv.index(IMAGE) + 1 :]
    words = [word.replace("{kernel_directory}", str(folder)) for word in words]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | env)
    said, _ = process.communicate(timeout=60)
    return process.pid, process.returncode, said


_GROUP = [sys.executable, "-c", "import os, sys; print(os.getpid(), os.getpgrp()); sys.exit(7)"]


def test_the_kernel_is_the_same_process_in_a_group_of_its_own(tmp_path: Path) -> None:
    pid, code, said = run_inside(tmp_path, _GROUP)

    assert said.split() == [str(pid), str(pid)]
    assert (tmp_path / "pid").read_text() == f"{pid}\n"
    assert code == 7


def test_an_image_without_setsid_will_do(tmp_path: Path) -> None:
    pid, code, said = run_inside(tmp_path, _GROUP, PATH=str(tmp_path))

    assert said.split() == [str(pid), str(os.getpgrp())]
    assert not (tmp_path / "pid").exists()
    assert code == 7


@pytest.mark.parametrize("path", [None, "/nowhere"])
@pytest.mark.parametrize("name", ["no-such-kernel", "/opt/no-such-kernel"])
def test_a_command_that_is_not_there(tmp_path: Path, name: str, path: str | None) -> None:
    _, code, said = run_inside(tmp_path, [name], **({"PATH": path} if path else {}))

    trouble = apptainer().explain(code, said)
    assert trouble
    assert name in trouble.sentence


# ---- its words ----


@pytest.mark.parametrize(
    ("code", "said", "sentence"),
    [
        (255, "FATAL:   could not open image /x.sif: failed to retrieve path for /x.sif: lstat /x.sif", "image /x.sif"),
        (255, "FATAL:   could not open image /x: image format not recognized", "cannot open the image /x"),
        (255, "FATAL:   Unable to handle docker://nope uri: conveyor failed", "cannot open the image docker://nope"),
        (255, 'FATAL:   "/bin/sh": executable file not found in $PATH', "no command /bin/sh"),
        (255, "FATAL:   stat /bin/sh: no such file or directory", "no command /bin/sh"),
        (127, "/bin/sh: line 1: exec: R: not found", "no command R"),
        (127, "/bin/sh: exec: line 0: R: not found", "no command R"),
        (126, "/tmp/k/pid: 1: exec: /opt/R: Permission denied", "no command /opt/R"),
        (
            255,
            "FATAL:   container creation failed: mount hook function failure: mount /n->/m error: while mounting /n: "
            "mount source /n doesn't exist",
            "source /n of",
        ),
        (255, "FATAL: mount /a->/b error: destination /b doesn't exist in container", "target /b of"),
        (255, "FATAL:   while getting bind path: z is not a valid bind option", "z is not a valid"),
        (255, "FATAL:   failed to set working directory: chdir /w: no such file or directory", "no directory /w"),
        (255, "ERROR  : Failed to create user namespace: not allowed to create user namespace", "make namespaces"),
        (1, 'Error for command "exec": unknown flag: --nope', "no option --nope"),
        (255, "FATAL:   something else", "could not start it: something else"),
        (1, "/usr/bin/python3: No module named ipykernel_launcher", "lacks ipykernel"),
    ],
)
def test_each_failure_has_a_sentence(code: int, said: str, sentence: str) -> None:
    trouble = apptainer().explain(code, said)

    assert trouble
    assert sentence in trouble.sentence
    assert trouble.hint.endswith((".", ")"))


@pytest.mark.parametrize("said", ["FATAL: no licence left", "R: could not find it"])
def test_what_a_kernel_says_itself_is_not_apptainers(said: str) -> None:
    assert apptainer().explain(1, said) is None
