"""A kernel that does what its cells say, word by word, to be run with a connection file.

- `busy`, `idle`, `reply`, `stream:<count>`: sends that
- `owe`: numbers a reply; `pay`: sends those that were owed
- `drop:<count>`: numbers messages that never arrive
- `wait`: until there is another request on shell; `next`: does that one before what follows here
- `thread`: prints something as the cell that was first
- `mark`: makes the file that `--mark` names; `big:<count>`: prints a megabyte
- `hold`: takes no more requests on shell without a subshell; `exit`: ends

`--unnumbered` gives messages ids that tell nothing.
"""

import argparse
import json
import pathlib
import sys
import uuid
from typing import Any

import zmq
from jupyter_client.session import Session

USUAL = "busy reply idle"


class Unnumbered(Session):
    @property
    def msg_id(self) -> str:
        return uuid.uuid4().hex


class Kernel:
    """Its sockets, and what it does with what comes there."""

    def __init__(self, info: dict[str, Any], session: Session, mark: pathlib.Path) -> None:
        context: zmq.Context[Any] = zmq.Context()
        self._session = session
        self._mark = mark
        self._iopub = context.socket(zmq.PUB)
        self._iopub.sndhwm = 0  # it drops what it is told to, and nothing else
        self._shell, self._control = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
        for name, socket in ("iopub", self._iopub), ("shell", self._shell), ("control", self._control):
            socket.bind(f"{info['transport']}://{info['ip']}-{info[f'{name}_port']}")
        self._held = False
        self._first: Any = None
        self._owed: list[tuple[Any, list[bytes]]] = []

    def run(self) -> None:
        """Take requests for ever."""
        poller = zmq.Poller()
        for socket in (self._shell, self._control):
            poller.register(socket, zmq.POLLIN)
        while True:
            for socket, _ in poller.poll():
                self._take(socket)

    def _take(self, socket: Any) -> None:
        identities, request = self._session.recv(socket, 0)
        assert request
        if self._held and socket is self._shell and not request["header"].get("subshell_id"):
            return
        if request["msg_type"] == "execute_request":
            self._first = self._first or request
        for word in request["content"].get("code", USUAL).split():
            name, _, count = word.partition(":")
            if name in {"reply", "owe"}:
                kind = request["msg_type"].replace("_request", "_reply")
                reply = self._session.msg(kind, {"status": "ok"}, parent=request)
                self._owed.append((socket, self._session.serialize(reply, identities)))
            if name in {"reply", "pay"}:
                for where, frames in self._owed:
                    where.send_multipart(frames)
                self._owed.clear()
            elif name in {"busy", "idle"}:
                self._publish("status", {"execution_state": name}, request)
            elif name in {"stream", "big"}:
                text = "0\n" if name == "stream" else "1" * 2**20
                for _ in range(int(count)):
                    self._publish("stream", {"name": "stdout", "text": text}, request)
            else:
                self._do(name, int(count or 0))

    def _do(self, name: str, count: int) -> None:
        if name == "drop":
            self._session.message_count += count
        elif name == "wait":
            self._shell.poll()
        elif name == "next":
            self._take(self._shell)
        elif name == "hold":
            self._held = True
        elif name == "thread":
            self._publish("stream", {"name": "stdout", "text": "0\n"}, self._first)
        elif name == "mark":
            self._mark.touch()
        elif name == "exit":
            sys.exit(3)

    def _publish(self, kind: str, content: dict[str, Any], request: Any) -> None:
        self._session.send(self._iopub, kind, content, parent=request, ident=b"kernel." + kind.encode())


def main() -> None:
    """Be the kernel of a connection file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("connection_file", type=pathlib.Path)
    parser.add_argument("--mark", type=pathlib.Path)
    parser.add_argument("--unnumbered", action="store_true")
    options = parser.parse_args()
    info = json.loads(options.connection_file.read_text(encoding="utf-8"))
    kind = Unnumbered if options.unnumbered else Session
    Kernel(info, kind(key=info["key"].encode()), options.mark).run()


if __name__ == "__main__":
    main()
