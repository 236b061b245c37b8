"""The link delivers each message once and in order, whatever the connection below it does."""

import asyncio
import collections
import random
import struct
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farkernel.launcher import link as link_module
from farkernel.launcher.link import Header, Kind, Link, LinkError
from farkernel.launcher.protocol import Channel

Frames = list[Any]
Delivered = list[tuple[Channel, int, int, Frames]]


class Clock:
    """As much of a loop as a link needs; time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, Timer]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> "Timer":
        timer = Timer(callback)
        self._timers.append((self.now + delay, timer))
        return timer

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for when, timer in self._timers if when <= self.now]
        self._timers = [(when, timer) for when, timer in self._timers if when > self.now]
        for timer in due:
            if not timer.cancelled:
                timer.callback()


class Timer:
    """A timer of the clock."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class End:
    """One end of a link, what it has sent and what was delivered to it."""

    def __init__(self, clock: Clock, transmit: Callable[[Frames], object], limit: int = 2**20) -> None:
        self.delivered: Delivered = []
        self.sent: Delivered = []
        self.full: list[bool] = []
        self.link = Link(
            cast("asyncio.AbstractEventLoop", clock), cast("Any", transmit), self._take, self.full.append, limit=limit
        )

    def send(self, *frames: Any, channel: Channel = Channel.IOPUB, kernel: int = 1, generation: int = 1) -> None:
        self.sent.append((channel, kernel, generation, list(frames)))
        self.link.send(channel, kernel, generation, list(frames))

    def _take(self, channel: Channel, kernel: int, generation: int, frames: Frames) -> None:
        self.delivered.append((channel, kernel, generation, frames))


class Pair:
    """A login side, a launcher, and a connection between them that can be treated badly.

    A way is a queue of frames; the one from the login side is 0.

    :param connect: the side that is connected to
    """

    def __init__(self, limit: int = 2**20, connect: str = "node") -> None:
        self.connect = connect
        self.clock = Clock()
        self.ways: list[collections.deque[Frames]] = [collections.deque(), collections.deque()]
        self.late: list[tuple[int, Frames]] = []
        self.login = End(self.clock, self.ways[0].append, limit)
        self.launcher = End(self.clock, self.ways[1].append, limit)

    def arrive(self, way: int) -> bool:
        """Let the next frame arrive."""
        if not self.ways[way]:
            return False
        (self.login if way else self.launcher).link.receive(self.ways[way].popleft())
        return True

    def arrive_all(self) -> None:
        while self.arrive(0) or self.arrive(1):
            pass

    def reconnect(self, keep: int = 0) -> None:
        """Break the connection and make a fresh one; up to `keep` frames of the old one come later all the same."""
        for way, queue in enumerate(self.ways):
            self.late += [(way, frames) for frames in list(queue)[:keep]]
            queue.clear()
        if self.connect == "node":
            self.login.link.hello()
        else:
            self.launcher.link.knock()

    def recover(self) -> None:
        """The connection is good from now on: pings go, and what is missing comes."""
        for _ in range(10):
            self.login.link.ping()
            if self.connect == "login" and not self.launcher.link.connected:
                self.launcher.link.knock()
            self.arrive_all()
            self.clock.advance(1)
            self.arrive_all()


