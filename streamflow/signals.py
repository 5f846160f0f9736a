"""Catches SIGINT and SIGTERM for a loop that polls, and wakes it."""

from __future__ import annotations

import contextlib
import signal
import socket
from typing import Any


class Signals:
    """While it is entered, signals are `caught` in their order, and `fileno` becomes readable."""

    def __init__(self) -> None:
        self.caught: list[int] = []

    def __enter__(self) -> Signals:
        self._wakeup, self._wake = socket.socketpair()
        self._wakeup.setblocking(False)
        self._wake.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._old = {
            number: signal.signal(number, lambda got, _frame: self.caught.append(got))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_exception: Any) -> None:
        signal.set_wakeup_fd(self._old_fd)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._wake.close()
        self._wakeup.close()

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._wakeup.fileno()

    def clear(self) -> None:
        """Read what made the descriptor readable."""
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(512)
