"""Whatever a client has asked is answered, once, if not by the kernel."""

from typing import Any

import pytest
from jupyter_client.session import Session

from farkernel.launcher import wire
from farkernel.launcher.protocol import Channel
from farkernel.provisioners.unanswered import Problem, Request, Unanswered, answers, executes

KEY = b"key"
CLIENT = Session(key=KEY)
KERNEL = Session(key=KEY)
PROBLEM = Problem("KernelDied", "it has ended", ["line 1", "line 2"])


def _ask(unanswered: Unanswered, msg_type: str = "execute_request", channel: Channel = Channel.SHELL) -> Any:
    request = CLIENT.msg(msg_type, {"code": "1"})
    message = wire.parse(CLIENT.serialize(request, ident=[b"client"]))
    assert message
    unanswered.sent(channel, message)
    return request


def _reply(unanswered: Unanswered, request: Any) -> None:
    reply = KERNEL.msg("execute_reply", {"status": "ok"}, parent=request)
    unanswered.answered(Channel.SHELL, KERNEL.serialize(reply, ident=[b"client"]))


def _ids(requests: list[Request]) -> list[str]:
    return [request.message.id for request in requests]


def test_what_has_its_reply_is_not_answered_again() -> None:
    unanswered = Unanswered()
    first, second, third = (_ask(unanswered) for _ in range(3))

    _reply(unanswered, second)

    assert _ids(unanswered.take()) == [first["msg_id"], third["msg_id"]]
    assert unanswered.take() == []


def test_a_request_that_the_kernel_passes_over_is_not_open_for_ever() -> None:
    unanswered = Unanswered()
    _ask(unanswered, "usage_request")
    elsewhere = _ask(unanswered, "debug_request", Channel.CONTROL)
    cell, later, known = _ask(unanswered), _ask(unanswered, "is_complete_request"), _ask(unanswered, "history_request")

    _reply(unanswered, known)

    assert _ids(unanswered.take()) == [elsewhere["msg_id"], cell["msg_id"]]
    assert later


@pytest.mark.parametrize("kind", ["usage_request", "comm_msg", None])
@pytest.mark.parametrize(("channel", "subshell"), [(Channel.SHELL, ""), (Channel.SHELL, "s1"), (Channel.CONTROL, "")])
def test_what_a_kernel_says_nothing_to_counts_until_it_has_answered_what_came_after_it(
    kind: str | None, channel: Channel, subshell: str
) -> None:
    unanswered = Unanswered()
    signer = wire.Signer(KEY, "hmac-sha256")

    def send() -> None:
        message = CLIENT.msg(kind or "")
        message["header"] |= {"subshell_id": subshell} if subshell else {}
        unanswered.sent(channel, wire.parse(CLIENT.serialize(message)) if kind else None, 1000)

    send()
    send()
    ((where, question),) = unanswered.ask(signer)
    send()
    assert list(unanswered.ask(signer)) == []  # one at a time
    assert unanswered.bytes == 3000
    _, rest = CLIENT.feed_identities(question)
    asked: Any = CLIENT.deserialize(rest)
    assert (where, asked["header"].get("subshell_id", "")) == (channel, subshell if kind else "")

    reply = KERNEL.msg("kernel_info_reply", {"status": "ok"}, parent=asked)
    unanswered.answered(channel, KERNEL.serialize(reply))
    assert unanswered.bytes == 1000
    assert len(list(unanswered.ask(signer))) == 1


def test_a_kernel_that_is_gone_owes_nothing_and_the_next_one_is_asked_anew() -> None:
    unanswered = Unanswered()
    signer = wire.Signer(KEY, "hmac-sha256")
    for _ in range(2):
        unanswered.sent(Channel.SHELL, None, 1000)
        assert len(list(unanswered.ask(signer))) == 1
        assert unanswered.take() == []
        assert unanswered.bytes == 0


