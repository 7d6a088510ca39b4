"""The tracer: calls of all threads in one order, one of them hit exactly, and a server that goes on when it ends."""

import asyncio
import errno
import fcntl
import functools
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import trace, tracer, waiting
from harness.errors import HarnessError
from harness.process import ProcessGroup
from harness.trace import Record, Tracer, Tracers
from tests.systems import seen

TIMEOUT_SECONDS = 20.0
# Inserts each line in a worker thread, as asyncio servers do, and answers from the main one.
DATABASE = """
import os, queue, sqlite3, sys, threading
lines, answers = queue.SimpleQueue(), queue.SimpleQueue()
def work():
    rows = sqlite3.connect(sys.argv[1], isolation_level=None)
    rows.execute(f"PRAGMA journal_mode={sys.argv[2]}")
    rows.execute("PRAGMA synchronous=FULL")
    rows.execute("CREATE TABLE messages (content)")
    while True:
        try:
            rows.execute("INSERT INTO messages VALUES (?)", (lines.get(),))
            answers.put("stored")
        except sqlite3.Error as error:
            answers.put(str(error))
threading.Thread(target=work, daemon=True).start()
for line in sys.stdin:
    lines.put(line.strip())
    os.write(1, answers.get().encode() + b"\\n")
"""
# Does what each line says.
INTERPRETER = """
import ctypes, fcntl, mmap, os, signal, socket, subprocess, sys, threading
def run(action):
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()
for line in sys.stdin:
    exec(line)
    os.write(1, b"done\\n")
"""
# Appends each line from libuv's pool of threads, and then answers.
NODE = """
const fs = require("fs"), lines = require("readline").createInterface({input: process.stdin});
const file = fs.openSync(process.argv[1], "a");
lines.on("line", (line) => fs.write(file, line + "\\n", () => fs.fsync(file, () => fs.writeSync(1, "stored\\n"))));
"""
WAL, ROLLBACK = "wal", "delete"


@pytest.fixture(autouse=True)
def possible() -> None:
    """Skip where nobody could trace: not where it is permitted and yet fails."""
    if sys.platform != "linux":
        pytest.skip("it needs Linux")
    if (lack := trace.lack()) is not None and not privileged():
        pytest.skip(lack)


def privileged() -> bool:
    """Whether this process has CAP_SYS_PTRACE."""
    (capabilities,) = re.findall(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())
    return bool(int(capabilities, 16) >> 19 & 1)


