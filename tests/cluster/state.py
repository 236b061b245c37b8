"""The directory of one running cluster: the hosts' /etc and /home, their logs, the database.

The directory is locked while its cluster lives. One without a lock was left behind by a cluster that was
killed, and the next one to start removes it.
"""

import fcntl
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.cluster import containers, image
from tests.cluster.shifter import install as shifter
from tests.cluster.site import HOSTS, USERS

_PARENT = Path("/var/tmp")
_PREFIX = "farkernel-cluster-"
_ACCOUNTING = ("accounting.sacctmgr", "associations.sacctmgr")
_OURS = Path(__file__).with_name("etc")


class State:
    def __init__(self) -> None:
        _sweep()
        unnamed = Path(tempfile.mkdtemp(prefix=".farkernel-", dir=_PARENT))
        self._lock = os.open(unnamed, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # only now may others see it
        self.path = unnamed.rename(_PARENT / f"{_PREFIX}{unnamed.name.removeprefix('.farkernel-')}")
        self.path.chmod(0o755)

    def fill(self) -> None:
        """Write everything that the hosts need to boot."""
        _write_etc(self.path / "etc")
        for user, uid in USERS.items():
            _make_home(self.path / "home" / user, user, uid)
        (self.path / "mysql").mkdir()
        shutil.chown(self.path / "mysql", "mysql", "mysql")
        for host in HOSTS:
            for part in ("log", "spool", "munge"):
                self.host(host).joinpath(part).mkdir(parents=True)
        image.build()
        shifter.install(self.path, rootfs=image.rootfs())

    def host(self, name: str) -> Path:
        return self.path / "hosts" / name

    def remove(self) -> None:
        shutil.rmtree(self.path)
        os.close(self._lock)


def running() -> list[Path]:
    """The directories of the clusters that are up, the newest first."""
    found = [path for path in _PARENT.glob(f"{_PREFIX}*") if not _abandoned(path)]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _abandoned(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # its cluster went down just now
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _sweep() -> None:
    for path in _PARENT.glob(f"{_PREFIX}*"):
        if _abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _write_etc(etc: Path) -> None:
    """Copy the machine's /etc, whole: a single file mounted over /etc/passwd breaks when it is rewritten."""
    subprocess.run(["cp", "--archive", "/etc", etc], check=True)
    _add_users(etc)
    names = "".join(f"{spec.address} {spec.name}\n" for spec in HOSTS.values())
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    _write_slurm(etc)
    _write_munge_key(etc / "munge")
    _write_ssh(etc / "ssh")
    containers.configure(etc)
    shutil.copy(_OURS / "pam-sshd-compute", etc)
    module = etc / "environment-modules/modules/farkernel-test/1.0"
    module.parent.mkdir(parents=True)
    shutil.copy(_OURS / "modulefile", module)


def _add_users(etc: Path) -> None:
    lines = {"passwd": "{0}:x:{1}:{1}:{0}:/home/{0}:/bin/bash", "group": "{0}:x:{1}:", "shadow": "{0}:*:19700::::::"}
    for file, line in lines.items():
        kept = [old for old in (etc / file).read_text().splitlines() if old.split(":")[0] not in USERS]
        new = [line.format(user, uid) for user, uid in USERS.items()]
        (etc / file).write_text("\n".join([*kept, *new, ""]))


def _write_slurm(etc: Path) -> None:
    slurm = etc / "slurm"
    shutil.rmtree(slurm, ignore_errors=True)
    (slurm / "plugstack.conf.d").mkdir(parents=True)
    (slurm / "plugstack.conf").touch()
    for name in (
        "slurm.conf",
        "cgroup.conf",
        "slurmdbd.conf",
        "job_submit.lua",
        "accounting.sacctmgr",
        "associations.sacctmgr",
    ):
        shutil.copy(_OURS / name, slurm)
    (slurm / "slurmdbd.conf").chmod(0o600)
    shutil.chown(slurm / "slurmdbd.conf", "slurm", "slurm")


def _write_munge_key(munge: Path) -> None:
    key = munge / "munge.key"
    key.unlink(missing_ok=True)
    key.touch(mode=0o400)
    key.write_bytes(secrets.token_bytes(128))
    for path in (munge, key):
        shutil.chown(path, "munge", "munge")
    munge.chmod(0o700)


def _write_ssh(ssh: Path) -> None:
    for pattern in ("ssh_host_*", "sshd_config.d/*", "ssh_config.d/*"):
        for old in ssh.glob(pattern):
            old.unlink()
    shutil.copy(_OURS / "sshd_config", ssh)
    (ssh / "ssh_config").write_text("Host *\n")
    # one key for all hosts, which all hosts know
    key = ssh / "ssh_host_ed25519_key"
    _make_key(key, "host")
    names = ",".join(name for spec in HOSTS.values() for name in (spec.name, spec.address))
    (ssh / "ssh_known_hosts").write_text(f"{names} {key.with_suffix('.pub').read_text()}")


def _make_home(home: Path, user: str, uid: int) -> None:
    """Make a home whose owner can log in from every host to every other."""
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh").chmod(0o700)
    _make_key(home / ".ssh/id_ed25519", user)
    shutil.copy(home / ".ssh/id_ed25519.pub", home / ".ssh/authorized_keys")
    for name in (".bashrc", ".profile"):
        shutil.copy(Path("/etc/skel", name), home)
    for path in (home, *home.rglob("*")):
        os.chown(path, uid, uid)


def _make_key(path: Path, comment: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path], check=True)
