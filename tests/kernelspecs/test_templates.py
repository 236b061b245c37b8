"""The templates themselves, and what a user's settings do to them."""

import json
import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest

from farkernel.kernelspecs.templates import Settings, apply_settings, load_template, template_names
from farkernel.provisioners.errors import FarkernelError, RequestError
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


def test_a_template_with_an_image_keeps_the_images_python() -> None:
    template = load_template("cori-knl-shifter")
    assert template.in_image
    assert template.display_name == "Cori KNL (Shifter)"
    changed = apply_settings(template, Settings(image="docker:my/image:1"))
    container = parse_request(changed.config, source="x").container
    assert (container.runtime, container.image) == ("shifter", "docker:my/image:1")
    assert changed.spec["argv"][0] == "python3"
    with pytest.raises(RequestError, match="--image cannot apply"):
        apply_settings(load_template("cori-knl"), Settings(image="docker:my/image:1"))


def test_the_local_template_has_no_slurm() -> None:
    template = load_template("local")

    assert template.provisioner == "farkernel-local"
    assert template.config == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_template_has_its_logos_in_the_sizes_that_jupyter_shows(name: str) -> None:
    logos = load_template(name).logos

    assert set(logos) == {"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"}
    for size in (32, 64):
        assert _png_size(logos[f"logo-{size}x{size}.png"]) == (size, size)
    assert ElementTree.fromstring(logos["logo-svg.svg"]).tag == "{http://www.w3.org/2000/svg}svg"


def test_no_two_templates_share_a_logo() -> None:
    assert len({load_template(name).logos["logo-64x64.png"] for name in NAMES}) == len(NAMES)


def test_an_unknown_name_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(FarkernelError, match=r"'cori-gpu'.*\n.*cori-haswell, .*cori-knl, .*local"):
        load_template("cori-gpu")


def test_settings_change_what_they_name_and_nothing_else() -> None:
    template = load_template("cori-knl")

    changed = apply_settings(
        template, Settings("My KNL", "/opt/env/bin/python", "m1234", "regular", "1:00:00", "knl,quad")
    )

    expected = json.loads(json.dumps(template.spec))
    expected["display_name"] = "My KNL"
    expected["argv"][0] = "/opt/env/bin/python"
    expected["metadata"]["kernel_provisioner"]["config"]["slurm"] = {
        "qos": "regular",
        "constraint": "knl,quad",
        "nodes": 1,
        "time": "1:00:00",
        "account": "m1234",
    }
    assert changed.spec == expected
    assert template == load_template("cori-knl")


def test_no_settings_change_nothing() -> None:
    template = load_template("cori-knl")

    assert apply_settings(template, Settings()) == template


def test_a_relative_python_becomes_absolute_and_stays_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "python").symlink_to("/usr/bin/env")

    changed = apply_settings(load_template("local"), Settings(python="./python"))

    assert changed.spec["argv"][0] == str(tmp_path / "python")


def test_a_bare_python_is_left_to_the_nodes_path() -> None:
    assert apply_settings(load_template("local"), Settings(python="python3.12")).spec["argv"][0] == "python3.12"


def test_slurm_settings_for_a_template_without_slurm_are_refused() -> None:
    with pytest.raises(RequestError, match="'local' runs its kernels without Slurm: --account, --qos cannot"):
        apply_settings(load_template("local"), Settings(account="m1234", qos="debug"))


def _png_size(content: bytes) -> tuple[int, int]:
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height
