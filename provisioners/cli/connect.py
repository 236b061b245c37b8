"""`farkernel connect`: a JupyterLab here, its kernels on a cluster, and nothing but ssh in between."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farkernel.provisioners.errors import ConnectFailed, FarkernelError

if TYPE_CHECKING:
    from farkernel.provisioners.connect import Gateway

_LOGIN = "The login node, as for ssh: [user@]host."
_LAB = "Start JupyterLab here; what stands after -- are its options."
_COMMAND = "The login node's farkernel, if a login there does not find it."
_PORT = "The port of this machine; any free one by default."
_KEEP = "Leave the gateway and its kernels running at the end."
_AS_JSON = "Print one line of JSON: url, token, pid of the gateway, and whether it was started."

_GRACE = 60.0
"""Seconds that JupyterLab has to end its kernels."""

_SERVER = (2, 9)
"""The oldest jupyter_server that asks `connected_lab.TokenFile` for the token: 2.8 does not (its issue 1339)."""

_CONFIG, _TOKEN = "jupyter_server_config.json", "token"

_INTERRUPTED = 130
"""The exit code of a program that was interrupted, as shells have it."""

_OTHERS = re.compile(r"JUPYTER_GATEWAY_(?!.*(TIMEOUT|RETR|ENV))")
"""Variables that say where another gateway is, and how to get in there; not those for any, such as timeouts."""


def connect(
    login: Annotated[str, typer.Argument(help=_LOGIN)],
    options: Annotated[list[str] | None, typer.Argument(help="Options of JupyterLab.", metavar="[-- OPTIONS]")] = None,
    lab: Annotated[bool, typer.Option("--lab", help=_LAB)] = False,
    command: Annotated[str, typer.Option("--farkernel", metavar="PATH", help=_COMMAND)] = "farkernel",
    port: Annotated[int, typer.Option(min=0, max=65535, help=_PORT)] = 0,
    keep: Annotated[bool, typer.Option("--keep", help=_KEEP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_AS_JSON)] = False,
) -> None:
    """Have kernels on a cluster that only ssh leads to: find or start your gateway there, and lead a port to it."""
    if options and not lab:
        raise ConnectFailed("What stands after -- is for JupyterLab.", hint="Give --lab, too.")
    if lab:
        _find_jupyterlab()
    with contextlib.suppress(asyncio.CancelledError):
        raise typer.Exit(asyncio.run(_Session(login, command, port, keep=keep).run(options if lab else None, as_json)))
    raise typer.Exit(_INTERRUPTED)


def _find_jupyterlab() -> None:
    """See that there is one that can be used.

    :raises ConnectFailed: there is none, or its jupyter_server is too old
    """
    if find_spec("jupyterlab") is None:
        raise ConnectFailed("There is no JupyterLab here.", hint="pip install jupyterlab, or leave --lab out.")
    needed = ".".join(map(str, _SERVER))
    hint = f"Install it: `{sys.executable} -m pip install --upgrade 'jupyter_server>={needed}'`"
    try:
        found = version("jupyter_server")
    except PackageNotFoundError as error:
        raise ConnectFailed("There is no jupyter_server here, which JupyterLab needs.", hint=hint) from error
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < _SERVER:
        raise ConnectFailed(
            f"`farkernel connect --lab` needs jupyter_server {needed} or later, and {sys.executable} has {found}.",
            hint=hint,
        )


class _Session:
    """What one call of the command does, and undoes."""

    def __init__(self, login: str, command: str, port: int, *, keep: bool) -> None:
        from farkernel.provisioners.cli.terminal import Terminal  # noqa: PLC0415 (imports late, see app.py)
        from farkernel.provisioners.connect import GatewayHost  # noqa: PLC0415
        from farkernel.provisioners.ssh import Connection  # noqa: PLC0415

        self._connection = Connection(login, Terminal())
        self._host = GatewayHost(self._connection, command)
        self._port = port
        self._keep = keep
        self._ended = False

    async def run(self, lab: list[str] | None, as_json: bool) -> int:
        """Connect, stay until it is to end, and end what was started; return the exit code.

        :param lab: options of the JupyterLab to start; None for none
        """
        from farkernel.provisioners.connect import listen  # noqa: PLC0415 (imports late, see app.py)

        ending = asyncio.Event()
        with contextlib.closing(listen(self._port)) as port, _signals(ending):  # before anybody is asked for a password
            opening = asyncio.ensure_future(self._connection.open())
            try:
                await _first(opening, ending)
                if not opening.done():
                    return _INTERRUPTED
                opening.result()
                return await self._serve(ending, port, lab, as_json)
            finally:
                opening.cancel()
                await asyncio.wait({opening})
                await self._connection.close()

    async def _serve(self, ending: asyncio.Event, port: socket.socket, lab: list[str] | None, as_json: bool) -> int:
        gateway = await self._find(ending)
        at_once = False
        try:
            return await self._lead(gateway, ending, port, lab, as_json)
        except asyncio.CancelledError:
            at_once = True
            raise
        finally:
            ending.set()  # one Ctrl-C is enough from now on
            await self._leave(gateway, at_once=at_once)

    async def _lead(
        self, gateway: "Gateway", ending: asyncio.Event, port: socket.socket, lab: list[str] | None, as_json: bool
    ) -> int:
        """Lead a port to a gateway until all is to end, or JupyterLab has ended."""
        from farkernel.provisioners.connect import Forward  # noqa: PLC0415

        forward = Forward(self._connection, self._host, gateway.relay, _say)
        try:
            if ending.is_set():
                return _INTERRUPTED
            await forward.check()
            await forward.start(port)
            url = f"http://127.0.0.1:{forward.port}"
            _show(self._connection.host, url, gateway, as_json=as_json, lab=lab is not None)
            if lab is not None:
                return await self._run_lab(ending, [f"--gateway-url={url}", *lab], gateway)
            await ending.wait()
            return 0
        finally:
            self._ended = forward.ended
            await forward.close()

    async def _find(self, ending: asyncio.Event) -> "Gateway":
        """Find or start the gateway; one that is being started is waited for, to be ended, if all is to end."""
        host = self._connection.host
        finding = asyncio.ensure_future(self._host.find())
        try:
            await _first(finding, ending)
            if not finding.done():
                _say(f"Ending: a gateway that starts just now on {host} ends once it is up. (Ctrl-C: do not wait.)")
            return await finding
        except asyncio.CancelledError:
            _say(f"If a gateway has just started on {host}, `farkernel gateway --stop` there ends it.")
            raise
        finally:
            finding.cancel()
            await asyncio.wait({finding})

    async def _run_lab(self, ending: asyncio.Event, options: list[str], gateway: "Gateway") -> int:
        from farkernel.provisioners import process  # noqa: PLC0415

        with _settings(gateway.token, lasting=self._keep or not gateway.started) as directory:
            env = {name: value for name, value in os.environ.items() if not _OTHERS.match(name)}
            paths = [str(directory), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
            env["JUPYTER_CONFIG_PATH"] = os.pathsep.join(paths)
            try:
                child = await process.start_beside([sys.executable, "-P", "-m", "jupyterlab", *options], env=env)
            except OSError as error:
                raise ConnectFailed(
                    f"JupyterLab cannot be started: {sys.executable} cannot be run.",
                    said=error.strerror or str(error),
                    hint="See what keeps this machine from it, and start farkernel connect again.",
                ) from error
            try:
                over = asyncio.ensure_future(child.wait())
                await _first(over, ending)
                if over.done():
                    return over.result()
                _say("Ending JupyterLab.")
                return 0
            finally:
                await process.end(child, grace=_GRACE)

    async def _leave(self, gateway: "Gateway", *, at_once: bool) -> None:
        """End the gateway if it was started here."""
        host, stop = self._connection.host, "`farkernel gateway --stop` there ends them"
        if self._keep or not gateway.started or at_once:
            if not self._ended:
                _say(f"The gateway on {host} goes on, and so do its kernels: {stop}.")
            return
        _say(f"Ending the gateway on {host}, and its kernels. (Ctrl-C: leave it.)")
        try:
            if not await self._host.stop(gateway):
                _say("That one had ended before. Another gateway of yours is there now, and goes on.")
        except asyncio.CancelledError:
            _say(f"The gateway on {host} may go on, and its kernels: {stop}.")
            raise
        except FarkernelError as error:
            raise ConnectFailed(
                f"The gateway on {host} could not be ended.",
                said=f"{error.what}\n{error.said}".strip(),
                hint="The gateway goes on until `farkernel gateway --stop` ends it; `farkernel connect` finds it.",
            ) from error


@contextlib.contextmanager
def _settings(token: str, *, lasting: bool) -> Iterator[Path]:
    """Write settings of JupyterLab, and the gateway's token, into a directory that goes with the context.

    :param lasting: whether kernels outlive JupyterLab
    :raises ConnectFailed: there is no place for them
    """
    from farkernel.launcher.private import PrivateDirectory  # noqa: PLC0415
    from farkernel.provisioners.cli.connected_lab import settings  # noqa: PLC0415
    from farkernel.provisioners.front import runtime_directory  # noqa: PLC0415

    base = runtime_directory()
    with contextlib.ExitStack() as stack:
        try:
            private = PrivateDirectory(base, "")
            stack.callback(private.remove)
            (private.path / _TOKEN).touch(mode=0o600)
            (private.path / _TOKEN).write_text(token)
            (private.path / _CONFIG).write_text(json.dumps(settings(private.path / _TOKEN, lasting=lasting)))
        except OSError as error:
            raise ConnectFailed(
                f"JupyterLab's settings cannot be written below {base}.",
                said=error.strerror or str(error),
                hint="Make room there, or let XDG_RUNTIME_DIR name another directory that is yours alone.",
            ) from error
        yield private.path


async def _first(work: "asyncio.Future[Any]", ending: asyncio.Event) -> None:
    """Wait until something is done, or all is to end."""
    asked = asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait({work, asked}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()


@contextlib.contextmanager
def _signals(ending: asyncio.Event) -> Iterator[None]:
    """Have Ctrl-C, SIGTERM and a terminal that is closed end all in order; the second one ends it at once.

    A terminal that is closed is told twice: by the shell, and when the shell has ended (setsid(2), SIGHUP).
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task

    def end(number: signal.Signals) -> None:
        if ending.is_set() and number != signal.SIGHUP:
            task.cancel()
        ending.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _show(host: str, url: str, gateway: "Gateway", *, as_json: bool, lab: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"url": url, "token": gateway.token, "pid": gateway.pid, "started": gateway.started}))
        return
    verb = "was started" if gateway.started else "runs already"
    _say(f"The gateway on {host} {verb} (process {gateway.pid}); {url} leads to it.")
    if not lab:
        typer.echo(f"Its token: {gateway.token}")
        typer.echo(f"With it in JUPYTER_GATEWAY_AUTH_TOKEN:\n  jupyter lab --gateway-url={url}")
        _say("Ctrl-C ends this.")


def _say(words: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be closed
        typer.echo(words, err=True)
