"""`python -m tests.bench`: measures on the simulated cluster if it can be had, else here, and prints a table."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE

from rich.console import Console

from tests.bench.inside import MEASURES
from tests.bench.place import OnCluster, OnThisMachine, Place
from tests.bench.report import Results, Sample
from tests.bench.rows import ROWS
from tests.cluster import Cluster, UnavailableError, unavailable
from tests.cluster.cluster import ended_by_signals
from tests.cluster.control import ControlServer
from tests.cluster.site import CHECKOUT, LOGIN, PATH

_USER = "alice"
_ENVIRONMENT = {"PATH": f"{sys.prefix}/bin:{PATH}", "PYTHONDONTWRITEBYTECODE": "1"}


def main() -> int:
    """Return 0 unless something failed to run; a target that is missed is no failure."""
    options = _options()
    words = [str(options.rounds), *(options.only or MEASURES)]
    results = Results(ROWS)
    try:
        place, code = _measure_on_cluster(words, results)
    except UnavailableError as error:
        print(f"no cluster ({error}): farkernel-local is measured, without Slurm, network and ssh", file=sys.stderr)
        place, code = _measure_here(words, results)
    Console(width=None if sys.stdout.isatty() else 160).print(results.table(f"{options.rounds} rounds on {place.name}"))
    if options.json:
        options.json.write_text(json.dumps({"place": place.key, "rows": results.plain()}, indent=1) + "\n")
    return int(code != 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--only", action="append", choices=list(MEASURES), help="measure this alone; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there")
    return parser.parse_args()


def _measure_on_cluster(words: list[str], results: Results) -> tuple[type[Place], int]:
    if reason := unavailable():
        raise UnavailableError(reason)
    print("bringing the cluster up…", file=sys.stderr, flush=True)
    with ended_by_signals(), Cluster() as cluster, ControlServer(cluster, _USER):
        argv = [sys.executable, "-m", "tests.bench.inside", OnCluster.key, *words]
        with cluster.popen(LOGIN, _USER, argv, _ENVIRONMENT, cwd=CHECKOUT, stdin=DEVNULL, stdout=PIPE) as process:
            return OnCluster, _collect(process, results)


def _measure_here(words: list[str], results: Results) -> tuple[type[Place], int]:
    argv = [sys.executable, "-m", "tests.bench.inside", OnThisMachine.key, *words]
    with subprocess.Popen(argv, stdout=PIPE, text=True) as process:
        return OnThisMachine, _collect(process, results)


def _collect(process: "subprocess.Popen[str]", results: Results) -> int:
    assert process.stdout
    try:
        for line in process.stdout:
            number, *sample = json.loads(line)
            results.add(number, Sample(*sample))
        return process.wait()
    finally:
        process.terminate()


if __name__ == "__main__":
    sys.exit(main())
