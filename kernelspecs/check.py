"""What is wrong with a kernelspec: the one place that says it, for every command that reads or writes one.

`flaws` knows the keys of Jupyter and those around farkernel's config, `effective` and `container_of` what the config
asks for, `paths` what is on this host. Here their words get a place, and a cure.
"""

from __future__ import annotations

import difflib
import functools
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

from farkernel.kernelspecs.flaws import (
    CONFIG,
    PROVISIONER,
    PROXIES,
    PROXY,
    Flaw,
    dotted,
    flaws,
    jupyters_flaws,
    printable,
    problem,
    warning,
)
from farkernel.kernelspecs.model import NOWHERE, read_document
from farkernel.kernelspecs.paths import path_flaws
from farkernel.provisioners.containers.registry import container_of, runtime_names
from farkernel.provisioners.effective import NO_POLICY, Effective, effective
from farkernel.provisioners.errors import (
    FarkernelError,
    PolicyRefused,
    PolicyUnusable,
    Refusal,
    RequestError,
    VariableNotValid,
)
from farkernel.provisioners.json_places import Document, NotJson, Path, Place
from farkernel.provisioners.layers import Layer
from farkernel.provisioners.request import Request, check_kernelspec, check_process_proxy

PROVISIONERS = "jupyter_client.kernel_provisioners"
"""The group of entry points in which Jupyter finds them."""


class _Unwritten(Document):
    """What stands in no file yet: nothing of it has a place."""

    def place(self, path: Path) -> Place:
        return NOWHERE


_NOTHING = _Unwritten(None, {}, [])

_RULES = "`farkernel policy show` lists the rules."
_SCHEMA = "`farkernel kernelspec schema` describes all keys"


@dataclass(frozen=True, slots=True)
class Placed:
    """A flaw, and where it stands.

    :param file: what has to be corrected; empty for the site's policy and for a variable of this environment
    :param place: in that file; `NOWHERE` for the file as a whole
    """

    flaw: Flaw
    file: str
    place: Place = NOWHERE

    @property
    def key(self) -> str:
        """The dotted key; empty for the whole."""
        return dotted(self.flaw.path)

    @property
    def subject(self) -> str:
        """The key as users know it: those of a config by themselves; the file's name for the whole."""
        return self.key.removeprefix(f"{dotted(CONFIG)}.") or pathlib.PurePath(self.file).name or "policy"

    @property
    def where(self) -> str:
        """The place as editors and terminals understand it."""
        return f"{self.file}:{self.place.line}:{self.place.column}" if self.place.line else self.file

    @property
    def words(self) -> str:
        """What is wrong and what to do, without the file."""
        key = "" if self.file and not self.key else f"{self.subject}: "
        return printable(f"{key}{self.flaw.found}\n→ {self.flaw.advice}")

    def __str__(self) -> str:
        return f"{self.where}: {self.words}" if self.file else self.words


@dataclass(frozen=True, slots=True)
class Checked:
    """What there is to be said of a kernelspec.

    :param wrong: wherever it is read
    :param here: what this host's files and variables and the site's policy say of it, once nothing is wrong
    :param source: what messages call it
    :param layers: what its request is made of if it is started from here; empty if that is not valid
    """

    wrong: tuple[Placed, ...]
    here: tuple[Placed, ...] = ()
    source: str = ""
    document: Document = _NOTHING
    layers: tuple[Layer, ...] = ()

    def placed(self, flaw: Flaw) -> Placed:
        """Say where another flaw of it stands."""
        return _placed(flaw, self.source, self.document)

    @property
    def all(self) -> list[Placed]:
        """Everything, in the order of the file."""
        return sorted((*self.wrong, *self.here), key=lambda one: (one.place.line or sys.maxsize, one.place.column))

    def refuse(self) -> None:
        """See whether it may be written.

        :raises RequestError: it is not valid: file, key and cure of each thing that is wrong
        """
        if serious := [one for one in self.wrong if one.flaw.serious]:
            raise RequestError("\n".join(map(str, serious)))

    @property
    def remarks(self) -> list[str]:
        """What its author should know, though it is valid."""
        return [one.words for one in self.all]


def check_file(file: pathlib.Path, *, source: str = "") -> Checked:
    """Check a kernel.json.

    :param source: what messages call it, if it is a copy that is to become another file
    """
    source = source or str(file)
    try:
        document = read_document(file)
    except NotJson as error:
        found = f"not JSON: {error.what}" if error.place.line else error.what
        return Checked((Placed(Flaw((), found, error.advice), source, error.place),))
    return check_document(document, source=source)


def check_spec(spec: object, *, source: str) -> Checked:
    """Check what is to become a kernel.json, or a part of another file.

    :param source: what messages call it; there is no line of it to name
    """
    return check_document(_Unwritten(spec, {}, []), source=source)


def check_document(document: Document, *, source: str) -> Checked:
    """Check the content of a kernel.json as everybody will who reads it: Jupyter, a gateway, a start."""
    look = _Look(source, document)
    return Checked(tuple(look.wrong()), tuple(look.here()), source, document, look.layers)


