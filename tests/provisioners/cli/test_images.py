"""`farkernel images`, with small programs in the places of Shifter's: they print what the real ones were seen to."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE

Farkernel = Callable[..., subprocess.CompletedProcess[str]]
Program = Callable[[str, str], None]

IMAGE = "docker:nersc/pyhep:2.0"
TOOLS = ("cat", "dirname", "env", "mkdir", "rm", "sleep", "stat", "tar", "timeout", "touch")
LISTED = """\
cori       docker     READY    8b485a3da7   2024-10-27T03:33:20 nersc/pyhep:2.0               \n\
cori       docker     PULLING  1111111111   2024-10-27T03:33:20 nersc/half:1.0                \n\
cori       custom     READY    2222222222   2024-10-27T03:33:20 a-very-long-name-of-an-image-that-is-wide:1.0 \n"""
PULL = """\
for status in %s; do
  printf '\\r\\033[2K2024-10-27T03:33:20 Pulling Image: %%s, status: %%s' "$2" $status; sleep 0.1
done
"""
SHIFTER = """\
while :; do case $1 in
  --env-file=*) while IFS= read -r line; do export "$line"; done <"${1#*=}" ;;
  --*) echo "$1" >>"$OPTIONS" ;;
  *) break ;;
esac; shift; done
[ "$1" = python3 ] && shift && set -- "$PYTHON" "$@"
command -v "$1" >/dev/null || { echo "shifter: $1: No such file or directory" >&2; exit 127; }
exec "$@"
"""
WITHOUT = 'exec "$REAL" -I -S "$@"'


@pytest.fixture
def program(home: Path) -> Program:
    """Write a program that is found on PATH, beside those that every host has."""
    (home / "bin").mkdir()
    for tool in TOOLS:
        (home / "bin" / tool).symlink_to(f"/usr/bin/{tool}")

    def write(name: str, script: str) -> None:
        file = home / "bin" / name
        file.write_text(f"#!/bin/bash\n{script}\n")
        file.chmod(0o755)

    return write


@pytest.fixture
def images(farkernel: Farkernel, home: Path) -> Farkernel:
    """Run `farkernel images` with those programs."""

    def call(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        names = {"PYTHON": sys.executable, "REAL": sys.executable, "OPTIONS": str(home / "options"), **changes}
        done = farkernel("images", *arguments, **{"PATH": f"{home}/bin", **names})
        assert "Traceback" not in done.stderr
        return done

    return call


def kernelspec(home: Path, container: dict[str, Any], argv: list[str], **more: Any) -> None:
    """Write the kernelspec "mine"."""
    stanza = {"provisioner_name": "farkernel-slurm", "config": {"container": container, **more}}
    spec = {"argv": argv, "display_name": "Mine", "language": "x", "env": {"WORD": "a b", "directory": "/x"}}
    folder = home / ".local/share/jupyter/kernels/mine"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({**spec, "metadata": {"kernel_provisioner": stanza}}))


def words(done: subprocess.CompletedProcess[str]) -> str:
    """What a table says, without its lines."""
    return " ".join(re.sub(r"[\u2500-\u257f]", " ", done.stdout).split())


# ---- list ----


def test_what_is_ready_is_listed_with_its_whole_name(images: Farkernel, program: Program) -> None:
    program("shifterimg", f"cat <<'END'\n{LISTED}END")

    done = images("list", COLUMNS="40", TERMINAL_WIDTH="40")

    assert (done.returncode, done.stderr) == (0, "")
    assert "custom:a-very-long-name-of-an-image-that-is-wide:1.0" in done.stdout
    assert "docker:nersc/pyhep:2.0" in done.stdout
    assert "half" not in done.stdout


def test_json(images: Farkernel, program: Program) -> None:
    program("shifterimg", f"cat <<'END'\n{LISTED}END")

    first = json.loads(images("list", "--json").stdout)[0]

    assert first["runtime"] == "shifter"
    assert first["name"] == IMAGE
    assert first["pulled"] == "2024-10-27 03:33:20"


def test_a_runtime_that_cannot_list_does_not_hide_another(images: Farkernel, program: Program) -> None:
    program("shifterimg", "echo 'ERROR: failed to contact the image gateway.'; exit 1")
    alone = images("list")
    program("ch-image", "echo pyhep")
    both = images("list")
    program("ch-image", "true")
    empty = images("list")

    assert alone.returncode == 1
    assert "shifter: the image gateway does not answer" in alone.stderr
    assert (both.returncode, both.stderr) == (0, alone.stderr)
    assert "charliecloud" in both.stdout
    assert empty.returncode == 0


def test_a_program_that_fails_and_says_nothing(images: Farkernel, program: Program) -> None:
    program("ch-image", "exit 3")

    done = images("list")

    assert (done.returncode, done.stderr) == (1, "charliecloud: ch-image ended with code 3 and said nothing\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "There is no shifterimg or ch-image or podman-hpc on this host."),
        (["--runtime=shifter"], "There is no shifterimg on this host."),
        (["--runtime=none"], "farkernel does not know how images of none are listed"),
        (["--runtime=shiftre"], '--runtime: there is no container runtime "shiftre"; there are apptainer, '),
    ],
)
def test_a_runtime_that_is_not_here(images: Farkernel, program: Program, options: list[str], said: str) -> None:
    done = images("list", *options)

    assert done.returncode == 1
    assert said in done.stderr


# ---- pull ----


def test_each_state_of_a_pull_is_told_once(images: Farkernel, program: Program) -> None:
    program("shifterimg", PULL % "INIT PULLING PULLING PULLING READY READY")

    done = images("pull", "nersc/pyhep:2.0")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        *(f"nersc/pyhep:2.0: {state}" for state in ("INIT", "PULLING", "READY")),
        "nersc/pyhep:2.0 can be used now.",
    ]


def test_a_pull_is_told_while_it_runs_and_ends_with_us(home: Path, program: Program) -> None:
    program("shifterimg", (PULL % "INIT PULLING EXAMINATION") + 'echo $$ >"$HOME/pid"; sleep 60 & wait')
    env = {"PATH": f"{home}/bin", "HOME": str(home)}
    command = [sys.executable, "-m", "farkernel.provisioners.cli", "images", "pull", IMAGE]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == f"{IMAGE}: INIT\n"
        while not ((home / "pid").exists() and (home / "pid").read_text()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)

    assert process.returncode
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.kill(int((home / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (PULL % "INIT PULLING FAILURE", "(status FAILURE)"),
        ("echo 'ERROR: failed to contact the image gateway.'; exit 1", "the image gateway does not answer"),
        ("exit 1", "shifterimg ended with code 1 and said nothing"),
        ("printf '\\033[31mno luck\\033[0m\\n' >&2", "no luck"),
    ],
)
def test_a_pull_that_fails_ends_with_1(images: Farkernel, program: Program, script: str, said: str) -> None:
    program("shifterimg", script)

    done = images("pull", IMAGE)

    assert done.returncode == 1
    assert f"shifter could not pull {IMAGE}.\n" in done.stderr
    assert said in done.stderr
    assert "\x1b" not in done.stderr


def test_a_name_that_the_runtime_would_change_never_reaches_it(images: Farkernel, program: Program) -> None:
    program("shifterimg", 'touch "$HOME/was-run"; echo status: READY')

    done = images("pull", "docker:busy box")

    assert done.returncode == 1
    assert "container.image: expected an image of Shifter's" in done.stderr


def test_an_id_is_none_to_pull_by(images: Farkernel, program: Program, home: Path) -> None:
    program("shifterimg", 'touch "$HOME/was-run"')

    done = images("pull", f"id:{64 * 'a'}")

    assert done.returncode == 1
    assert "an id names an image that is there already" in done.stderr
    assert "by its name" in done.stderr
    assert not (home / "was-run").exists()


# ---- check ----


@pytest.fixture
def shifter(program: Program) -> None:
    """Have Shifter on this host."""
    program("shifter", SHIFTER)
    program("shifterimg", "exit 1")


@pytest.mark.usefixtures("shifter")
def test_an_image_that_has_all(images: Farkernel) -> None:
    done = images("check", IMAGE)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"python3 ({sys.executable})" in done.stdout
    assert f"{sys.version_info[0]}.{sys.version_info[1]}." in done.stdout
    assert "IPython " in done.stdout


@pytest.mark.usefixtures("shifter")
@pytest.mark.parametrize(
    ("shifters", "podmans", "found"),
    [
        (LISTED, "localhost/pyhep:2.0", "nersc/pyhep:2.0 (shifter)"),
        (
            LISTED,
            "nersc/pyhep:2.0",
            "nersc/pyhep:2.0 is an image of shifter and of podman-hpc. Say which with --runtime.",
        ),
        ("", "nersc/pyhep:2.0", "nersc/pyhep:2.0 (podman-hpc)"),
        ("", "localhost/pyhep:2.0", "nersc/pyhep:2.0 (shifter)"),
        (None, "nersc/pyhep:2.0", "nersc/pyhep:2.0 (podman-hpc)"),
        (None, "", "nersc/pyhep:2.0 (shifter)"),
    ],
)
def test_the_runtime_that_lists_an_image_is_taken(
    images: Farkernel, program: Program, shifters: str | None, podmans: str, found: str
) -> None:
    """None is a gateway that is down."""
    program("shifter", "exit 9")
    program("shifterimg", "exit 1" if shifters is None else f"cat <<'END'\n{shifters}END")
    program("podman-hpc", f"[ $1 = run ] && exit 9\necho '{podmans}|1|2|3'")

    done = images("check", "nersc/pyhep:2.0", COLUMNS="1000")

    assert found in words(done) + " ".join(done.stderr.split())
    assert done.returncode == 1


def test_one_whose_python_lacks_ipykernel(images: Farkernel, program: Program, home: Path, shifter: None) -> None:
    program("bare", WITHOUT)

    done = images("check", IMAGE, PYTHON=f"{home}/bin/bare")

    assert done.returncode == 1
    assert "the Python in the image lacks ipykernel" in done.stdout
    assert "pip install ipykernel" in done.stdout


@pytest.mark.usefixtures("shifter")
def test_one_without_python(images: Farkernel) -> None:
    done = images("check", IMAGE, PYTHON="/not/there/python3")

    assert done.returncode == 1
    assert "the image has no command /not/there/python3" in done.stdout
    assert "Correct argv" in done.stdout


@pytest.mark.usefixtures("shifter")
def test_a_kernel_that_is_no_python_needs_none(images: Farkernel, program: Program, home: Path) -> None:
    program("R", "exit 99")
    program("python3", 'echo "no Python" >&2; exit 127')
    kernelspec(home, {"runtime": "shifter", "image": IMAGE}, ["R", "--slave", "-e", "IRkernel::main()"])

    there, missing = images("check", "--kernel=mine"), images("check", IMAGE, "--command=julia")

    assert there.returncode == 0, there.stdout + there.stderr
    assert f"R ({home}/bin/R)" in there.stdout
    assert "there is no python3 in the image; the kernel's command names none" in there.stdout
    for found in (missing, images("check", IMAGE, "--command=julia", "--kernel=mine")):
        assert found.returncode == 1
        assert "the image has no command julia" in found.stdout


@pytest.mark.usefixtures("shifter")
def test_a_command_that_is_missing_beside_a_python(images: Farkernel, program: Program) -> None:
    program("python3", 'exec "$REAL" "$@"')

    done = images("check", IMAGE, "--command=julia")

    assert done.returncode == 1
    assert "the image has no command julia" in done.stdout
    assert "IPython " in done.stdout


@pytest.mark.usefixtures("shifter")
def test_a_kernelspecs_image_is_started_as_its_kernel_would_be(images: Farkernel, home: Path) -> None:
    container = {"runtime": "shifter", "image": IMAGE, "volumes": [f"{home}:/data:ro"], "modules": ["mpich"]}
    kernelspec(home, {**container, "env": {"PYTHONDONTWRITEBYTECODE": "1"}}, ["python3", "-m", "no_such_kernel"])

    done = images("check", "--kernel=mine")

    assert done.returncode == 1
    assert "the Python in the image lacks no_such_kernel" in done.stdout
    options = (home / "options").read_text().splitlines()
    assert options == [f"--image={IMAGE}", f"--volume={home}:/data:ro", "--module=mpich"]


def test_variables_of_the_kernelspec_are_seen_inside_and_touch_nothing_else(
    images: Farkernel, program: Program, home: Path
) -> None:
    program("shifter", 'env >"$HOME/env"; exit 1')
    kernelspec(home, {"runtime": "shifter", "image": IMAGE}, ["python3"])

    images("check", "--kernel=mine", JUPYTER_TOKEN="secret", SHIFTER_VOLUME="/tmp:/stale")

    lines = (home / "env").read_text().splitlines()
    assert "WORD=a b" in lines
    assert "directory=/x" in lines
    assert not [line for line in lines if line.startswith(("JUPYTER_TOKEN", "SHIFTER_"))]


def test_files_are_private_and_gone_afterwards(images: Farkernel, program: Program, home: Path) -> None:
    look = 'for word; do case $word in --env-file=*) stat -c %a%n "${word#*=}" "$(dirname "${word#*=}")" >"$HOME/stat"'
    program("shifter", f"{look};; esac; done; exit 1")
    program("shifterimg", "exit 1")

    images("check", IMAGE)

    file, directory = (home / "stat").read_text().split()
    assert file.startswith("600/tmp/farkernel-")
    assert directory.startswith("700/tmp/farkernel-")
    assert not Path(directory[3:]).exists()


@pytest.mark.usefixtures("shifter")
def test_a_directory_that_is_not_there_is_named(images: Farkernel, home: Path) -> None:
    kernelspec(home, {"runtime": "shifter", "image": IMAGE}, ["python3"], kernel={"cwd": "/home/nosuch"})

    done = images("check", "--kernel=mine", COLUMNS="1000")

    assert done.returncode == 1
    assert "in the directory /home/nosuch" in done.stdout
    assert "Correct kernel.cwd in the kernelspec." in done.stdout


def test_one_that_hangs_is_ended(images: Farkernel, program: Program, home: Path) -> None:
    program("shifter", 'echo $$ >"$HOME/pid"; exec sleep 60')
    kernelspec(home, {"runtime": "shifter", "image": IMAGE}, ["python3"], launcher={"start_timeout": 5})

    done = images("check", "--kernel=mine")

    assert done.returncode == 1
    assert "it did not start and answer within 5 s" in done.stdout
    assert "launcher.start_timeout" in done.stdout
    with pytest.raises(ProcessLookupError):
        os.kill(int((home / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo FAILED to lookup docker image nersc/pyhep:2.0 >&2; exit 1", "Shifter does not know the image"),
        ("echo what is this >&2; exit 5", "(exit code 5) what is this"),
        ("echo nothing", "(exit code 0)"),
    ],
)
def test_what_the_runtime_says_is_told(images: Farkernel, program: Program, script: str, found: str) -> None:
    program("shifter", script)
    program("shifterimg", "exit 1")

    done = images("check", IMAGE, COLUMNS="1000")

    assert done.returncode == 1
    assert found in words(done)


@pytest.mark.usefixtures("shifter")
@pytest.mark.parametrize(
    ("srun", "code", "found"),
    [
        (
            'echo "srun: job 1 has been allocated resources" >&2; while [ $1 != /bin/bash ]; do shift; done; exec "$@"',
            0,
            "IPython",
        ),
        ("echo 'srun: error: Failed to lookup image.  Aborting.' >&2; exit 255", 1, "Shifter does not know the image"),
        ("echo 'srun: error: Invalid qos specification' >&2; exit 1", 1, "Slurm refused the job of kernel Mine"),
        ("exec sleep 60", 1, "the job is withdrawn"),
    ],
)
def test_on_a_node(images: Farkernel, program: Program, home: Path, srun: str, code: int, found: str) -> None:
    program("srun", f'echo "$@" >"$HOME/srun"\n{srun}')
    slurm, launcher = {"account": "m1", "nodes": 8}, {"start_timeout": 3 if "sleep" in srun else 60}
    kernelspec(
        home,
        {"runtime": "shifter", "image": IMAGE},
        ["python3", "-m", "ipykernel_launcher"],
        slurm=slurm,
        launcher=launcher,
    )

    done = images("check", "--kernel=mine", "--on-node", "--wait=1")

    assert found in done.stdout
    assert done.returncode == code
    asked = (home / "srun").read_text().split()
    assert {"--account=m1", "--nodes=1", f"--image={IMAGE}", "--job-name=farkernel-images"} <= set(asked)


@pytest.mark.usefixtures("shifter")
def test_what_cannot_be_checked(images: Farkernel, home: Path) -> None:
    kernelspec(home, {}, ["python3"])

    assert images("check").returncode == 2
    assert "There is mine." in images("check", "--kernel=nope").stderr
    assert "in no image" in images("check", "--kernel=mine").stderr
    assert "srun is not on PATH" in images("check", IMAGE, "--on-node", PATH=f"{home}/bin").stdout
    assert images("check", IMAGE, "--kernel=mine").returncode == 0


@pytest.mark.usefixtures("shifter")
@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"argv": []}, "argv: expected a command, it is empty"),
        ({"argv": [1]}, "argv.0: expected a text, not 1"),
        ({"config": None}, "expected an object, not null"),
        ({"config": 5}, "expected an object, not 5"),
        ({"config": "abc"}, 'expected an object, not "abc"'),
    ],
    ids=str,
)
def test_what_jupyter_accepts_and_no_start_would_is_named(
    images: Farkernel, home: Path, part: dict[str, Any], said: str
) -> None:
    kernelspec(home, {"runtime": "shifter", "image": IMAGE}, ["python3"])
    file = home / ".local/share/jupyter/kernels/mine/kernel.json"
    spec = json.loads(file.read_text())
    (spec["metadata"]["kernel_provisioner"] if "config" in part else spec).update(part)
    file.write_text(json.dumps(spec))

    done = images("check", "--kernel=mine")

    assert done.returncode == 1
    assert f"{file}: {said}" in done.stderr
