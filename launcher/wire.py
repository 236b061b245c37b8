"""The Jupyter messaging protocol's wire format, as far as somebody in between needs it.

https://jupyter-client.readthedocs.io/en/stable/messaging.html#wire-protocol
"""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import hashlib
import hmac
import json
import os
import uuid
from typing import Any

from farkernel.launcher.sockets import Frames

DELIMITER = b"<IDS|MSG>"
PROTOCOL_VERSION = "5.3"

_LONGEST_HEADER = 2**20
"""Bytes of a header that are looked at: it comes again in every answer."""


@dataclasses.dataclass(frozen=True)
class Message:
    """A message taken apart; the content stays as it came until it is asked for."""

    identities: list[bytes]
    header: dict[str, Any]
    parent: dict[str, Any]
    raw_content: Any

    @property
    def type(self) -> str:
        """The message's type, such as `execute_request`."""
        return text(self.header, "msg_type")

    @property
    def id(self) -> str:
        """The message's id."""
        return text(self.header, "msg_id")

    @property
    def session(self) -> str:
        """The id of the client's session."""
        return text(self.header, "session")

    @property
    def parent_id(self) -> str:
        """The id of the request that this message answers."""
        return text(self.parent, "msg_id")

    @property
    def content(self) -> dict[str, Any]:
        """The message's content; empty if that is no JSON object."""
        try:
            content = json.loads(bytes(self.raw_content))
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


def parse(frames: Frames) -> Message | None:
    """Take a message apart; None when it is not one of Jupyter's."""
    at = next((at for at, frame in enumerate(frames) if bytes(frame) == DELIMITER), len(frames))
    try:
        header, parent = _header(frames[at + 2]), _header(frames[at + 3])
        content = frames[at + 5]
    except (ValueError, IndexError, RecursionError):
        return None
    # What is nested in a header could be too deep for the answers that it comes in again.
    if not isinstance(header, dict) or any(isinstance(value, (dict, list)) for value in header.values()):
        return None
    # A message without a parent has an empty one; some kernels say null.
    return Message([bytes(frame) for frame in frames[:at]], header, parent if isinstance(parent, dict) else {}, content)


def _header(frame: Any) -> Any:
    if len(frame) > _LONGEST_HEADER:
        raise ValueError("too long")
    return json.loads(bytes(frame))


_PATIENCE = {"stream": 1, "display_data": 1, "update_display_data": 1, "execute_result": 1, "": 1, "status": 3}


def patience(message: Message | None) -> int:
    """Return how often as much as of mere output may be kept before a message of iopub is dropped.

    Without its states a cell would run for ever, and a widget go wrong without its messages. All the requests that a
    kernel may have (two states for each) need less: only one that says nothing else for ever loses a state.
    """
    return _PATIENCE.get(message.type if message else "", 2)


def text(header: dict[str, Any], name: str) -> str:
    """Return a header's field; empty if it is not there, or no text."""
    value = header.get(name)
    return value if isinstance(value, str) else ""


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # neither the environment nor the node's user database has it
        return str(os.getuid())


class Signer:
    """Makes messages that carry a kernel's own signature.

    :param key: the connection's key; empty for none
    :param scheme: as in a connection file, such as `hmac-sha256`
    :raises ValueError: the scheme is not known
    """

    def __init__(self, key: bytes, scheme: str) -> None:
        kind, _, digest = scheme.partition("-")
        if kind != "hmac" or digest not in hashlib.algorithms_available:
            raise ValueError(f"unknown signature scheme {scheme!r}")
        self._key = key
        self._digest = digest
        self._session = uuid.uuid4().hex
        self._username = _user_name()

    def header(self, msg_type: str) -> dict[str, Any]:
        """Return the header of a new message."""
        return {
            "msg_id": uuid.uuid4().hex,
            "session": self._session,
            "username": self._username,
            "date": datetime.datetime.now(datetime.UTC).isoformat(),
            "msg_type": msg_type,
            "version": PROTOCOL_VERSION,
        }

    def message(
        self,
        msg_type: str,
        content: dict[str, Any],
        *,
        parent: dict[str, Any] | None = None,
        identities: list[bytes] | None = None,
    ) -> list[bytes]:
        """Return the frames of a new message."""
        return self.frames(self.header(msg_type), content, parent=parent, identities=identities)

    def frames(
        self,
        header: dict[str, Any],
        content: dict[str, Any],
        *,
        parent: dict[str, Any] | None = None,
        identities: list[bytes] | None = None,
    ) -> list[bytes]:
        """Return the frames of a message with this header."""
        parts = [json.dumps(part).encode() for part in (header, parent or {}, {}, content)]
        return [*(identities or []), DELIMITER, self._sign(parts), *parts]

    def _sign(self, parts: list[bytes]) -> bytes:
        if not self._key:
            return b""
        mac = hmac.new(self._key, digestmod=self._digest)
        for part in parts:
            mac.update(part)
        return mac.hexdigest().encode()
