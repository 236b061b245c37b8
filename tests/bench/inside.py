"""The measuring part: python -m tests.bench.inside PLACE ROUNDS MEASURE... prints a line of JSON for each sample."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping

from tests.bench import costs, measures
from tests.bench.place import PLACES, Place
from tests.bench.report import Sample

OF_CLIENTS: Mapping[str, Callable[[Place], Iterator[Sample]]] = {
    "start": measures.start,
    "roundtrip": measures.roundtrip,
    "throughput": measures.throughput,
    "prints": measures.prints,
}
"""What a client sees: this is measured on the laptop, too."""

MEASURES = {**OF_CLIENTS, "images": measures.start_in_image, "cpu": costs.cpu, "memory": costs.memory}


def main() -> int:
    """Measure everything once in each round; return how many failed to run."""
    place, rounds, names = PLACES[sys.argv[1]](), int(sys.argv[2]), sys.argv[3:]
    return sum(not _measure(place, name, number) for number in range(1, rounds + 1) for name in names)


def _measure(place: Place, name: str, number: int) -> bool:
    begin = time.monotonic()
    try:
        for sample in MEASURES[name](place):
            print(json.dumps([number, place.row.format(sample.row), *sample[1:]]), flush=True)
    except Exception:  # noqa: BLE001 (the others are to run all the same)
        traceback.print_exc()
        return False
    print(f"round {number}: {name} ({time.monotonic() - begin:.0f} s)", file=sys.stderr, flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
