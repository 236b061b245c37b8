"""How many messages a kernel has numbered, and how many of them have come.

jupyter_client numbers what one session sends, on all its sockets together: `Session.msg_id` is
`<session>_<pid>_<number>`. Only the ids of states are looked at, so that output costs nothing but counting. A number
that has not come was dropped by the kernel's queue, if enough has come to have filled that, and if it is more than the
kernel itself may have left out: IPython numbers the result of a cell before it knows that there is nothing to send, as
for an object with `_ipython_display_` (`ZMQShellDisplayHook.start_displayhook` of ipykernel). Forked processes number
for themselves: their output hides as many losses. Kernels with other ids never miss anything here.
"""

from __future__ import annotations

MARGIN = 8
"""Numbers that may be missing for other reasons, such as what a hook of IPython has swallowed."""

QUEUE = 1000
"""Messages in a kernel's queue (ZMQ_SNDHWM's default); fewer cannot have filled it."""

STEP = QUEUE // 2
"""Messages that the queue has to have sent before it gets their room back, all at once (libzmq's pipe.cpp)."""

_DIGITS = 18
"""Digits of a number that can be one."""


class Numbers:
    """Counts what comes from one kernel.

    :ivar published: messages on iopub, to be counted by whoever receives them
    :ivar others: messages on the other sockets, the same
    :ivar late: requests that have their idle and no reply yet: it is numbered, and on its way on another socket
    :ivar unsent: messages that the kernel may have numbered and not sent since what was missing was told: one a cell
    """

    def __init__(self) -> None:
        self.published = 0
        self.others = 0
        self.late: set[str] = set()
        self.unsent = 0
        self._session = ""
        self._last = 0
        self._counted = 0
        self._others_counted = 0
        self._given_back = 0  # messages whose room the queue had back when it was last empty
        self._missing = 0

    def at(self, message_id: str) -> None:
        """Note the id of a state, the last message counted."""
        session, _, digits = message_id.rpartition("_")
        if not session or not digits.isdecimal() or len(digits) > _DIGITS:
            return
        number = int(digits)
        counted = self.published + self.others
        if session == self._session:
            self._missing += number - self._last - (counted - self._counted)
        else:
            self._session, self._missing = session, 0
        self._last, self._counted, self._others_counted = number, counted, self.others

    @property
    def surely(self) -> bool:
        """Whether more are missing than may be for other reasons."""
        return self.missing > self.unsent + MARGIN

    @property
    def missing(self) -> int:
        """How many have not come; less than none if what came on another socket has overtaken."""
        if self.published - self._given_back < QUEUE:
            return 0
        return self._missing - self._elsewhere

    @property
    def _elsewhere(self) -> int:
        """Replies with numbers from before the last state: those that have come since it, and those that will."""
        return self.others - self._others_counted + len(self.late)

    def told(self) -> None:
        """Begin to count anew: what is missing has been told."""
        self._missing = self._elsewhere
        self.unsent = 0

    def rest(self) -> None:
        """Nothing has come for a while: the kernel's queue is empty, and replies that have not come will not."""
        self.late.clear()
        self.told()
        self._given_back = self.published - self.published % STEP
