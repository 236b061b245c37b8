"""`python -m tests.bench`: measures on the simulated cluster if it can be had, else here, and prints a table."""

import argparse
import json
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from subprocess import DEVNULL, PIPE

from rich.console import Console

from tests.bench.inside import MEASURES, OF_CLIENTS
from tests.bench.place import OnCluster, OnLaptop, OnThisMachine, Place
from tests.bench.report import Results, Sample
from tests.bench.rows import ROWS
from tests.cluster import Cluster, UnavailableError, unavailable
from tests.cluster.cluster import ended_by_signals
from tests.cluster.control import ControlServer
from tests.cluster.site import CHECKOUT, HOSTS, LOGIN, PATH, Role

_USER = "alice"
_LAPTOP = next(name for name, spec in HOSTS.items() if spec.role is Role.LAPTOP)
_HOSTS: Mapping[str, tuple[type[Place], Collection[str]]] = {
    LOGIN: (OnCluster, MEASURES),
    _LAPTOP: (OnLaptop, OF_CLIENTS),
}
_ENVIRONMENT = {"PATH": f"{sys.prefix}/bin:{PATH}", "PYTHONDONTWRITEBYTECODE": "1"}


def main() -> int:
    """Return 0 unless something failed to run; a target that is missed is no failure."""
    options = _options()
    measures = options.only or list(MEASURES)
    results = Results(ROWS)
    place: type[Place]
    try:
        place, code = OnCluster, _measure_on_cluster(options.rounds, measures, options.host or list(_HOSTS), results)
    except UnavailableError as error:
        print(f"no cluster ({error}): farkernel-local is measured, without Slurm, network and ssh", file=sys.stderr)
        place, code = OnThisMachine, _measure_here([str(options.rounds), *measures], results)
    Console(width=None if sys.stdout.isatty() else 160).print(results.table(f"{options.rounds} rounds on {place.name}"))
    if options.json:
        options.json.write_text(json.dumps({"place": place.key, "rows": results.plain()}, indent=1) + "\n")
    return int(code != 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--only", action="append", choices=list(MEASURES), help="measure this alone; may be repeated")
    parser.add_argument("--host", action="append", choices=list(_HOSTS), help="measure from this host alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there")
    return parser.parse_args()


def _measure_on_cluster(rounds: int, measures: list[str], hosts: list[str], results: Results) -> int:
    """Measure from each host what can be measured there; return how many failed to run."""
    if reason := unavailable():
        raise UnavailableError(reason)
    print("bringing the cluster up…", file=sys.stderr, flush=True)
    with ended_by_signals(), Cluster() as cluster, ControlServer(cluster, _USER):
        failed = 0
        for host in hosts:
            place, there = _HOSTS[host]
            words = [place.key, str(rounds), *(name for name in measures if name in there)]
            argv = [sys.executable, "-m", "tests.bench.inside", *words]
            with cluster.popen(host, _USER, argv, _ENVIRONMENT, cwd=CHECKOUT, stdin=DEVNULL, stdout=PIPE) as process:
                failed += _collect(process, results)
        return failed


def _measure_here(words: list[str], results: Results) -> int:
    argv = [sys.executable, "-m", "tests.bench.inside", OnThisMachine.key, *words]
    with subprocess.Popen(argv, stdout=PIPE, text=True) as process:
        return _collect(process, results)


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
