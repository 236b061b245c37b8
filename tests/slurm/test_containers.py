"""Kernels inside images. The runtimes are real; Shifter's stand-in is a real program that behaves as Shifter does."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import AsyncKernelManager

from farkernel.provisioners.errors import ContainerFailed, FarkernelError, KernelFailed, RequestError
from tests.cluster import Site
from tests.cluster.containers import IMAGE as DIRECTORY
from tests.cluster.image import MARK, PODMAN_NAME
from tests.cluster.shifter import images, switches
from tests.slurm.helpers import Client, Specs, busy, eventually, gone, jobs, kernel, server, slurm

pytestmark = pytest.mark.usefixtures("cluster")

IN_IMAGE = f"import os, platform; print(platform.node(), os.path.exists('/{MARK}'))"
RUNTIMES: dict[str, dict[str, Any]] = {
    "shifter": {"image": images.PYHEP.name},
    "podman-hpc": {"image": PODMAN_NAME},
    "charliecloud": {"image": str(DIRECTORY)},
}
PYTHON = ["python3", "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtimes' programs are found, and know whose they are."""
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setenv("USER", "alice")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, programs: None) -> str:
    return str(request.param)


def spec(
    specs: Specs, runtime: str, argv: list[str] | None = None, env: dict[str, str] | None = None, **more: Any
) -> str:
    container = {"runtime": runtime, **RUNTIMES[runtime], **more}
    return specs(argv=argv or PYTHON, env=env, container=container, launcher={"python": sys.executable})


async def failure(name: str) -> ContainerFailed:
    """Start a kernel that cannot be started; the sentence names the image and the kernelspec."""
    manager = AsyncKernelManager(kernel_name=name)
    with pytest.raises(ContainerFailed) as caught:
        await manager.start_kernel()
    assert name in caught.value.what
    assert caught.value.hint
    await eventually(lambda: not jobs())
    return caught.value


# ---- what works everywhere ----


async def test_a_kernel_in_an_image_on_a_knl_node(specs: Specs, runtime: str) -> None:
    async with kernel(spec(specs, runtime)) as (manager, client):
        cell = await client.run(IN_IMAGE)
        assert cell.stdout.startswith("nid0230")
        assert cell.stdout.endswith("True\n")

        client.answers.append("Alice")
        assert (await client.run("print('Hello', input('Who? '))")).stdout == "Hello Alice\n"

        cell = await client.send("import time; print('sleeps', flush=True); time.sleep(600)").prints("sleeps")
        await manager.interrupt_kernel()
        await cell.done()
        assert cell.errors[0].startswith("KeyboardInterrupt")

        await client.run_anew("x = 1")
        (job,) = jobs()
        await manager.restart_kernel()
        assert (await client.run("print('x' in globals())")).stdout == "False\n"
        assert jobs() == [job]

        cell = await client.run("for _ in range(50): print('x' * 1_000_000)")
        assert len(cell.stdout) == 50 * 1_000_001


async def test_the_kernelspecs_variables_are_seen_inside_and_the_hosts_python_is_not(
    specs: Specs, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/of/the/host")
    env = {"LD_LIBRARY_PATH": "/usr/common/root/lib", "PYTHONPATH": "/usr/common/root/lib", "TOKEN": "two words"}
    env |= {"LINES2": "one\ntwo", "QUOTED": "\"a\" 'b' #c", "TMPDIR": "/var/tmp", "LONG": 100_000 * "x"}
    async with kernel(spec(specs, runtime, env=env)) as (_, client):
        names = [*env, "PYTHONNOUSERSITE", "VIRTUAL_ENV"]
        cell = await client.run(f"import os; print([os.environ.get(name) for name in {names}])")
        assert cell.stdout.strip() == str([*env.values(), "1", None])
        cell = await client.run("print(os.environ['SLURM_JOB_ID'], os.getcwd(), os.path.expanduser('~'))")
        assert cell.stdout.split()[0] == jobs()[0]
        assert cell.stdout.split()[2] == "/home/alice"


async def test_a_home_that_is_nowhere_is_the_kernels_own_affair(specs: Specs, runtime: str) -> None:
    async with kernel(spec(specs, runtime, env={"HOME": "/tmp/nosuch"}), cwd="/home/alice") as (_, client):
        cell = await client.run("import os; print(os.environ['HOME'], os.path.isdir('/home/alice'))")
        assert cell.stdout == "/tmp/nosuch True\n"


async def test_no_value_is_in_a_command_line(specs: Specs, runtime: str, cluster: Site) -> None:
    async with kernel(spec(specs, runtime, env={"TOKEN": "s3cret-of-alice"})) as (_, client):
        node = (await client.run("import platform; print(platform.node())")).stdout.strip()
        lines = await asyncio.to_thread(cluster.run, node, "root", ["ps", "-ww", "-e", "-o", "args"])
        assert "ipykernel_launcher" in lines.stdout
        assert "s3cret-of-alice" not in lines.stdout


async def test_a_kernel_that_hangs_leaves_nothing(specs: Specs, runtime: str) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=spec(specs, runtime))
        running: Any = manager.get_kernel(kernel_id)
        async with Client(running) as client:
            code = "import signal, time; signal.pthread_sigmask(signal.SIG_BLOCK, {2, 15}); print('deaf', flush=True)"
            await client.send(f"{code}; time.sleep(600)").prints("deaf")
            await running.shutdown_kernel(now=True)
    await eventually(lambda: not jobs())


