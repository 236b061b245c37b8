"""Job templates: found, extended, saved."""

import json
from pathlib import Path
from typing import Any

import pytest

from farkernel.provisioners.effective import effective
from farkernel.provisioners.errors import RequestError, TemplateNotFound
from farkernel.provisioners.job_templates import JobTemplates, job_templates
from farkernel.provisioners.layers import origin


@pytest.fixture
def templates(tmp_path: Path) -> JobTemplates:
    return JobTemplates(tmp_path / "user", tmp_path / "site")


def put(folder: Path, name: str, config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def refused(templates: JobTemplates, config: Any) -> str:
    with pytest.raises(RequestError) as error:
        effective(config, source="/k/kernel.json", templates=templates)
    return str(error.value)


def test_a_kernelspec_wins_over_what_it_extends(templates: JobTemplates) -> None:
    site = put(templates.site, "knl", {"slurm": {"constraint": "knl", "qos": "regular"}, "job": {"max_wait": "30m"}})
    put(templates.user, "mine", {"extends": "knl", "slurm": {"qos": "interactive", "time": 30}})
    found = effective({"extends": "mine", "slurm": {"time": 60}}, source="/k/kernel.json", templates=templates)
    slurm = found.request.slurm
    assert (slurm.constraint, slurm.qos, slurm.time) == ("knl", "interactive", "60")
    assert found.request.job.max_wait == 1800
    assert origin(found.layers, "slurm.constraint") == str(site)
    assert origin(found.layers, "slurm.time") == "/k/kernel.json"


def test_a_users_own_hides_the_sites_and_may_extend_it(templates: JobTemplates) -> None:
    put(templates.site, "knl", {"slurm": {"constraint": "knl", "qos": "regular"}})
    put(templates.user, "knl", {"extends": "knl", "slurm": {"qos": "debug"}})
    slurm = effective({"extends": "knl"}, source="/k/kernel.json", templates=templates).request.slurm
    assert (slurm.constraint, slurm.qos) == ("knl", "debug")
    assert [(one.name, one.ours) for one in templates.found()] == [("knl", True), ("knl", False)]


def test_null_takes_back_what_a_template_gives(templates: JobTemplates) -> None:
    put(templates.user, "t", {"slurm": {"qos": "debug", "nodes": 2}})
    slurm = effective({"extends": "t", "slurm": {"qos": None}}, source="x", templates=templates).request.slurm
    assert (slurm.qos, slurm.nodes) == (None, 2)


def test_a_template_that_is_not_there_is_named_with_those_that_are(templates: JobTemplates) -> None:
    put(templates.site, "knl", {})
    with pytest.raises(TemplateNotFound) as error:
        effective({"extends": "kln"}, source="/k/kernel.json", templates=templates)
    text = str(error.value)
    assert '/k/kernel.json: extends: there is no job template "kln"' in text
    assert "Did you mean knl?" in text


def test_what_is_wrong_in_a_template_names_the_templates_file(templates: JobTemplates) -> None:
    path = put(templates.site, "knl", {"slurm": {"nods": 2}})
    text = refused(templates, {"extends": "knl"})
    assert text == f"{path}: slurm.nods: unknown key (value 2); did you mean slurm.nodes?"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not JSON"),
        ("", 'not JSON: the file is empty (line 1, column 1)\nWrite an object: {"slurm": {"qos": …}}.'),
        ("[1]", "expected an object"),
        ("[" * 100_000, "not JSON"),
        (" " * 2**21, "larger than"),
        ("\udcff", "not JSON"),
    ],
)
def test_a_file_that_is_no_template_is_named(templates: JobTemplates, content: str, expected: str) -> None:
    path = put(templates.user, "t", {})
    path.write_bytes(content.encode(errors="surrogateescape"))
    text = refused(templates, {"extends": "t"})
    assert text.startswith(f"{path}: ")
    assert expected in text


def test_a_file_that_cannot_be_read_is_named(templates: JobTemplates) -> None:
    path = put(templates.user, "t", {})
    path.unlink()
    path.mkdir()
    assert refused(templates, {"extends": "t"}) == f"{path}: cannot be read: Is a directory"


def test_a_directory_that_cannot_be_read_is_not_one_without_templates(templates: JobTemplates) -> None:
    templates.site.symlink_to(templates.site)
    put(templates.user, "own", {})
    assert refused(templates, {"extends": "t"}).startswith(
        f"{templates.site}: the job templates cannot be read: Too many levels of symbolic links"
    )
    effective({"extends": "own"}, source="x", templates=templates)  # which hides the site's, if there is one


def test_a_circle_is_refused(templates: JobTemplates) -> None:
    put(templates.user, "a", {"extends": "b"})
    path = put(templates.user, "b", {"extends": "a"})
    assert refused(templates, {"extends": "a"}).startswith(f'{path}: extends: "a" extends this one')


def test_one_that_extends_itself_is_refused(templates: JobTemplates) -> None:
    path = put(templates.user, "a", {"extends": "a"})
    text = refused(templates, {"extends": "a"})
    assert text.startswith(f'{path}: extends: there is no job template "a" in {templates.site}\n')
    assert "A job template can extend only the site's of its own name" in text


def test_what_is_saved_is_found(templates: JobTemplates) -> None:
    path = templates.save("knl", {"slurm": {"qos": "debug"}})
    assert path == templates.user / "knl.json"
    assert effective({"extends": "knl"}, source="x", templates=templates).request.slurm.qos == "debug"
    assert list(templates.user.iterdir()) == [path]


def test_saving_overwrites_only_when_told_to(templates: JobTemplates) -> None:
    path = templates.save("knl", {"slurm": {"qos": "debug"}})
    with pytest.raises(FileExistsError):
        templates.save("knl", {})
    assert "debug" in path.read_text()
    templates.save("knl", {"slurm": {"qos": "regular"}}, replace=True)
    assert "regular" in path.read_text()
    assert list(templates.user.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("../x", {}, "cannot be named"),
        ("", {}, "cannot be named"),
        (".hidden", {}, "cannot be named"),
        ("x", {"slurm": {"nodes": "2"}}, "slurm.nodes: expected a whole number"),
        ("x", {"extends": "y"}, 'there is no job template "y"'),
        ("x", {"extends": "x"}, 'there is no job template "x"'),
    ],
)
def test_what_is_not_valid_is_not_saved(
    templates: JobTemplates, name: str, config: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RequestError, match=expected):
        templates.save(name, config)
    assert not templates.user.exists()


def test_a_circle_is_not_saved(templates: JobTemplates) -> None:
    templates.save("a", {})
    templates.save("b", {"extends": "a"})
    with pytest.raises(RequestError, match="extends this one"):
        templates.save("a", {"extends": "b"}, replace=True)


def test_the_users_own_lie_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert job_templates().user == tmp_path / "farkernel" / "templates"
    assert job_templates().site == Path("/etc/farkernel/templates")
