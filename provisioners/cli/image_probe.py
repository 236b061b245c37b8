"""What `farkernel images check` runs: the probe inside the image, and what starts it on the host or node. No I/O."""

import contextlib
import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from farkernel.provisioners.containers.base import KERNEL_CWD, KERNEL_DIRECTORY, Command

OVERDUE = 124
"""The exit code of an image that was not done in time; timeout(1) has it too."""

NO_DIRECTORY = 97
"""The exit code of a host that lacks the directory to start in."""

SHELL = "/bin/sh"
"""What finds a command in the image that is no Python."""

_BEGAN = "farkernel-host "
_FOUND = "farkernel-command "
_TOLD = "farkernel-python "

# Runs in the image's Python, which may be an old one. What -m names runs inside the kernel's process anyway; of
# ipykernel, whose own import says little, the part that needs all the others is imported.
_PYTHON = """\
import json, platform, sys
facts = {"python": platform.python_version(), "executable": sys.executable}
for name in ("ipykernel", "IPython"):
    try:
        facts[name] = __import__(name).__version__
    except Exception:
        pass
module = sys.argv[1]
try:
    if module == "ipykernel_launcher":
        import ipykernel.kernelapp
    elif module:
        import importlib.util
        if importlib.util.find_spec(module) is None:
            raise ImportError("No module named %r" % module)
except Exception as error:
    facts["flaw"] = "%s: %s" % (type(error).__name__, error)
print("farkernel-python " + json.dumps(facts))
"""

# Runs in the image's shell, for a command of which nothing is known: only its own kernel may be asked of it.
_COMMAND = f"""\
found=$(command -v "$0") && echo "{_FOUND}$found"
"$1" -c "$2" "$3" || exit 0
"""

_VARIABLES = ".variables"

# Does on the host what the launcher does for a kernel: a private directory with the command's files, its variables, and
# after it the cleanup. If it is killed, the user's next kernel there finds the directory unlocked, and removes it.
# Files and variables come by standard input: others can read arguments. The variables are set in a process of their
# own, whatever their names are.
_RUN = f"""\
umask 077
directory=$1 cwd=$2 limit=$3 count=$4; shift 4
cleanup=("${{@:1:count}}"); shift "$count"
set -- timeout --kill-after=5 "$limit" "$@"
trap '((count)) && "${{cleanup[@]}}" </dev/null &>/dev/null; rm -rf "$directory"' EXIT
trap 'kill "$child"; exit 1' HUP INT TERM USR2
mkdir "$directory" || {{ trap - EXIT; exit 1; }}
exec {{lock}}>"$directory/lock" && flock "$lock" 2>/dev/null || rm -f "$directory/lock"
tar -xf - -C "$directory" || exit
echo "{_BEGAN}$HOSTNAME"
cd "$cwd" 2>/dev/null || exit {NO_DIRECTORY}
(
  while IFS= read -r -d '' variable; do export "$variable"; done <"$directory/{_VARIABLES}"
  exec "$@" {{lock}}>&-
) & child=$!
wait "$child"; code=$?
((SECONDS <= limit)) || code={OVERDUE}
exit "$code"
"""


def python_of(argv: Sequence[str]) -> str:
    """Name the Python that a kernel's command runs: the command itself, or one that it is told of."""
    return next((word for word in argv if re.fullmatch(r"(.*/)?(python|pypy)[\d.]*", word)), "python3")


def module_of(argv: Sequence[str]) -> str:
    """Name the module that a kernel's command has Python run; empty for none."""
    return next((module for option, module in pairwise(argv) if option == "-m"), "")


def probe(argv: Sequence[str]) -> list[str]:
    """Return what to run inside the image, to learn whether it has what a kernel's command needs."""
    python, module = python_of(argv), module_of(argv)
    if python == argv[0]:
        return [python, "-c", _PYTHON, module]
    return [SHELL, "-c", _COMMAND, argv[0], python, _PYTHON, module]


def on_host(command: Command, *, directory: str, cwd: str, limit: int) -> tuple[list[str], bytes]:
    """Return the command line that runs a command in an image where it is, and its standard input.

    :param directory: a private one, which it makes and removes
    :param cwd: where it starts
    :param limit: seconds after which it is ended
    """
    places = {KERNEL_DIRECTORY: directory, KERNEL_CWD: cwd, "{connection_file}": f"{directory}/kernel.json"}

    def filled(words: Sequence[str]) -> list[str]:
        return [re.sub(r"\{\w+\}", lambda found: places.get(found[0], found[0]), word) for word in words]

    variables = "".join(f"{name}={value}\0" for name, value in command.env.items())
    cleanup = filled(command.cleanup)
    counts = [directory, cwd, str(limit), str(len(cleanup))]
    argv = ["/bin/bash", "-c", _RUN, "farkernel", *counts, *cleanup, *filled(command.argv)]
    return argv, _packed({**command.files, _VARIABLES: variables})


def _packed(files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            data = content.encode(errors="surrogateescape")
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o600
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


class Answer(NamedTuple):
    """What the probe has told.

    :param host: where it ran; empty if it never did
    :param command: where a command that is no Python is in the image; empty if it is not there
    :param python: what its Python has told; empty without one
    """

    host: str
    command: str
    python: dict[str, str]


def read_answer(stdout: str) -> Answer:
    """Read what the probe has printed; a site's own lines may stand around it."""
    host = command = ""
    python: dict[str, str] = {}
    for line in stdout.splitlines():
        if line.startswith(_BEGAN):
            host = line.removeprefix(_BEGAN)
        elif line.startswith(_FOUND):
            command = line.removeprefix(_FOUND)
        elif line.startswith(_TOLD):
            with contextlib.suppress(ValueError, RecursionError):  # the image may print what it likes
                python = _facts(json.loads(line.removeprefix(_TOLD)))
    return Answer(host, command, python)


def _facts(told: Any) -> dict[str, str]:
    """Take what the probe may have told; nothing without what it always tells."""
    facts = {name: text for name, text in told.items() if isinstance(text, str)} if isinstance(told, dict) else {}
    return facts if {"python", "executable"} <= facts.keys() else {}