def check_jupyters(spec: Mapping[str, Any], *, source: str) -> None:
    """Check the keys of a kernelspec that are Jupyter's, whoever starts its kernels.

    :raises RequestError: one of them is not valid
    """
    found = jupyters_flaws(spec, sections=tuple(Request.model_fields))
    Checked(tuple(Placed(flaw, source) for flaw in found)).refuse()


class _Look:
    """One kernel.json, while it is looked at."""

    def __init__(self, source: str, document: Document) -> None:
        self._source = source
        self._document = document
        self._env = _own_variables(document.value)
        self._local = _part(document.value, *PROVISIONER, "provisioner_name") == "farkernel-local"
        self._whole: Effective | None = None
        self._unusable: PolicyUnusable | None = None
        self._variables: Mapping[str, tuple[str, str]] = {}
        self.layers: tuple[Layer, ...] = ()

    def wrong(self) -> Iterator[Placed]:
        spec = self._document.value
        for path, place in self._document.twice:
            found = "it stands here twice, and only the last one counts"
            yield Placed(problem(path, found, "Remove one of the two."), self._source, place)
        known = {entry.name for entry in entry_points(group=PROVISIONERS)}
        gateway = find_spec("enterprise_gateway") is not None
        sections = tuple(Request.model_fields)
        own = list(flaws(spec, provisioners=known, sections=sections, gateway=gateway))
        yield from map(self._placed, own)
        if not isinstance(spec, Mapping):
            return
        if not {flaw.path[0] for flaw in own if flaw.path and flaw.serious} & {"argv", "env"}:
            check = lambda: check_kernelspec(spec["argv"], spec.get("env", {}), source=self._source)  # noqa: E731
            yield from self._refused(check, ())
        if isinstance(proxy := _part(spec, *PROXY), Mapping):
            yield from self._refused(lambda: check_process_proxy(proxy.get("config", {}), source=self._source), ())
        stanza = _part(spec, *PROVISIONER)
        config = stanza.get("config", {}) if isinstance(stanza, Mapping) else None
        if isinstance(config, Mapping):
            yield from self._refused(lambda: self._parse(config), CONFIG)

    def _parse(self, config: Mapping[str, Any]) -> None:
        """Read the config as a start from here does.

        :raises RequestError: it is not valid
        """
        read = functools.partial(effective, config, source=self._source, named=self._env, slurm=not self._local)
        env = {**os.environ, **self._env}
        try:
            whole = read(env=env, server=os.environ)
        except PolicyUnusable as error:  # no fault of this file's
            self._unusable = error
            whole = read(policy=NO_POLICY)
        except VariableNotValid as error:  # nor is that
            self._variables = error.flaws
            valid = {name: value for name, value in env.items() if name not in error.flaws}
            whole = read(env=valid, server=os.environ)
        self.layers = whole.layers
        # links are followed where Slurm's commands run: not here, for another login node
        container_of(whole.request, source=self._source, paths=None if whole.request.login is None else {})
        self._whole = whole

    def here(self) -> Iterator[Placed]:
        if (error := self._unusable) is not None:
            yield Placed(problem((), f"{error.what}\n{error.said}".rstrip(), error.hint), "")
        for name, (_, what) in self._variables.items():
            found = f"it counts as a key of the kernelspec, for the site has a policy, and is not valid: {what}"
            yield self._variable(name, found, "Unset it, or correct it.")
        spec = self._document.value
        name = _part(spec, *PROVISIONER, "provisioner_name")
        argv = _part(spec, "argv")
        if self._whole is None or name not in tuple(PROXIES):
            return
        yield from self._not_allowed(self._whole)
        if isinstance(argv, list) and argv and all(isinstance(word, str) and "\0" not in word for word in argv):
            yield from map(self._placed, path_flaws(self._whole.request, argv, local=self._local))
        if self._local:
            yield from self._means_nothing(self._whole.own)

    def _means_nothing(self, own: Sequence[Layer]) -> Iterator[Placed]:
        """Say what of Slurm's is asked for in vain."""
        nothing, write = "means nothing to farkernel-local, which asks no Slurm", "write farkernel-slurm"
        for layer in own:
            if "slurm" not in layer.config:
                continue
            if layer.source == self._source:
                advice = f"Remove it, or {write} in provisioner_name."
                yield self._placed(warning((*CONFIG, "slurm"), f"it {nothing}", advice))
            else:
                advice = f"Extend another job template, or {write} in provisioner_name."
                found = f"what {layer.source} has in slurm {nothing}"
                yield self._placed(warning((*CONFIG, "extends"), found, advice))

    def _placed(self, flaw: Flaw) -> Placed:
        return _placed(flaw, self._source, self._document)

    def _variable(self, name: str, found: str, advice: str) -> Placed:
        """Say what is wrong with a variable: in the file if it is the kernelspec's, else in this environment."""
        if name in self._env:
            return self._placed(problem(("env", name), found, advice))
        return Placed(problem((name,), found, advice), "")

    def _not_allowed(self, whole: Effective) -> Iterator[Placed]:
        """Say what the site's policy does not allow: a flaw for each of its rules."""
        try:
            whole.check(slurm=not self._local)
        except PolicyRefused as error:
            for refusal in error.refusals:
                yield self._rule(whole, refusal, error.hint)

    def _rule(self, whole: Effective, refusal: Refusal, hint: str) -> Placed:
        """Say where one of the policy's rules is broken, in whichever layer that is."""
        key, source, path = refusal.key, refusal.source, tuple(refusal.key.split("."))
        words = f'"{refusal.words}": {refusal.text}' if refusal.words else refusal.text
        found = f"the site's policy does not allow it: {words}"
        if refusal.missing:
            hint = f"Give it in the kernelspec, or in a job template that it extends. {_RULES}"
            # what has to be given may be left to a choice
            say = warning if key in whole.request.allow else problem
            return self._placed(say((*CONFIG, *path), found, hint))
        if variable := re.match(r"(SLURM_\w+)=", source):
            return self._variable(variable[1], found, f"Unset it, or give {key} in the kernelspec. {_RULES}")
        if source in {layer.source for layer in whole.own} - {self._source}:
            return _placed_in(source, path, found, hint)
        if source not in {"", self._source}:
            found = f"the site's policy does not allow its own {source}: {words}"
            hint = f"Give another one in the kernelspec, and tell the site's support. {_RULES}"
        return self._placed(problem((*CONFIG, *path), found, hint))

    def _refused(self, check: Callable[[], None], prefix: Path) -> Iterator[Placed]:
        """Say why a start would refuse it: a flaw for each line of the message."""
        try:
            check()
        except FarkernelError as error:
            for line in error.what.splitlines():
                yield self._line(line, error.hint, prefix)

    def _line(self, line: str, hint: str, prefix: Path) -> Placed:
        document, source = self._document, self._source
        rest = line.removeprefix(f"{source}: ")
        if rest == line and (elsewhere := re.match(r"(/[^:]+\.json): (.+)", line)):  # a job template
            source, rest, prefix = elsewhere[1], elsewhere[2], ()
            try:
                document = read_document(pathlib.Path(source))
            except NotJson as error:
                return Placed(Flaw((), rest, hint or error.advice), source, error.place)
        found = re.match(r"([A-Za-z_][\w-]*(?:\.[\w-]+)*): (.+)", rest)
        key, what = (found[1], found[2]) if found else ("", rest)
        path = _resolved(document, prefix, key) if key else prefix
        return _placed(problem(path, *_cure(key, what, hint)), source, document)


