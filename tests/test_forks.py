"""Servers that are forked by a program of the target, or are its spares: groups whose start and end are told."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import harness.targets
from harness import node
from harness.errors import TargetError
from harness.forks import Forks, ForkServer
from harness.process import ProcessGroup
from harness.target import load
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


REFERENCE = (sys.executable, "-m", "harness.targets.reference")
# It keeps spares, as Node.js cannot fork.
HARDENED = ("node", str(Path(harness.targets.__file__).parent / "hardened-node" / "server.js"))


def options(folder: Path, port: int) -> list[str]:
    """What a server has to be told."""
    return ["--port", str(port), "--database", str(folder / "chat.db")]


NEEDS_NODE = pytest.mark.skipif(node.lack() is not None, reason="takes Node.js")
BOTH = pytest.mark.parametrize("command", [REFERENCE, pytest.param(HARDENED, marks=NEEDS_NODE)])


@BOTH
@in_event_loop
async def test_forked_server_is_a_group_of_its_own_and_serves(command: Sequence[str], tmp_path: Path) -> None:
    """It listens, its output is in its log, and its end is told with its status; another one can follow."""
    with reserved() as port:
        async with forking(tmp_path, *command, "--fork") as forks:
            for status in (0, -signal.SIGKILL):
                leader = await soon(forks.fork([*command, *options(tmp_path, port)], log=tmp_path / "server.log"))
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
async def test_held_server_stands_still_until_it_is_let_go(command: Sequence[str], tmp_path: Path) -> None:
    """It has opened nothing, and goes on at SIGCONT."""
    with reserved() as port:
        async with forking(tmp_path, *command, "--fork") as forks:
            leader = await soon(
                forks.fork([*command, *options(tmp_path, port)], log=tmp_path / "server.log", held=True)
            )
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
        async with forking(tmp_path, *REFERENCE, "--fork") as forks:
            leader = await soon(forks.fork([*REFERENCE, *options(tmp_path, port)], log=tmp_path / "server.log"))
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
        async with forking(tmp_path, *HARDENED, "--fork") as forks:
            leader = await soon(forks.fork([*HARDENED, *options(tmp_path, port)], log=tmp_path / "server.log"))
            group = ProcessGroup(["server"], log=tmp_path / "server.log", leader=leader)
            assert forks._process is not None
            spares = children(forks._process.pid) - {leader.pid}
            assert spares
            forks._process.send_signal(number)
            await seen(lambda: not any(map(runs, spares)), "the spares to end")
            assert runs(leader.pid)
        await soon(group.kill())


def children(pid: int) -> set[int]:
    """The processes that a process has started."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def runs(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


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
            await soon(forks.fork(["server"], log=tmp_path / "server.log"))


@BOTH
@in_event_loop
async def test_server_is_told_its_environment(command: Sequence[str], tmp_path: Path) -> None:
    """What the program was started with has nothing of it; the next server has nothing of it either."""
    name = "REFERENCE_CRASH" if command is REFERENCE else "CHAT_CRASH"
    with reserved() as port:
        async with forking(tmp_path, *command, "--fork") as forks:
            wanted = [*command, *options(tmp_path, port)]
            leader = await soon(forks.fork(wanted, env={name: "nonsense"}, log=tmp_path / "server.log"))
            group = ProcessGroup(["server"], log=tmp_path / "server.log", leader=leader)
            assert await soon(group.wait()) == 2
            assert f"{name}=" in (tmp_path / "server.log").read_text()
            leader = await soon(forks.fork(wanted, log=tmp_path / "server.log"))
            group = ProcessGroup(["server"], log=tmp_path / "server.log", leader=leader)
            await seen(lambda: listens(port), "the server")
            await soon(group.kill())


# -- the programs of all targets ---------------------------------------------------------------------------------


@in_event_loop
async def test_program_serves_all_runs_and_is_started_again_when_it_has_ended(tmp_path: Path) -> None:
    """There is one for each target that offers one."""
    forks = Forks(tmp_path)
    first = forks.of(load("reference"))
    assert first is not None
    assert forks.of(load("reference")) is first
    assert forks.of(load("reference/rollback.toml")) is not first
    assert forks.of(load("ledger/writes_behind")) is None
    with reserved() as port:
        wanted = [*REFERENCE, *options(tmp_path, port)]
        for _ in range(2):
            program = forks.of(load("reference"))
            assert program is not None
            leader = await soon(program.fork(wanted, log=tmp_path / "server.log"))
            group = ProcessGroup(["server"], log=tmp_path / "server.log", leader=leader)
            await seen(lambda: listens(port), "the server")
            assert program._process is not None
            await soon(program._process.kill())
            await soon(group.kill())
        assert program is not first
    await forks.close()


@in_event_loop
async def test_program_that_cannot_be_started_is_an_error_that_names_it(tmp_path: Path) -> None:
    """As that of a server is."""
    async with forking(tmp_path, "/no/such/program") as forks:
        with pytest.raises(TargetError, match=r"server.fork cannot be started: .*/no/such/program"):
            await forks.fork(["server"], log=tmp_path / "server.log")
