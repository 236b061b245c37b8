"""The progress line of a start that somebody waits for at a terminal."""

from __future__ import annotations

import sys


class Progress:
    """Shows one line on stderr: in place on a terminal, a line for each news elsewhere."""

    def __init__(self) -> None:
        self.enabled = True
        self._last = ""

    def show(self, text: str) -> None:
        """Show what is being waited for."""
        # The waiting time alone is no news in a log file.
        news = text.partition("; waited")[0]
        if not self.enabled:
            return
        try:
            self._write(text, news)
        except (OSError, ValueError):
            self.enabled = False  # nobody reads it any more

    def _write(self, text: str, news: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
            self._last = news
        elif news != self._last:
            sys.stderr.write(f"{text}\n")
            self._last = news
        sys.stderr.flush()

    def done(self) -> None:
        """Leave the line."""
        if self.enabled and self._last and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._last = ""