class Server:
    """A small server that answers each line with a line, and its store."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.store = folder / "store.db"
        self._command = command

    async def __aenter__(self) -> "Server":
        self.group = ProcessGroup(self._command, log=self.folder / "log.txt", cwd=self.folder, pipes=True)
        self._lines = await self.group.output(64 * 1024)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.group.kill()
        self.group.close_pipes()

    def tell(self, line: str) -> None:
        """Send a line."""
        self.group.write(f"{line}\n".encode())

    async def answer(self) -> str:
        """The next line that it answers; empty when it has ended."""
        line = await waiting.within(self._lines.readline(), awaited="an answer", timeout_seconds=TIMEOUT_SECONDS)
        return line.decode().strip()

    async def ask(self, line: str) -> str:
        """Send a line, and wait for the answer."""
        self.tell(line)
        return await self.answer()

    def attached(self) -> AbstractAsyncContextManager[Tracer]:
        """Trace it."""
        return trace.attached(self.group.pid, store=self.store, log=self.folder / "tracer.log")

    def traced(self) -> bool:
        """Whether one of its threads is traced."""
        return any(tracer for _, tracer in self.states())

    def states(self) -> list[tuple[str, int]]:
        """What each of its threads is doing, and who traces it."""
        return [tracer._state(task) for pid in self.group.pids() for task in tracer._tasks(pid)]

    def rows(self) -> list[str]:
        """What is in its database, as one finds it who starts again."""
        with sqlite3.connect(self.store) as database:
            rows = [content for (content,) in database.execute("SELECT content FROM messages")]
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        database.close()
        return rows


def database(folder: Path, mode: str) -> Server:
    """A server that stores lines with SQLite."""
    return Server(folder, [sys.executable, "-S", "-c", DATABASE, str(folder / "store.db"), mode])


def interpreter(folder: Path) -> Server:
    """A server that does what it is told, in Python."""
    return Server(folder, [sys.executable, "-S", "-c", INTERPRETER])


def node(folder: Path) -> Server:
    """A server in Node that appends lines to a file."""
    return Server(folder, ["node", "-e", NODE, str(folder / "store.db")])


def run(test: Coroutine[None, None, None]) -> None:
    """Run a test in an event loop."""
    asyncio.run(test)


def fingerprints(records: tuple[Record, ...]) -> list[str]:
    """What two runs have in common."""
    return [record.fingerprint for record in records]


async def watched(server: Server, line: str = "one") -> tuple[Record, ...]:
    """The calls by which a line is handled, on a server that has handled another before."""
    async with server:
        await server.ask("warm")
        async with server.attached() as tracer:
            await tracer.arm()
            await server.ask(line)
            return await tracer.stop()


async def done(server: Server, *lines: str) -> tuple[Record, ...]:
    """The calls of an interpreter that does some lines, without those that answer."""
    async with server, server.attached() as tracer:
        await tracer.arm()
        for line in lines:
            assert await server.ask(line) == "done"
        records = await tracer.stop()
    return tuple(record for record in records if record.fingerprint != "write pipe" or record.length != len("done\n"))


def untraced(server: Server) -> bool:
    """Whether nobody traces it."""
    return not server.traced()


def last(records: tuple[Record, ...], call: str, length: int | None = None) -> int:
    """The ordinal of the last such call."""
    return max(record.ordinal for record in records if record.call == call and length in (None, record.length))


# -- one order over all threads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [WAL, ROLLBACK])
def test_calls_of_all_threads_are_in_one_order(tmp_path: Path, mode: str) -> None:
    """The ordinals of a worker's calls and of the main thread's are one sequence, the same in two runs."""

    async def test() -> None:
        first, second = [await watched(database(tmp_path / name, mode)) for name in ("first", "second")]
        assert fingerprints(first) == fingerprints(second)
        assert [record.thread for record in first] == [record.thread for record in second]
        assert {record.thread for record in first} == {0, 1}
        assert [record.ordinal for record in first] == list(range(1, len(first) + 1))
        assert first[-1].fingerprint == "write pipe"
        assert first[-1].thread == 1
        synced = "store-wal" if mode == WAL else "store-journal"
        assert f"fdatasync {synced}" in fingerprints(first)
        assert ("unlink store-journal" in fingerprints(first)) is (mode == ROLLBACK)

    run(test())


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_node_is_traced_in_all_its_threads(tmp_path: Path) -> None:
    """The calls of libuv's threads and of Node's main thread are one sequence, too."""

    async def test() -> None:
        first, second = [await watched(node(tmp_path / name)) for name in ("first", "second")]
        assert fingerprints(first) == fingerprints(second)
        calls = [found for found in fingerprints(first) if "eventfd" not in found]
        assert calls == ["write store 4", "fsync store", "write pipe"]
        assert "write eventfd 8" in fingerprints(first)

    run(test())


def test_what_is_started_after_attaching_is_traced(tmp_path: Path) -> None:
    """Threads, forks and programs that the server starts are traced from their first call on."""

    async def test() -> None:
        records = await done(
            interpreter(tmp_path),
            "run(lambda: os.truncate(os.open('a', os.O_RDWR | os.O_CREAT), 1))",
            "os.fork() or (os.fsync(os.open('a', os.O_RDWR)), os._exit(0)); os.wait()",
            "subprocess.run(['sh', '-c', 'mv a b && rm b'])",
            "run(lambda: subprocess.run(['rm', '-f', 'none']))",
        )
        assert [record.call.removesuffix("2").removesuffix("at") for record in records if record.kind == "file"] == [
            "ftruncate",
            "fsync",
            "rename",
            "unlink",
            "unlink",
        ]
        assert len({record.thread for record in records}) >= 5

    run(test())


def test_what_appears_while_attaching_is_traced(tmp_path: Path) -> None:
    """Threads and processes that come and go while the tracer attaches do not escape it."""
    churn = (
        "def churn():\\n"
        "    while True:\\n"
        "        run(lambda: threading.Thread(target=time.sleep, args=(0.01,)).start())\\n"
        "        os.fork() or (time.sleep(0.01), os._exit(0))\\n"
    )

    async def test() -> None:
        async with interpreter(tmp_path) as server:
            await server.ask("import time; signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
            await server.ask(f"exec('{churn}')")
            await server.ask("threading.Thread(target=churn, daemon=True).start()")
            for _ in range(5):
                async with server.attached() as tracer:
                    tracers = [state[1] for state in server.states() if state[0] not in "ZX"]
                    assert set(tracers) == {tracer.pid}
                    await tracer.stop()
                assert not server.traced()

    run(test())


def test_calls_tell_what_they_act_on(tmp_path: Path) -> None:
    """A record has the object of its call, and its offset, length, lock and result where there are such."""
    lines = [
        "fd = os.open('store.db', os.O_RDWR | os.O_CREAT)",
        "here = os.open('.', os.O_RDONLY); pair = socket.socketpair(); event = os.eventfd(0); pipe = os.pipe()",
        "os.write(fd, b'abc')",
        "os.pwrite(fd, b'abcd', 8192)",
        "os.writev(fd, [b'abc', b'de'])",
        "os.pwritev(fd, [b'a', b'bc'], 5)",
        "pair[0].send(b'abc')",
        "pair[0].sendmsg([b'abc', b'def'])",
        "os.sendfile(pair[0].fileno(), fd, 0, 7)",
        "os.eventfd_write(event, 1)",
        "os.write(pipe[1], b'abc')",
        "os.write(os.open('/dev/null', os.O_WRONLY), b'abc')",
        "ctypes.CDLL(None).write(999, b'abc', 3)",
        "os.fsync(fd); os.fdatasync(fd); os.fsync(here)",
        "os.ftruncate(fd, 8192)",
        "os.posix_fallocate(fd, 16, 32)",
        "mmap.mmap(fd, 8192).flush(4096, 4096)",
        "fcntl.lockf(fd, fcntl.LOCK_EX, 10, 20); fcntl.lockf(fd, fcntl.LOCK_UN); fcntl.fcntl(fd, fcntl.F_GETFD)",
        "fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB); fcntl.flock(fd, fcntl.LOCK_UN)",
        "os.rename('store.db', 'other'); os.unlink('other', dir_fd=here)",
    ]

    async def test() -> None:
        records = await done(interpreter(tmp_path), *lines)
        told = [(r.fingerprint, r.offset, r.length, r.result) for r in records]
        assert told == [
            ("write store 3", None, 3, 3),
            ("pwrite64 store 4", 8192, 4, 4),
            ("writev store 5", None, 5, 5),
            ("pwritev store 3", 5, 3, 3) if records[3].call == "pwritev" else ("pwritev2 store 3", 5, 3, 3),
            ("sendto socket", None, 3, 3),
            ("sendmsg socket", None, 6, 6),
            ("sendfile socket", None, 7, 7),
            ("write eventfd 8", None, 8, 8),
            ("write pipe", None, 3, 3),
            ("write device", None, 3, 3),
            ("write closed", None, 3, -errno.EBADF),
            ("fsync store", None, None, 0),
            ("fdatasync store", None, None, 0),
            ("fsync the store's folder", None, None, 0),
            ("ftruncate store 8192", None, 8192, 0),
            ("fallocate store 32", 16, 32, 0),
            ("msync store 4096", None, 4096, 0),
            ("fcntl store WRLCK 20+10", 20, 10, 0),
            ("fcntl store UNLCK 0+0", 0, 0, 0),
            ("flock store RDLCK 0+0", 0, 0, 0),
            ("flock store UNLCK 0+0", 0, 0, 0),
            (f"{records[-2].call} store", None, None, 0),
            ("unlinkat beside the store", None, None, 0),
        ]
        assert records[0].path == str(tmp_path / "store.db")
        assert (records[-2].path, records[-2].to) == (str(tmp_path / "store.db"), str(tmp_path / "other"))
        assert records[-1].path == str(tmp_path / "other")

    run(test())


def test_files_without_a_store_are_only_files(tmp_path: Path) -> None:
    """Names of files that are not the store's are often random, and in no fingerprint."""

    async def test() -> None:
        server = interpreter(tmp_path)
        async with server, trace.attached(server.group.pid, log=tmp_path / "tracer.log") as tracer:
            await tracer.arm()
            await server.ask("os.write(os.open('store.db', os.O_RDWR | os.O_CREAT), b'abc')")
            assert fingerprints(await tracer.stop()) == ["write file", "write pipe"]

    run(test())


