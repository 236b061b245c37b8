"""What clients see while there is no kernel yet."""

from typing import Any

import pytest
from jupyter_client.session import Session

from farkernel.launcher import wire
from farkernel.launcher.protocol import Channel
from farkernel.provisioners.unanswered import executes
from farkernel.provisioners.waiting import WaitingRoom

KEY = b"key"
SERVER = b"\x00probe"
TEXT = "Slurm job 12 PENDING (Priority)"


class Room:
    """A waiting room, and what clients have got from it."""

    def __init__(self, *, show_queue: bool = True) -> None:
        self.client = Session(key=KEY)
        self.kernel = Session(key=KEY)
        self.got: list[tuple[Channel, list[bytes], Any]] = []
        self.room = WaitingRoom(
            wire.Signer(KEY, "hmac-sha256"), self._take, show_queue=show_queue, language="the language"
        )

    def ask(
        self,
        msg_type: str = "execute_request",
        *,
        identity: bytes = b"client",
        client: Session | None = None,
        **content: Any,
    ) -> tuple[Any, bool]:
        """Send a request; return it, and whether it is held."""
        client = client or self.client
        request = client.msg(msg_type, content)
        frames = client.serialize(request, ident=[identity])
        message = wire.parse(frames)
        assert message
        return request, self.room.take(Channel.SHELL, message, frames)

    def news(self, *kinds: str) -> list[Any]:
        """Return the messages of some kinds that came since the last call."""
        got, self.got = self.got, []
        return [message for _, _, message in got if message["msg_type"] in kinds]

    def publish(self, msg_type: str, content: dict[str, Any], parent: Any) -> bool:
        """Let the kernel publish something."""
        return self.room.watch_output(self.kernel.serialize(self.kernel.msg(msg_type, content, parent=parent)))

    def open(self) -> list[str]:
        """Let the kernel come; return the ids of what it gets."""
        parsed = [wire.parse(frames) for _, frames in self.room.open("Kernel on n1")]
        return [message.id for message in parsed if message]

    def _take(self, channel: Channel, frames: Any) -> None:
        identities, rest = self.client.feed_identities(list(frames))
        self.got.append((channel, identities, self.client.deserialize(rest)))


def test_everything_waits_and_goes_to_the_kernel_in_order() -> None:
    room = Room()
    requests = [
        room.ask(kind)[0] for kind in ("kernel_info_request", "comm_open", "execute_request", "execute_request")
    ]

    assert room.open() == [request["msg_id"] for request in requests]
    assert room.open() == []


def test_the_servers_own_probe_is_answered_at_once() -> None:
    room = Room()
    request, held = room.ask("kernel_info_request", identity=SERVER)

    assert not held
    (busy, reply, idle) = room.got
    assert [message["parent_header"]["msg_id"] for *_, message in room.got] == [request["msg_id"]] * 3
    assert busy[2]["content"] == {"execution_state": "busy"}
    assert (reply[0], reply[1], reply[2]["msg_type"]) == (Channel.SHELL, [SERVER], "kernel_info_reply")
    assert reply[2]["content"]["status"] == "ok"
    assert reply[2]["content"]["language_info"]["name"] == "the language"
    assert idle[2]["content"] == {"execution_state": "idle"}
    assert room.open() == []


def test_a_front_ends_question_waits_for_the_kernels_own_answer() -> None:
    room = Room()
    request, held = room.ask("kernel_info_request", identity=b"a-tab")

    assert held
    assert room.got == []
    assert room.open() == [request["msg_id"]]


def test_the_cell_that_waits_shows_what_it_waits_for() -> None:
    room = Room()
    first, _ = room.ask()
    room.ask()

    room.room.tell(TEXT)
    (shown,) = room.news("display_data")
    assert shown["parent_header"]["msg_id"] == first["msg_id"]
    assert shown["content"]["data"] == {"text/plain": TEXT}

    room.room.tell(TEXT)
    assert room.news("display_data", "update_display_data") == []

    room.room.tell("another reason")
    (update,) = room.news("display_data", "update_display_data")
    assert update["msg_type"] == "update_display_data"
    assert update["content"]["data"] == {"text/plain": "another reason"}
    assert update["content"]["transient"] == shown["content"]["transient"]


