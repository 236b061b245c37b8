"""The site's policy on the cluster: no client, kernelspec, variable, setting or option gets round it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pexpect  # type: ignore[import-untyped]
import pytest
from jupyter_client.manager import AsyncKernelManager
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from nbclient import NotebookClient
from tornado.httpclient import HTTPClientError

from farkernel.provisioners.errors import PolicyRefused, PolicyUnusable
from tests import gateways
from tests.cluster import Site
from tests.cluster.site import HOSTS, LOGIN
from tests.gateways import Client, Gateway
from tests.slurm.helpers import PATIENCE, Specs, all_jobs, jobs, kernel

POLICY = """
required = ["slurm.constraint"]
forbidden_options = ["--nice"]
never_pass = ["SECRET_*"]

[defaults]
slurm.constraint = "knl"

[allowed]
qos = ["debug", "interactive"]
account = ["m1234"]
constraint = ["knl", "quad", "cache"]
partition = ["knl*", "debug*"]
runtime = ["none"]

[maximum]
nodes = 1
time = "30:00"
"""
FORBIDDEN = "regular"
WRITE = "umask 022; mkdir -p /etc/farkernel && cat >/etc/farkernel/policy.toml"
REMOVE = "rm -rf /etc/farkernel/policy.toml; rmdir /etc/farkernel 2>/dev/null || true"


@pytest.fixture
def as_root(cluster: Site) -> Iterator[Callable[..., None]]:
    """Do something on the login node as root; the policy is removed afterwards."""

    def run(script: str, text: str = "") -> None:
        done = cluster.run(LOGIN, "root", ["sh", "-c", script], text)
        assert done.returncode == 0, done.stderr

    yield run
    run(REMOVE)


@pytest.fixture
def policy(as_root: Callable[..., None]) -> Iterator[None]:
    """The site has a policy; what it refuses never comes to Slurm."""
    as_root(WRITE, POLICY)
    before = all_jobs()
    yield
    assert all_jobs() <= before


def refused(text: str, rule: str = "allowed.qos is debug, interactive") -> None:
    assert "The policy of this site, /etc/farkernel/policy.toml, does not allow this kernel." in text
    assert rule in text
    assert "the site's support knows why" in text


async def _start(name: str, **options: Any) -> str:
    manager = AsyncKernelManager(kernel_name=name)
    with pytest.raises(PolicyRefused) as caught:
        await manager.start_kernel(**options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("slurm", "rule"),
    [
        ({"qos": FORBIDDEN}, "slurm.qos (from "),
        ({"account": "m5678"}, "allowed.account is m1234"),
        ({"constraint": "knl|haswell"}, '"haswell" in "knl|haswell"'),
        ({"constraint": None}, "slurm.constraint: has to be given: required has slurm.constraint"),
        ({"partition": "knl,haswell"}, "allowed.partition"),
        ({"nodes": 2}, "maximum.nodes is 1"),
        ({"time": "31"}, "maximum.time is 30:00"),
        ({"time": None}, "maximum.time is 30:00"),
        ({"time": "0"}, "maximum.time is 30:00"),
        ({"extra_args": [f"--qos={FORBIDDEN}"]}, "allowed.qos"),
        ({"extra_args": ["--qo", FORBIDDEN]}, "allowed.qos"),
        ({"extra_args": [f"-q{FORBIDDEN}"]}, "allowed.qos"),
        ({"extra_args": [f"-Hq{FORBIDDEN}"]}, "allowed.qos"),
        ({"extra_args": ["-A", "m5678"]}, "allowed.account"),
        ({"extra_args": ["-t2:00:00"]}, "maximum.time"),
        ({"extra_args": ["--tim=UNLIMITED"]}, "maximum.time"),
        ({"extra_args": ["-N2"]}, "maximum.nodes"),
        ({"extra_args": ["--nodelist=nid02301,nid02302"]}, "maximum.nodes"),
        ({"extra_args": ["-Chaswell"]}, "allowed.constraint"),
        ({"extra_args": ["-phaswell"]}, "allowed.partition"),
        ({"extra_args": ["--nic=100"]}, "forbidden_options has --nice"),
        ({"extra_args": ["--image=docker:evil:1"]}, "allowed.extra_args does not name it"),
    ],
)
async def test_a_kernelspec(policy: None, specs: Specs, slurm: dict[str, Any], rule: str) -> None:
    refused(await _start(specs(slurm=slurm)), rule)


async def test_a_kernelspecs_image(policy: None, specs: Specs) -> None:
    refused(await _start(specs("cori-knl-shifter")), "allowed.runtime is none")


async def test_a_job_template_of_the_users(
    policy: None, specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "farkernel/templates"
    folder.mkdir(parents=True)
    (folder / "mine.json").write_text(json.dumps({"slurm": {"partition": "haswell"}}))
    name = _changed(specs(), tmp_path, lambda config: config.update(extends="mine"))

    refused(await _start(name), "allowed.partition")


@pytest.mark.parametrize("variable", ["SLURM_QOS", "SLURM_PARTITION", "SLURM_TIMELIMIT"])
async def test_variables(
    policy: None, specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The user's own, and the kernelspec's: they count where nothing else is said, and are looked at."""
    value = {"SLURM_QOS": FORBIDDEN, "SLURM_PARTITION": "haswell", "SLURM_TIMELIMIT": "2:00:00"}[variable]
    key = {"SLURM_QOS": "qos", "SLURM_PARTITION": "partition", "SLURM_TIMELIMIT": "time"}[variable]
    bare = _without(specs("cori-knl", name="bare"), key, tmp_path)
    named = _without(specs("cori-knl", name="named", env={variable: value}), key, tmp_path)
    refused(await _start(named), f'(from {variable}="{value}")')
    monkeypatch.setenv(variable, value)
    refused(await _start(bare), f'(from {variable}="{value}")')