def test_arming_again_counts_from_one(tmp_path: Path) -> None:
    """Calls before `arm` are not recorded, and those of an earlier `arm` are forgotten."""

    async def test() -> None:
        async with interpreter(tmp_path) as server, server.attached() as tracer:
            await server.ask("1")
            await tracer.arm(2)
            await server.ask("1")
            await tracer.arm(2)
            await server.ask("1")
            assert tracer.records == ()
            assert [(record.ordinal, record.thread) for record in await tracer.stop()] == [(1, 0)]
            assert await server.ask("1") == "done"

    run(test())


# -- kill --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [WAL, ROLLBACK])
def test_kill_at_every_call_hits_exactly_there(tmp_path: Path, mode: str) -> None:
    """The server is dead before the call takes effect: the row is there from the commit on, and not before."""

    async def test() -> None:
        plan = await watched(database(tmp_path / "plan", mode))
        commit = last(plan, "pwrite64") if mode == WAL else last(plan, "unlink")
        for ordinal in range(1, len(plan) + 1):
            async with database(tmp_path / str(ordinal), mode) as server:
                await server.ask("warm")
                async with server.attached() as tracer:
                    await tracer.arm(ordinal, "kill")
                    assert await server.ask("one") == ""
                    hit = await tracer.hit(TIMEOUT_SECONDS)
                assert await server.group.kill() == -signal.SIGKILL
                assert hit.ordinal == ordinal
                assert hit.result is None
                assert fingerprints(tracer.records) == fingerprints(plan[:ordinal])
                assert server.rows() == (["warm", "one"] if ordinal > commit else ["warm"])

    run(test())


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_kill_at_every_call_of_node(tmp_path: Path) -> None:
    """A line is in the file from the write on, and not before, when Node is killed."""

    async def test() -> None:
        plan = await watched(node(tmp_path / "plan"))
        written = last(plan, "write", len("one\n"))
        for ordinal in range(1, len(plan) + 1):
            async with node(tmp_path / str(ordinal)) as server:
                await server.ask("warm")
                async with server.attached() as tracer:
                    await tracer.arm(ordinal, "kill")
                    assert await server.ask("one") == ""
                    assert (await tracer.hit(TIMEOUT_SECONDS)).fingerprint == plan[ordinal - 1].fingerprint
                assert server.store.read_text() == ("warm\none\n" if ordinal > written else "warm\n")

    run(test())