def test_a_cell_that_is_run_later_shows_it_at_once() -> None:
    room = Room()
    room.room.tell(TEXT)
    assert room.news("display_data") == []

    cell, _ = room.ask()

    (shown,) = room.news("display_data")
    assert shown["parent_header"]["msg_id"] == cell["msg_id"]


def test_each_client_sees_it_in_a_cell_of_its_own() -> None:
    room = Room()
    another = Session(key=KEY)
    room.room.tell(TEXT)
    first, _ = room.ask()
    second, _ = room.ask(client=another)

    shown = room.news("display_data")

    assert [message["parent_header"]["msg_id"] for message in shown] == [first["msg_id"], second["msg_id"]]


def test_a_silent_cell_shows_nothing() -> None:
    room = Room()
    room.room.tell(TEXT)
    room.ask(silent=True)
    assert room.news("display_data") == []

    room.ask()
    assert len(room.news("display_data")) == 1


def test_the_queue_is_not_shown_to_who_does_not_want_it() -> None:
    room = Room(show_queue=False)
    request, _ = room.ask()
    room.room.tell(TEXT)

    assert room.news("display_data", "update_display_data") == []
    assert room.open() == [request["msg_id"]]
    assert room.news("clear_output", "display_data") == []


def test_a_kernel_that_waits_is_busy_for_the_server() -> None:
    room = Room()
    room.room.tell(TEXT)
    room.room.tell(TEXT)

    assert [message["content"] for message in room.news("status")] == [{"execution_state": "busy"}] * 2


def test_only_states_that_the_protocol_knows_are_published() -> None:
    room = Room()
    room.ask("kernel_info_request", identity=SERVER)
    room.ask()
    room.room.tell(TEXT)
    room.open()

    states = {message["content"]["execution_state"] for message in room.news("status")}
    assert states <= {"starting", "idle", "busy", "restarting", "dead"}


@pytest.mark.parametrize("kind", ["stream", "display_data", "execute_result", "error"])
def test_the_text_goes_with_the_cells_first_output(kind: str) -> None:
    room = Room()
    cell, _ = room.ask()
    room.room.tell(TEXT)
    room.open()

    (cleared,) = room.news("clear_output")
    assert cleared["content"] == {"wait": True}
    assert cleared["parent_header"]["msg_id"] == cell["msg_id"]
    assert room.publish("status", {"execution_state": "busy"}, cell)
    assert room.publish("execute_input", {"code": "1"}, cell)
    assert not room.publish(kind, {}, cell)
    assert room.news("clear_output") == []


def test_in_a_cell_without_output_it_goes_before_the_idle() -> None:
    room = Room()
    cell, _ = room.ask()
    room.room.tell(TEXT)
    room.open()
    room.news()

    assert room.publish("status", {"execution_state": "busy"}, cell)
    assert room.publish("status", {"execution_state": "idle"}, CLIENT_OF_ANOTHER)
    assert not room.publish("status", {"execution_state": "idle"}, cell)

    (cleared,) = room.news("clear_output")
    assert cleared["content"] == {"wait": False}


CLIENT_OF_ANOTHER = Session(key=KEY).msg("execute_request")


def test_without_a_cell_nothing_is_watched_for() -> None:
    room = Room()
    room.ask("kernel_info_request")
    room.room.tell(TEXT)
    room.open()

    assert not room.publish("stream", {}, CLIENT_OF_ANOTHER)
    assert room.news("clear_output") == []


def test_cells_that_are_cancelled_do_not_run() -> None:
    room = Room()
    comm, _ = room.ask("comm_open")
    room.ask()
    room.ask()
    room.room.tell(TEXT)

    room.room.drop(executes)
    later, _ = room.ask()

    assert len(room.news("clear_output")) == 1
    assert room.open() == [comm["msg_id"], later["msg_id"]]
