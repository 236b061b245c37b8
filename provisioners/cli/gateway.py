"""`farkernel gateway`: lets a JupyterLab elsewhere have kernels from here."""

import contextlib
import ipaddress
import json
import os
import secrets
import signal
import ssl
import stat
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farkernel.provisioners.errors import GatewayUnusable

if TYPE_CHECKING:
    from farkernel.provisioners.cli.gateway_app import GatewayApp
    from farkernel.provisioners.gateway_place import GatewayPlace, Running

_AS_JSON = "Print one line of JSON: socket and relay, or url; token, pid, version."
_IP = "Listen at this address, not on a unix socket; other than on loopback with --certfile and --keyfile only."
_TOKEN = "A file of yours, unreadable for others, with the token; one is made by default."  # noqa: S105
_SAID = 2000
"""Characters of its log that are shown of a gateway that has not come up."""
_CULL = "Seconds after which a kernel that is idle, and has no client, ends; 0: never."
_BACKGROUND = "Go on in the background, also when you log out; its log is in farkernel's state directory."
_CONNECTED = "End idle kernels also while a client is connected."


def gateway(
    as_json: Annotated[bool, typer.Option("--json", help=_AS_JSON)] = False,
    ip: Annotated[str, typer.Option(help=_IP)] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --ip; any free one by default.")] = 0,
    certfile: Annotated[str, typer.Option(help="The certificate for TLS.")] = "",
    keyfile: Annotated[str, typer.Option(help="Its key.")] = "",
    token_file: Annotated[Path | None, typer.Option(help=_TOKEN)] = None,
    cull_after: Annotated[int, typer.Option(min=0, metavar="SECONDS", help=_CULL)] = 3600,
    cull_connected: Annotated[bool, typer.Option("--cull-connected", help=_CONNECTED)] = False,
    allow_root: Annotated[bool, typer.Option("--allow-root", help="Run as root, whose kernels are root's.")] = False,
    background: Annotated[bool, typer.Option("--background", help=_BACKGROUND)] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say whether one runs, and where.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End the one that runs, and its kernels.")] = False,
) -> None:
    """Run your gateway for kernels on this host, or find the one that runs, and say how to connect to it."""
    from farkernel.provisioners.front import runtime_directory  # noqa: PLC0415 (imports late, see app.py)
    from farkernel.provisioners.gateway_place import GatewayPlace, lasting  # noqa: PLC0415

    base = lasting(runtime_directory())
    place = GatewayPlace(base)
    if status or stop:
        _look(place, as_json=as_json, stop=stop)
        return
    if os.geteuid() == 0 and not allow_root:
        raise GatewayUnusable("A gateway of root's starts kernels as root.", hint="Give --allow-root if you mean it.")
    for number in (signal.SIGTERM, signal.SIGHUP):  # until the application has handlers of its own
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup(1)
            signal.signal(number, lambda *_: sys.exit(1))
    if background:
        _go_on_in_background(place, as_json=as_json)
        return
    listen = _listen(ip, port, certfile, keyfile, str(place.socket))
    token = secrets.token_hex(32) if token_file is None else _read_token(token_file)
    while not place.take():
        if running := place.find():
            _show(running, as_json=as_json)
            return
    if base != runtime_directory():
        os.environ["XDG_RUNTIME_DIR"] = str(base)  # its kernels' sockets are to outlive a logout, too
    try:
        _serve(place, token, listen, as_json=as_json, culling=(cull_after, cull_connected), allow_root=allow_root)
    finally:
        place.leave()


def _serve(
    place: "GatewayPlace",
    token: str,
    listen: dict[str, Any],
    *,
    as_json: bool,
    culling: tuple[int, bool],
    allow_root: bool,
) -> None:
    try:
        from farkernel.provisioners.cli.gateway_app import config, run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise GatewayUnusable(
            "`farkernel gateway` needs jupyter_server.", said=str(error), hint="pip install 'farkernel[gateway]'"
        ) from error
    from farkernel.provisioners.gateway_place import Running  # noqa: PLC0415
    from farkernel.provisioners.relay import Relay  # noqa: PLC0415

    async def tell(app: "GatewayApp") -> None:
        where = {"url": app.connection_url.rstrip("/")}
        if app.sock:
            where = {"socket": app.sock, "relay": str(place.relay)}
            await Relay(place.relay, place.socket).start()
        running = Running(token=token, pid=os.getpid(), version=version("farkernel"), **where)
        place.publish(running)
        _show(running, as_json=as_json)
        if as_json:  # whoever wanted that line may not read on, and a kernel's child is not to die of it
            sys.stdout.flush()
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    cull_after, cull_connected = culling
    run(
        config(token=token, cull_after=cull_after, cull_connected=cull_connected, allow_root=allow_root, listen=listen),
        tell,
    )


