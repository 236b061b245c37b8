"""Kernels that are not ipykernel, wrapped as they are installed: R, bash, and one that is made with xeus, in C++."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.slurm.helpers import PATIENCE, Client, Specs, jobs, kernel

pytestmark = pytest.mark.usefixtures("cluster")


@dataclass(frozen=True)
class Language:
    """What to write in its cells.

    :ivar spec: the name of its kernelspec, as its own installation makes it
    :ivar node: prints the name of its host
    :ivar fails: raises an error that has the word `error`
    :ivar endless: prints "begun" and goes on for ever
    :ivar asks: asks for a line, and prints what it got; "" if it cannot
    :ivar megabyte: prints a million times x, perhaps in lines
    :ivar sets: sets a variable
    :ivar has: prints yes if it is set, or else no
    """

    spec: str
    node: str
    fails: str
    error: str
    endless: str
    asks: str
    megabyte: str
    sets: str
    has: str


R = Language(
    spec="ir",
    node='cat(Sys.info()[["nodename"]])',
    fails='stop("all is lost")',
    error="all is lost",
    endless='cat("begun\\n"); flush.console(); repeat Sys.sleep(0.1)',
    asks='cat("got", readline("name? "))',
    megabyte='cat(strrep("x", 1e6))',
    sets="v <- 7",
    has='cat(if (exists("v")) "yes" else "no")',
)
BASH = Language(
    spec="bash",
    node="hostname",
    fails="(exit 42)",
    error="42",
    endless="echo begun; sleep 100000",  # in a loop a Ctrl-C is lost where a command has just ended by itself
    asks="",  # it has no stdin
    megabyte="head -c 1000000 /dev/zero | tr '\\0' x | fold -w 1000",
    sets="v=7",
    has="[ $v ] && echo yes || echo no",
)
XEUS = Language(
    spec="xpython",
    node="import socket; print(socket.gethostname())",
    fails="1 / 0",
    error="division by zero",
    endless="print('begun', flush=True)\nimport time\nwhile True: time.sleep(0.1)",
    asks="print('got', input('name? '))",
    megabyte="print('x' * 1000000)",
    sets="v = 7",
    has="print('yes' if 'v' in globals() else 'no')",
)
LANGUAGES = pytest.mark.parametrize("language", [R, BASH, XEUS], ids=lambda language: language.spec)
Wrap = Callable[..., str]
ON_KNL = ("--constraint=knl", "--qos=interactive", "--time=10")


@pytest.fixture
def wrap(specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wrap:
    """Wrap a language's kernelspec by one command, where only this test's Jupyter finds it."""
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setenv("USER", "alice")

    def make(language: Language, *options: str) -> str:
        if language is BASH:  # it comes without one
            _run(sys.executable, "-m", "bash_kernel.install", "--prefix", str(tmp_path))
        _run("farkernel", "kernelspec", "wrap", language.spec, "--name=wrapped", *options)
        return "wrapped"

    return make


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@LANGUAGES
async def test_its_cells(wrap: Wrap, language: Language) -> None:
    name = await asyncio.to_thread(wrap, language, *ON_KNL)
    async with kernel(name) as (_, client):
        assert (await client.run(language.node)).stdout.strip().startswith("nid023")
        failed = await client.run(language.fails)
        assert failed.status == "error"
        assert language.error in failed.errors[0]
        big = await client.run_anew(language.megabyte)
        assert big.stdout.replace("\n", "") == "x" * 1_000_000
        if language.asks:
            client.answers.append("Ada")
            assert (await client.run(language.asks)).stdout.strip() == "got Ada"
        assert "is missing" not in str(client.published)
    assert not jobs()


@LANGUAGES
async def test_it_is_restarted_and_ended_while_it_is_busy(wrap: Wrap, language: Language) -> None:
    name = await asyncio.to_thread(wrap, language, *ON_KNL)
    async with kernel(name) as (manager, client):
        await client.run(language.sets)
        assert (await client.run(language.has)).stdout.strip() == "yes"
        before = jobs()
        await client.send(language.endless).prints("begun")
        await manager.restart_kernel()
        assert (await client.run(language.has)).stdout.strip() == "no"
        assert jobs() == before
        await client.send(language.endless).prints("begun")
    assert not jobs()


@pytest.mark.parametrize("language", [R, BASH], ids=lambda language: language.spec)
async def test_an_endless_cell_is_interrupted(wrap: Wrap, language: Language) -> None:
    name = await asyncio.to_thread(wrap, language, *ON_KNL)
    async with kernel(name) as (manager, client):
        await client.run(language.sets)
        cell = await client.send(language.endless).prints("begun")
        await manager.interrupt_kernel()
        assert (await cell.done()).status != "ok"
        await _still_has(client, language)
        await manager.interrupt_kernel()  # with nothing to interrupt
        await _still_has(client, language)


async def _still_has(client: Client, language: Language) -> None:
    assert (await client.run_anew(language.has)).stdout.strip() == "yes"


async def test_xeus_python_ends_at_an_interrupt_and_says_so(wrap: Wrap) -> None:
    """It does so without farkernel, too; the job is still there for the next start."""
    name = await asyncio.to_thread(wrap, XEUS, *ON_KNL)
    async with kernel(name) as (manager, client):
        before = jobs()
        cell = await client.send(XEUS.endless).prints("begun")
        await manager.interrupt_kernel()
        assert "has ended (exit code 0)" in (await cell.done()).told
        await manager.restart_kernel()
        assert (await client.run(XEUS.has)).stdout.strip() == "no"
        assert jobs() == before


async def test_xeus_has_unix_sockets_on_a_node_with_others(wrap: Wrap) -> None:
    """It takes no address of more than 31 bytes."""
    name = await asyncio.to_thread(wrap, XEUS, "--constraint=haswell", "--qos=shared", "--time=10")
    async with kernel(name) as (_, client):
        info = await client.run("print(open('/proc/net/unix').read())")
        assert re.search("/tmp/farkernel-.../1.1-2$", info.stdout, re.MULTILINE)


async def test_where_the_address_is_too_long_it_has_tcp(wrap: Wrap) -> None:
    name = await asyncio.to_thread(wrap, XEUS, *ON_KNL, "--set", "launcher.directory=/dev/shm")
    async with kernel(name) as (_, client):
        assert (await client.run(XEUS.node)).stdout.strip().startswith("nid023")
        log = await asyncio.to_thread(_run, "farkernel", "logs", name)
    assert "started again with TCP" in log
