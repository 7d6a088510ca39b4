"""A command in a container, with all that it starts."""

import asyncio
import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import docker.errors
import requests

from harness import waiting
from harness.engine import called
from harness.errors import HarnessError
from harness.process import all_stand, all_wait, descendants, ended_within, last_lines

T = TypeVar("T")

# A container that was killed is gone within milliseconds; a busy engine takes longer to say so.
_END_TIMEOUT_SECONDS = 30.0
_STAND_TIMEOUT_SECONDS = 10.0
# Docker's own way to say that a signal ended a command.
_SIGNALLED = 128


class Container:
    """A command in a container: a `Process`. It is removed when it was killed.

    Args:
        started: it was started.
        init: the engine's own process in it, whose only child is the command; 0 when it has ended.
        log: takes its output.
        on_exit: called in the event loop with its exit status.
        secrets: what is not to be in its log.
    """

    def __init__(
        self,
        started: Any,
        init: int,
        *,
        log: Path,
        on_exit: Callable[[int], None] = lambda _: None,
        secrets: Sequence[str] = (),
    ) -> None:
        self.log = log
        self._container = started
        self._on_exit = on_exit
        # Line by line, as it is printed; and none before another one that it is a part of.
        lines = {line.encode() for secret in secrets for line in secret.splitlines() if line}
        self._secrets = sorted(lines, key=len, reverse=True)
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._init = init
        self._pid = next(descendants(init), 0)
        self._paused = False
        loop = asyncio.get_running_loop()
        log.touch()  # who reads it may be sooner than the thread
        # Threads of their own, as each blocks for the container's life.
        self._logging = threading.Thread(target=self._copy_log, name=f"log-{started.name}", daemon=True)
        self._logging.start()
        threading.Thread(target=self._reap, args=(loop,), name=f"wait-{started.name}", daemon=True).start()

    @property
    def id(self) -> str:
        """What the engine calls it."""
        return str(self._container.id)

    @property
    def pid(self) -> int:
        """The command's process, as this machine calls it."""
        return self._pid

    @property
    def exit_status(self) -> int | None:
        """Its exit status, negative for a signal, or None while it runs."""
        return self._exited.result() if self._exited.done() else None

    def pids(self) -> list[int]:
        """What has been started in it and runs, but for its init."""
        return list(descendants(self._init))

    async def wait(self) -> int:
        """Wait until it has ended.

        Raises:
            HarnessError: the engine does not tell any more.
        """
        return await asyncio.shield(self._exited)

    async def pause(self) -> None:
        """Freeze it (the kernel's freezer, which nothing in it notices)."""
        await self._do("pause a container", self._container.pause)
        self._paused = True

    def resume(self) -> None:
        """Thaw it; or, of one that was started held, SIGCONT."""
        if self.exit_status is not None:
            return
        with contextlib.suppress(docker.errors.NotFound):
            if self._paused:
                called("resume a container", self._container.unpause)
                self._paused = False
            else:
                called("let a container go on", functools.partial(self._container.kill, "SIGCONT"))

    async def stopped(self) -> None:
        """Wait until it stands that was started held."""
        await waiting.until(
            lambda: bool(found := self.pids()) and all_stand(found),
            awaited=f"the container {self._container.name} to stand still",
            timeout_seconds=_STAND_TIMEOUT_SECONDS,
            interval_seconds=0.001,
        )

    async def idle(self) -> None:
        """Wait until all of its threads wait for something to happen."""
        await waiting.until(
            lambda: all_wait(self.pids),
            awaited=f"the container {self._container.name} to have nothing to do",
            timeout_seconds=_STAND_TIMEOUT_SECONDS,
            interval_seconds=0.001,
        )

    async def kill(self) -> int:
        """SIGKILL all of it, wait until it has ended and is removed; its exit status.

        Raises:
            HarnessError: the engine does not do it.
        """
        if self.exit_status is None:
            # The engine kills the first process, which takes the others with it, and thaws them all before: the server
            # of one that is paused could go on for a moment. What is told by the kernel dies where it stands.
            for pid in self.pids():
                with contextlib.suppress(OSError):  # it has ended, or is not ours to signal
                    os.kill(pid, signal.SIGKILL)
            await self._signal("SIGKILL")
        status = await waiting.within(
            self.wait(),
            awaited=f"the container {self._container.name} to end",
            timeout_seconds=_END_TIMEOUT_SECONDS,
        )
        await asyncio.to_thread(self._logging.join, _END_TIMEOUT_SECONDS)
        with contextlib.suppress(docker.errors.NotFound):
            await self._do("remove a container", functools.partial(self._container.remove, force=True, v=True))
        return status

    async def stop(self, timeout_seconds: float) -> bool:
        """Its signal to stop (SIGTERM, if the image says nothing else); SIGKILL at the deadline."""
        if self.exit_status is None:
            await self._signal(self._container.attrs["Config"].get("StopSignal") or "SIGTERM")
        in_time = await ended_within(self, timeout_seconds)
        await self.kill()
        return in_time

    def last_log_lines(self, count: int = 15) -> str:
        """The end of what it printed."""
        if self.exit_status is not None:
            self._logging.join(_STAND_TIMEOUT_SECONDS)
        return last_lines(self.log, count)

    async def _signal(self, name: str) -> None:
        try:
            await self._do("signal a container", functools.partial(self._container.kill, name))
        except HarnessError as error:
            if "is not running" not in str(error):
                raise
        except docker.errors.NotFound:
            pass

    async def _do(self, doing: str, call: Callable[[], T]) -> T:
        return await asyncio.to_thread(called, f"{doing} ({self._container.name})", call)

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            told = called("wait for a container", functools.partial(self._container.wait, timeout=None))
            status = told["StatusCode"]
            settle = functools.partial(self._settle, _SIGNALLED - status if status > _SIGNALLED else status)
        except (HarnessError, docker.errors.NotFound) as error:
            settle = functools.partial(self._lose, HarnessError(str(error)))
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle)

    def _settle(self, status: int) -> None:
        if not self._exited.done():
            self._exited.set_result(status)
            self._on_exit(status)

    def _lose(self, error: HarnessError) -> None:
        """The engine is gone, or somebody else has removed it: nobody knows what becomes of it, and it is no crash."""
        if not self._exited.done():
            self._exited.set_exception(error)
            self._exited.exception()  # who asks is told; that nobody asks is nothing to complain of

    def _copy_log(self) -> None:
        gone = contextlib.suppress(docker.errors.DockerException, requests.RequestException, OSError)
        with gone, self.log.open("ab", buffering=0) as log:
            for part in _lines(self._printed()) if self._secrets else self._printed():
                for secret in self._secrets:
                    part = part.replace(secret, b"***")
                log.write(part)

    def _printed(self) -> Iterator[bytes]:
        """All that it prints; what the engine passes on may end before a last line without an end, which is kept."""
        passed_bytes = 0
        for part in self._container.logs(stream=True, follow=True):
            passed_bytes += len(part)
            yield part
        self._container.wait(timeout=None)
        yield self._container.logs()[passed_bytes:]


def _lines(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same in whole lines, so that nothing is hidden by being in two parts."""
    unread = b""
    for part in parts:
        *lines, unread = (unread + part).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if unread:
        yield unread
