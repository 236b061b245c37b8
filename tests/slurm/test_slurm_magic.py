"""The magics of slurm-magic, such as %squeue and %%sbatch, in a kernel on a node."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Site
from tests.slurm.helpers import Specs, eventually, jobs, kernel, slurm

pytestmark = pytest.mark.usefixtures("cluster")

BATCH = """%%sbatch
#!/bin/bash
#SBATCH --constraint=knl --qos=debug --time=5 --nodes=1 --mem-per-cpu=50
#SBATCH --output={output}
srun --ntasks=2 hostname
echo "done by $SLURM_JOB_ID"
"""


@pytest.fixture
def output(cluster: Site) -> Iterator[Path]:
    """A file that every host sees."""
    file = Path.home() / "output-of-a-batch-job"
    yield file
    file.unlink(missing_ok=True)


async def test_they_see_and_submit_jobs(specs: Specs, output: Path) -> None:
    async with kernel(specs(slurm={"ntasks_per_node": 4, "mem": "1G"})) as (_, client):
        (own,) = jobs()
        assert (await client.run("%load_ext slurm_magic")).status == "ok"

        shown = (await client.run("%squeue -u alice")).result
        assert "JOBID" in shown
        assert re.search(rf"^0 +{own} +knl +\S+ +alice +R ", shown, re.MULTILINE)
        table = await client.run("queue = %squeue -u alice\nprint(list(queue['JOBID']), queue['ST'][0])")
        assert table.stdout == f"[{own}] R\n"

        said = (await client.run(BATCH.format(output=output))).result
        found = re.search(r"Submitted batch job (\d+)", said)
        assert found, said
        submitted = found[1]
        assert submitted != own
        ended = ["squeue", "--noheader", "--states=all", f"--jobs={submitted}", "--format=%T"]
        await eventually(lambda: slurm(*ended) not in {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"})
        written = await asyncio.to_thread(output.read_text)
        assert slurm(*ended) == "COMPLETED", written
        node, again, done = written.splitlines()
        assert node == again
        assert node.startswith("nid023")
        assert done == f"done by {submitted}"

        assert jobs() == [own]
        assert (await client.run("6 * 7")).result == "42"
