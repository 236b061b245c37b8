"""The set-ups of JupyterHub in the admin guide, loaded as a hub loads them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Configurable

PAGE = Path(__file__).parent.parent / "docs/admin-guide.md"


def _set_ups() -> Iterator[Any]:
    section = PAGE.read_text(encoding="utf-8").partition("\n## JupyterHub\n")[2].partition("\n## ")[0]
    for title, text in re.findall(
        r"^### ([^\n]*)\n(?:(?!^### ).)*?^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL
    ):
        yield pytest.param(text, id=title.partition(":")[0])


SET_UPS = list(_set_ups())


def test_there_is_one_for_each_spawner() -> None:
    assert [param.id for param in SET_UPS] == ["On the login node", "sshspawner", "batchspawner", "wrapspawner"]


@pytest.mark.parametrize("text", SET_UPS)
def test_a_hub_knows_all_that_it_sets(text: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.id == "sshspawner":
        ast.parse(text)  # it is not to be had as a package
        return
    application = pytest.importorskip("jupyterhub.app")  # the fast tests have no hub on the other interpreters
    file = tmp_path / "jupyterhub_config.py"
    file.write_text(text, encoding="utf-8")
    hub = application.JupyterHub()
    hub.load_config_file(str(file))
    spawner = hub.spawner_class(_deprecated_db_session=None, config=hub.config)

    assert hub.config.JupyterHub
    known = {application.JupyterHub, type(spawner), hub.authenticator_class}
    for _, _, child, settings in getattr(spawner, "profiles", []):
        known.add(child)
        assert set(settings) <= set(child.class_trait_names(config=True))
    traits = {
        kind.__name__: set(kind.class_trait_names(config=True))
        for cls in known
        for kind in cls.__mro__
        if issubclass(kind, Configurable)
    }
    unknown = {name: set(values) - traits.get(name, set()) for name, values in hub.config.items()}
    assert not any(unknown.values()), unknown