async def test_a_kernel_that_is_killed_is_told(specs: Specs, runtime: str) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=spec(specs, runtime))
        async with Client(manager.get_kernel(kernel_id)) as client:
            cell = client.send("import ctypes; ctypes.string_at(0)")
            await cell.done()
            assert cell.errors[0].startswith("KernelDied")


async def test_a_job_that_is_cancelled_is_told(specs: Specs, runtime: str) -> None:
    async with busy(spec(specs, runtime)) as (manager, kernel_id, _, cell):
        slurm("scancel", *jobs())
        await cell.done()
        assert cell.errors[0].startswith("JobEnded"), cell.told
        await gone(manager, kernel_id)


@pytest.mark.parametrize("command", ["nosuchkernel", "/opt/not/there"])
async def test_an_image_without_the_kernels_command(specs: Specs, runtime: str, command: str) -> None:
    error = await failure(spec(specs, runtime, argv=[command, "{connection_file}"]))
    assert command in error.what
    assert str(RUNTIMES[runtime]["image"]) in error.what


async def test_an_image_whose_python_lacks_the_kernel(specs: Specs, runtime: str) -> None:
    error = await failure(spec(specs, runtime, argv=["python3", "-m", "nosuchkernel", "{connection_file}"]))
    assert "lacks nosuchkernel" in error.what


@pytest.mark.parametrize(
    ("command", "said"), [(["true"], ""), (["python3", "-c", "raise SystemExit('no licence')"], "no licence")]
)
async def test_a_kernel_that_ends_for_a_reason_of_its_own(
    specs: Specs, runtime: str, command: list[str], said: str
) -> None:
    name = spec(specs, runtime, argv=[*command, "{connection_file}"])
    with pytest.raises(KernelFailed) as caught:
        # seen in the image; of another directory Shifter itself says that it is not there
        await AsyncKernelManager(kernel_name=name).start_kernel(cwd="/home/alice")
    await eventually(lambda: not jobs())
    assert caught.value.said == said
    assert f"Its kernelspec is {name}, its image {RUNTIMES[runtime]['image']}." in caught.value.what
    assert "farkernel images check" in caught.value.hint


async def test_a_directory_that_the_node_lacks_is_named(specs: Specs, runtime: str) -> None:
    container = {"runtime": runtime, **RUNTIMES[runtime]}
    name = specs(argv=PYTHON, container=container, kernel={"cwd": "/home/nosuch"})
    with pytest.raises(KernelFailed) as caught:
        await AsyncKernelManager(kernel_name=name).start_kernel()
    await eventually(lambda: not jobs())
    assert "in the directory /home/nosuch" in caught.value.what
    assert "kernel.cwd" in caught.value.hint


UNKNOWN = {"shifter": "docker:nope/x:1", "podman-hpc": "localhost/nope:1", "charliecloud": "/run/images/nope"}


async def test_an_unknown_image(specs: Specs, runtime: str) -> None:
    error = await failure(spec(specs, runtime, image=UNKNOWN[runtime]))
    assert UNKNOWN[runtime] in error.what
    assert "farkernel images list" in error.hint


async def test_a_volume_whose_source_is_missing(specs: Specs, runtime: str) -> None:
    error = await failure(spec(specs, runtime, volumes=["/home/alice/nope:/mnt"]))
    assert "/home/alice/nope" in f"{error.what} {error.said}"
    assert "container.volumes" in error.hint


async def test_a_volume(specs: Specs, runtime: str, cluster: Site) -> None:
    await asyncio.to_thread(cluster.run, "cori01", "alice", ["sh", "-c", "mkdir -p data; echo yes > data/file"])
    async with kernel(spec(specs, runtime, volumes=["/home/alice/data:/mnt"])) as (_, client):
        assert (await client.run("print(open('/mnt/file').read())")).stdout == "yes\n\n"


