"""A command in a process group of its own: start, signal, wait, end, always the whole group."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from harness import reaper, waiting
from harness.errors import HarnessError, reason

# The kernel ends a killed process at once; only uninterruptible I/O can hold it.
_KILL_TIMEOUT_SECONDS = 10.0
_PROC = Path("/proc")
# The kernel's letters for what has ended.
_GONE = "ZX"


PRIVILEGES = ("DAC_OVERRIDE", "DAC_READ_SEARCH")
"""What keeps permission bits from binding root."""

_UNPRIVILEGED = ("setpriv", "--bounding-set=" + ",".join(f"-{name.lower()}" for name in PRIVILEGES), "--")


def unprivileged() -> tuple[str, ...]:
    """What stands before a command that permission bits have to bind."""
    return _UNPRIVILEGED if os.geteuid() == 0 else ()


class Process(Protocol):
    """A command that was started, with all that it starts."""

    log: Path

    @property
    def pid(self) -> int:
        """The process that leads its group, as this machine calls it; 0 of one that had ended before anybody looked."""

    @property
    def exit_status(self) -> int | None:
        """Its exit status, negative for a signal, or None while it runs."""

    def pids(self) -> list[int]:
        """All of its processes, as this machine calls them; none where there is no /proc."""

    async def wait(self) -> int:
        """Wait, without a deadline, until it has ended."""

    async def pause(self) -> None:
        """Stop all of it where it stands, and wait until it does."""

    def resume(self) -> None:
        """Let it go on that was paused, or that was started held."""

    async def stopped(self) -> None:
        """Wait until all of it stands still that was started held."""

    async def idle(self) -> None:
        """Wait until all of its threads wait for something to happen."""

    async def kill(self) -> int:
        """SIGKILL all of it, wait until nothing of it is left, and return its exit status."""

    async def stop(self, timeout_seconds: float) -> bool:
        """SIGTERM; SIGKILL what is left at the deadline. Returns whether it ended before."""

    def last_log_lines(self, count: int = 15) -> str:
        """The end of what it printed, for an error's text."""


class Leader(Protocol):
    """A process that leads its own session and process group."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def wait(self) -> int:
        """Block until it has ended; its exit status, negative for a signal."""


class ProcessGroup:
    """One command, running as the leader of its own session and process group; started, unless there is a `leader`.

    Its output (both streams) is appended to `log`; with `pipes`, only its standard error is, and it is spoken with by
    `write` and `output`. It is ended by the reaper if the harness dies. Must be made
    inside a running event loop; `on_exit` is called there, with the exit status as `subprocess` gives it
    (negative: the signal), when the leader has exited.

    Raises:
        HarnessError: the command cannot be started; the text names it and says why.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        on_exit: Callable[[int], None] = lambda _: None,
        pipes: bool = False,
        leader: Leader | None = None,
    ) -> None:
        self.command = tuple(command)
        self.log = log
        loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = loop.create_future()
        self._on_exit = on_exit
        self._input: asyncio.WriteTransport | None = None
        self._output: asyncio.ReadTransport | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        if leader is None:
            leader = self._popen = self._started(cwd, env, pipes=pipes)
        self._leader = leader
        self.pid = leader.pid
        reaper.hold("group", self.pid)
        # A thread of its own: the event loop's default pool is small, and this one blocks for the process's life.
        threading.Thread(target=self._reap, args=(loop,), name=f"wait-{self.pid}", daemon=True).start()

    def _started(self, cwd: Path | None, env: Mapping[str, str] | None, *, pipes: bool) -> subprocess.Popen[bytes]:
        try:
            reaper.stand_by()
            with self.log.open("ab") as output:
                return subprocess.Popen(
                    self.command,
                    cwd=cwd,
                    env={**os.environ, **(env or {})},
                    stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if pipes else output,
                    stderr=output,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:  # a ValueError: a null byte in an argument or a variable
            why = reason(error) if isinstance(error, OSError) else str(error)
            where = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
            raise HarnessError(f"cannot start {self.command[0]!r}: {why}{where}") from error

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        status = self._leader.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._settle, status)

    def _settle(self, status: int) -> None:
        if not self._exited.done():
            self._exited.set_result(status)
            self._on_exit(status)

    @property
    def exit_status(self) -> int | None:
        """The leader's exit status, or None while it runs."""
        return self._exited.result() if self._exited.done() else None

    async def wait(self) -> int:
        """Wait, without a deadline, until the leader has exited."""
        return await asyncio.shield(self._exited)

    async def output(self, longest_line_bytes: int) -> asyncio.StreamReader:
        """What it prints, of a command that was started with pipes; call it once, before `write`."""
        assert self._popen is not None
        loop = asyncio.get_running_loop()
        lines = asyncio.StreamReader(limit=longest_line_bytes)
        self._output, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), self._popen.stdout)
        self._input, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, self._popen.stdin)
        return lines

    def write(self, text: bytes) -> None:
        """Write to its standard input; what it does not read yet is kept, and lost with it."""
        assert self._input is not None
        self._input.write(text)

    def close_input(self) -> None:
        """End its standard input, once it has read what was written."""
        assert self._input is not None
        self._input.close()

    def close_pipes(self) -> None:
        """Give back what it was spoken with by; to be called when it has ended and all of its output is read."""
        for pipe in (self._input, self._output):
            if pipe is not None:
                pipe.close()

    def send_signal(self, number: signal.Signals) -> None:
        """Signal every process of the group; nothing happens when all are gone."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            # macOS says so of a group of which only zombies are left.
            if sys.platform != "darwin":
                raise

    def pids(self) -> list[int]:
        """The processes of the group; none where there is no /proc."""
        return list(_members(self.pid))

    async def pause(self) -> None:
        """SIGSTOP the group, and wait until all of it stands still: its threads stop one after the other."""
        self.send_signal(signal.SIGSTOP)
        await self.stopped()

    async def stopped(self) -> None:
        """Wait until all of it stands still, after something has stopped it."""
        await self._until(lambda: all_stand(self.pids()), "to stop after SIGSTOP")

    async def idle(self) -> None:
        """Wait until all threads of the group wait for something to happen; at once where there is no /proc."""
        await self._until(lambda: all_wait(self.pids), "to have nothing to do")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        await waiting.until(
            condition,
            awaited=f"the process group {self.pid} {what}",
            timeout_seconds=_KILL_TIMEOUT_SECONDS,
            interval_seconds=0.001,
        )

    def resume(self) -> None:
        """SIGCONT the group."""
        self.send_signal(signal.SIGCONT)

    async def kill(self) -> int:
        """SIGKILL the group, wait until every process of it is gone, and return the leader's exit status."""
        self.send_signal(signal.SIGKILL)
        status = await waiting.within(
            self.wait(), awaited=f"process {self.pid} to end after SIGKILL", timeout_seconds=_KILL_TIMEOUT_SECONDS
        )
        await waiting.until(
            lambda: not _alive(self.pid),
            awaited=f"the process group {self.pid} to end after SIGKILL",
            timeout_seconds=_KILL_TIMEOUT_SECONDS,
            interval_seconds=0.001,
        )
        reaper.release("group", self.pid)
        return status

    async def stop(self, timeout_seconds: float) -> bool:
        """SIGTERM the group; SIGKILL what is left at the deadline.

        Returns:
            Whether the leader ended by itself before the deadline.
        """
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)
        in_time = await ended_within(self, timeout_seconds)
        await self.kill()
        return in_time

    def last_log_lines(self, count: int = 15) -> str:
        """The end of what the command printed, for an error's text."""
        return last_lines(self.log, count)