def _go_on_in_background(place: "GatewayPlace", *, as_json: bool) -> None:
    """Find the one that runs, or start another one like this that outlives our terminal, and show what it says.

    :raises GatewayUnusable: it does not come up
    """
    running, pid = place.find(), -1
    if running is None:
        running, pid = _start_in_background()
    try:
        if as_json:
            typer.echo(json.dumps({**json.loads(running.json()), "started": running.pid == pid}))
        else:
            _show(running, as_json=False)
    except BaseException:  # nobody knows of it
        if running.pid == pid:
            os.kill(pid, signal.SIGTERM)
        raise


def _start_in_background() -> tuple["Running", int]:
    from farkernel.provisioners.gateway_place import Running  # noqa: PLC0415
    from farkernel.provisioners.process import detach  # noqa: PLC0415
    from farkernel.provisioners.state_files import state_directory  # noqa: PLC0415

    own = [word for word in sys.argv[1:] if word not in {"--background", "--json"}]
    log = state_directory() / "gateway.log"
    try:
        pid, said = detach([sys.executable, "-P", "-m", "farkernel.provisioners.cli", *own, "--json"], log=log)
    except OSError as error:
        raise GatewayUnusable(f"{log} cannot be written.", said=error.strerror or str(error)) from error
    if not said:
        words = log.read_text(encoding="utf-8", errors="replace")[-_SAID:]
        raise GatewayUnusable("The gateway does not come up.", said=words, hint=f"Its log is {log}.")
    return Running(**json.loads(said)), pid


def _look(place: "GatewayPlace", *, as_json: bool, stop: bool) -> None:
    running = place.find()
    if running is None:
        typer.echo("No gateway of yours runs on this host.", err=True)
        raise typer.Exit(0 if stop else 1)
    if not stop:
        _show(running, as_json=as_json)
        return
    with contextlib.suppress(ProcessLookupError):  # it has ended just now
        os.kill(running.pid, signal.SIGTERM)
    place.wait_until_gone()


def _listen(ip: str, port: int, certfile: str, keyfile: str, socket: str) -> dict[str, Any]:
    """Return ServerApp's settings for its address.

    :raises GatewayUnusable: tokens would cross a network in clear
    """
    if not ip:
        if port or certfile or keyfile:
            raise GatewayUnusable("--port, --certfile and --keyfile are for TCP.", hint="Give --ip, too.")
        return {"sock": socket, "sock_mode": "0600"}
    if bool(certfile) != bool(keyfile):
        raise GatewayUnusable("TLS needs a certificate and its key.", hint="Give both --certfile and --keyfile.")
    if not certfile and not _is_loopback(ip):
        raise GatewayUnusable(
            f"Without TLS the token would cross the network to {ip} in clear.",
            hint="Give --certfile and --keyfile, or leave --ip out and connect by ssh.",
        )
    if certfile:
        try:  # with the first client it would be too late
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password="")
        except OSError as error:
            raise GatewayUnusable(
                f"There can be no TLS with the certificate {certfile} and the key {keyfile}.",
                said=error.strerror or str(error),
                hint="Give readable PEM files that belong together, the key without a passphrase.",
            ) from error
    # a port that somebody has asked for is not to become another one
    return {"ip": ip, "port": port, "port_retries": 0, "certfile": certfile, "keyfile": keyfile}


def _is_loopback(ip: str) -> bool:
    try:
        return ip == "localhost" or ipaddress.ip_address(ip).is_loopback
    except ValueError:
        return False


def _read_token(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise GatewayUnusable(f"Others may read or have made {path}.", hint=f"chmod 600 {path}")
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise GatewayUnusable(f"There is no token in {path}.", said=str(error)) from error
    if not token:
        raise GatewayUnusable(f"There is no token in {path}: it is empty.")
    return token


def _show(running: "Running", *, as_json: bool) -> None:
    if as_json:
        typer.echo(running.json())
        return
    typer.echo(f"The gateway (process {running.pid}) is at {running.socket or running.url}")
    typer.echo(f"Its token: {running.token}")
    url = running.url
    if running.socket:
        url = "http://localhost:9999"
        typer.echo(f"On your own machine:\n  ssh -N -L 9999:{running.socket} THIS_HOST")
    typer.echo(f"then, with the token in JUPYTER_GATEWAY_AUTH_TOKEN:\n  jupyter lab --gateway-url={url}")
