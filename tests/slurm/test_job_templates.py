"""Job templates on the cluster: what a kernelspec extends is what its job has."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import Site
from tests.slurm.helpers import PATIENCE, Specs, kernel, slurm

pytestmark = pytest.mark.usefixtures("cluster")

SITE = "/etc/farkernel/templates"


def farkernel(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "farkernel.provisioners.cli", *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_kernel_has_what_its_kernelspec_extends(
    specs: Specs, cluster: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    sites = json.dumps({"slurm": {"constraint": "knl", "comment": "of the site", "time": "7"}})
    script = f'mkdir -p {SITE} && printf %s "$1" > {SITE}/site-knl.json'
    cluster.run("cori01", "root", ["sh", "-c", script, "sh", sites])
    try:
        farkernel("template", "save", "mine", "--extends", "site-knl", "--time", "8")
        name = specs()
        for key in ("time", "constraint"):  # what a kernelspec gives itself would win
            _forget(tmp_path / f"share/jupyter/kernels/{name}/kernel.json", key)
        farkernel("template", "apply", "mine", name)
        async with kernel(name) as (_, client):
            cell = await client.run("import os; print(os.environ['SLURM_JOB_ID'])")
            job = slurm("scontrol", "show", "job", cell.stdout.strip())
    finally:
        cluster.run("cori01", "root", ["rm", "-r", "/etc/farkernel"])
    assert "TimeLimit=00:08:00" in job
    assert "Features=knl " in job
    assert "Comment=of the site" in job


def _forget(path: Path, key: str) -> None:
    content = json.loads(path.read_text())
    del content["metadata"]["kernel_provisioner"]["config"]["slurm"][key]
    path.write_text(json.dumps(content))
