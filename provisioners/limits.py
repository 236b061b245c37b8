"""What is compared with a limit of the site's policy or of a kernelspec's `allow`: names, and amounts. No I/O.

Source: srun(1) of Slurm 22.05, and its source for what the page does not say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from farkernel.provisioners.containers.shifter import spellings
from farkernel.provisioners.request import SlurmRequest
from farkernel.provisioners.srun_options import read_options


def _one(text: str) -> list[str]:
    return [text]


def _by_comma(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _features(text: str) -> list[str]:
    """Take a constraint apart: `knl&quad`, `knl|haswell`, `[rack1*2&rack2*4]`, `(a&b)|c`, `knl,quad`."""
    parts = (re.sub(r"\*\d+$", "", part) for part in re.split(r"[][()&|,\s]+", text))  # `*4` behind `(a&b)`
    return [part for part in parts if part]


def _licenses(text: str) -> list[str]:
    return [part for part in re.split(r"[,;|\s]+", text) if part]


SEPARATORS: dict[str, Callable[[str], list[str]]] = {
    "account": _by_comma,
    "qos": _by_comma,
    "partition": _by_comma,
    "reservation": _by_comma,
    "gres": _by_comma,
    "licenses": _licenses,
    "constraint": _features,
}
"""How a text that may name several things is taken apart."""

_ANY_CASE = frozenset({"account", "qos", "login"})
"""Slurm's database compares accounts and QOS without case; partitions, features and reservations differ by it."""


