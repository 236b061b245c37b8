"""What is wrong with a kernelspec's own keys: those of Jupyter, and those around farkernel's config. No I/O.

Source: https://jupyter-client.readthedocs.io/en/stable/kernels.html#kernel-specs, and what jupyter_client 8 does with
what it does not like: it logs it, and the kernel is not there.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from farkernel.provisioners.json_places import Path

PROXY_MODULE = "farkernel.provisioners.enterprise_gateway"
PROXIES = {
    "farkernel-local": f"{PROXY_MODULE}.LocalProcessProxy",
    "farkernel-slurm": f"{PROXY_MODULE}.SlurmProcessProxy",
}
"""The process proxy that does for Enterprise Gateway what a provisioner does elsewhere."""

PROVISIONER: Path = ("metadata", "kernel_provisioner")
CONFIG: Path = (*PROVISIONER, "config")
PROXY: Path = ("metadata", "process_proxy")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_STANZA = '{"kernel_provisioner": {"provisioner_name": "farkernel-slurm", "config": {}}}'


class Flaw(NamedTuple):
    """Something that is not as it should be.

    :param path: the key in kernel.json
    :param found: what is there, continuing the key
    :param advice: what to do, a sentence
    :param serious: it keeps kernels from starting as they should; or it may
    """

    path: Path
    found: str
    advice: str
    serious: bool = True


def problem(path: Path, found: str, advice: str) -> Flaw:
    """Say that it keeps kernels from starting as they should."""
    return Flaw(path, found, advice)


def warning(path: Path, found: str, advice: str) -> Flaw:
    """Say that it may become a problem."""
    return Flaw(path, found, advice, serious=False)


def flaws(
    spec: object, *, provisioners: Collection[str], sections: Collection[str], gateway: bool = False
) -> Iterator[Flaw]:
    """Say what is wrong with a kernelspec; what its config asks for is not looked at.

    :param spec: the content of kernel.json
    :param provisioners: the names that Jupyter knows here
    :param sections: the keys that a config may have
    :param gateway: whether Enterprise Gateway reads it
    """
    if not isinstance(spec, Mapping):
        yield problem((), f"expected an object, not {shown(spec)}", 'Write {"argv": […], "display_name": …}.')
        return
    yield from jupyters_flaws(spec, sections=sections)
    metadata = spec.get("metadata", {})
    if isinstance(metadata, Mapping):
        yield from _metadata(metadata, provisioners, sections, gateway=gateway)


def jupyters_flaws(spec: Mapping[str, Any], *, sections: Collection[str]) -> Iterator[Flaw]:
    """Say what is wrong with a kernelspec's keys for Jupyter, whoever starts its kernels."""
    for key in spec:
        yield from _top_key(key, sections)
    for key, check in _CHECKS.items():
        if key in spec:
            yield from check(spec[key])
    yield from _missing(spec)


_OPTIONAL = ("name", "mimetype", "kernel_protocol_version", "codemirror_mode", "help_links")
_KNOWN = ("argv", "display_name", "language", "env", "interrupt_mode", "metadata", *_OPTIONAL)

_MEANT = {name: name for name in _KNOWN} | {"environment": "env", "variables": "env", "command": "argv", "args": "argv"}


def _top_key(key: str, sections: Collection[str]) -> Iterator[Flaw]:
    if key in _KNOWN:
        return
    if key == "resource_dir":
        yield problem((key,), "Jupyter sets it itself, and hides a kernelspec that has it", "Remove it.")
    elif place := _belongs(key, sections):
        yield problem((key,), f"it belongs into {place}: here nobody reads it", f"Move it into {place}.")
    elif near := difflib.get_close_matches(key.lower(), _MEANT, n=1, cutoff=0.75):
        yield problem((key,), "unknown key: nobody reads it", f"Write {_MEANT[near[0]]}.")
    else:
        yield warning((key,), "unknown key: Jupyter does not read it", "Remove it, or put it into metadata.")


def _belongs(key: str, sections: Collection[str]) -> str:
    """Name the object that a key of ours belongs into, where it stands too far up; empty for none."""
    if key in {"kernel_provisioner", "process_proxy"}:
        return "metadata"
    if key == "provisioner_name":
        return dotted(PROVISIONER)
    return dotted(CONFIG) if key in {*sections, "config"} - {"kernel"} else ""


def _missing(spec: Mapping[str, Any]) -> Iterator[Flaw]:
    example = '["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]'
    if "argv" not in spec:
        yield problem(("argv",), "it is missing: there is no command", f'Write "argv": {example}.')
    if "display_name" not in spec:
        advice = 'Write "display_name": what JupyterLab\'s launcher shows.'
        yield problem(("display_name",), "it is missing: users would see a kernel without a name", advice)
    if "language" not in spec:
        advice = 'Write "language": "python", or the kernel\'s own.'
        yield warning(("language",), "it is missing: clients cannot tell which kernels fit a notebook", advice)