# ---- podman-hpc's own ----


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("cwd", "more", "seen"),
    [
        ("/run/work/alice", {}, "/run/work/alice"),  # the node has it
        ("/nowhere/at/all", {}, "/home/alice"),
        ("/nowhere/at/all", {"workdir": "/var"}, "/var"),
        ("/", {}, "/home/alice"),
        ("/usr", {}, "/home/alice"),
        ("/scratch:1", {}, "/home/alice"),
    ],
)
async def test_podman_starts_in_the_notebooks_directory_or_at_home(
    specs: Specs, cluster: Site, cwd: str, more: dict[str, Any], seen: str
) -> None:
    if cwd == seen:
        for host in cluster.hosts:
            await asyncio.to_thread(cluster.run, host, "root", ["install", "-d", "-o", "alice", cwd])
    async with kernel(spec(specs, "podman-hpc", **more), cwd=cwd) as (_, client):
        assert (await client.run("import os; print(os.getcwd())")).stdout == f"{seen}\n"


# ---- Shifter's own ----


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")


@pytest.mark.usefixtures("path")
class TestShifter:
    async def test_stale_variables_of_another_container_do_not_matter(
        self, specs: Specs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("SHIFTER_IMAGE", "SLURM_SPANK_SHIFTER_IMAGE", "_SLURM_SPANK_OPTION_shifter_image"):
            monkeypatch.setenv(name, images.BUSY.name)
        monkeypatch.setenv("SHIFTER_VOLUME", "/home/alice/nope:/mnt")
        async with kernel(spec(specs, "shifter")) as (_, client):
            assert (await client.run(IN_IMAGE)).stdout.endswith("True\n")

    async def test_an_image_of_somebody_else(self, specs: Specs) -> None:
        error = await failure(spec(specs, "shifter", image=images.OF_BOB.name))
        assert images.OF_BOB.name in error.what

    async def test_a_gateway_that_is_down(self, specs: Specs, gateway_down: None) -> None:
        error = await failure(spec(specs, "shifter"))
        assert "gateway" in error.what

    async def test_an_image_whose_files_are_gone(self, specs: Specs) -> None:
        error = await failure(spec(specs, "shifter", image=images.GONE.name))
        assert "could not mount the image" in error.what

    async def test_an_image_without_python(self, specs: Specs) -> None:
        error = await failure(spec(specs, "shifter", image=images.BUSY.name))
        assert "no command python3" in error.what

    async def test_an_image_without_ipykernel(self, specs: Specs) -> None:
        error = await failure(spec(specs, "shifter", image=images.WITHOUT_IPYKERNEL.name))
        assert "lacks ipykernel" in error.what

    @pytest.mark.parametrize("command", ["/etc/passwd", "/etc"])
    async def test_a_command_that_is_no_program(self, specs: Specs, command: str) -> None:
        error = await failure(spec(specs, "shifter", argv=[command, "{connection_file}"]))
        assert f"the image's {command} is no program" in error.what

    async def test_an_option_that_shifter_does_not_take(self, specs: Specs) -> None:
        error = await failure(spec(specs, "shifter", args=["--nosuch"]))
        assert "--nosuch" in error.what
        assert "container.args" in error.hint

    async def test_an_unknown_module(self, specs: Specs) -> None:
        error = await failure(spec(specs, "shifter", modules=["nosuch"]))
        assert "nosuch" in error.what

    async def test_modules(self, specs: Specs) -> None:
        async with kernel(spec(specs, "shifter", modules=["mpich"])) as (_, client):
            assert (await client.run("import os; print(os.environ['MPICH_VERSION'])")).stdout == "4.0\n"

    async def test_a_name_that_shifter_would_change(self, specs: Specs) -> None:
        with pytest.raises(RequestError, match=r"container\.image"):
            spec(specs, "shifter", image="docker:busy box")

    async def test_a_link_as_a_volumes_source(self, specs: Specs, cluster: Site) -> None:
        script = "mkdir -p real; echo yes > real/file; ln -sfn /home/alice/real link"
        await asyncio.to_thread(cluster.run, "cori01", "alice", ["sh", "-c", script])
        async with kernel(spec(specs, "shifter", volumes=["/home/alice/link:/mnt"])) as (_, client):
            assert (await client.run("print(open('/mnt/file').read())")).stdout == "yes\n\n"

    async def test_a_link_to_what_shifter_would_change(self, specs: Specs, cluster: Site) -> None:
        script = "mkdir -p 'da ta' data; ln -sfn 'da ta' blank; ln -sfn circle2 circle1; ln -sfn circle1 circle2"
        await asyncio.to_thread(cluster.run, "cori01", "alice", ["sh", "-c", script])
        for link, why in (("blank", "would drop characters"), ("circle1", "in a circle")):
            with pytest.raises(RequestError, match=why):
                spec(specs, "shifter", volumes=[f"/home/alice/{link}:/mnt"])

    @pytest.mark.parametrize(
        ("volumes", "why"),
        [
            (["/home/alice:/a/b"], "can make none there"),
            (["/home/alice:/mnt", "/tmp:/mnt"], "where another one"),
            (["/home/alice/.profile:/mnt"], "not a directory"),
        ],
    )
    async def test_a_volume_that_cannot_be_mounted(self, specs: Specs, volumes: list[str], why: str) -> None:
        error = await failure(spec(specs, "shifter", volumes=volumes))
        assert why in error.what
        assert "container.volumes" in error.hint

    async def test_a_cache_that_is_too_small(self, specs: Specs) -> None:
        error = await failure(spec(specs, "shifter", volumes=["/tmp:/mnt:perNodeCache=size=100M"]))
        assert "could not make the cache" in error.what
        assert "300M" in error.hint

    async def test_a_path_of_the_kernelspec_is_the_images(self, specs: Specs) -> None:
        async with kernel(spec(specs, "shifter", env={"PATH": "/my/bin:/usr/bin"})) as (_, client):
            assert (await client.run("import os; print(os.environ['PATH'])")).stdout.startswith("/my/bin:/usr/bin")

    async def test_a_cache_of_each_node(self, specs: Specs) -> None:
        async with kernel(spec(specs, "shifter", volumes=["/home/alice/c:/mnt:perNodeCache=size=512M"])) as (_, client):
            code = (
                "open('/mnt/x', 'w').write('y'); import os; print(os.statvfs('/mnt').f_blocks > 0, os.listdir('/mnt'))"
            )
            assert (await client.run(code)).stdout == "True ['x']\n"

    async def test_a_kernel_is_stopped_while_its_image_is_set_up(self, specs: Specs) -> None:
        """Until that is done nobody but root may signal it."""
        async with server() as manager:
            kernel_id = await manager.start_kernel(kernel_name=spec(specs, "shifter", image=images.SLOW.name))
            running: Any = manager.get_kernel(kernel_id)
            await asyncio.sleep(1.5)
            await running.signal_kernel(signal.SIGINT)
            await running.shutdown_kernel(now=True)
        await eventually(lambda: not jobs())

    async def test_an_image_that_is_not_set_up_in_time_is_named(self, specs: Specs, cluster: Site) -> None:
        container = {"runtime": "shifter", "image": images.PYHEP.name}
        # so long may the launcher take, too
        name = specs(argv=PYTHON, container=container, launcher={"python": sys.executable, "start_timeout": 10})
        with switches.set_up_takes(cluster, 13), pytest.raises(FarkernelError) as caught:
            await AsyncKernelManager(kernel_name=name).start_kernel()
        assert f"Its kernelspec is {name}, its image {images.PYHEP.name}." in caught.value.what
        await eventually(lambda: not jobs())

    async def test_an_image_on_two_nodes_and_a_nested_srun(self, specs: Specs) -> None:
        """An analytics application: the kernel runs on the host, its workers in the image on every node."""
        name = specs(
            argv=[sys.executable, *PYTHON[1:]], slurm={"nodes": 2, "extra_args": [f"--image={images.PYHEP.name}"]}
        )
        async with kernel(name) as (_, client):
            command = f"srun -N2 --overlap shifter --image={images.PYHEP.name} python3 -c"
            code = f"!{command} \"import os, platform; print(platform.node(), os.path.exists('/{MARK}'))\""
            lines = (await client.run(code)).stdout.splitlines()
            assert sorted(line for line in lines if line.startswith("nid")) == ["nid02301 True", "nid02302 True"]

    async def test_a_site_with_long_options(self, specs: Specs, long_options: None) -> None:
        with pytest.raises(FarkernelError) as caught:
            await AsyncKernelManager(kernel_name=spec(specs, "shifter")).start_kernel()
        assert "container.spank" in caught.value.hint
        async with kernel(spec(specs, "shifter", spank="long")) as (_, client):
            assert (await client.run(IN_IMAGE)).stdout.endswith("True\n")


@pytest.fixture
def gateway_down(cluster: Site) -> Iterator[None]:
    with switches.gateway_down(cluster):
        yield


@pytest.fixture
def long_options(cluster: Site) -> Iterator[None]:
    with switches.long_options(cluster):
        yield
