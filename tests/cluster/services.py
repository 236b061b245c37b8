"""The daemons of a simulated host. Runs inside the host, as its first process."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.site import HostSpec, Role

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
_MYSQL_SOCKET = "/run/mysqld/mysqld.sock"
_MYSQL_DATA = Path("/run/mysqldata")
_INNODB = (
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    "--innodb-flush-method=nosync",  # nothing here has to survive the machine
)
_DATABASE = """
create database if not exists slurm_acct_db;
create user if not exists slurm@localhost identified via unix_socket;
grant all on slurm_acct_db.* to slurm@localhost;
"""


def start(spec: HostSpec) -> None:
    """Start the host's daemons in order; each is in service before the next one needs it."""
    _run("ip", "-batch", "-", text=_network(spec))
    if spec.role is not Role.LAPTOP:
        _run("runuser", "-u", "munge", "--", "/usr/sbin/munged", "--num-threads=4")
    if spec.role is Role.CONTROLLER:
        first_boot = _database()
        _run("slurmdbd")
        _wait_for("slurmdbd", lambda: socket.create_connection((spec.address, 6819), timeout=1).close())
        if first_boot:
            _accounting()
        _run("slurmctld")
    if spec.role is Role.COMPUTE:
        _run("slurmd")
    _run("/usr/sbin/sshd")


def _network(spec: HostSpec) -> str:
    return f"link set lo up\naddr add {spec.address}/24 dev eth0\nlink set eth0 up\n"


def _database() -> bool:
    """Start the database; True if it is new."""
    new = not (_MYSQL_DATA / "mysql").exists()
    if new:
        _run(
            "mariadb-install-db",
            "--no-defaults",
            "--user=mysql",
            f"--datadir={_MYSQL_DATA}",
            "--skip-test-db",
            "--auth-root-authentication-method=socket",
            *_INNODB,
        )
    daemon = ["runuser", "-u", "mysql", "--", "/usr/sbin/mariadbd", "--no-defaults", *_INNODB]
    daemon += [f"--datadir={_MYSQL_DATA}", f"--socket={_MYSQL_SOCKET}", "--skip-networking", "--skip-log-bin"]
    daemon += ["--plugin-maturity=unknown", "--innodb-flush-log-at-trx-commit=0"]
    daemon += ["--innodb-lock-wait-timeout=900"]  # slurmdbd asks for it
    with Path("/var/log/mysql.log").open("ab") as log:
        subprocess.Popen(daemon, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    _wait_for("mariadbd", _connect_to_database)
    _run("mariadb", f"--socket={_MYSQL_SOCKET}", text=_DATABASE)
    return new


def _connect_to_database() -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(_MYSQL_SOCKET)


def _accounting() -> None:
    """Fill the accounts in: two sessions of sacctmgr, because one for each command takes twice as long."""
    for part in ("accounting", "associations"):
        _run("sacctmgr", "-i", text=Path(f"/etc/slurm/{part}.sacctmgr").read_text())


def _run(*argv: str, text: str = "") -> str:
    """Run a command, a daemon's too once it has put itself into the background.

    Its output goes to a file and not through a pipe, which a daemon would hold open for ever.
    """
    with Path("/run/boot.output").open("w+") as output:
        done = subprocess.run(argv, env=_ENVIRONMENT, input=text, stdout=output, stderr=output, text=True, check=False)
        output.seek(0)
        said = output.read()
    print(f"{time.strftime('%T')} $ {' '.join(argv)}\n{said}", end="", file=sys.stderr, flush=True)
    if done.returncode:
        raise SystemExit(f"{argv[0]} failed with exit code {done.returncode}")
    return said


def _wait_for(what: str, attempt: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            attempt()
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{what} did not come up: {error}") from error
            time.sleep(0.03)
        else:
            return