def test_kill_ends_the_whole_group(tmp_path: Path) -> None:
    """A call of one process of the group ends the others with it."""

    async def test() -> None:
        async with interpreter(tmp_path) as server:
            await server.ask("child = subprocess.Popen(['sleep', '300'])")
            assert len(server.group.pids()) == 2
            async with server.attached() as tracer:
                await tracer.arm(1, "kill")
                assert await server.ask("1") == ""
                await tracer.hit(TIMEOUT_SECONDS)
            await waiting.until(
                lambda: all(state(pid) in "ZX" for pid in server.group.pids()),
                awaited="the group to end",
                timeout_seconds=TIMEOUT_SECONDS,
            )

    run(test())


def state(pid: int) -> str:
    """The kernel's letter for what a process is doing."""
    return tracer._state(pid)[0]


# -- errors and lies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [WAL, ROLLBACK])
@pytest.mark.parametrize(
    ("call", "action", "answer"),
    [
        ("fdatasync", "EIO", "disk I/O error"),
        ("pwrite64", "EIO", "disk I/O error"),
        ("pwrite64", "ENOSPC", "database or disk is full"),
    ],
)
def test_error_is_seen_by_the_program_and_the_tracer_detaches(
    tmp_path: Path, mode: str, call: str, action: trace.Action, answer: str
) -> None:
    """A call that is failed is an error to the program, which goes on untraced and stores the next message."""

    async def test() -> None:
        plan = await watched(database(tmp_path / "plan", mode))
        async with database(tmp_path / "case", mode) as server:
            await server.ask("warm")
            async with server.attached() as tracer:
                assert server.traced()
                await tracer.arm(last(plan, call), action)
                assert await server.ask("one") == answer
                hit = await tracer.hit(TIMEOUT_SECONDS)
                assert not server.traced()
                assert (hit.call, hit.result) == (call, -getattr(errno, action))
                assert fingerprints(await tracer.stop()) == fingerprints(plan[: hit.ordinal])
                assert await server.ask("two") == "stored"
            assert server.rows()[-1] == "two"

    run(test())


