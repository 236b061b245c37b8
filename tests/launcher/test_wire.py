"""What is made here, Jupyter's own code takes for its own; and the other way round."""

import pwd
from typing import Any

import pytest
from jupyter_client.session import Session

from farkernel.launcher import wire

KEY = b"0123-4567"


def _session(scheme: str = "hmac-sha256", key: bytes = KEY) -> Session:
    return Session(key=key, signature_scheme=scheme)


def _read(session: Session, frames: list[bytes]) -> tuple[list[bytes], dict[str, Any]]:
    identities, rest = session.feed_identities(frames)
    return identities, session.deserialize(rest)


@pytest.mark.parametrize("scheme", ["hmac-sha256", "hmac-sha512", "hmac-md5"])
def test_jupyter_accepts_the_signature(scheme: str) -> None:
    signer = wire.Signer(KEY, scheme)
    parent = signer.header("execute_request")
    frames = signer.message("execute_reply", {"status": "ok", "text": "ü"}, parent=parent, identities=[b"a", b"\x00b"])

    identities, message = _read(_session(scheme), frames)

    assert identities == [b"a", b"\x00b"]
    assert message["msg_type"] == message["header"]["msg_type"] == "execute_reply"
    assert message["content"] == {"status": "ok", "text": "ü"}
    assert message["parent_header"]["msg_id"] == parent["msg_id"]
    assert message["metadata"] == {}
    assert message["buffers"] == []


def test_jupyter_refuses_the_signature_of_another_key() -> None:
    frames = wire.Signer(b"another", "hmac-sha256").message("status", {})

    with pytest.raises(ValueError, match="Invalid Signature"):
        _read(_session(), frames)


def test_without_a_key_nothing_is_signed() -> None:
    frames = wire.Signer(b"", "hmac-sha256").message("status", {"execution_state": "busy"})

    assert _read(_session(key=b""), frames)[1]["content"] == {"execution_state": "busy"}


def test_a_header_has_all_that_the_protocol_demands() -> None:
    signer = wire.Signer(KEY, "hmac-sha256")
    first, second = signer.header("status"), signer.header("status")

    assert set(first) == {"msg_id", "session", "username", "date", "msg_type", "version"}
    assert first["msg_id"] != second["msg_id"]
    assert first["session"] == second["session"]
    assert _read(_session(), signer.frames(first, {}))[1]["header"]["date"].tzinfo is not None


@pytest.mark.parametrize("scheme", ["sha256", "hmac-", "hmac-nonsense", "rsa-sha256", ""])
def test_a_scheme_that_is_not_known_is_refused(scheme: str) -> None:
    with pytest.raises(ValueError, match="unknown signature scheme"):
        wire.Signer(KEY, scheme)


def test_a_user_without_a_name_can_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)

    assert wire.Signer(KEY, "hmac-sha256").header("status")["username"]


@pytest.mark.parametrize("identities", [[], [b"client"], [b"kernel.status"], [b"\x00abcd", b""]])
@pytest.mark.parametrize("buffers", [[], [b"", b"<IDS|MSG>", bytes(1000)]])
def test_a_message_of_jupyters_is_understood(identities: list[bytes], buffers: list[bytes]) -> None:
    session = _session()
    request = session.msg("execute_request", {"code": "1"})
    reply = session.msg("comm_msg", {"data": {"a": [1]}}, parent=request, metadata={"m": 1})
    frames = [*session.serialize(reply, ident=identities), *buffers]

    message = wire.parse(frames)

    assert message
    assert message.identities == identities
    assert message.type == "comm_msg"
    assert message.id == reply["header"]["msg_id"]
    assert message.parent_id == request["header"]["msg_id"]
    assert message.content == {"data": {"a": [1]}}


@pytest.mark.parametrize("parent", [b"{}", b"null"])
def test_a_message_without_a_parent(parent: bytes) -> None:
    message = wire.parse([b"topic", wire.DELIMITER, b"", b'{"msg_id": "1"}', parent, b"{}", b"{}"])

    assert message
    assert message.parent_id == ""


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"ping"],
        [wire.DELIMITER],
        [wire.DELIMITER, b"", b"{}", b"{}", b"{}"],
        [wire.DELIMITER, b"", b"no json", b"{}", b"{}", b"{}"],
        [wire.DELIMITER, b"", b"\xff", b"{}", b"{}", b"{}"],
        [wire.DELIMITER, b"", b"[]", b"{}", b"{}", b"{}"],
    ],
)
def test_what_is_none_of_jupyters_is_none(frames: list[bytes]) -> None:
    assert wire.parse(frames) is None
