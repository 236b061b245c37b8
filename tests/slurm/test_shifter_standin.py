"""The stand-in for Shifter behaves as the real one was seen to; a product that works with it has met its traps."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.cluster import Site
from tests.cluster.shifter import switches
from tests.cluster.shifter.images import BUSY, CUSTOM, GONE, IMAGES, OF_BOB, PULLABLE, PYHEP, SLOW, WITHOUT_IPYKERNEL
from tests.slurm.squeue import PATIENCE

NAME = BUSY.name
KNL = ("-C", "knl", "-t", "5")
STRIPPED = {"LD_LIBRARY_PATH": "/x", "TMPDIR": "/x", "GCONV_PATH": "/x", "LOCPATH": "/x", "TZDIR": "/x"}
UNKNOWN = "id:" + 64 * "a"


def run(*argv: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> CompletedProcess[str]:
    return subprocess.run(
        argv,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        check=False,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )


def shifter(*argv: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> CompletedProcess[str]:
    return run("shifter", f"--image={NAME}", *argv, env=env, cwd=cwd)


def says(*argv: str, env: dict[str, str] | None = None) -> str:
    done = shifter(*argv, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextlib.contextmanager
def started(*argv: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        yield process


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def real_uid(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nUid:")[2].split()[0])


# ---- the process ----


def test_it_becomes_the_program(cluster: Site) -> None:
    script = "echo $$; grep -E '^(Uid|NoNewPrivs|CapBnd|SigIgn)' /proc/self/status; umask; sleep 0.1; kill -9 $$"
    with started("shifter", f"--image={NAME}", "sh", "-c", script) as process:
        output = process.communicate()[0].split()
        assert int(output[0]) == process.pid
    assert process.returncode == -signal.SIGKILL
    assert output[1:6] == ["Uid:", *[str(os.getuid())] * 4]
    assert output[-5:] == ["CapBnd:", 16 * "0", "NoNewPrivs:", "1", "0022"]


def test_only_its_mounts_are_its_own(cluster: Site) -> None:
    spaces = ("mnt", "net", "pid", "ipc", "uts", "user")
    inside = [says("readlink", f"/proc/self/ns/{space}") for space in spaces]
    outside = [str(Path(f"/proc/self/ns/{space}").readlink()) for space in spaces]
    assert inside[0] != outside[0]
    assert inside[1:] == outside[1:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nobody_but_root_ends_it_while_it_sets_up(cluster: Site, number: signal.Signals) -> None:
    with switches.set_up_takes(cluster, 10), started("shifter", f"--image={NAME}", "cat") as process:
        until(lambda: real_uid(process.pid) == 0)
        with pytest.raises(PermissionError):
            os.kill(process.pid, number)
        until(lambda: real_uid(process.pid) == os.getuid())
        os.kill(process.pid, signal.SIGKILL)


def test_signals_reach_the_program(cluster: Site) -> None:
    with started("shifter", f"--image={NAME}", "sh", "-c", "trap 'echo int; exit 3' INT; echo up; read x") as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "int\n"
    assert process.returncode == 3


def test_arguments_arrive_untouched(cluster: Site) -> None:
    arguments = ["a  b", "line\nline", "*", "ä", "--image=x", "$HOME"]
    assert says("--", "printf", "%s|", *arguments) == "".join(f"{argument}|" for argument in arguments)


def test_nothing_is_gained_inside(cluster: Site) -> None:
    inside = "cp /usr/local/bin/shifter . ; ls -d /run/munge /run/user /usr/local/bin/shifter; command -v srun squeue"
    assert shifter("sh", "-c", inside).stdout == ""


# ---- files ----


def test_what_it_shares_and_what_it_does_not(cluster: Site, tmp_path: Path) -> None:
    marks = [Path(place, f"standin-{os.getpid()}") for place in (Path.home(), "/tmp", "/var/tmp", "/dev/shm")]
    says("touch", *map(str, marks))
    for mark in marks:
        mark.unlink()
    assert "Read-only" in shifter("touch", "/bin/x").stderr
    assert "Permission denied" in shifter("touch", "/x").stderr


def test_only_the_user_is_in_passwd_and_group(cluster: Site) -> None:
    assert re.fullmatch(r"alice:x:20001:\S+\nalice:x:20001:\S*", says("cat", "/etc/passwd", "/etc/group"))


def test_a_working_directory_that_the_image_lacks(cluster: Site) -> None:
    done = shifter("pwd", cwd=Path("/run/shifter"))
    assert done.stdout == "/\n"
    assert done.stderr == "Failed to switch to working dir: /run/shifter, staying in /\n"
    assert says("--workdir=/srv", "pwd") == says("--workdir", "pwd") == "/srv"


def test_an_entrypoint_runs_only_when_asked_for(cluster: Site) -> None:
    assert says("echo", "x") == "x"
    assert says("--entrypoint", "x") == "entered x"
    assert says("--entrypoint") == "entered the cmd"
    assert says("--entrypoint=/bin/echo", "x") == "x"
    assert shifter("--entrypoint=/bin/echo other", "x").returncode == 127  # it is one word


# ---- the environment ----


def test_the_environment_passes_but_for_what_the_loader_strips(cluster: Site) -> None:
    env = {**STRIPPED, "SLURM_X": "1", "LINES_": "a\nb", "PATH": os.environ["PATH"]}
    assert says("sh", "-c", 'echo "$SLURM_X$LINES_$PATH"', env=env) == "1a\nb/bin"
    for name in STRIPPED:
        assert says("sh", "-c", f'echo "${name}"', env=env) == ""
    assert says("--env=TMPDIR=/y z=", "--env", "LD_LIBRARY_PATH=/l", "sh", "-c", "echo $TMPDIR") == "/y z="


def test_the_later_source_of_a_variable_wins(cluster: Site, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text('# a comment\n\n  FILE="quoted"  \nMPICH_VERSION=file\nBOTH=file\n')
    options = [f"--env-file={file}", "--env=BOTH=option", "--env=MPICH_VERSION=option", "--module=mpich"]
    script = "echo $CALLER $FILE $BOTH $MPICH_VERSION $PATH; test -d /opt/mpich"
    env = {"CALLER": "caller", "FILE": "caller", "BOTH": "caller"}
    assert says(*options, "sh", "-c", script, env=env) == 'caller "quoted" option 4.0 /bin'


def test_a_cleared_environment(cluster: Site) -> None:
    lines = says("--clearenv", "--env=A=1", "/bin/env").splitlines()
    own = [f"SHIFTER_IMAGEREQUEST={NAME}", f"SHIFTER_IMAGE={BUSY.id}", "SHIFTER_RUNTIME=1"]
    assert sorted(lines) == sorted(["PATH=/bin", "A=1", *own])


def test_stale_variables_add_their_image_and_volumes(cluster: Site) -> None:
    stale = {"SHIFTER_IMAGETYPE": "id", "SHIFTER_IMAGE": BUSY.id, "SHIFTER_VOLUME": "/tmp:/stale"}
    assert run("shifter", "ls", "-d", "/stale", env=stale).stdout == "/stale\n"
    assert run("shifter", "ls", "-d", "/stale", env={f"SLURM_SPANK_{k}": v for k, v in stale.items()}).returncode == 0
    assert shifter("--volume=/tmp:/fresh", "ls", "-d", "/stale", env=stale).returncode == 1


# ---- volumes ----


def test_volumes(cluster: Site, tmp_path: Path) -> None:
    source = Path.home() / "volume"
    (source / "inner").mkdir(parents=True, exist_ok=True)
    joined = f"--volume={source}:/data;/tmp:/mnt"
    assert says(joined, "-V", f"{source}/inn er:/ro:ro", "ls", "/data", "/ro") == "/data:\ninner\n\n/ro:"
    assert "Read-only" in shifter(f"--volume={source}:/ro:ro", "touch", "/ro/x").stderr
    cache = says("-V", "/any:/mnt:perNodeCache=size=300M", "sh", "-c", "touch /mnt/x; df -m /mnt | tail -1").split()
    assert int(cache[1]) > 200
    small = shifter("-V", "/any:/mnt:perNodeCache=size=100M", "true")
    assert "FAILED to setup perNodeCache" in small.stderr


def test_a_link_to_a_directory_of_the_root_is_no_source(cluster: Site) -> None:
    link = Path.home() / "link"
    link.unlink(missing_ok=True)
    link.symlink_to("/tmp")
    done = shifter(f"--volume={link}:/data", "true")
    assert re.search(r"^Invalid source .*, not allowed, fail\.\n", done.stderr)
    assert done.stderr.endswith("FAILED to setup image.\n")


def test_a_circle_of_links_as_a_source_never_ends(cluster: Site) -> None:
    link, other = Path.home() / "circle", Path.home() / "circle2"
    for one, target in ((link, other), (other, link)):
        one.unlink(missing_ok=True)
        one.symlink_to(target.name)
    with started("shifter", f"--image={NAME}", f"--volume={link}:/data", "true") as process:
        until(lambda: real_uid(process.pid) == 0)
        time.sleep(1)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with pytest.raises(PermissionError):
                process.send_signal(number)
        assert process.poll() is None
        assert cluster.run("cori01", "root", ["kill", "-KILL", str(process.pid)]).returncode == 0


@pytest.mark.parametrize(
    ("options", "text", "code"),
    [
        (["--image=nope/x:1", "true"], "FAILED to lookup docker image nope/x:1\n", 1),
        ([f"--image={OF_BOB.name}", "true"], f"FAILED to lookup docker image {OF_BOB.tags[0]}\n", 1),
        ([f"--image={PULLABLE.name}", "true"], f"FAILED to lookup docker image {PULLABLE.tags[0]}\n", 1),
        ([f"--image=id:{OF_BOB.id}", "true"], "FAILED permission denied to image\n", 1),
        ([f"--image={UNKNOWN}", "true"], "FAILED to find requested image.\n", 1),
        ([f"--image={GONE.name}", "true"], "FAILED to mount image", 1),
        ([f"--image={GONE.name}", "true"], "FAILED to setup image.\n", 1),
        (["true"], "No image specified, or specified incorrectly!\n", 1),
        ([f"--image={NAME}", "absent"], "shifter: absent: No such file or directory\n", 127),
        (
            [f"--image={NAME}", "--module=x", "true"],
            "Unknown shifter module: x\nInvalid shifter module selection: x\n",
            1,
        ),
        ([f"--image={NAME}", "--volume=/tmp:/etc/x", "true"], "Invalid Volume Map: /tmp:/etc/x, aborting! 1\n", 1),
        ([f"--image={NAME}", "--volume=/tmp:/var/x", "true"], "Failed to parse volume map options\n", 1),
        ([f"--image={NAME}", "--volume=/tmp:/opt", "true"], "Invalid Volume Map: /tmp:/opt, aborting! 1\n", 1),
        ([f"--image={NAME}", "--volume=/x:/mnt", "true"], 'FAILED to find real path for volume "from": /x\n', 1),
        ([f"--image={NAME}", "--volume=/x:/mnt", "true"], "FAILED to setup image.\n", 1),
        ([f"--image={NAME}", "--volume=/etc/passwd:/mnt", "true"], "location is not directory", 1),
        ([f"--image={NAME}", "--volume=/tmp:/mnt:zz", "true"], "Unknown flag: \N{REPLACEMENT CHARACTER}", 1),
        ([f"--image={NAME}", "--env=A=", "true"], "Improperly formatted environment variable: A=\n", 1),
        ([f"--image={NAME}", "--env-file=/none", "true"], "Failed to process env-file /none\n", 1),
    ],
)
def test_refusals(cluster: Site, options: list[str], text: str, code: int) -> None:
    done = run("shifter", *options)
    assert text in done.stderr
    assert done.returncode == code


@pytest.mark.parametrize(
    "name", ["busybox", "docker:busybox:latest", "docker:busy box", "bu;sybox:1.35", f"id:{BUSY.id}"]
)
def test_names_of_the_same_image(cluster: Site, name: str) -> None:
    done = run("shifter", f"--image={name}", "sh", "-c", "echo $SHIFTER_IMAGE $SHIFTER_IMAGEREQUEST")
    assert done.stdout == f"{BUSY.id} {name}\n"


def test_without_privileges_it_fails(cluster: Site) -> None:
    done = run("setpriv", "--no-new-privs", "shifter", f"--image={NAME}", "true")
    assert "Not running with root privileges, will fail.\n" in done.stderr
    assert done.returncode == 1


def test_only_ids_work_without_the_gateway(cluster: Site) -> None:
    with switches.gateway_down(cluster):
        assert f"FAILED to lookup docker image {BUSY.tags[0]}\n" in shifter("true").stderr
        assert run("shifter", f"--image=id:{BUSY.id}", "true").returncode == 0
        done = run("shifterimg", "lookup", NAME)
        assert (done.returncode, done.stdout) == (1, "ERROR: failed to contact the image gateway.\n")


# ---- a Python inside ----


@pytest.fixture
def python(cluster: Site) -> None:
    if run("shifter", f"--image={PYHEP.name}", "python3", "-c", "0").returncode:
        pytest.skip("the cluster has no image with Python")


def test_an_image_with_and_one_without_ipykernel(python: None) -> None:
    for name in (PYHEP.name, CUSTOM.name):
        assert run("shifter", f"--image={name}", "python3", "-m", "ipykernel_launcher", "--version").returncode == 0
    done = run("shifter", f"--image={WITHOUT_IPYKERNEL.name}", "python3", "-m", "ipykernel_launcher")
    assert done.stderr.endswith(": No module named ipykernel_launcher\n")
    assert done.returncode == 1


# ---- shifterimg ----


def test_images_are_listed_line_by_line(cluster: Site) -> None:
    lines = run("shifterimg", "images").stdout.splitlines()
    assert (
        f"cori       docker     READY    {PYHEP.id[:10]}   2024-10-27T03:33:20 nersc/pyhep:2.0               " in lines
    )
    shown = {line.split()[5] for line in lines}
    assert shown == {tag for image in IMAGES if image not in (OF_BOB, PULLABLE) for tag in image.tags}
    assert OF_BOB.tags[0] in cluster.run("cori01", "bob", ["shifterimg", "images"]).stdout


def test_lookup(cluster: Site) -> None:
    assert run("shifterimg", "lookup", "busybox").stdout == f"{BUSY.id}\n"
    for name in ("docker:nope:1", OF_BOB.name, PULLABLE.name):
        done = run("shifterimg", "lookup", name)
        assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize(("name", "last"), [(NAME, "READY"), (PULLABLE.name, "READY"), ("docker:nope/x:1", "FAILURE")])
def test_a_pull_shows_its_states_on_one_line_and_never_fails(cluster: Site, name: str, last: str) -> None:
    # not as text: that would take the carriage returns for ends of lines
    output = subprocess.run(["shifterimg", "pull", name], stdout=subprocess.PIPE, timeout=PATIENCE, check=True).stdout
    lines = output.decode().removesuffix("\n").split("\r\x1b[2K")[1:]
    form = rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d Pulling Image: {name}, status: ([A-Z]+)"
    states = [match[1] for line in lines if (match := re.fullmatch(form, line))]
    assert len(states) == len(lines)
    assert states[-1] == last, states
    assert run("shifterimg", "lookup", name).returncode == (last == "FAILURE")
    switches.forget_pulls(cluster)


# ---- the SPANK plugin ----


@pytest.mark.parametrize(
    ("options", "text", "code"),
    [
        (["--image=nope/x:1"], "error: Failed to lookup image.  Aborting.\n", 255),
        (["--volume=/tmp:/mnt"], "error: Cannot specify shifter volumes without specifying the image first!\n", 255),
        (
            [f"--image={NAME}", "--volume=/tmp:/etc"],
            "error: Failed to parse or invalid/disallowed volume map request: ",
            1,
        ),
        (["--module=x"], "error: Failed to parse or invalid module(s) requested: x", 1),
    ],
)
@pytest.mark.parametrize("command", [["srun", "true"], ["sbatch", "--wrap=true"], ["salloc", "true"]])
def test_submission_is_refused(cluster: Site, command: list[str], options: list[str], text: str, code: int) -> None:
    done = run(command[0], *KNL, *options, *command[1:])
    assert f"{command[0]}: {text}" in done.stderr
    assert done.returncode == code


def test_an_image_for_srun_alone_reaches_nobody(cluster: Site) -> None:
    assert "No image specified" in run("srun", *KNL, f"--image={NAME}", "shifter", "true").stderr
    both = run("srun", *KNL, f"--image={NAME}", "shifter", f"--image={NAME}", "sh", "-c", "echo $SHIFTER_IMAGE")
    assert both.stdout == f"{BUSY.id}\n", both.stderr
    assert run("srun", *KNL, f"--image={NAME}", "ls", "-d", "/run/shifter").stdout == "/run/shifter\n"


def test_only_the_last_of_srun_s_volumes_counts(cluster: Site) -> None:
    options = [f"--image={NAME}", "--volume=/tmp:/first", "--volume=/tmp:/last;/tmp:/joined", "--module=gpu"]
    script = "ls / | grep -E '^(first|last|joined)$'; echo $GPU_MODULE"
    done = run("srun", *KNL, *options, "shifter", f"--image={NAME}", "sh", "-c", script)
    assert done.stdout.split() == ["joined", "last", "1"], done.stderr


def test_an_allocation_keeps_its_image(cluster: Site) -> None:
    step = f"srun --image=id:{SLOW.id} shifter sh -c 'echo $SHIFTER_IMAGE'"
    done = run("salloc", *KNL, f"--image={NAME}", "sh", "-c", step)
    assert done.stdout == f"{BUSY.id}\n", done.stderr


def test_a_stale_image_beats_the_job_s(cluster: Site) -> None:
    ask = ["salloc", *KNL, f"--image={NAME}", "shifter", "sh", "-c", "echo $SHIFTER_IMAGE"]
    done = run(*ask, env={"SHIFTER_IMAGE": GONE.id})
    assert "FAILED to mount image" in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "SHIFTER_VOLUME",
        "SLURM_SPANK_SHIFTER_VOLUME",
        "_SLURM_SPANK_OPTION_shifter_volume",
        "SLURM_SPANK__SLURM_SPANK_OPTION_shifter_volume",
    ],
)
def test_a_stale_volume_joins_the_job(cluster: Site, name: str) -> None:
    command = ["srun", *KNL, f"--image={NAME}", "shifter", f"--image={NAME}", "ls", "-d", "/stale"]
    assert run(*command, env={name: "/tmp:/stale"}).stdout == "/stale\n"


def test_without_munge_no_image_is_found(cluster: Site) -> None:
    hide = "mount -t tmpfs none /run/munge && exec setpriv --reuid=alice --regid=alice --clear-groups "
    done = cluster.run("cori01", "root", ["unshare", "-m", "sh", "-c", f"{hide} shifter --image={NAME} true"])
    assert f"FAILED to lookup docker image {BUSY.tags[0]}\n" in done.stderr


def test_nothing_is_left_of_many_at_once(cluster: Site) -> None:
    before = Path("/proc/self/mounts").read_text()
    command = ["shifter", f"--image={NAME}", "sh", "-c", "echo up; read x"]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(*command)) for _ in range(10)]
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "up\n"
            process.kill()
    assert Path("/proc/self/mounts").read_text() == before


def test_the_site_may_have_long_options(cluster: Site) -> None:
    with switches.long_options(cluster):
        assert "unrecognized option" in run("srun", *KNL, f"--image={NAME}", "true").stderr
        done = run("salloc", *KNL, f"--shifter.image={NAME}", "shifter", "sh", "-c", "echo $SHIFTER_IMAGE")
        assert done.stdout == f"{BUSY.id}\n", done.stderr