def test_skipped_commit_frame_is_acknowledged_and_lost(tmp_path: Path) -> None:
    """A write of the commit frame that is only reported is answered as stored, and gone after a restart."""

    async def test() -> None:
        plan = await watched(database(tmp_path / "plan", WAL))
        async with database(tmp_path / "case", WAL) as server:
            await server.ask("warm")
            async with server.attached() as tracer:
                await tracer.arm(last(plan, "pwrite64", 24), "skip")
                assert await server.ask("one") == "stored"
                assert (await tracer.hit(TIMEOUT_SECONDS)).result == 24
            assert server.rows() == ["warm", "one"]
            await server.group.kill()
            assert server.rows() == ["warm"]

    run(test())


def test_skipped_sync_and_unlink_report_success(tmp_path: Path) -> None:
    """A call that has no length is reported with 0."""

    async def test() -> None:
        for line, call in (("os.fsync(os.open('a', os.O_RDONLY))", "fsync"), ("os.unlink('a')", "unlink")):
            (tmp_path / "a").touch()
            async with interpreter(tmp_path) as server, server.attached() as tracer:
                await tracer.arm(1, "skip")
                assert await server.ask(line) == "done"
                hit = await tracer.hit(TIMEOUT_SECONDS)
                assert (hit.call.removesuffix("at"), hit.result) == (call, 0)
                assert (tmp_path / "a").exists()

    run(test())


# -- signals -----------------------------------------------------------------------------------------------------


def test_signals_reach_the_traced_server(tmp_path: Path) -> None:
    """A signal's handler runs in a traced server, and a pause holds it until it is resumed."""

    async def test() -> None:
        async with interpreter(tmp_path) as server:
            await server.ask("signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'signal\\n'))")
            async with server.attached() as tracer:
                await tracer.arm()
                server.group.send_signal(signal.SIGUSR1)
                assert await server.answer() == "signal"
                await server.group.pause()
                await seen(lambda: {state(pid) for pid in server.group.pids()} <= {"T", "t"}, "a pause")
                server.tell("1")
                assert {state(pid) for pid in server.group.pids()} <= {"T", "t"}
                server.group.resume()
                assert await server.answer() == "done"
                assert [record.length for record in await tracer.stop()] == [7, 5]

    run(test())


def test_paused_server_stays_paused(tmp_path: Path) -> None:
    """A server that stands still does so while it is attached to and let go of, and is traced when it goes on."""

    async def test() -> None:
        async with interpreter(tmp_path) as server:
            await server.ask("1")
            await server.group.pause()
            async with server.attached() as tracer:
                await tracer.arm()
                assert state(server.group.pid) in "Tt"
                server.group.resume()
                assert await server.ask("1") == "done"
                await server.group.pause()
                assert len(await tracer.stop()) == 1
            # A traced thread stands still at each of its calls, too, and `pause` cannot tell that from being stopped.
            await seen(lambda: state(server.group.pid) == "T", "a pause")
            assert not server.traced()
            server.group.resume()
            assert await server.ask("1") == "done"

    run(test())


def test_call_that_a_signal_interrupts_is_one_call(tmp_path: Path) -> None:
    """A wait for a lock that the kernel makes again after a signal keeps its ordinal."""

    async def test() -> None:
        async with interpreter(tmp_path) as server:
            await server.ask("file = open('lock', 'w')")
            with (tmp_path / "lock").open("w") as held:
                fcntl.lockf(held, fcntl.LOCK_EX)
                async with server.attached() as tracer:
                    await tracer.arm()
                    server.tell("fcntl.lockf(file, fcntl.LOCK_EX)")
                    await waiting.until(
                        lambda: " -> " in Path("/proc/locks").read_text() and sleeps(server.group.pid),
                        awaited="the server to wait for the lock",
                        timeout_seconds=TIMEOUT_SECONDS,
                    )
                    await server.group.pause()
                    server.group.resume()
                    fcntl.lockf(held, fcntl.LOCK_UN)
                    assert await server.answer() == "done"
                    records = await tracer.stop()
            assert [(r.call, r.lock, r.result) for r in records[:-1]] == [("fcntl", "WRLCK", 0)]

    run(test())


def sleeps(pid: int) -> bool:
    """Whether a process waits in the kernel."""
    return state(pid) == "S"


# -- the end -----------------------------------------------------------------------------------------------------