class Trouble:
    """What can happen to a pair; each method is one thing."""

    def __init__(self, seed: int, connect: str) -> None:
        self.pair = Pair(connect=connect)
        self._chance = random.Random(seed)
        self._number = 0

    def run(self) -> None:
        self.pair.reconnect()
        often = [self.send] * 6 + [self.arrive] * 8
        for _ in range(self._chance.randrange(50, 300)):
            self._chance.choice([*often, self.lose, self.repeat, self.late, self.ping, self.time, self.reconnect])()

    def send(self) -> None:
        chance = self._chance
        self._number += 1
        body = struct.pack("!I", self._number) * chance.choice([1, 1, 1, 500, 300_000])
        end = chance.choice([self.pair.login, self.pair.launcher])
        end.send(b"", body, channel=chance.choice(list(Channel)), kernel=chance.randrange(3), generation=self._number)

    def arrive(self) -> None:
        self.pair.arrive(self._chance.randrange(2))

    def lose(self) -> None:
        queue = self._chance.choice(self.pair.ways)
        for _ in range(min(len(queue), self._chance.randrange(1, 5))):
            queue.popleft()

    def repeat(self) -> None:
        queue = self._chance.choice(self.pair.ways)
        if queue:
            queue.extendleft([queue[0]] * self._chance.randrange(1, 3))

    def late(self) -> None:
        if self.pair.late:
            way, frames = self.pair.late.pop(0)
            (self.pair.login if way else self.pair.launcher).link.receive(frames)

    def ping(self) -> None:
        self.pair.login.link.ping()

    def time(self) -> None:
        self.pair.clock.advance(self._chance.choice([0.01, 0.1, 1.0]))

    def reconnect(self) -> None:
        self.pair.reconnect(keep=self._chance.randrange(10))


@pytest.mark.parametrize("block", range(10))
@pytest.mark.parametrize("connect", ["node", "login"])
def test_each_message_arrives_once_and_in_order(connect: str, block: int) -> None:
    for seed in range(block * 40, block * 40 + 40):
        trouble = Trouble(seed, connect)
        trouble.run()
        pair = trouble.pair
        pair.recover()

        assert pair.launcher.delivered == pair.login.sent, f"seed {seed}"
        assert pair.login.delivered == pair.launcher.sent, f"seed {seed}"


def test_late_frames_of_an_older_connection_change_nothing() -> None:
    pair = Pair()
    pair.reconnect()
    pair.arrive_all()
    for number in range(20):
        pair.login.send(b"%d" % number)
        pair.launcher.send(b"%d" % number)
    pair.reconnect(keep=100)
    late = pair.late
    pair.arrive_all()

    for way, frames in late:
        (pair.login if way else pair.launcher).link.receive(frames)
    pair.login.send(b"after")
    pair.launcher.send(b"after")
    pair.arrive_all()

    assert pair.launcher.delivered == pair.login.sent
    assert pair.login.delivered == pair.launcher.sent


def test_nothing_goes_over_a_launchers_fresh_connection_before_it_is_opened() -> None:
    pair = Pair(connect="login")
    pair.reconnect()
    pair.arrive_all()
    pair.reconnect()
    pair.launcher.send(b"meanwhile")
    assert len(pair.ways[1]) == 1  # the knock
    pair.arrive_all()
    assert pair.login.link.epoch == pair.launcher.link.epoch == 2
    assert pair.login.delivered == pair.launcher.sent


@pytest.mark.parametrize("lost_way", [0, 1], ids=["the question", "the answer"])
def test_an_opening_that_is_lost_is_repeated(lost_way: int) -> None:
    pair = Pair()
    pair.reconnect()
    if lost_way:
        pair.arrive(0)
    pair.ways[lost_way].clear()

    pair.login.link.ping()
    pair.arrive_all()
    pair.login.send(b"at once")
    pair.launcher.send(b"at once")
    pair.arrive_all()  # no ping and no time from here on

    assert pair.launcher.delivered == pair.login.sent
    assert pair.login.delivered == pair.launcher.sent


@pytest.mark.parametrize("way", [0, 1], ids=["to the launcher", "to the login side"])
def test_a_ping_finds_that_the_last_message_was_lost(way: int) -> None:
    pair = Pair()
    pair.reconnect()
    pair.arrive_all()
    (pair.launcher if way else pair.login).send(b"last")
    pair.ways[way].clear()

    pair.login.link.ping()
    pair.arrive_all()

    assert pair.launcher.delivered == pair.login.sent
    assert pair.login.delivered == pair.launcher.sent


