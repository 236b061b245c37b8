"""When a silent node is told of, and when it is given up."""

from farkernel.provisioners.silence import NOTICED, News, Silence

LIMIT = 60.0


def _news(silence: Silence, heard: float, *, start: int, end: int) -> list[News]:
    """Look once a second; `heard` stays as it is."""
    found = (silence.look(heard, now=float(now)) for now in range(start, end))
    return [news for news in found if news]


def test_a_node_that_is_heard_is_no_news() -> None:
    silence = Silence(LIMIT, now=0.0)
    assert [silence.look(float(now), now=float(now)) for now in range(300)] == [None] * 300


def test_a_silent_node_is_told_once_and_so_is_that_it_is_back() -> None:
    silence = Silence(LIMIT, now=0.0)
    assert _news(silence, 5.0, start=5, end=50) == [News.SILENT]
    assert silence.lasted >= NOTICED
    assert silence.look(50.0, now=50.5) is News.BACK
    assert silence.look(51.0, now=51.5) is None


def test_a_short_silence_is_not_told() -> None:
    silence = Silence(LIMIT, now=0.0)
    assert _news(silence, 0.0, start=1, end=int(NOTICED)) == []
    assert silence.look(19.0, now=20.0) is None


def test_a_node_that_stays_silent_is_given_up_after_its_launcher_has_done_so() -> None:
    silence = Silence(LIMIT, now=0.0)
    assert _news(silence, 0.0, start=1, end=int(LIMIT) + 1) == [News.SILENT]
    assert _news(silence, 0.0, start=int(LIMIT) + 1, end=int(LIMIT) + 10)[0] is News.LOST


def test_a_host_that_has_slept_listens_anew_before_it_gives_up() -> None:
    silence = Silence(LIMIT, now=0.0)
    silence.look(1.0, now=1.0)
    assert silence.look(1.0, now=1000.0) is None
    assert silence.look(1000.5, now=1001.0) is None
