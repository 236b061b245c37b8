"""The terminal, as somebody who can be asked."""

import asyncio
import contextlib
import os
import termios
from collections.abc import Iterator

from farkernel.provisioners.errors import LoginDenied

_TERMINAL = "/dev/tty"
"""Not standard input, which may be something else (tty(4))."""


class Terminal:
    """Asks on the terminal; what is answered is neither shown nor kept."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def ask(self, about: str, prompt: str) -> str:
        """Ask for a line; see `farkernel.provisioners.ssh_questions.Prompter`."""
        async with self._turn:
            try:
                return await _ask(about, prompt)
            except (OSError, termios.error) as error:  # there is none, or it is not ours to read
                raise LoginDenied(
                    f"{about} There is no terminal to answer on.",
                    hint="Run this in a terminal, or log in without a question: with a key in the agent, or a "
                    "certificate that is valid.",
                ) from error

    async def again(self, why: str) -> None:
        """Wait until somebody presses Enter."""
        await self.ask(why, "Press Enter for another attempt. ")


async def _ask(about: str, prompt: str) -> str:
    terminal = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        with _silent(terminal):
            os.write(terminal, f"{_printable(about)}\n{_printable(prompt)}".encode())
            try:
                return await _line(terminal)
            finally:
                os.write(terminal, b"\n")
    finally:
        os.close(terminal)


def _printable(text: str) -> str:
    """Return what a host says without what would steer the terminal."""
    return "".join(character for character in text if character.isprintable() or character == "\n")


@contextlib.contextmanager
def _silent(terminal: int) -> Iterator[None]:
    """Show nothing of what is typed; what was typed before a question is no answer to it."""
    before = termios.tcgetattr(terminal)
    now = termios.tcgetattr(terminal)
    now[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, now)
        yield
    finally:
        with contextlib.suppress(termios.error):  # it was closed
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


async def _line(terminal: int) -> str:
    """Read a line without holding up the loop."""
    loop = asyncio.get_running_loop()
    there: asyncio.Future[None] = loop.create_future()

    def come() -> None:
        if not there.done():
            there.set_result(None)

    loop.add_reader(terminal, come)
    try:
        await there
        data = os.read(terminal, 4096)
    except OSError:
        data = b""
    finally:
        loop.remove_reader(terminal)
    if not data:
        raise LoginDenied("The terminal was closed instead of an answer.")
    return data.decode(errors="replace").rstrip("\r\n")
