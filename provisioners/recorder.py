"""Writes down what becomes of one kernel: its record, and its log."""

from __future__ import annotations

import asyncio
import collections
import math
import time
from dataclasses import replace
from typing import Any

from farkernel.launcher.protocol import Event, KernelLog, Usage
from farkernel.provisioners.job import Status
from farkernel.provisioners.life import Phase, Step
from farkernel.provisioners.listing import local_time
from farkernel.provisioners.records import Record
from farkernel.provisioners.state_files import LOG_LIMIT, StateFiles
from farkernel.provisioners.writer import Writer

USAGE_INTERVAL = 30.0
"""Seconds between two records that differ in nothing but the kernel's usage."""

_FLUSH_INTERVAL = 0.2
"""Seconds for which lines of the log are gathered: a kernel may write many."""

_SETTLE = 2.0
"""Seconds that a kernel's release waits for its record to be gone."""

_NO_JOB: dict[str, Any] = {
    "job_id": None,
    "node": "",
    "reason": "",
    "launcher": 0,
    "started": None,
    "ends": None,
    "memory": None,
    "cpu": None,
}


class Recorder:
    """Is told by a kernel's session what happens; belongs to the background loop, and never makes it wait.

    :param record: the kernel, before its first start
    """

    def __init__(self, record: Record, files: StateFiles, writer: Writer) -> None:
        self._loop = asyncio.get_running_loop()
        self._record = record
        self._files = files
        self._writer = writer
        self._usage_written = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._unwritten: collections.deque[str] = collections.deque()
        self._unwritten_size = 0
        self._left_out = 0
        self._flushing: asyncio.TimerHandle | None = None
        self._line_is_open = False
        self._over = False
        self._gone: asyncio.Event | None = None
        self._waiting: asyncio.Task[None] | None = None

    def stays_until(self, gone: asyncio.Event) -> None:
        """Its job outlasts the kernel, for Slurm does not answer: the record stays for those who may end it."""
        self._gone = gone

    def step(self, step: Step, phase: Phase) -> None:
        """The kernel's life has gone on."""
        changes: dict[str, Any] = {"phase": phase}
        if step is Step.SUBMITTED:
            changes |= {**_NO_JOB, "submitted": time.time(), "why": ""}
        elif step is Step.READY:
            changes["started"] = time.time()
        self._log(f"{phase}: {step}{self._where}")
        if step is Step.WITHDRAWN:
            changes |= _NO_JOB
        self._change(**changes)
        if step is Step.RELEASED:
            self._retire()

    def status(self, status: Status) -> None:
        """More is known of its job."""
        if status.job_id and status.job_id != self._record.job_id:
            self._log(f"Slurm job {status.job_id}")
        reason = status.reason if status.state.waiting else ""
        self._change(job_id=status.job_id, node=status.nodes, reason=reason, launcher=status.launcher)

    def ends(self, when: float) -> None:
        """The job's end is known, or was moved; in seconds since 1970, infinity for no limit."""
        self._change(ends=when if when < math.inf else None)

    def event(self, event: Event) -> None:
        """The launcher has told something."""
        if isinstance(event, KernelLog):
            self._append(event.text)
            self._line_is_open = not event.text.endswith("\n")
        elif isinstance(event, Usage) and not self._over:
            self._record = replace(self._record, memory=event.memory, cpu=event.cpu)
            if self._timer is None:
                due = self._usage_written + USAGE_INTERVAL
                self._timer = self._loop.call_at(due, self._write_usage)

    def say(self, why: str) -> None:
        """Something has gone wrong, or has ended the kernel: why."""
        self._log(why)
        self._record = replace(self._record, why=why)

    async def closed(self) -> None:
        """Wait, for a moment, until all is written: the process may end after this."""
        self._flush()
        await self._writer.settle(_SETTLE)

    # ---- writing ----

    @property
    def _where(self) -> str:
        job = f"Slurm job {self._record.job_id}" if self._record.job_id else ""
        node = f"on {self._record.node}" if self._record.node else ""
        text = " ".join(part for part in (job, node) if part)
        return f" ({text})" if text else ""

    def _change(self, **changes: Any) -> None:
        record = replace(self._record, **changes)
        if record != self._record and not self._over:
            self._record = record
            self._write()

    def _write(self) -> None:
        record = self._record
        self._writer.do(lambda: self._files.write(record))

    def _write_usage(self) -> None:
        self._timer = None
        self._usage_written = self._loop.time()
        self._write()

    def _retire(self) -> None:
        self._over = True
        self._flush()
        if self._timer:
            self._timer.cancel()
        record = replace(self._record, ended=time.time())
        if self._gone:
            self._waiting = self._loop.create_task(self._retire_later(record, self._gone))
        else:
            self._writer.do(lambda: self._files.retire(record))

    async def _retire_later(self, record: Record, gone: asyncio.Event) -> None:
        await gone.wait()
        self._writer.do(lambda: self._files.retire(record))

    def _log(self, text: str) -> None:
        begin = "\n" if self._line_is_open else ""
        self._line_is_open = False
        self._append(f"{begin}[{local_time(time.time())}] {text}\n")
        self._flush()

    def _append(self, text: str) -> None:
        """Gather text; of more than a log has room for, its end is kept: it says why a kernel has ended."""
        self._unwritten.append(text)
        self._unwritten_size += len(text)
        while self._unwritten_size > LOG_LIMIT and len(self._unwritten) > 1:
            left_out = len(self._unwritten.popleft())
            self._unwritten_size -= left_out
            self._left_out += left_out
        if self._flushing is None:
            self._flushing = self._loop.call_later(_FLUSH_INTERVAL, self._flush)

    def _flush(self) -> None:
        if self._flushing:
            self._flushing.cancel()
            self._flushing = None
        text = "".join(self._unwritten)
        self._unwritten.clear()
        self._unwritten_size = 0
        if self._left_out:
            what = f"{self._left_out} characters are missing here: they came faster than they could be written"
            text, self._left_out = f"\n[{local_time(time.time())}] {what}.\n{text}", 0
        if text:
            self._writer.do(lambda: self._files.append(self._record.kernel_id, text), droppable=True)
