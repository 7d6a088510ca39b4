"""Servers that are forked by a program of the target, or are its spares: groups whose start and end are told."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import harness.targets
from harness import node
from harness.errors import TargetError
from harness.forks import ForkServer
from harness.process import ProcessGroup
from tests.systems import in_event_loop, reserved, seen, soon
from tests.test_server import listens


@asynccontextmanager
async def forking(folder: Path, *command: str) -> AsyncIterator[ForkServer]:
    """A program that forks, until the end."""
    env = {"NODE_PATH": str(node.modules())} if command[0] == "node" else {}
    forks = ForkServer(command, folder=folder, env=env, log=folder / "fork.log")
    try:
        yield forks
    finally:
        await forks.close()


Command = Callable[[Path, int], list[str]]


def reference(folder: Path, port: int) -> list[str]:
    """The reference server's own."""
    command = [sys.executable, "-m", "harness.targets.reference", "--fork"]
    return [*command, "--port", str(port), "--database", str(folder / "chat.db")]


def hardened(folder: Path, port: int) -> list[str]:
    """That of the hardened server on Node.js, which keeps spares."""
    server = Path(harness.targets.__file__).parent / "hardened-node" / "server.js"
    return ["node", str(server), "--fork", "--port", str(port), "--database", str(folder / "chat.db")]


NEEDS_NODE = pytest.mark.skipif(node.lack() is not None, reason="takes Node.js")
BOTH = pytest.mark.parametrize("command", [reference, pytest.param(hardened, marks=NEEDS_NODE)])


@BOTH
@in_event_loop
async def test_forked_server_is_a_group_of_its_own_and_serves(command: Command, tmp_path: Path) -> None:
    """It listens, its output is in its log, and its end is told with its status; another one can follow."""
    with reserved() as port:
        async with forking(tmp_path, *command(tmp_path, port)) as forks:
            for status in (0, -signal.SIGKILL):
                leader = await soon(forks.fork(tmp_path / "server.log"))
                group = ProcessGroup(["server"], log=tmp_path / "server.log", leader=leader)
                assert os.getpgid(group.pid) == group.pid
                await seen(lambda: listens(port), "the server")
                if status:
                    assert await soon(group.kill()) == status
                else:
                    assert await soon(group.stop(5))
                    assert group.exit_status == status
                assert not listens(port)


@BOTH
@in_event_loop
async def test_held_server_stands_still_until_it_is_let_go(command: Command, tmp_path: Path) -> None:
    """It has opened nothing, and goes on at SIGCONT."""
    with reserved() as port:
        async with forking(tmp_path, *command(tmp_path, port)) as forks:
            leader = await soon(forks.fork(tmp_path / "server.log", held=True))
            group = ProcessGroup(["server"], log=tmp_path / "server.log", leader=leader)
            await soon(group.stopped())
            assert not (tmp_path / "chat.db").exists()
            group.resume()
            await seen(lambda: listens(port), "the server")
            await soon(group.kill())


@in_event_loop
async def test_server_outlives_the_program_that_forked_it_until_it_is_killed(tmp_path: Path) -> None:
    """Only its exit status is not known then."""
    with reserved() as port:
        async with forking(tmp_path, *reference(tmp_path, port)) as forks:
            leader = await soon(forks.fork(tmp_path / "server.log"))
            group = ProcessGroup(["server"], log=tmp_path / "server.log", leader=leader)
            await seen(lambda: listens(port), "the server")
        assert listens(port)
        await soon(group.kill())
        assert not listens(port)


@NEEDS_NODE
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@in_event_loop
async def test_spare_that_nobody_wanted_ends_with_the_program(number: signal.Signals, tmp_path: Path) -> None:
    """Whether the program is told to end, or killed; the server goes on."""
    with reserved() as port:
        async with forking(tmp_path, *hardened(tmp_path, port)) as forks:
            leader = await soon(forks.fork(tmp_path / "server.log"))
            group = ProcessGroup(["server"], log=tmp_path / "server.log", leader=leader)
            assert len(running(tmp_path)) > 2
            forks._process.send_signal(number)
            await seen(lambda: running(tmp_path) == [leader.pid], "the spares to end")
        await soon(group.kill())
        await seen(lambda: running(tmp_path) == [], "the server to end")


def running(folder: Path) -> list[int]:
    """The processes that have something in that folder as an argument."""
    return [
        int(process.name)
        for process in Path("/proc").iterdir()
        if process.name.isdecimal() and str(folder).encode() in arguments(process)
    ]


def arguments(process: Path) -> bytes:
    """The command line of a process; nothing of one that has ended."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit('no such thing')", "no such thing"),
        ("print('ready', flush=True); input(); input()", "server.fork told nothing that is known, or has ended"),
        ('print(\'{"pid": "x"}\', flush=True); input(); input()', "server.fork told nothing that is known"),
    ],
)
@in_event_loop
async def test_program_that_does_not_fork_is_an_error_with_its_last_lines(code: str, said: str, tmp_path: Path) -> None:
    """Whether it ends, or tells what is no line of that protocol."""
    async with forking(tmp_path, sys.executable, "-c", code) as forks:
        with pytest.raises(TargetError, match=said):
            await soon(forks.fork(tmp_path / "server.log"))