async def ended_within(process: Process, seconds: float) -> bool:
    """Wait until it has ended, for so long; whether it has."""
    try:
        await waiting.within(process.wait(), awaited="the command to end", timeout_seconds=seconds)
    except waiting.WaitTimeout:
        return False
    return True


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, for an error's text."""
    lines = log.read_text(errors="replace").splitlines()[-count:]
    return "\n".join(f"    {line[:400]}" for line in lines) or "    (it printed nothing)"


def _alive(group: int) -> bool:
    """Whether a process of the group is left that is not a zombie: those end when somebody reaps them."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return not _PROC.is_dir() or any(_state(_PROC / str(pid)) not in _GONE for pid in _members(group))


def _members(group: int) -> Iterator[int]:
    """The processes of a group, zombies too; none where there is no /proc."""
    for name in _listed(_PROC):
        with contextlib.suppress(OSError):  # it has just ended
            if name.isdecimal() and os.getpgid(int(name)) == group:
                yield int(name)


def descendants(pid: int) -> Iterator[int]:
    """What a process has started, and what that has, in the order of starting; nothing where there is no /proc.

    Not every kernel lists the children of a process. Of 0, the kernel's own, it is nothing, and not everything.
    """
    if not pid:
        return
    children: dict[int, list[int]] = {}
    for name in sorted(filter(str.isdecimal, _listed(_PROC)), key=int):
        with contextlib.suppress(OSError, IndexError):  # it has just ended
            state, parent = (_PROC / name / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in _GONE:
                children.setdefault(int(parent), []).append(int(name))
    found = children.get(pid, [])
    while found:
        yield from found
        found = [child for parent in found for child in children.get(parent, [])]


def _threads(pids: Iterable[int]) -> Iterator[Path]:
    """What /proc has of each thread of some processes; nothing where there is none."""
    for pid in pids:
        tasks = _PROC / str(pid) / "task"
        yield from (tasks / task for task in _listed(tasks))


def all_stand(pids: Iterable[int]) -> bool:
    """Whether all threads of some processes are stopped, or gone; so where there is no /proc."""
    return all(_state(thread) in "TtZX" for thread in _threads(pids))


def all_wait(pids: Callable[[], Iterable[int]]) -> bool:
    """Whether all threads of some processes wait at the same time: in two looks none runs, nor has run between them.

    One look does not tell, as it sees one thread after the other: one that has just been seen waiting can be woken by
    one that waits when it is seen.
    """
    seen = _waits(pids())
    return None not in seen.values() and _waits(pids()) == seen


def _waits(pids: Iterable[int]) -> dict[Path, str | None]:
    """Of each thread that is left how often it has begun to wait, or None while it does not."""
    seen: dict[Path, str | None] = {}
    for thread in _threads(pids):
        with contextlib.suppress(OSError):  # it has just ended
            told = (thread / "status").read_text(errors="replace")
            state, _, rest = told.partition("\nState:\t")[2].partition("\n")
            if state[:1] not in _GONE:
                seen[thread] = rest.rpartition("\nvoluntary_ctxt_switches:")[2] if state[:1] == "S" else None
    return seen


def _listed(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder)]
    except OSError:
        return []


def _state(folder: Path) -> str:
    """The kernel's letter for what a process or a thread is doing: X when it is gone."""
    try:
        return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "X"
