"""Ctrl-C and SIGTERM end a run once: what is under way cleans up first, and what comes meanwhile changes nothing."""

import asyncio
import signal
import threading
import time
from collections.abc import Coroutine
from typing import Any, Final

INTERRUPTED: Final = 2
"""The exit status of what was interrupted, as pytest has it."""

# What is under way has this long to clean up; then one more Ctrl-C ends it at once, and the reaper does the rest.
_GRACE_SECONDS = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Turns the first SIGINT or SIGTERM into one KeyboardInterrupt, which work in the event loop ends before."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Take over both signals; in another thread than the main one, where nobody may, nothing happens."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._heard) for number in _SIGNALS}

    def stop_listening(self) -> None:
        """Give both signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def ignore(self) -> None:
        """The run is ending anyway: as if it had been interrupted already."""
        self._first = time.monotonic()

    def run(self, runner: asyncio.Runner, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end.

        Raises:
            KeyboardInterrupt: it was interrupted, and has cleaned up.
        """
        handled = self._first

        async def whole() -> None:
            self._task = asyncio.current_task()
            try:
                await work
            finally:
                self._task = None

        try:
            runner.run(whole())
        finally:
            if self._first != handled:  # whatever else the interrupted work made of it
                raise KeyboardInterrupt

    def _heard(self, *_: object) -> None:
        now = time.monotonic()
        if self._first is not None:
            if now - self._first > _GRACE_SECONDS:
                raise KeyboardInterrupt
            return
        self._first = now
        if self._task is None:
            raise KeyboardInterrupt
        self._task.get_loop().call_soon_threadsafe(self._task.cancel)