def _without(name: str, key: str, folder: Path) -> str:
    return _changed(name, folder, lambda config: config["slurm"].pop(key, None))


def _changed(name: str, folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    file = next(folder.rglob(f"kernels/{name}/kernel.json"))
    spec = json.loads(file.read_text())
    change(spec["metadata"]["kernel_provisioner"]["config"])
    file.write_text(json.dumps(spec))
    return name


async def test_variables_that_no_key_stands_for_reach_no_srun(
    as_root: Callable[..., None], specs: Specs, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_root(WRITE, POLICY)
    for name, value in {"SLURM_NNODES": "2", "SLURM_JOB_NUM_NODES": "2", "SLURM_WCKEY": "x", "SECRET_KEY": "1"}.items():
        monkeypatch.setenv(name, value)
    code = (
        "import os; print(os.environ['SLURM_JOB_NUM_NODES'], os.environ.get('SLURM_WCKEY'), 'SECRET_KEY' in os.environ)"
    )
    async with kernel(specs(env={"SECRET_KEY": "2"})) as (_, client):
        assert (await client.run(code)).stdout == "1 None False\n"


async def test_another_place_cannot_be_named(
    policy: None, specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "farkernel" / "policy.toml"
    mine.parent.mkdir()
    mine.write_text("")
    for name in ("FARKERNEL_POLICY", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "JUPYTER_CONFIG_PATH"):
        monkeypatch.setenv(name, str(mine if name == "FARKERNEL_POLICY" else tmp_path))
    refused(await _start(specs(slurm={"qos": FORBIDDEN})))


async def test_under_a_server(policy: None, specs: Specs, tmp_path: Path) -> None:
    name = specs(slurm={"qos": FORBIDDEN})
    manager = AsyncMappingKernelManager(root_dir="/", connection_dir=str(tmp_path))  # type: ignore[no-untyped-call]
    try:
        with pytest.raises(PolicyRefused) as caught:
            await manager.start_kernel(kernel_name=name)
        refused(str(caught.value))
    finally:
        manager.context.destroy(linger=0)  # not shutdown_all, which looks for kernels that could not be started


CONFIG = """
c.KernelProvisionerFactory.default_provisioner_name = "farkernel-slurm"
c.SlurmProvisioner.slurm = c.FarkernelProvisioner.slurm = {"qos": "debug"}
c.SlurmProvisioner.policy = c.FarkernelProvisioner.policy = ""
"""


def _jupyter(*arguments: str | Path) -> str:
    argv = [sys.executable, "-m", "jupyter", *map(str, arguments)]
    done = subprocess.run(
        argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=2 * PATIENCE, check=False
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


def _notebook(tmp_path: Path) -> Path:
    path = tmp_path / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), path)
    return path


@pytest.fixture
def forbidden(policy: None, specs: Specs, tmp_path: Path) -> str:
    """A kernelspec that asks for too much; the user's own configuration tries to talk of something else."""
    folder = tmp_path / "config"
    folder.mkdir(exist_ok=True)
    (folder / "jupyter_config.py").write_text(CONFIG)
    return specs(slurm={"qos": FORBIDDEN})


FLAGS = ["--SlurmProvisioner.slurm={'qos': 'debug'}", "--FarkernelProvisioner.policy="]


def test_jupyter_run(forbidden: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("1")
    refused(_jupyter("run", "--kernel", forbidden, *FLAGS, script))


def test_nbconvert(forbidden: str, tmp_path: Path) -> None:
    kernel_name = f"--ExecutePreprocessor.kernel_name={forbidden}"
    refused(_jupyter("nbconvert", "--execute", "--to=notebook", "--stdout", kernel_name, *FLAGS, _notebook(tmp_path)))


def test_nbclient(forbidden: str, tmp_path: Path) -> None:
    book = nbformat.read(_notebook(tmp_path), as_version=4)
    with pytest.raises(PolicyRefused) as caught:
        NotebookClient(book, kernel_name=forbidden).execute()
    refused(str(caught.value))


def test_console(forbidden: str) -> None:
    argv = ["-m", "jupyter", "console", "--kernel", forbidden, *FLAGS]
    console = pexpect.spawn(sys.executable, argv, encoding="utf-8", timeout=120, dimensions=(50, 400))
    try:
        console.expect(pexpect.EOF)
        refused(console.before)
    finally:
        console.close(force=True)


@pytest.fixture(params=["jupyter_server", "kernel_gateway", "enterprise_gateway"])
def gateway(
    request: pytest.FixtureRequest, forbidden: str, tmp_path: Path, gateway_python: Path | None
) -> Iterator[Gateway]:
    kinds = {"jupyter_server": gateways.JUPYTER_SERVER, "kernel_gateway": gateways.KERNEL_GATEWAY}
    kind = kinds.get(request.param) or gateways.enterprise_gateway(gateway_python)
    with gateways.running(kind, HOSTS[LOGIN].address, tmp_path) as running:
        yield running


async def test_a_gateways_client(gateway: Gateway, forbidden: str, tmp_path: Path) -> None:
    client = Client(gateway, KERNEL_USERNAME="alice", SLURM_QOS="debug")
    with pytest.raises(HTTPClientError, match="500"):
        await client.create(forbidden)
    refused((tmp_path / "gateway.log").read_text())  # what a client is told of it is the gateway's own matter


# ---- the file ----


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("chmod 666 /etc/farkernel/policy.toml", "can be written by others than root"),
        ("chmod 777 /etc/farkernel", "can be written by others than root"),
        ("chown alice /etc/farkernel/policy.toml", "belongs to user"),
        ("chmod 600 /etc/farkernel/policy.toml", "Permission denied"),
        ("echo 'maximun.nodes = 1' >>/etc/farkernel/policy.toml", "unknown key"),
        ("echo '[' >>/etc/farkernel/policy.toml", "no TOML"),
    ],
)
async def test_a_policy_that_cannot_be_used_lets_no_kernel_start(
    policy: None, as_root: Callable[..., None], specs: Specs, script: str, why: str
) -> None:
    name = specs()
    as_root(script)
    try:
        manager = AsyncKernelManager(kernel_name=name)
        with pytest.raises(PolicyUnusable, match=why) as caught:
            await manager.start_kernel()
        assert "tell the site's support" in str(caught.value)
    finally:
        as_root("chmod 755 /etc/farkernel")


async def test_it_is_read_anew_at_each_start(as_root: Callable[..., None], specs: Specs) -> None:
    name = specs(slurm={"qos": "debug"})
    as_root(WRITE, '[allowed]\nqos = ["interactive"]\n')
    refused(await _start(name), "allowed.qos is interactive")
    as_root(WRITE, POLICY)
    async with kernel(name) as (_, client):
        assert (await client.run("1 + 1")).result == "2"


async def test_kernels_and_jobs_are_counted(as_root: Callable[..., None], specs: Specs) -> None:
    name = specs()
    as_root(WRITE, "[maximum]\nkernels_per_user = 1\n")
    async with kernel(name) as (manager, client):
        with pytest.raises(PolicyRefused, match=r"your kernels: 1: maximum[.]kernels_per_user is 1"):
            await AsyncKernelManager(kernel_name=name).start_kernel()
        await manager.restart_kernel()
        assert (await client.run("1 + 1")).result == "2"
        as_root(WRITE, "[maximum]\njobs_per_user = 1\n")
        with pytest.raises(PolicyRefused, match="your jobs in Slurm's queue: 1: "):
            await AsyncKernelManager(kernel_name=name).start_kernel()
        assert len(jobs()) == 1