def _placed(flaw: Flaw, source: str, document: Document) -> Placed:
    return Placed(flaw, source, document.place(flaw.path))


def _placed_in(file: str, path: Path, found: str, advice: str) -> Placed:
    """Say where a problem stands in a job template."""
    try:
        return _placed(problem(path, found, advice), file, read_document(pathlib.Path(file)))
    except NotJson as error:  # it has just become so
        return Placed(problem(path, found, advice), file, error.place)


def _own_variables(spec: object) -> dict[str, str]:
    """Return a kernelspec's own variables, which may not be valid."""
    own = _part(spec, "env")
    return {name: str(value) for name, value in own.items()} if isinstance(own, Mapping) else {}


def _part(value: Any, *keys: str | int) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _resolved(document: Document, prefix: Path, key: str) -> Path:
    """Return where a dotted key stands; a key may itself have a dot where it must not."""
    whole: Path = (*prefix, key)
    return whole if whole in document.places else (*prefix, *key.split("."))


def _cure(key: str, what: str, hint: str) -> tuple[str, str]:
    """Make of a line of a refused request what is there and what to do."""
    if found := re.fullmatch(r"(unknown key \(value .*\)); did you mean (\S+)\?", what):
        section, _, name = found[2].rpartition(".")
        return found[1], f"Write {name}." if key.startswith(f"{section}.") else (
            f'Write "{name}" in the object "{section}".' if section else f"Write {name}."
        )
    if "stands in metadata." in what:
        return what, f"Move it into {dotted(CONFIG)}."
    if what.startswith("unknown key"):
        return what, f"Remove it; {_SCHEMA}."
    if found := re.match(r'there is no container runtime "([^"]*)"; there are (.*)', what):
        near = difflib.get_close_matches(found[1], runtime_names(), n=1, cutoff=0.5)
        return what, f"Write {near[0]}." if near else f"Write one of {found[2]}."
    if found := re.fullmatch(r"expected (.+), not (.+)", what):
        return f"it is {found[2]}", f"Write {found[1]}."
    if found := re.fullmatch(r"expected (.+), it is (missing|empty)", what):
        return f"it is {found[2]}", f"Write {found[1]}."
    if hint:
        return what, hint
    if "means nothing to" in what:
        return what, "Remove it."
    if "not allowed" in what:
        return what, "Remove the option, or give what the message names instead."
    return what, "Correct it."