def test_what_is_open_is_counted_as_often_as_it_was_sent() -> None:
    unanswered = Unanswered()
    request = CLIENT.msg("execute_request", {"code": "1"})
    message = wire.parse(CLIENT.serialize(request, ident=[b"client"]))
    assert message
    for _ in range(3):
        unanswered.sent(Channel.SHELL, message, 1000)
    assert unanswered.bytes == 3000

    _reply(unanswered, request)

    assert unanswered.bytes == 0


def test_the_cell_that_runs_is_the_oldest() -> None:
    unanswered = Unanswered()
    assert unanswered.running() is None
    _ask(unanswered, "complete_request")
    assert unanswered.running() is None
    first, second = _ask(unanswered), _ask(unanswered)

    assert _ids([unanswered.running()]) == [first["msg_id"]]  # type: ignore[list-item]
    _reply(unanswered, first)
    assert _ids([unanswered.running()]) == [second["msg_id"]]  # type: ignore[list-item]


def test_cells_can_be_taken_alone() -> None:
    unanswered = Unanswered()
    info, cell = _ask(unanswered, "kernel_info_request"), _ask(unanswered)

    assert _ids(unanswered.take(executes)) == [cell["msg_id"]]
    assert _ids(unanswered.take()) == [info["msg_id"]]


@pytest.mark.parametrize("msg_type", ["comm_msg", "comm_open", "input_reply", ""])
def test_what_has_no_reply_is_not_waited_for(msg_type: str) -> None:
    unanswered = Unanswered()
    _ask(unanswered, msg_type)

    assert unanswered.take() == []


def test_what_is_no_reply_changes_nothing() -> None:
    unanswered = Unanswered()
    request = _ask(unanswered)
    unanswered.answered(Channel.SHELL, [b"nonsense"])
    _reply(unanswered, CLIENT.msg("execute_request"))

    assert _ids(unanswered.take()) == [request["msg_id"]]


def _answers(msg_type: str, channel: Channel = Channel.SHELL, *, aborted: bool = False) -> list[tuple[Channel, Any]]:
    """Return what a client reads when one request is answered in the kernel's place."""
    unanswered = Unanswered()
    request = _ask(unanswered, msg_type, channel)
    (open_one,) = unanswered.take()
    read = []
    for where, frames in answers(wire.Signer(KEY, "hmac-sha256"), open_one, PROBLEM, aborted=aborted):
        identities, rest = CLIENT.feed_identities(frames)
        message = CLIENT.deserialize(rest)
        assert message["parent_header"]["msg_id"] == request["msg_id"]
        assert identities == ([] if where == Channel.IOPUB else [b"client"])
        read.append((where, message))
    return read


def test_a_cell_gets_its_error_its_reply_and_its_idle() -> None:
    error, reply, idle = _answers("execute_request")

    assert (error[0], error[1]["msg_type"]) == (Channel.IOPUB, "error")
    told = {"ename": "KernelDied", "evalue": "it has ended", "traceback": ["line 1", "line 2"]}
    assert error[1]["content"] == told
    assert (reply[0], reply[1]["msg_type"]) == (Channel.SHELL, "execute_reply")
    assert reply[1]["content"] == told | {
        "status": "error",
        "execution_count": 0,
        "payload": [],
        "user_expressions": {},
    }
    assert (idle[0], idle[1]["content"]) == (Channel.IOPUB, {"execution_state": "idle"})


def test_a_cell_that_was_never_begun_is_aborted_without_an_error() -> None:
    reply, idle = _answers("execute_request", aborted=True)

    assert reply[1]["content"]["status"] == "aborted"
    assert idle[1]["content"] == {"execution_state": "idle"}


def test_another_request_gets_its_own_reply_where_it_was_asked() -> None:
    reply, idle = _answers("debug_request", Channel.CONTROL)

    assert (reply[0], reply[1]["msg_type"], reply[1]["content"]["status"]) == (Channel.CONTROL, "debug_reply", "error")
    assert idle[1]["content"] == {"execution_state": "idle"}


def test_a_problem_always_shows_something() -> None:
    assert Problem("Name", "a sentence").content["traceback"] == ["a sentence"]
