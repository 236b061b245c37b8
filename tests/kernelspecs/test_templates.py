"""The templates themselves, and what a user's settings do to them."""

import json
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from farkernel.kernelspecs.templates import load_template, template_names
from farkernel.kernelspecs.wrapping import Wrapped, from_template, this_python
from farkernel.provisioners.effective import effective
from farkernel.provisioners.errors import FarkernelError, RequestError
from farkernel.provisioners.job_templates import job_templates
from farkernel.provisioners.request import parse_request

NAMES = ["cori-haswell", "cori-haswell-shifter", "cori-knl", "cori-knl-shifter", "local"]


def test_the_templates_have_these_names() -> None:
    assert template_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_a_kernelspec_that_jupyter_and_farkernel_take(name: str) -> None:
    template = load_template(name)

    assert template.spec["argv"] == [
        "python3",
        "-Xfrozen_modules=off",
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
    ]
    assert template.spec["language"] == "python"
    assert template.spec["interrupt_mode"] == "signal"
    assert template.spec["metadata"]["debugger"] is True
    parse_request(template.config, source=name)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_names_the_process_proxy_of_its_provisioners_kind(name: str) -> None:
    template = load_template(name)

    kind = {"farkernel-local": "Local", "farkernel-slurm": "Slurm"}[template.provisioner]
    proxy = {"class_name": f"farkernel.provisioners.enterprise_gateway.{kind}ProcessProxy"}
    assert template.spec["metadata"]["process_proxy"] == proxy


@pytest.mark.parametrize(
    ("name", "constraint", "threads"),
    [
        ("cori-haswell", "haswell", "32"),
        ("cori-knl", "knl", "68"),
        ("cori-haswell-shifter", "haswell", "32"),
        ("cori-knl-shifter", "knl", "68"),
    ],
)
def test_a_template_for_compute_nodes_asks_for_one_of_its_kind(name: str, constraint: str, threads: str) -> None:
    template = load_template(name)

    slurm = parse_request(template.config, source=name).slurm
    assert template.provisioner == "farkernel-slurm"
    assert (slurm.qos, slurm.constraint, slurm.nodes, slurm.time) == ("interactive", constraint, 1, "4:00:00")
    assert slurm.account is None
    assert template.spec["env"] == {"OMP_NUM_THREADS": threads}


def changed(name: str, changes: dict[str, Any] | None = None, **more: Any) -> Wrapped:
    return from_template(load_template(name), changes or {}, here=this_python(), runtime=lambda: "here", **more)


def config(of: Wrapped) -> Any:
    return of.content.spec["metadata"]["kernel_provisioner"]["config"]


def test_a_template_with_an_image_keeps_the_images_python() -> None:
    new = changed("cori-knl-shifter", {"container": {"image": "docker:my/image:1"}})

    assert new.content.spec["display_name"] == "Cori KNL (Shifter)"
    assert new.content.spec["argv"][0] == "python3"
    assert config(new)["container"] == {"runtime": "shifter", "image": "docker:my/image:1"}


def test_any_template_can_be_given_an_image() -> None:
    new = changed("cori-knl", {"container": {"image": "my"}})

    assert new.content.spec["argv"][0] == "python3"
    assert config(new)["container"] == {"runtime": "here", "image": "my"}


def test_the_local_template_has_no_slurm() -> None:
    template = load_template("local")

    assert template.provisioner == "farkernel-local"
    assert template.config == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_template_has_its_logos_in_the_sizes_that_jupyter_shows(name: str) -> None:
    logos = {name: file.content for name, file in load_template(name).content.files.items()}

    assert set(logos) == {"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"}
    for size in (32, 64):
        assert _png_size(logos[f"logo-{size}x{size}.png"]) == (size, size)
    assert ElementTree.fromstring(logos["logo-svg.svg"]).tag == "{http://www.w3.org/2000/svg}svg"


def test_no_two_templates_share_a_logo() -> None:
    logos = {load_template(name).content.files["logo-64x64.png"].content for name in NAMES}
    assert len(logos) == len(NAMES)


def test_an_unknown_name_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(FarkernelError, match=r"'cori-gpu'.*\n.*cori-haswell, .*cori-knl, .*local"):
        load_template("cori-gpu")


def test_what_is_asked_for_is_changed_and_nothing_else() -> None:
    template = load_template("cori-knl")
    slurm = {"account": "m1234", "qos": "regular", "time": "1:00:00", "constraint": "knl,quad"}

    new = changed("cori-knl", {"slurm": slurm}, display_name="My KNL", python="/opt/env/bin/python")

    expected = json.loads(json.dumps(template.spec))
    expected["display_name"] = "My KNL"
    expected["argv"][0] = "/opt/env/bin/python"
    expected["metadata"]["kernel_provisioner"]["config"]["slurm"] = {"nodes": 1, **slurm}
    assert new.content.spec == expected
    assert new.content.files == template.content.files


def test_a_job_template_wins_over_the_kernelspec_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    job_templates().save("short", {"slurm": {"time": "10", "qos": "debug"}})

    new = changed("cori-knl", {"extends": "short", "slurm": {"qos": "regular"}})

    assert config(new) == {"extends": "short", "slurm": {"constraint": "knl", "nodes": 1, "qos": "regular"}}
    assert effective(config(new), source="x").request.slurm.time == "10"
    assert "slurm.qos, slurm.time: what the job template short gives counts" in new.remarks[1]


def test_a_relative_python_becomes_absolute_and_stays_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "python").symlink_to("/usr/bin/env")

    assert changed("local", python="./python").content.spec["argv"][0] == str(tmp_path / "python")


def test_a_bare_python_is_left_to_the_nodes_path() -> None:
    assert changed("local", python="python3.12").content.spec["argv"][0] == "python3.12"


def test_a_template_without_slurm_stays_so() -> None:
    assert changed("local").content.spec["metadata"]["kernel_provisioner"]["provisioner_name"] == "farkernel-local"
    with pytest.raises(RequestError, match=r"without Slurm: slurm\.account, slurm\.qos cannot"):
        changed("local", {"slurm": {"account": "m1234", "qos": "debug"}})


def _png_size(content: bytes) -> tuple[int, int]:
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height
