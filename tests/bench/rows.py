"""The rows of the table: what is measured, and what is to be reached."""

from tests.bench.report import Row
from tests.bench.runtimes import RUNTIMES

_QUIET = 2.0
"""Percent of a core that may be taken while nothing moves."""

IDLE, DEAF, CUT, CUT_DONE = (
    "idle kernel",
    "after a flood to a client that does not read",
    "cut link, the kernel prints",
    "cut link, the kernel is done",
)
SIDES = ("login side", "launcher")


def image_row(runtime: str) -> str:
    """Return the name of a row, which says what farkernel is compared with: the runtime's own start of the kernel."""
    return (
        f"start to first result in an image; direct: srun {RUNTIMES[runtime].argv[0]} … python3 -m ipykernel_launcher"
    )


def cpu_row(what: str, side: str) -> str:
    """Return the name of a row."""
    return f"CPU, {what}: {side}"


ROWS = {
    "start to first result": Row("s", "direct", at_most=1.10),
    "execute_request p50": Row("ms", "direct", at_most=1.15),
    "execute_request p95": Row("ms", "direct", at_most=1.30),
    "execute_request p50, beside ssh": Row("ms", "ssh -L", at_most=1.0),
    "iopub, 200 messages of 1 MB": Row("MB/s", "ssh -L", at_least=1.0),
    "the same, messages lost": Row("", at_most=0),
    "10,000 prints": Row("s"),
    "the same, lines lost": Row("", at_most=0),
    **{image_row(runtime): Row("s", "direct", at_most=0.3, difference=True) for runtime in RUNTIMES},
    **{cpu_row(what, side): Row("%", at_most=_QUIET) for what in (IDLE, DEAF) for side in SIDES},
    **{cpu_row(CUT, side): Row("%") for side in SIDES},
    **{cpu_row(CUT_DONE, side): Row("%", at_most=_QUIET) for side in SIDES},
    "laptop: start to first result": Row("s", "ssh -J -L", at_most=1.10),
    "laptop: execute_request p50": Row("ms", "ssh -J -L", at_most=1.0),
    "laptop: execute_request p95": Row("ms", "ssh -J -L", at_most=1.0),
    "laptop: iopub, 200 messages of 1 MB": Row("MB/s", "ssh -J -L", at_least=1.0),
    "laptop: the same, messages lost": Row("", at_most=0),
    "laptop: 10,000 prints": Row("s", "ssh -J -L"),
    "laptop: the same, lines lost": Row("", at_most=0),
    "memory for each kernel more": Row("MB", at_most=2.0),
    "threads for each kernel more": Row(""),
    "child processes besides srun": Row("", at_most=0),
}
