"""Job templates: named parts of requests, the user's own and the site's, that kernelspecs extend.

    ~/.config/farkernel/templates/NAME.json     the user's own
    /etc/farkernel/templates/NAME.json          the site's

Each file holds what a kernelspec's config may hold. The user's hides the site's of the same name, and may
extend it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from platformdirs import user_config_path

from farkernel.provisioners.errors import RequestError, TemplateNotFound
from farkernel.provisioners.json_places import NotJson, read_json
from farkernel.provisioners.layers import Layer, check_layer
from farkernel.provisioners.request import those

SITE = pathlib.Path("/etc/farkernel/templates")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LARGEST = 2**20
"""Bytes of a file: a job template has some hundreds."""
_EXAMPLE = '{"slurm": {"qos": …}}'


@dataclass(frozen=True)
class Found:
    """A template and its place.

    :param ours: the user's own, not the site's
    """

    name: str
    path: pathlib.Path
    ours: bool


class JobTemplates:
    """Those that a user has.

    :param user: the user's own directory; need not exist
    :param site: the site's
    """

    def __init__(self, user: pathlib.Path, site: pathlib.Path = SITE) -> None:
        self.user = user
        self.site = site

    def found(self) -> list[Found]:
        """Return each template, by name; one that is hidden by the user's own comes after that one.

        :raises RequestError: a directory cannot be read
        """
        return sorted(self._all(), key=lambda one: (one.name, not one.ours))

    def _all(self) -> Iterator[Found]:
        """Yield each template, the user's own first: what hides the site's needs none of these."""
        for folder in (self.user, self.site):
            for path in _files(folder):
                if _NAME.fullmatch(path.stem):
                    yield Found(path.stem, path, folder == self.user)

    def find(self, name: str, *, source: str = "", above: pathlib.Path | None = None) -> Found:
        """Return the template of that name.

        :param source: who asks for it, if that is a file; the message begins with it
        :param above: a template that extends it: a user's own may extend the site's of the same name
        :raises TemplateNotFound: there is none
        :raises RequestError: a directory that may have it cannot be read
        """
        for one in self._all():
            if one.name == name and one.path != above:
                return one
        names = {one.name for one in self._all() if not source.startswith(str(one.path))}
        own = above.parent if above and above.stem == name else None  # where it lies itself
        places = " or ".join(dict.fromkeys(str(folder) for folder in (self.user, self.site) if folder != own))
        missing = f'here is no job template "{name}" in {places}'
        hint = those(name, names) if names else "There is none; `farkernel template save` makes one."
        if own:
            hint = "A job template can extend only the site's of its own name: name another one, or remove extends."
        raise TemplateNotFound(
            f"{source}: t{missing}" if source else f"T{missing}",
            hint=hint,
        )

    def layers(self, layer: Layer) -> list[Layer]:
        """Return a layer with those that it extends below it, the lowest first; each is valid.

        :raises RequestError: one is not valid, is not there, or they extend each other in a circle
        """
        found, seen, above = [layer], set[pathlib.Path](), None
        while (name := check_layer(found[0]).extends) is not None:
            template = self.find(name, source=f"{found[0].source}: extends", above=above)
            if template.path in seen:
                raise RequestError(f'{found[0].source}: extends: "{name}" extends this one, directly or by others')
            seen.add(template.path)
            above = template.path
            found.insert(0, read(template.path))
        return found

    def save(self, name: str, config: Mapping[str, Any], *, replace: bool = False) -> pathlib.Path:
        """Write a user's own template, as a whole or not at all; return its file.

        :raises RequestError: its name or its content is not valid
        :raises FileExistsError: there is one of that name
        :raises OSError: it cannot be written
        """
        if not _NAME.fullmatch(name):
            raise RequestError(
                f'A job template cannot be named "{name}".',
                hint="It may have letters, digits, underscores and, not as the first, hyphens and full stops.",
            )
        path = self.user / f"{name}.json"
        self._check_new(Layer(f'the job template "{name}"', config), path)
        self.user.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2) + "\n"
        with tempfile.NamedTemporaryFile("w", dir=self.user, prefix=".", encoding="utf-8", delete=False) as file:
            try:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                if replace:
                    pathlib.Path(file.name).replace(path)
                else:
                    os.link(file.name, path)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.name)  # noqa: PTH108
        return path

    def _check_new(self, layer: Layer, path: pathlib.Path) -> None:
        """Validate what is to be written, with what it extends."""
        extends = check_layer(layer).extends
        if extends is None:
            return
        template = self.find(extends, source=f"{layer.source}: extends", above=path)
        if path in {pathlib.Path(one.source) for one in self.layers(read(template.path))}:
            raise RequestError(f'{layer.source}: extends: "{extends}" extends this one, directly or by others')


def job_templates() -> JobTemplates:
    """Return those of this user on this host (XDG Base Directory Specification)."""
    return JobTemplates(user_config_path("farkernel") / "templates")


def read(path: pathlib.Path) -> Layer:
    """Read one file.

    :raises RequestError: it cannot be read, or is no JSON; what it says is not looked at
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise RequestError(f"{path}: larger than {_LARGEST} bytes: no job template")
        return Layer(str(path), read_json(text.decode(), example=_EXAMPLE).value)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not JSON: not UTF-8") from error
    except NotJson as error:
        place = f"line {error.place.line}, column {error.place.column}"
        raise RequestError(f"{path}: not JSON: {error.what} ({place})", hint=error.advice) from error


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix == ".json"]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        hint = "Whoever owns it can let you read it, with chmod."
        raise RequestError(f"{folder}: the job templates cannot be read: {error.strerror}", hint=hint) from error