def test_killed_tracer_leaves_the_server_running(tmp_path: Path) -> None:
    """A tracer that is killed lets go of the server, and the harness is told."""

    async def test() -> None:
        async with database(tmp_path / "case", WAL) as server:
            await server.ask("warm")
            async with server.attached() as tracer:
                await tracer.arm(3)
                os.kill(tracer.pid, signal.SIGKILL)
                with pytest.raises(HarnessError, match=r"^the tracer has failed[^\n]*$"):
                    await tracer.hit(TIMEOUT_SECONDS)
                assert not server.traced()
                assert await server.ask("one") == "stored"
                with pytest.raises(HarnessError, match="the tracer has failed"):
                    await tracer.stop()
                with pytest.raises(HarnessError, match="the tracer has failed"):
                    await tracer.arm()

    run(test())


def test_program_stands_by_until_there_is_something_to_trace_or_it_is_closed(tmp_path: Path) -> None:
    """Nothing is traced by it meanwhile; it ends when nobody speaks with it, too."""

    async def test() -> None:
        async with interpreter(tmp_path) as server:
            for end in (Tracers.close, lambda standing: standing._process.close_input()):
                standing = await Tracers.started(log=tmp_path / "tracer.log")
                assert await server.ask("1") == "done"
                assert not server.traced()
                if (ending := end(standing)) is not None:
                    await ending
                await waiting.within(standing._process.wait(), awaited="its end", timeout_seconds=TIMEOUT_SECONDS)
                await standing.close()

    run(test())


def test_one_program_traces_one_server_after_the_other(tmp_path: Path) -> None:
    """Each time by a process of its own; what is still said to the one before does not reach the next."""

    async def test() -> None:
        tracers = await Tracers.started(log=tmp_path / "tracer.log")
        traced_by = set()
        for folder in (tmp_path / "first", tmp_path / "second"):
            async with interpreter(folder) as server, tracers.attached(server.group.pid) as tracer:
                traced_by.add(tracer.pid)
                await tracer.arm()
                await server.ask("1")
                assert fingerprints(await tracer.stop()) == ["write pipe"]
                assert not server.traced()
                assert fingerprints(await tracer.stop()) == ["write pipe"]
        assert len(traced_by) == 2
        assert tracers.is_running
        await tracers.close()

    run(test())


def test_tracer_that_is_attached_at_the_end_lets_go_of_the_server(tmp_path: Path) -> None:
    """That ends the whole program."""

    async def test() -> None:
        tracers = await Tracers.started(log=tmp_path / "tracer.log")
        async with interpreter(tmp_path) as server:
            async with tracers.attached(server.group.pid):
                assert server.traced()
            assert not server.traced()
            assert await server.ask("1") == "done"
        assert not tracers.is_running

    run(test())


def test_tracer_ends_with_its_program_and_with_who_speaks_with_it(tmp_path: Path) -> None:
    """A tracer whose harness is gone ends by itself, and the server goes on."""

    async def test() -> None:
        def killed(program: ProcessGroup) -> None:
            os.kill(program.pid, signal.SIGKILL)

        for end in (ProcessGroup.close_input, killed):
            tracers = await Tracers.started(log=tmp_path / "tracer.log")
            async with interpreter(tmp_path) as server, tracers.attached(server.group.pid) as tracer:
                await tracer.arm(3)
                end(tracers._process)
                await waiting.within(tracers._process.wait(), awaited="its end", timeout_seconds=TIMEOUT_SECONDS)
                await seen(functools.partial(untraced, server), "the tracer to let go")
                assert await server.ask("1") == "done"

    run(test())


def test_server_that_ends_is_told(tmp_path: Path) -> None:
    """A server that ends while it is traced is no hit, its calls are recorded, and its exit status is its own."""

    async def test() -> None:
        async with interpreter(tmp_path) as server, server.attached() as tracer:
            await tracer.arm(3)
            await server.ask("1")
            assert not tracer.ended
            server.tell("os._exit(7)")
            with pytest.raises(HarnessError, match=r"^no call was hit: every process of the group \d+ has ended$"):
                await tracer.hit(TIMEOUT_SECONDS)
            assert tracer.ended
            assert await server.group.wait() == 7
            assert len(await tracer.stop()) == 1
            with pytest.raises(HarnessError, match="has ended"):
                await tracer.arm()

    run(test())


def test_server_that_is_killed_from_outside_is_told(tmp_path: Path) -> None:
    """A kill that is not the tracer's passes through, and is not held up by it."""

    async def test() -> None:
        async with database(tmp_path / "case", WAL) as server:
            await server.ask("warm")
            async with server.attached() as tracer:
                await tracer.arm(1)
                assert await server.group.kill() == -signal.SIGKILL
                assert await tracer.stop() == ()
                assert tracer.ended

    run(test())


