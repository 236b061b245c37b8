"""The states of a kernel's life."""

import re
from pathlib import Path

import pytest

from farkernel.provisioners.life import OUTCOMES, Life, Phase, Step, diagram, outcomes

ARCHITECTURE = Path(__file__).parents[2] / "docs/architecture.md"


def _after(*steps: Step) -> Life:
    life = Life()
    for step in steps:
        assert life.take(step), f"{step} leads nowhere from {life.phase}"
    return life


UP = (Step.SUBMITTED, Step.ALLOCATED, Step.READY)


def test_a_kernel_comes_up_is_restarted_and_shut_down() -> None:
    life = _after(*UP, Step.STOPPED, Step.ORDERED, Step.READY, Step.SHUT_DOWN, Step.RELEASED)
    assert (life.phase, life.ending) == (Phase.ENDED, Step.SHUT_DOWN)


def test_a_cancelled_start_can_be_tried_again() -> None:
    life = _after(Step.SUBMITTED, Step.WITHDRAWN, *UP)
    assert (life.phase, life.ending) == (Phase.RUNNING, None)


@pytest.mark.parametrize("late", [Step.READY, Step.KERNEL_ENDED, Step.JOB_ENDED, Step.NODE_LOST, Step.SHUT_DOWN])
def test_what_comes_too_late_changes_nothing(late: Step) -> None:
    life = _after(*UP, Step.JOB_ENDED)
    assert not life.take(late)
    assert (life.phase, life.ending) == (Phase.ENDING, Step.JOB_ENDED)


def test_nothing_leads_back_from_the_end() -> None:
    for step in Step:
        assert not _after(Step.SHUT_DOWN, Step.RELEASED).take(step)


def test_every_way_to_an_end_has_an_outcome() -> None:
    ends = {Phase.DEAD, Phase.ENDING}
    drawn = re.findall(r"^ +\w+ --> (\w+): (.+)$", diagram(), re.MULTILINE)
    steps = {step for target, names in drawn for step in names.split(", ") if target in ends}
    assert steps <= set(OUTCOMES)


@pytest.mark.parametrize("drawn", [diagram, outcomes])
def test_the_architecture_shows_the_table(drawn: object) -> None:
    assert callable(drawn)
    assert drawn() in ARCHITECTURE.read_text(encoding="utf-8")
