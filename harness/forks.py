"""A target's own command that forks a server for each line that it is told, instead of starting one from nothing.

A server in an interpreted language spends most of its start on loading code. A target can offer a program that has
loaded everything and then waits (`server.fork` in its description): it reads a JSON line on its standard input for each
server that is wanted, forks one, and tells its process id and, when that has ended, its exit status as JSON lines on
its standard output. docs/target.md says what the child has to do, and how to go about it where nothing can fork.
"""

import asyncio
import contextlib
import queue
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from harness import waiting
from harness.errors import TargetError
from harness.process import ProcessGroup

_TIMEOUT_SECONDS = 20.0
_LONGEST_LINE_BYTES = 64 * 1024


class Wanted(msgspec.Struct, frozen=True):
    """A server that is to be forked.

    `log` is the file to which its output is appended. When it is `held`, it stops itself (SIGSTOP) before it does
    anything.
    """

    log: str
    held: bool


class Told(msgspec.Struct, frozen=True):
    """A server was forked, or has ended: then with its exit status, negative for a signal."""

    pid: int
    status: int | None = None


class Forked:
    """A server that was forked: its process id, and its end."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.statuses: queue.SimpleQueue[int] = queue.SimpleQueue()

    def wait(self) -> int:
        """Block until it has ended; its exit status."""
        return self.statuses.get()


class ForkServer:
    """The program that forks, as long as it is wanted.

    Args:
        command: how it is started.
        folder: where it runs.
        env: added to its environment.
        log: takes what it prints on standard error.
    """

    def __init__(self, command: Sequence[str], *, folder: Path, env: Mapping[str, str], log: Path) -> None:
        self._process = ProcessGroup(command, cwd=folder, env=env, log=log, pipes=True)
        self._listening: asyncio.Task[None] | None = None
        self._forked: dict[int, Forked] = {}
        self._latest: asyncio.Future[Forked] | None = None

    async def fork(self, log: Path, *, held: bool = False) -> Forked:
        """Have a server, which is told of when it exists.

        Raises:
            TargetError: the program does not answer, or has ended.
        """
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(await self._process.output(_LONGEST_LINE_BYTES)))
        self._latest = asyncio.get_running_loop().create_future()
        self._process.write(msgspec.json.encode(Wanted(str(log), held)) + b"\n")
        try:
            return await waiting.within(self._latest, awaited="server.fork to fork", timeout_seconds=_TIMEOUT_SECONDS)
        except waiting.WaitTimeout as error:
            raise TargetError(f"{error}; its last lines:\n{self._process.last_log_lines()}") from error

    async def close(self) -> None:
        """End the program, by SIGTERM; the servers that it has forked go on."""
        await self._process.stop(_TIMEOUT_SECONDS)
        if self._listening is not None:
            await self._listening

    async def _listen(self, lines: asyncio.StreamReader) -> None:
        with contextlib.suppress(ValueError):  # a line that is too long, or nonsense: it is not spoken with any more
            while line := await lines.readline():
                self._hear(msgspec.json.decode(line, type=Told))
        self._process.close_pipes()
        if self._latest is not None and not self._latest.done():
            why = "server.fork told nothing that is known, or has ended; its last lines:\n"
            self._latest.set_exception(TargetError(why + self._process.last_log_lines()))
        for forked in self._forked.values():
            forked.statuses.put(_UNKNOWN)

    def _hear(self, told: Told) -> None:
        if told.status is not None:
            if (ended := self._forked.pop(told.pid, None)) is not None:
                ended.statuses.put(told.status)
            return
        self._forked[told.pid] = forked = Forked(told.pid)
        if self._latest is not None and not self._latest.done():
            self._latest.set_result(forked)


# Of a server whose parent has ended first, nobody learns the exit status.
_UNKNOWN = -9
