"""What the numbers of messages tell, and what they do not."""

import pytest

from farkernel.launcher.numbering import MARGIN, QUEUE, STEP, Numbers


class Kernel:
    """A session whose messages are counted as they come; states are looked at."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.number = 0
        self.publish()

    def publish(self, count: int = 1, *, state: str = "session_1_{}") -> None:
        """Publish messages, the last of which is a state."""
        self.number += count
        self.numbers.published += count
        self.numbers.at(state.format(self.number))

    def say(self) -> None:
        """Say something on another socket, that arrives."""
        self.number += 1
        self.numbers.others += 1


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_nothing_is_missing_when_all_has_come_on_whichever_socket(kernel: Kernel) -> None:
    kernel.publish(QUEUE)
    kernel.say()
    kernel.publish(3)
    assert kernel.numbers.missing == 0


def test_what_was_numbered_and_has_not_come_is_missing_until_it_is_told(kernel: Kernel) -> None:
    kernel.publish(QUEUE)
    kernel.number += 5
    kernel.publish()
    assert kernel.numbers.missing == 5
    kernel.numbers.told()
    assert kernel.numbers.missing == 0
    kernel.number += 2
    kernel.publish()
    assert kernel.numbers.missing == 2


def test_a_reply_that_comes_later_is_not_missing(kernel: Kernel) -> None:
    kernel.publish(QUEUE)
    kernel.number += 1
    kernel.publish()
    kernel.numbers.others += 1
    assert kernel.numbers.missing == 0
    kernel.publish()
    assert kernel.numbers.missing == 0


def test_a_reply_that_comes_before_its_time_hides_nothing_for_long(kernel: Kernel) -> None:
    kernel.publish(QUEUE)
    kernel.numbers.others += 1
    kernel.publish()
    kernel.number += 6
    kernel.publish()
    assert kernel.numbers.missing == 5  # one of the six is that reply


def test_a_reply_that_is_known_to_be_late_is_not_missing_and_hides_nothing(kernel: Kernel) -> None:
    kernel.publish(QUEUE)
    kernel.number += 2
    kernel.numbers.late |= {"one", "two"}
    kernel.publish()
    assert kernel.numbers.missing == 0
    kernel.numbers.told()
    for request in ("one", "two"):
        kernel.numbers.late.discard(request)
        kernel.numbers.others += 1
        assert kernel.numbers.missing == 0
    kernel.number += 3
    kernel.publish()
    assert kernel.numbers.missing == 3


def test_a_reply_that_never_comes_hides_nothing_once_the_kernel_was_quiet(kernel: Kernel) -> None:
    kernel.numbers.late.add("one")
    kernel.numbers.rest()
    kernel.publish(QUEUE)
    kernel.number += 2
    kernel.publish()
    assert kernel.numbers.missing == 2


def test_what_did_not_fill_a_queue_was_not_dropped_there(kernel: Kernel) -> None:
    """The kernel has numbered it and not sent it."""
    kernel.number += 5
    kernel.publish(QUEUE - 2)
    assert kernel.numbers.missing == 0
    kernel.numbers.rest()
    kernel.publish(QUEUE)
    assert kernel.numbers.missing == 0


@pytest.mark.parametrize("sent", [1, STEP - 1, STEP, 2 * STEP - 1, 3 * STEP])
def test_what_was_sent_takes_room_in_the_queue_until_a_step_is_full(kernel: Kernel, sent: int) -> None:
    kernel.publish(sent)
    kernel.numbers.rest()
    kernel.number += 5
    room = QUEUE - kernel.numbers.published % STEP
    kernel.publish(room - 1)
    assert kernel.numbers.missing == 0
    kernel.publish()
    assert kernel.numbers.missing == 5


def test_what_may_be_missing_for_other_reasons_is_not_surely_dropped(kernel: Kernel) -> None:
    kernel.publish(QUEUE)
    kernel.number += MARGIN
    kernel.publish()
    assert not kernel.numbers.surely
    kernel.number += 2
    kernel.publish()
    assert kernel.numbers.surely
    kernel.numbers.unsent += 2  # two cells
    assert not kernel.numbers.surely
    kernel.number += 1
    kernel.publish()
    assert kernel.numbers.surely
    kernel.numbers.told()
    kernel.number += MARGIN + 1
    kernel.publish()
    assert kernel.numbers.surely


@pytest.mark.parametrize("ids", ["another_1_{}", "plain-{}", "{}", "", "session_1_" + "9" * 30])
def test_other_ids_prove_nothing(kernel: Kernel, ids: str) -> None:
    kernel.publish(QUEUE)
    kernel.number += 5
    kernel.publish(state=ids)
    assert kernel.numbers.missing == 0