def _argv(argv: object) -> Iterator[Flaw]:
    path = ("argv",)
    if not isinstance(argv, list):
        yield problem(path, f"expected a list of texts, not {shown(argv)}", 'Write ["program", "argument", …].')
        return
    if not argv:
        yield problem(path, "expected a command, it is empty", "Write a program and its arguments.")
        return
    wrong = [number for number, word in enumerate(argv) if not isinstance(word, str)]
    for number in wrong:
        advice = "Remove it, or write a text." if argv[number] is None else "Put it in double quotes."
        yield problem((*path, number), f"expected a text, not {shown(argv[number])}", advice)
    if wrong:
        return
    if not argv[0].strip():
        yield problem((*path, 0), "expected a program, it is empty", "Write the kernel's program.")
    elif " " in argv[0].strip() and len(argv) == 1:
        yield problem((*path, 0), "a whole command line in one text", "Write each of its words as a text of its own.")
    if not any("{connection_file}" in word for word in argv):
        near = [n for n, word in enumerate(argv) if difflib.get_close_matches(word, ["{connection_file}"])]
        advice = 'Add "{connection_file}" after the option that takes it, as in "-f", "{connection_file}".'
        yield problem(
            (*path, near[0]) if near else path, "{connection_file} is missing: the kernel has no sockets", advice
        )


def _env(env: object) -> Iterator[Flaw]:
    path = ("env",)
    if not isinstance(env, Mapping):
        advice = 'Write {"NAME": "value"}.'
        yield problem(path, f"expected an object of texts, not {shown(env)}", advice)
        return
    for name, value in env.items():
        if not isinstance(value, str):
            advice = "Remove it, or write a text." if value is None else f"Write {json.dumps(shown(value))}."
            yield problem((*path, name), f"expected a text, not {shown(value)}", advice)
        elif not name or "=" in name or "\0" in f"{name}{value}":
            yield problem((*path, name), "no system takes such a variable", "Give it a name of letters, digits and _.")


def _interrupt_mode(mode: object) -> Iterator[Flaw]:
    if not (isinstance(mode, str) and mode.lower() in {"signal", "message"}):
        advice = 'Write "signal", or "message" for a kernel that says so.'
        yield problem(("interrupt_mode",), f'expected "signal" or "message", not {shown(mode)}', advice)


def _text(key: str) -> Callable[[object], Iterator[Flaw]]:
    def check(value: object) -> Iterator[Flaw]:
        if not isinstance(value, str):
            yield problem((key,), f"expected a text, not {shown(value)}", "Put it in double quotes.")
        elif value != printable(value):
            yield problem((key,), "half a character, which nothing can show", "Write it anew.")
        elif _CONTROL.search(value):
            yield problem((key,), f"a control character in {shown(value)}", "Write it on one line, without any.")
        elif not value.strip():
            yield Flaw((key,), "it is empty", "Write what users are to see.", serious=key == "display_name")

    return check


def _object(path: Path) -> Callable[[object], Iterator[Flaw]]:
    def check(value: object) -> Iterator[Flaw]:
        if not isinstance(value, Mapping):
            yield problem(path, f"expected an object, not {shown(value)}", 'Write {"key": value}.')

    return check


_CHECKS: dict[str, Callable[[object], Iterator[Flaw]]] = {
    "argv": _argv,
    "display_name": _text("display_name"),
    "language": _text("language"),
    "env": _env,
    "interrupt_mode": _interrupt_mode,
    "metadata": _object(("metadata",)),
}


def _metadata(
    metadata: Mapping[str, Any], provisioners: Collection[str], sections: Collection[str], *, gateway: bool
) -> Iterator[Flaw]:
    ours = ("kernel_provisioner", "process_proxy", "debugger")
    for key in metadata:
        path: Path = ("metadata", key)
        if key in {"provisioner_name", "config", *sections} - {"kernel", "job"}:
            place = dotted(PROVISIONER if key in {"provisioner_name", "config"} else CONFIG)
            yield problem(path, f"it belongs into {place}: here nobody reads it", f"Move it into {place}.")
        elif key not in ours and (near := difflib.get_close_matches(key, ours, n=1, cutoff=0.75)):
            yield problem(path, "unknown key: nobody reads it", f"Write {near[0]}.")
    if not isinstance(metadata.get("debugger", False), bool):
        found = f"expected true or false, not {shown(metadata['debugger'])}"
        yield problem(("metadata", "debugger"), found, "Write true or false, without quotes.")
    stanza = metadata.get("kernel_provisioner")
    if stanza is None:
        advice = f"Write it: {_STANZA}."
        yield problem(PROVISIONER, "it is missing: Jupyter would run the kernel on its own host", advice)
    elif not isinstance(stanza, Mapping):
        yield problem(PROVISIONER, f"expected an object, not {shown(stanza)}", f"Write {_STANZA}.")
    else:
        yield from _stanza(stanza, provisioners, sections)
    name = stanza.get("provisioner_name") if isinstance(stanza, Mapping) else None
    if "process_proxy" in metadata or gateway:
        yield from _proxy(metadata.get("process_proxy", {}), name, gateway=gateway)


