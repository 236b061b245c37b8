"""Which options a kernelspec may hand to srun in `slurm.extra_args`.

Source: srun(1) of Slurm 22.05. srun reads its command line with getopt_long: a long option may be shortened
to any prefix that is unambiguous, short options may be bundled (`-lv`), and the first word that is neither an
option nor an option's value is the command to run.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_OURS = "farkernel sets it itself"
_ONE_JOB = "farkernel makes one job of its own"
_NO_JOB = "srun would print something and start no job"

FORBIDDEN: dict[str, str] = {
    "chdir": "use kernel.cwd",
    "clusters": "farkernel asks the local cluster only",
    "error": _OURS,
    "exclusive": "use slurm.exclusive",
    "export": "use the kernelspec's env",
    "help": _NO_JOB,
    "het-group": _ONE_JOB,
    "input": _OURS,
    "jobid": _ONE_JOB,
    "kill-on-bad-exit": _OURS,
    "label": "it would change what the launcher says",
    "multi-prog": "the launcher is the only program",
    "no-allocate": _ONE_JOB,
    "ntasks": "use slurm.nodes and slurm.ntasks_per_node",
    "output": _OURS,
    "overlap": _OURS,
    "pack-group": _ONE_JOB,
    "pty": "the launcher needs a plain input and output",
    "quiet": "farkernel reads what srun says",
    "test-only": _NO_JOB,
    "unbuffered": "it would change what the launcher says",
    "usage": _NO_JOB,
    "verbose": _OURS,
    "version": _NO_JOB,
    "wait": _OURS,
}
"""Long options that would break the launcher, and why."""

_QUESTIONS = {
    "cpu-bind": ("help",),
    "gres": ("help", "list"),
    "hint": ("help",),
    "mem-bind": ("help",),
    "mpi": ("list",),
}
"""Values of options that ask srun to print something."""

_FORBIDDEN_SHORT = {
    "D": "chdir",
    "K": "kill-on-bad-exit",
    "M": "clusters",
    "Q": "quiet",
    "V": "version",
    "W": "wait",
    "Z": "no-allocate",
    "e": "error",
    "h": "help",
    "i": "input",
    "l": "label",
    "n": "ntasks",
    "o": "output",
    "u": "unbuffered",
    "v": "verbose",
}
_SHORT_WITH_VALUE = frozenset("ABCFGJLNPSTabcdmpqrtwx")
_SHORT_MAYBE_VALUE = frozenset("Ik")
SHORT = {
    "A": "account",
    "B": "extra-node-info",
    "C": "constraint",
    "E": "preserve-env",
    "F": "nodefile",
    "G": "gpus",
    "H": "hold",
    "I": "immediate",
    "J": "job-name",
    "L": "licenses",
    "N": "nodes",
    "O": "overcommit",
    "P": "dependency",
    "S": "core-spec",
    "T": "threads",
    "X": "disable-status",
    "b": "begin",
    "c": "cpus-per-task",
    "d": "dependency",
    "k": "no-kill",
    "m": "distribution",
    "p": "partition",
    "q": "qos",
    "r": "relative",
    "s": "oversubscribe",
    "t": "time",
    "w": "nodelist",
    "x": "exclude",
    **_FORBIDDEN_SHORT,
}
"""The long options that short ones stand for."""

_LONG_FLAGS = frozenset(
    """
    bcast compress contiguous disable-status exact hold immediate nice no-kill overcommit
    oversubscribe preserve-env propagate quit-on-interrupt reboot resv-ports send-libs spread-job
    use-min-nodes x11
    """.split()  # noqa: SIM905 - one word a line would be a screen
)
"""Long options without a value, or with one that only `=` can give."""

_LONG_WITH_VALUE = frozenset(
    """
    account acctg-freq bb bbf bcast-exclude begin cluster-constraint comment constraint container
    core-spec cores-per-socket cpu-bind cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot
    dependency distribution epilog exclude extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node
    gpus-per-socket gpus-per-task gres gres-flags hint job-name licenses mail-type
    mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus mpi msg-timeout network
    nodefile nodelist nodes ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
    open-mode partition power prefer priority profile prolog qos relative reservation signal
    slurmd-debug sockets-per-node switches task-epilog task-prolog thread-spec threads
    threads-per-core time time-min tmp uid wckey
    """.split()  # noqa: SIM905 - one word a line would be a screen
)


OTHER_NAMES = {
    "cpu_bind": "cpu-bind",
    "ntasks-per-tres": "ntasks-per-gpu",
    "tasks-per-node": "ntasks-per-node",
}
"""What srun takes for other options without saying so in srun(1)."""


@dataclass(frozen=True)
class Option:
    """An option as srun reads it.

    :param word: as it stands on the command line
    :param names: the long options that it may be: one, several for an abbreviation that is not clear, none for one that
        is not known here
    :param name: what is written after the dashes
    :param value: None without one
    """

    word: str
    names: tuple[str, ...]
    name: str
    value: str | None


def read_options(args: Sequence[str]) -> list[Option]:
    """Return the options among words that `check_extra_args` has nothing against, each of a bundle by itself."""
    found: list[Option] = []
    words = iter(args)
    for word in words:
        if word.startswith("--"):
            found.append(_read_long(word, words))
        elif word.startswith("-"):
            found += _read_short(word, words)
    return found


def _read_long(word: str, rest: Iterator[str]) -> Option:
    name, equals, value = word[2:].partition("=")
    names = long_options(name)
    if equals or not any(known in _LONG_WITH_VALUE for known in names):
        return Option(word, names, name, value if equals else None)
    value = next(rest, "")
    return Option(f"{word} {value}", names, name, value)


def _read_short(word: str, rest: Iterator[str]) -> Iterator[Option]:
    for place, letter in enumerate(word[1:], start=1):
        names = (SHORT[letter],) if letter in SHORT else ()
        attached = word[place + 1 :]
        if letter in _SHORT_WITH_VALUE:
            value = attached or next(rest, "")
            yield Option(f"-{letter} {value}", names, letter, value)
            return
        if letter in _SHORT_MAYBE_VALUE:
            yield Option(word, names, letter, attached or None)
            return
        yield Option(f"-{letter}", names, letter, None)


def long_options(name: str) -> tuple[str, ...]:
    """Return the long options that a name may be, in full or abbreviated."""
    known = (*sorted(_LONG_WITH_VALUE | _LONG_FLAGS), *FORBIDDEN, *OTHER_NAMES)
    meant = (name,) if name in known else tuple(option for option in known if option.startswith(name))
    return tuple(dict.fromkeys(OTHER_NAMES.get(option, option) for option in meant))


def is_option(name: str) -> bool:
    """Whether srun itself has a long option of that name, in full."""
    return name in _LONG_WITH_VALUE | _LONG_FLAGS | FORBIDDEN.keys() | OTHER_NAMES.keys()


def near_options(name: str) -> list[str]:
    """Return the long options that a name was probably meant to be, the likeliest first; at most three."""
    known = sorted(_LONG_WITH_VALUE | _LONG_FLAGS)
    abbreviated = [option for option in known if option.startswith(name)]
    return abbreviated[:3] or difflib.get_close_matches(name, known, n=3, cutoff=0.7)


def check_extra_args(args: Sequence[str]) -> list[str]:
    """Say what is wrong with extra srun options.

    An option that is not known here may belong to a SPANK plugin of the site, and passes.

    :param args: words as they would stand on srun's command line
    :return: one sentence for each problem; empty if every word may be passed on
    """
    problems: list[str] = []
    wants: str | None = None  # an option that takes the next word as its value, for certain
    may_want = False  # an unknown option, perhaps with a value in the next word
    for word in args:
        if wants is not None:
            if word.startswith("-"):
                problems.append(f"{wants} needs a value: write it as {_joined(wants)}")
            else:
                wants = None
                continue
        wants, value_may_follow = None, may_want
        may_want = False
        if not word.startswith("-") or word in {"-", "--"}:
            if word == ":":
                problems.append(f'"{word}" would begin another job: {_ONE_JOB}')
            elif word in {"-", "--"} or not value_may_follow:
                problems.append(f'"{word}" is no option, srun would take it for the command')
            continue
        refused, wants, may_want = _check_option(word)
        problems += refused
    if wants is not None:
        problems.append(f"{wants} needs a value: write it as {_joined(wants)}")
    return problems or [
        f"{option.word} is not allowed: {_NO_JOB}"
        for option in read_options(args)
        if any(only_prints(name, option.value or "") for name in option.names)
    ]


def only_prints(name: str, value: str) -> bool:
    """Whether srun takes an option's value for a question, such as --gres=help: it answers, and starts no job."""
    return any(word.strip().lower() in _QUESTIONS.get(name, ()) for word in value.split(","))


