"""The system calls by which a running server changes state: recorded in one order, and one of them hit.

A call is named by its fingerprint, what is the same of it in another run, and by which of the calls with that
fingerprint it is since `arm`. Its ordinal, its place among the calls of all processes and threads, means the same call
in another run only while a server does one thing at a time.

    async with trace.attached(server.pid, store=database, log=folder / "tracer.log") as tracer:
        await tracer.arm(2, "kill", "pwrite64 store-wal 4096")
        ...                                         # send the message
        hit = await tracer.hit(timeout_seconds=5)
    tracer.records                                  # up to the hit
"""

import ast
import asyncio
import functools
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, Self

import msgspec

from harness import waiting
from harness.errors import HarnessError, brief, reason
from harness.process import ProcessGroup

Action = Literal["kill", "skip", "EIO", "ENOSPC"]
"""What happens at a call: the process group is killed, or the call is left out and reported as done, or as failed."""

# A module and no script: a script would be compiled at each start.
_PROGRAM = "import sys; sys.path.append(sys.argv.pop()); from harness.tracer import main; main()"


# It takes milliseconds; a loaded machine, or a task in uninterruptible I/O, can hold it.
_TIMEOUT_SECONDS = 10.0
_LONGEST_LINE_BYTES = 64 * 1024


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One call, as it was entered.

    Attributes:
        ordinal: its place among all recorded calls, from 1.
        call: the name of the system call.
        kind: what it acts on: `file` (a folder, too), `device`, `socket`, `pipe`, `eventfd`, another name that
            /proc has for it, or `closed`.
        path: of a file or a device.
        to: the new path of a renamed file.
        offset: in bytes, where the call has one; of a lock, its start.
        length: in bytes, as it was asked for; of a lock, its length (0: to the end), of ftruncate the new size.
        lock: RDLCK, WRLCK or UNLCK, of a call that locks.
        thread: 0, 1, 2 and so on, in the order in which the threads first appear in the records.
        result: what the call returned (negative: the errno), or None where that was not seen.
        fingerprint: what is the same in another run: the call, what it acts on (`store`, `store-wal` and so on for the
            store's files), and of a file of the store and an eventfd the length and the lock.
    """

    ordinal: int
    call: str
    kind: str
    path: str | None = None
    to: str | None = None
    offset: int | None = None
    length: int | None = None
    lock: str | None = None
    thread: int
    result: int | None
    fingerprint: str


class Tracer:
    """A tracer that is attached to a server; made by `Tracers.attached`.

    Args:
        program: what it is told by.
        group: the process group that it traces.
    """

    def __init__(self, program: ProcessGroup, group: int) -> None:
        self._program = program
        self._group = group
        self._attached, self._armed = asyncio.Event(), asyncio.Event()
        self._over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._refused: str | None = None
        self._records: list[Record] = []
        self._hit: int | None = None
        self.pid = 0
        """The process that traces."""
        self.ended = False
        """Whether every process of the server has ended while it was traced, other than by this tracer."""

    @property
    def is_over(self) -> bool:
        """Whether it has detached."""
        return self._over.done()

    @property
    def was_hit(self) -> bool:
        """Whether the tracer has told that it hit the call."""
        return self._hit is not None

    @property
    def records(self) -> tuple[Record, ...]:
        """The calls since `arm`, once the tracer has detached; until then none."""
        return tuple(self._records)

    async def arm(self, which: int | None = None, action: Action = "kill", fingerprint: str = "") -> None:
        """Record the calls from here on, and act at one of them; all earlier records are forgotten.

        The tracer detaches when it has acted: nothing after the hit is recorded.

        Args:
            which: of the calls to act at, from 1; None only records.
            action: what to do there, before the call takes effect.
            fingerprint: of the calls that are counted; by default all are, so that `which` is an ordinal.

        Raises:
            HarnessError: the server has ended, an earlier call was hit, or the tracer has failed.
            ValueError: `which` is less than 1.
        """
        if which is not None and which < 1:
            raise ValueError(f"calls are counted from 1, not {which}")
        self._armed.clear()
        self._program.write(f"arm {which or 0} {action} {fingerprint}\n".encode())
        await self._told(self._armed, "the tracer to be armed")

    async def hit(self, timeout_seconds: float) -> Record:
        """Wait until the call was hit and the tracer has detached, and return that call.

        Raises:
            WaitTimeout: it was not hit by the deadline.
            HarnessError: the server ended before that call, or the tracer has failed.
        """
        await self._until_over("the call to be hit", timeout_seconds)
        if self._hit is None:
            raise HarnessError(f"no call was hit: {self._why_over()}")
        return self._records[self._hit - 1]

    async def stop(self) -> tuple[Record, ...]:
        """Detach, if that has not happened yet, and return the calls since `arm`; the server goes on at full speed.

        Raises:
            HarnessError: the tracer has failed.
        """
        self._program.write(b"stop\n")
        await self._until_over("the tracer to detach", _TIMEOUT_SECONDS)
        return self.records

    # -- what it tells -------------------------------------------------------------------------------------------

    async def attach(self) -> None:
        """Wait until every task of the group is traced.

        Raises:
            HarnessError: there is no such group, or it cannot be traced; the text is one line.
            WaitTimeout: a thread of it does not stop.
        """
        self._program.write(f"attach {self._group}\n".encode())
        await self._told(self._attached, f"the tracer to attach to the process group {self._group}")

    def hear(self, line: bytes) -> None:
        """Take note of a line."""
        match ast.literal_eval(line.decode()):
            case "attached", pid:
                self.pid = pid
                self._attached.set()
            case ("armed",):
                self._armed.set()
            case "record", fields:
                self._records.append(Record(**fields))
            case "hit", ordinal:
                self._hit = ordinal
            case ("ended",):
                self.ended = True
            case "error", text:
                self._refused = text
            case "over", status:
                self.end(status)

    def end(self, status: int) -> None:
        """It is over, with that exit status."""
        if not self.is_over:
            self._over.set_result(status)

    async def _told(self, event: asyncio.Event, awaited: str) -> None:
        """Wait for an event of the tracer, or for its end."""
        told = asyncio.ensure_future(event.wait())
        try:
            await waiting.within(
                asyncio.wait((told, self._over), return_when=asyncio.FIRST_COMPLETED),
                awaited=awaited,
                timeout_seconds=_TIMEOUT_SECONDS,
            )
        finally:
            told.cancel()
        if not event.is_set():
            raise HarnessError(self._why_over())

    async def _until_over(self, awaited: str, timeout_seconds: float) -> None:
        await waiting.within(asyncio.shield(self._over), awaited=awaited, timeout_seconds=timeout_seconds)
        if self._over.result() != 0:
            raise HarnessError(self._why_over())

    def _why_over(self) -> str:
        if self._refused is not None:
            return self._refused
        if self._over.result() != 0:
            return f"the tracer has failed, its log ends with {brief(self._program.last_log_lines())}"
        if self._hit is not None:
            return f"the tracer has detached after it hit call {self._hit}"
        if self.ended:
            return f"every process of the group {self._group} has ended"
        return "the tracer was stopped"


class Tracers:
    """The program that traces one server after the other; made by `started`, ended by `close`."""

    def __init__(self, process: ProcessGroup, lines: asyncio.StreamReader) -> None:
        self._process = process
        self._tracer: Tracer | None = None
        self._listening = asyncio.create_task(self._listen(lines))

    @classmethod
    async def started(cls, *, store: Path | None = None, log: Path) -> Self:
        """Start it; it stands by until there is something to trace.

        Args:
            store: the database file as the server calls it, without links; its files have names of their own in the
                records' fingerprints.
            log: takes what a failing tracer prints.
        """
        process = ProcessGroup(_command(store), log=log, pipes=True)
        return cls(process, await process.output(_LONGEST_LINE_BYTES))

    @property
    def is_running(self) -> bool:
        """Whether it can trace another one."""
        return self._process.exit_status is None

    @asynccontextmanager
    async def attached(self, group: int) -> AsyncIterator[Tracer]:
        """Trace every process and thread of a process group, and those that they start; at the end, let go of them.

        While it is attached each system call of the server takes some 0.1 ms longer, and a wait that the attaching
        interrupts may return EINTR once. Where it is still attached at the end the whole program ends: that lets the
        server go on, whatever the tracer is doing.

        Args:
            group: the id of the process group.

        Raises:
            HarnessError: there is no such group, or it cannot be traced; the text is one line.
            WaitTimeout: a thread of it does not stop.
        """
        self._tracer = tracer = Tracer(self._process, group)
        try:
            await tracer.attach()
            yield tracer
        finally:
            if not tracer.is_over:
                await self.close()

    async def close(self) -> None:
        """End it, and with it the tracer that is attached, if one is."""
        await self._process.kill()
        await self._listening

    async def _listen(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            if self._tracer is not None:
                self._tracer.hear(line)
        status = await self._process.wait()
        self._process.close_pipes()
        if self._tracer is not None:
            self._tracer.end(status)


@asynccontextmanager
async def attached(group: int, *, store: Path | None = None, log: Path) -> AsyncIterator[Tracer]:
    """A tracer that is attached to a process group until the end; see `Tracers`."""
    tracers = await Tracers.started(store=store, log=log)
    try:
        async with tracers.attached(group) as tracer:
            yield tracer
    finally:
        await tracers.close()


@functools.cache
def lack() -> str | None:
    """Why system calls cannot be traced on this machine, in one line, or None: found out by tracing a process."""
    sleeper = [sys.executable, "-I", "-S", "-c", "input()"]
    try:
        with subprocess.Popen(sleeper, stdin=subprocess.PIPE, start_new_session=True) as process:
            lines = f"attach {process.pid}\nstop\n"
            told = subprocess.run(
                _command(None), input=lines, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
            )
            process.kill()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the tracer cannot be tried: {reason(error) if isinstance(error, OSError) else error}"
    match ast.literal_eval(told.stdout.partition("\n")[0] or "()"):
        case "attached", _:
            return None
        case "error", text:
            return str(text)
    return f"the tracer has failed: it printed {brief(told.stderr)}"


def _command(store: Path | None) -> list[str]:
    path = str(store) if store is not None else ""
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, path, str(Path(__file__).parent.parent)]