def matches(kind: str, name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns allows a name.

    :param kind: `image` is one of Shifter's, `file` one of another runtime's, which may be a path
    """
    if kind in {"image", "file"} and ".." in name.split("/"):
        return False  # it could lead anywhere
    names = spellings(name) if kind == "image" else {name}
    if kind in _ANY_CASE:
        names, patterns = {name.casefold()}, [pattern.casefold() for pattern in patterns]
    return any(fnmatchcase(spelling, pattern) for pattern in patterns for spelling in names)


_FORMS = {"constraint": ("constraint", "prefer")}

_INT = r"\d{1,20}"
"""A number that Slurm could take: Python itself reads none of thousands of digits."""

Place = tuple[str, str]
"""Where something is asked for: the key, and the option in it; that is empty for the whole value."""


def asked(slurm: SlurmRequest, key: str) -> list[tuple[str, Place]]:
    """Return each value that is asked for by a key of `slurm` or an option of extra_args that is the same.

    :return: the values, and where they stand
    """
    found: list[tuple[str, Place]] = []
    value = getattr(slurm, key, None)
    if value is not None:
        found.append((str(value), (f"slurm.{key}", "")))
    found += [
        (option.value or "", ("slurm.extra_args", option.word))
        for option in read_options(slurm.extra_args)
        if set(option.names).intersection(_FORMS.get(key, (key,)))
    ]
    return found


def nodes_asked(slurm: SlurmRequest) -> list[tuple[str, Place, float | None]]:
    """Return what says on how many nodes a job may be at most, where it stands, and the number; None as `count_nodes`.

    Where nothing says it, Slurm takes as many as --gpus needs: each has one GPU at least (srun(1), -N and -G).
    """
    found = [(text, place, count_nodes(text)) for text, place in asked(slurm, "nodes")]
    if not found:
        why = "may be on as many nodes where slurm.nodes is not given"
        found = [(f"{text} GPUs {why}", place, count_gpus(text)) for text, place in asked(slurm, "gpus")]
    return found + [(text, place, count_hosts(text)) for text, place in asked(slurm, "nodelist")]


def count_nodes(text: str) -> float | None:
    """Read the most that srun's --nodes asks for: N, or MIN-MAX, each perhaps with k or m.

    Later versions than 22.05 take sizes, too, such as `1,2,4`.

    :return: infinity for as many as can be had, which a MAX of 0 is; None if it is something else
    """
    if re.fullmatch(rf"{_INT}([-:,]{_INT})*", text, re.ASCII) and re.search("[:,]", text):  # 1,2,4 or, as 1,3,5, 1-5:2
        return max(map(int, re.findall(_INT, text)))
    found = re.fullmatch(rf"(?:{_INT}[km]?-)?({_INT})([km]?)", text, re.IGNORECASE | re.ASCII)
    return int(found[1]) * {"": 1, "k": 1024, "m": 1024**2}[found[2].lower()] or math.inf if found else None


_HOSTS = r"(?:[\w.-]|\[[\d,-]+\])+(?:\*\d+)?"


def count_hosts(names: str) -> int | None:
    """Count the nodes of srun's --nodelist, such as `login,nid[001-004,7]`; None for a file, or what is no list."""
    if not re.fullmatch(f"{_HOSTS}(,{_HOSTS})*", names, re.ASCII):
        return None
    total = 0
    for name in re.findall(_HOSTS, names, re.ASCII):
        sizes = [_size(ranges) for ranges in re.findall(r"\[(.*?)\]", name)]
        total += math.prod(size or 0 for size in sizes)
        if None in sizes:
            return None
    return total


def _size(ranges: str) -> int | None:
    """Count the numbers of `1-4,7`."""
    total = 0
    for part in ranges.split(","):
        if not (found := re.fullmatch(rf"({_INT})(?:-({_INT}))?", part, re.ASCII)):
            return None
        first, last = int(found[1]), int(found[2] or found[1])
        total += max(0, last - first) + 1
    return total


def minutes(time: str) -> float | None:
    """Read Slurm's time; infinity for none at all, which 0 is, too; None if it is something else."""
    if time.upper() in {"INFINITE", "UNLIMITED", "-1"}:
        return math.inf
    found = re.fullmatch(rf"(?:({_INT})-)?({_INT})(?::({_INT}))?(?::({_INT}))?", time, re.ASCII)
    if not found:
        return None
    days, *parts = (None if part is None else int(part) for part in found.groups())
    first, second, third = (part or 0 for part in parts)
    if days is not None:  # D-HH[:MM[:SS]]
        seconds = ((days * 24 + first) * 60 + second) * 60 + third
    elif parts[2] is not None:  # HH:MM:SS
        seconds = (first * 60 + second) * 60 + third
    else:  # MM[:SS]
        seconds = first * 60 + second
    return seconds / 60 or math.inf


def megabytes(size: str) -> float | None:
    """Read Slurm's --mem; infinity for all that a node has, which 0 asks for; None if it is something else."""
    found = re.fullmatch(rf"({_INT})([KMGT]?)B?", size, re.ASCII | re.IGNORECASE)
    if not found:
        return None
    return int(found[1]) * {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[found[2].upper()] or math.inf


READERS: dict[str, Callable[[str], float | None]] = {"time": minutes, "mem": megabytes}
"""What reads amounts that are not mere numbers, by the key of `slurm`."""


def _number(text: str) -> int | None:
    """Read a count of --gres: `2`, or `4k`. `kb` is 1000 for Slurm; it counts as `k` and `kib` here, which is more."""
    found = re.fullmatch(rf"({_INT})(?:([kmgtp])(?:i?b)?)?", text, re.ASCII | re.IGNORECASE)
    return int(found[1]) * 1024 ** "_kmgtp".index((found[2] or "_").lower()) if found else None


def _is_type(text: str) -> bool:
    """Whether the last part of --gres is a type for sure, such as `a100`, `2080ti` or a MIG device's `1g.10gb`.

    Slurm tries it as a number first, with strtoull(3), which takes blanks, a sign, and no digits at all before a unit.
    """
    name = re.fullmatch(r"\d*[a-z][\w.+-]*", text, re.ASCII | re.IGNORECASE)
    return bool(name) and not re.fullmatch(r"\d*[a-z](i?b)?", text, re.ASCII | re.IGNORECASE)


def _resource(entry: str) -> tuple[str, str, int | None]:
    """Read `name[[:type]:count]` of --gres as Slurm does: the last part is a count if it is a number, and else a type.

    :return: name, type and count; the count is None if it is something else
    """
    name, *rest = re.split("[:=]", re.sub("^(?:gres[/:])+", "", entry, flags=re.IGNORECASE))
    if not rest:
        return name.lower(), "", 1
    count = _number(rest[-1])
    types = rest if count is None else rest[:-1]
    if len(types) > 1 or (count is None and not _is_type(rest[-1])):
        return name.lower(), "", None
    return name.lower(), "".join(types).lower(), 1 if count is None else count


_OF_GPUS = ("gpu", "mps", "shard")


def gpus_by_type(text: str, *, gres: bool = False) -> dict[str, int] | None:
    """Count the GPUs of --gpus (`2`, `a100:2`, `a100:1,v100:1`) or of --gres (`gpu:a100:2,craynetwork`).

    A MIG device (`1g.10gb:2`) is a GPU for Slurm, too. Shards, and a part by MPS, are of one GPU of a node
    (https://slurm.schedmd.com/gres.html), unless a site has SelectTypeParameters=MULTIPLE_SHARING_GRES_PJ.

    :return: by type, which is empty for any, and `shard` or `mps` for what has these; None if they cannot be counted
    """
    counts: dict[str, int] = {}
    for part in _by_comma(text):
        name, kind, count = _resource(part if gres else f"gpu:{part}")
        if name not in _OF_GPUS:
            continue
        if count is None:
            return None
        if name != "gpu":
            kind, count = name, min(count, 1)
        counts[kind] = counts.get(kind, 0) + count
    return counts


def count_gpus(text: str) -> int | None:
    """Count the GPUs of --gpus, whatever their types; as `gpus_by_type`."""
    counts = gpus_by_type(text)
    return None if counts is None else sum(counts.values())


def gpus_together(counts: Iterable[Mapping[str, float]]) -> float:
    """Count what several options ask for: Slurm keeps one record for each type, and of it the most that one asks for.

    GPUs of any type and those of a type may be the same for Slurm; here they are not, which is never too few.
    """
    most: dict[str, float] = {}
    for each in counts:
        most |= {kind: max(count, most.get(kind, 0)) for kind, count in each.items()}
    return sum(most.values())


def gpus_within(text: str, most: str) -> bool:
    """Whether what --gpus asks for is within a limit of the same form: one that names types allows no others."""
    counts, limits = gpus_by_type(text), gpus_by_type(most)
    if not counts or not limits:
        return False
    if limits.keys() == {""}:
        return sum(counts.values()) <= limits[""]
    return all(count <= limits.get(kind, 0) for kind, count in counts.items())