def test_what_is_sent_without_a_connection_waits_for_one() -> None:
    pair = Pair()
    pair.login.send(b"before")
    pair.launcher.send(b"before")

    assert not pair.ways[0]
    assert not pair.ways[1]

    pair.reconnect()
    pair.arrive_all()
    assert pair.launcher.delivered == pair.login.sent
    assert pair.login.delivered == pair.launcher.sent


class Body:
    """A frame of which one can tell whether somebody keeps it."""

    def __len__(self) -> int:
        return 100


def test_what_is_acknowledged_is_not_kept() -> None:
    pair = Pair()
    pair.reconnect()
    pair.arrive_all()
    bodies = [Body() for _ in range(10)]
    kept = weakref.WeakSet(bodies)
    for body in bodies:
        pair.launcher.link.send(Channel.IOPUB, 1, 1, [body])
    pair.login.delivered.clear()

    pair.arrive_all()
    pair.login.delivered.clear()
    del body
    bodies.clear()
    assert len(kept) == 10

    pair.clock.advance(1)
    pair.arrive_all()
    assert not kept


def test_an_acknowledgement_goes_without_time_passing_when_much_has_come() -> None:
    pair = Pair(limit=4 * link_module.ACK_BYTES)
    pair.reconnect()
    pair.arrive_all()

    for _ in range(100):
        pair.launcher.send(bytes(link_module.ACK_BYTES // 2))
        pair.arrive_all()

    assert pair.launcher.full == []


def test_it_is_bounded_in_bytes() -> None:
    pair = Pair(limit=12_000)
    for _ in range(9):
        pair.launcher.send(bytes(1000))
    assert pair.launcher.full == []

    pair.launcher.send(bytes(1000))
    pair.launcher.send(bytes(1000))
    assert pair.launcher.full == [True]

    pair.reconnect()
    pair.arrive_all()
    pair.clock.advance(1)
    pair.arrive_all()
    assert pair.launcher.full == [True, False]
    assert pair.login.delivered == pair.launcher.sent


def test_it_is_free_again_when_half_is() -> None:
    pair = Pair(limit=12_000)
    pair.reconnect()
    pair.arrive_all()
    for _ in range(11):
        pair.launcher.send(bytes(1000))

    for count in range(1, 12):
        assert pair.arrive(1)
        pair.login.link.ping()  # carries the acknowledgement
        pair.ways[0].rotate(1)
        pair.arrive(0)
        assert pair.launcher.full == ([True] if count < 7 else [True, False])


_ANY_HEADER = st.builds(
    Header,
    kind=st.integers(0, 255),
    channel=st.integers(0, 255),
    kernel=st.integers(0, 2**32 - 1),
    generation=st.integers(0, 2**32 - 1),
    number=st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1)),
    received=st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1)),
).map(lambda header: struct.pack("!BBIIQQ", *header))


@given(st.lists(st.lists(st.one_of(st.binary(max_size=40), _ANY_HEADER), max_size=3), max_size=5))
def test_garbage_is_refused_or_harmless(messages: list[Frames]) -> None:
    pair = Pair()
    for frames in messages:
        try:
            pair.launcher.link.receive(frames)
        except LinkError:
            continue

    assert all(isinstance(channel, Channel) for channel, *_ in pair.launcher.delivered)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"GET / HTTP/1.1"],
        [struct.pack("!BBIIQQ", Kind.DATA, 99, 1, 1, 1, 0), b"no such channel"],
        [struct.pack("!BBIIQQ", 99, 0, 0, 0, 0, 0)],
        [struct.pack("!BBIIQQ", Kind.ACK, 0, 0, 0, 0, 7)],
    ],
    ids=["nothing", "empty", "short", "channel", "kind", "acknowledges what was never sent"],
)
def test_what_breaks_the_rules_is_named_and_the_link_goes_on(frames: Frames) -> None:
    pair = Pair()
    pair.reconnect()
    pair.arrive_all()

    with pytest.raises(LinkError, match=r"\w"):
        pair.launcher.link.receive(frames)
    pair.login.send(b"good")
    pair.arrive_all()

    assert pair.launcher.delivered == pair.login.sent
