"""A target's own command that forks a server for each line that it is told, instead of starting one from nothing.

A server in an interpreted language spends most of its start on loading code. A target can offer a program that has
loaded everything and then waits (`server.fork` in its description): it reads a JSON line on its standard input for each
server that is wanted, forks one, and tells its process id and, when that has ended, its exit status as JSON lines on
its standard output. docs/target.md says what the child has to do, and how to go about it where nothing can fork.

The program is none of a run: it serves all that come after each other.
"""

import asyncio
import contextlib
import functools
import os
import queue
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from harness import waiting
from harness.errors import HarnessError, TargetError
from harness.process import ProcessGroup
from harness.target import Target, is_of_run, of_machine, put

_TIMEOUT_SECONDS = 20.0
_LONGEST_LINE_BYTES = 64 * 1024


class Wanted(msgspec.Struct, frozen=True):
    """A server that is to be forked: what would be its command, and what is added to its environment.

    `log` is the file to which its output is appended. When it is `held`, it stops itself (SIGSTOP) before it does
    anything.
    """

    command: list[str]
    env: dict[str, str]
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
    """The program that forks, from when the first server is wanted.

    Args:
        command: how it is started.
        folder: where it runs, and what it forks.
        env: added to its environment.
        log: takes what it prints on standard error.
    """

    def __init__(self, command: Sequence[str], *, folder: Path, env: Mapping[str, str], log: Path) -> None:
        self._start = functools.partial(ProcessGroup, command, cwd=folder, env=env, log=log, pipes=True)
        self._process: ProcessGroup | None = None
        self._listening: asyncio.Task[None] | None = None
        self._forked: dict[int, Forked] = {}
        self._latest: asyncio.Future[Forked] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process is None or self._process.exit_status is None

    async def fork(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, log: Path, held: bool = False
    ) -> Forked:
        """Have a server, which is told of when it exists.

        Args:
            command: that would start it.
            env: added to its environment.
            log: takes its output.
            held: it stops itself before it does anything.

        Raises:
            TargetError: the program cannot be started, does not answer, or has ended.
        """
        process = self._process or await self._begun()
        self._latest = asyncio.get_running_loop().create_future()
        process.write(msgspec.json.encode(Wanted(list(command), dict(env or {}), str(log), held)) + b"\n")
        try:
            return await waiting.within(self._latest, awaited="server.fork to fork", timeout_seconds=_TIMEOUT_SECONDS)
        except waiting.WaitTimeout as error:
            raise TargetError(f"{error}; its last lines:\n{process.last_log_lines()}") from error

    async def _begun(self) -> ProcessGroup:
        try:
            self._process = process = self._start()
        except HarnessError as error:
            raise TargetError(f"server.fork cannot be started: {error}") from error
        lines = await process.output(_LONGEST_LINE_BYTES)
        self._listening = asyncio.create_task(self._listen(process, lines))
        return process

    async def close(self) -> None:
        """End the program, by SIGTERM; the servers that it has forked go on."""
        if self._process is not None:
            await self._process.stop(_TIMEOUT_SECONDS)
        if self._listening is not None:
            await self._listening

    async def _listen(self, process: ProcessGroup, lines: asyncio.StreamReader) -> None:
        with contextlib.suppress(ValueError):  # a line that is too long, or nonsense: it is not spoken with any more
            while line := await lines.readline():
                self._hear(msgspec.json.decode(line, type=Told))
        process.close_pipes()
        if self._latest is not None and not self._latest.done():
            why = "server.fork told nothing that is known, or has ended; its last lines:\n"
            self._latest.set_exception(TargetError(why + process.last_log_lines()))
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


class Forks:
    """The programs that fork, one for each target that offers one, started when it is first wanted.

    Args:
        folder: takes their logs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs: dict[Path, ForkServer] = {}
        self._started: list[ForkServer] = []

    def of(self, target: Target) -> ForkServer | None:
        """That of a target, where it offers one."""
        if target.server.fork is None:
            return None
        program = self._programs.get(target.path)
        if program is None or not program.is_running:
            # What names a port or a database is of one server, and told with it.
            env = {name: put(value, of_machine()) for name, value in target.server.env.items() if not is_of_run(value)}
            command = [put(text, of_machine()) for text in target.server.fork]
            log = self._folder / f"fork-{os.getpid()}-{len(self._started)}.log"
            program = ForkServer(command, folder=target.folder, env=env, log=log)
            self._programs[target.path] = program
            self._started.append(program)
        return program

    async def close(self) -> None:
        """End all of them."""
        while self._started:
            await self._started.pop().close()
        self._programs.clear()


# Of a server whose parent has ended first, nobody learns the exit status.
_UNKNOWN = -9
