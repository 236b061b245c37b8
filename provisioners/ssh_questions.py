"""What a host, or a key, asks for while somebody logs in by ssh, and who answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import asyncssh

from farkernel.provisioners.errors import LoginDenied

CONNECT_TIMEOUT = 30.0
"""Seconds for connection, key exchange and authentication."""

_ROUNDS = 3
"""How often a host, or a key, may ask anew in one attempt; as ssh(1), NumberOfPasswordPrompts."""


class Prompter(Protocol):
    """Somebody who can be asked."""

    async def ask(self, about: str, prompt: str) -> str:
        """Ask for something that the host, or a key, wants to know; it is neither shown nor logged nor kept.

        :param about: who wants it, and what for
        :raises LoginDenied: nobody is there to be asked
        """

    async def again(self, why: str) -> None:
        """Wait for somebody who wants another attempt, after one that has asked and has failed."""


class Questions:
    """What is asked in one attempt to log in.

    :ivar asked: whether anything was
    :ivar failed: why there was no answer
    """

    def __init__(self, prompter: Prompter | None, occasion: str) -> None:
        self.asked = False
        self.failed: LoginDenied | None = None
        self._prompter = prompter
        self._occasion = occasion
        self._patience: asyncio.Timeout | None = None
        self._asking: set[asyncio.Task[str]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def options(self) -> dict[str, Any]:
        """Options of asyncssh."""
        if self._prompter is None:
            return {"login_timeout": CONNECT_TIMEOUT}
        return {"login_timeout": 0, "passphrase": self._passphrase}  # the host has a limit of its own

    @contextlib.asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """Limit the time that a host takes, not that of who is asked."""
        try:
            async with asyncio.timeout(seconds) as self._patience:
                yield
        finally:
            self._patience = None
            for task in self._asking:
                task.cancel()

    def client(self, host: str) -> Callable[[], asyncssh.SSHClient]:
        """Return what makes an asyncssh client that asks."""
        return lambda: _Client(self, host) if self._prompter else asyncssh.SSHClient()

    async def put(self, about: str, prompt: str) -> str | None:
        """Ask; None if nobody answers."""
        if self._prompter is None or self.failed:
            return None
        self.asked = True
        if self._patience:
            self._patience.reschedule(None)
        asking = self._loop.create_task(self._prompter.ask(f"{self._occasion}{about}", prompt))
        self._asking.add(asking)
        try:
            return await asking
        except LoginDenied as error:
            self.failed = error
            return None
        finally:
            self._asking.discard(asking)
            if self._patience and not self._patience.expired():
                self._patience.reschedule(self._loop.time() + CONNECT_TIMEOUT)

    def _passphrase(self, key: str) -> str | None:
        """Ask for a key's passphrase until it is the right one; asyncssh calls it in another thread."""
        about, answer = f"The key {key} has a passphrase.", None
        for _ in range(_ROUNDS):
            asking = self.put(about, "Passphrase: ")
            answer = asyncio.run_coroutine_threadsafe(asking, self._loop).result()
            if not answer or _opens(answer, key):  # as with ssh(1), nothing at all passes over the key
                break
            about = f"That is not the passphrase of the key {key}."
        return answer


def _opens(passphrase: str, key: str) -> bool:
    try:
        asyncssh.read_private_key(key, passphrase)
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError):
        return False
    return True


class _Client(asyncssh.SSHClient):
    """Passes on what a host asks."""

    def __init__(self, questions: Questions, host: str) -> None:
        self._questions = questions
        self._host = host
        self._rounds = {"password": 0, "keyboard": 0}

    def _again(self, kind: str) -> bool:
        self._rounds[kind] += 1
        return self._rounds[kind] <= _ROUNDS and self._questions.failed is None

    async def password_auth_requested(self) -> str | None:
        if not self._again("password"):
            return None
        return await self._questions.put(f"{self._host} asks for your password.", "Password: ")

    def kbdint_auth_requested(self) -> str | None:
        return "" if self._again("keyboard") else None

    async def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str] | None:
        words = " ".join(part for part in (name.strip(), instructions.strip()) if part)
        about = f"{self._host} asks:" + (f" {words}" if words else "")
        answers = []
        for prompt, _ in prompts:
            answer = await self._questions.put(about, prompt)
            if answer is None:
                return None
            answers.append(answer)
        return answers