def _stanza(stanza: Mapping[str, Any], provisioners: Collection[str], sections: Collection[str]) -> Iterator[Flaw]:
    ours = ("provisioner_name", "config")
    for key in stanza:
        if key in ours:
            continue
        path = (*PROVISIONER, key)
        if key in sections:
            place = dotted(CONFIG)
            yield problem(path, f"it belongs into {place}: here nobody reads it", f"Move it into {place}.")
        else:
            near = difflib.get_close_matches(key, (*ours, "name"), n=1, cutoff=0.6)
            meant = ("provisioner_name" if near[0] == "name" else near[0]) if near else ""
            yield problem(
                path,
                "unknown key: nobody reads it",
                f"Write {meant}." if meant else f"Remove it; there are {' and '.join(ours)}.",
            )
    yield from _provisioner(stanza, provisioners)
    if not isinstance(stanza.get("config", {}), Mapping):
        yield problem(CONFIG, f"expected an object, not {shown(stanza['config'])}", 'Write "config": {}.')


def _provisioner(stanza: Mapping[str, Any], provisioners: Collection[str]) -> Iterator[Flaw]:
    name = stanza.get("provisioner_name")
    path = (*PROVISIONER, "provisioner_name")
    there = ", ".join(PROXIES)
    if not isinstance(name, str | None):
        yield problem(path, f"expected a text, not {shown(name)}", f"Write one of {there}.")
    elif name is None:
        found = "it is missing: Jupyter would run the kernel on its own host"
        yield problem(path, found, f'Write "provisioner_name": one of {there}.')
    elif name in PROXIES and name not in provisioners:
        yield problem(path, f"{name} is not registered with Jupyter", "Install farkernel in Jupyter's own Python.")
    elif name not in PROXIES and name in provisioners:
        found = f"{name} is not farkernel's: farkernel would not run the kernel"
        yield problem(path, found, f"Write one of {there}.")
    elif name not in PROXIES:
        near = difflib.get_close_matches(str(name), PROXIES, n=1, cutoff=0.5)
        found = f"there is no provisioner {shown(name)}, and Jupyter hides the kernelspec"
        yield problem(path, found, f"Write {near[0]}." if near else f"Write one of {there}.")


def _proxy(proxy: object, provisioner: object, *, gateway: bool) -> Iterator[Flaw]:
    if not isinstance(proxy, Mapping):
        yield problem(PROXY, f"expected an object, not {shown(proxy)}", 'Write {"class_name": …}.')
        return
    fits = PROXIES.get(str(provisioner), "")
    name = str(proxy.get("class_name", ""))
    path = (*PROXY, "class_name")
    for key in proxy:
        if key not in {"class_name", "config"}:
            advice = f"Move what it says into {dotted(CONFIG)}, or remove it."
            yield problem((*PROXY, key), "unknown key: Enterprise Gateway does not read it", advice)
    if name in PROXIES.values():
        if fits and name != fits:
            yield problem(path, f"{name} does not fit the provisioner {provisioner}", f"Write {fits}.")
        return
    near = difflib.get_close_matches(name, PROXIES.values(), n=1, cutoff=0.6)
    found = f"{shown(name) if name else 'it is missing'}: Enterprise Gateway would not run the kernel by farkernel"
    advice = f"Write {fits or (near[0] if near else ' or '.join(PROXIES.values()))}."
    yield Flaw(path, found, advice, serious=name.startswith("farkernel.") or gateway)


def dotted(path: Path) -> str:
    """Return a path as messages have it."""
    return printable(".".join(map(str, path)))


def printable(text: str) -> str:
    """Return a text that can be shown: JSON has halves of characters, by their numbers."""
    return text.encode(errors="backslashreplace").decode()


def shown(value: object) -> str:
    """Return a value as JSON, shortened."""
    try:
        text = json.dumps(value, default=repr, ensure_ascii=False)
    except RecursionError:
        text = "[[[..."
    return printable(text if len(text) <= 80 else f"{text[:77]}...")