def _joined(option: str) -> str:
    return f"{option}=VALUE" if option.startswith("--") else f"{option}VALUE"


def _check_option(word: str) -> tuple[list[str], str | None, bool]:
    """Return the problems, the option if its value is the next word, and whether that is only possible."""
    if not word.startswith("--"):
        return _check_short(word)
    name, equals, _ = word[2:].partition("=")
    known = name in _LONG_WITH_VALUE or name in _LONG_FLAGS
    banned = None if known else next((long for long in FORBIDDEN if long.startswith(name)), None)
    if banned is not None:
        return [f"--{name} is not allowed: {FORBIDDEN[banned]}"], None, bool(not equals)
    if equals or any(flag.startswith(name) for flag in _LONG_FLAGS if name not in _LONG_WITH_VALUE):
        return [], None, False
    if any(option.startswith(name) for option in (*_LONG_WITH_VALUE, *OTHER_NAMES)):
        return [], word, False
    return [], None, True


def _check_short(word: str) -> tuple[list[str], str | None, bool]:
    for place, letter in enumerate(word[1:], start=1):
        if letter in _FORBIDDEN_SHORT:
            reason = FORBIDDEN[_FORBIDDEN_SHORT[letter]]
            return [f"-{letter} is not allowed: {reason}"], None, True
        if letter in _SHORT_MAYBE_VALUE:
            return [], None, False
        if letter in _SHORT_WITH_VALUE:
            return [], (word if place == len(word) - 1 else None), False
    return [], None, False