def test_hit_that_does_not_come_is_told_at_the_deadline(tmp_path: Path) -> None:
    """A call that is not made is not hit, and the tracer can still be stopped; after a hit it cannot be armed."""

    async def test() -> None:
        async with interpreter(tmp_path) as server, server.attached() as tracer:
            await tracer.arm(2, "EIO")
            await server.ask("1")
            with pytest.raises(waiting.WaitTimeout, match="for the call to be hit"):
                await tracer.hit(0.01)
            await server.ask("os.write(os.open('/dev/null', os.O_WRONLY), b'')")
            with pytest.raises(HarnessError, match="the tracer has detached after it hit call 2"):
                await tracer.arm()

    run(test())


def test_calls_are_counted_from_one(tmp_path: Path) -> None:
    """There is no call 0."""

    async def test() -> None:
        async with interpreter(tmp_path) as server, server.attached() as tracer:
            with pytest.raises(ValueError, match="counted from 1, not 0"):
                await tracer.arm(0)

    run(test())


# -- what cannot be traced ---------------------------------------------------------------------------------------


async def attach(group: int, folder: Path) -> None:
    """Attach, and let go."""
    async with trace.attached(group, log=folder / "tracer.log"):
        pass


def test_missing_group_is_an_error(tmp_path: Path) -> None:
    """A group that has ended is an error of one line that names it."""
    with subprocess.Popen(["true"], start_new_session=True) as process:
        pass
    with pytest.raises(HarnessError, match=f"^no process runs in the process group {process.pid}$"):
        run(attach(process.pid, tmp_path))


def test_traced_server_cannot_be_traced_twice(tmp_path: Path) -> None:
    """A second tracer is refused with the first one's id, and does not disturb it."""

    async def test() -> None:
        async with interpreter(tmp_path) as server, server.attached() as tracer:
            await tracer.arm()
            already = rf"^process \d+ is traced by process {tracer.pid} already$"
            with pytest.raises(HarnessError, match=already):
                await attach(server.group.pid, tmp_path)
            await server.ask("1")
            assert len(await tracer.stop()) == 1

    run(test())


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="takes root and setpriv")
def test_missing_permission_is_an_error_that_says_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracer that may not trace says what would permit it, and so does `lack`."""
    command = trace._command
    unprivileged = ["setpriv", "--bounding-set=-sys_ptrace"]
    monkeypatch.setattr(trace, "_command", lambda store: [*unprivileged, *command(store)])
    text = r"^tracing process \d+ is not permitted: it takes CAP_SYS_PTRACE [^\n]*kernel\.yama\.ptrace_scope[^\n]*$"

    async def test() -> None:
        async with interpreter(tmp_path) as server:
            with pytest.raises(HarnessError, match=text):
                await attach(server.group.pid, tmp_path)
            assert await server.ask("1") == "done"

    run(test())
    assert re.match(text, trace.lack.__wrapped__() or "")


def test_nothing_is_lacking_where_it_works() -> None:
    """Where the tests of this file work, `lack` says so."""
    assert trace.lack.__wrapped__() is None


@pytest.mark.parametrize(
    ("machine", "release", "text"),
    [
        ("riscv64", "6.1.0", "system calls can be traced on x86_64 and aarch64 only, and this is riscv64"),
        ("x86_64", "4.19.0-amd64", "system calls can be traced from Linux 5.3 on, and this is 4.19.0-amd64"),
    ],
)
def test_unsupported_machine_is_an_error(
    monkeypatch: pytest.MonkeyPatch, machine: str, release: str, text: str
) -> None:
    """A machine or a kernel that the tracer does not know is refused with its name."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine, release=release))
    with pytest.raises(tracer.Refused, match=f"^{text}$"):
        tracer.Tracer(1, "")


def test_other_system_is_an_error(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """There is no ptrace like Linux's elsewhere."""
    monkeypatch.setattr(sys, "platform", "darwin")
    tracer.main()
    assert capfd.readouterr().out == "('error', 'system calls can be traced on Linux only, and this is darwin')\n"


def test_calls_have_a_number_of_their_own() -> None:
    """No two calls of the table share a name or a number, on either machine."""
    for column in (0, 1, 2):
        known = [call[column] for call in tracer._CALLS if call[column] != -1]
        assert len(known) == len(set(known))
