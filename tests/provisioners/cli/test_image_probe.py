"""What starts the probe on a host: what it leaves when it is killed."""

import os
import signal
import subprocess
import time
from pathlib import Path

from farkernel.launcher.private import PREFIX, sweep
from farkernel.provisioners.cli.image_probe import on_host
from farkernel.provisioners.containers.base import Command
from tests.patience import PATIENCE


def test_what_one_that_was_killed_has_left_is_swept_by_the_next_kernel(tmp_path: Path) -> None:
    directory, pid = tmp_path / f"{PREFIX}x", tmp_path / "pid"
    command = Command(["/bin/sh", "-c", 'echo $$ >"$0"; exec sleep 600', str(pid)], {"TOKEN": "secret"})
    argv, files = on_host(command, directory=str(directory), cwd="/", limit=60)

    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as host:
        assert host.stdin
        host.stdin.write(files)
        host.stdin.close()
        deadline = time.monotonic() + PATIENCE
        while not (pid.exists() and pid.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.utime(directory, (0, 0))  # the young are spared
        assert sweep(tmp_path) == []
        host.kill()
    os.kill(int(pid.read_text()), 0)  # a container's processes do not keep it

    assert sweep(tmp_path) == [directory]
    assert not directory.exists()
    os.kill(int(pid.read_text()), signal.SIGKILL)
