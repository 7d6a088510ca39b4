"""Servers under test as real processes: when they are ready, how they end, and what is recorded and said of it."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from harness import history as h
from harness import node, process, waiting
from harness.clients.sender import Sender
from harness.errors import TargetError
from harness.fault import Fault, NotSeen
from harness.runtimes import Address, local
from harness.target import Target, load
from tests.systems import (
    DEADLINE_SECONDS,
    NEVER_SECONDS,
    RUN,
    Clients,
    Running,
    address,
    clients,
    described,
    in_event_loop,
    reserved,
    seen,
    serving,
    soon,
)

TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "polling"])
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="it needs /proc and setpriv")
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges beyond the permissions")
LISTEN = """
import os, signal, socket, sys, time
print("pid", os.getpid(), flush=True)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
print("listening", flush=True)
"""
ACCEPT = (
    LISTEN
    + """
while True:
    accepted = listener.accept()[0]
    if accepted.recv(1000).startswith(b"die"):
        print("as you wish", flush=True)
        sys.exit(3)
    accepted.close()
"""
)
SLEEP = "import time; time.sleep(300)"


def python(code: str, **server: Any) -> dict[str, Any]:
    """A server that is a piece of Python; it starts fast."""
    return {"command": ["{python}", "-S", "-c", code, "{port}"], **server}


def target(folder: Path, server: Mapping[str, Any]) -> Target:
    """A target with this server."""
    return described(folder, server={"ready_timeout_seconds": DEADLINE_SECONDS, **server})


def listens(port: int) -> bool:
    """Whether somebody accepts connections."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def pids(running: Running) -> list[int]:
    """What the servers printed as their process ids."""
    return [int(line.split()[1]) for line in running.log.read_text().splitlines() if line.startswith("pid ")]


def runs(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def exits(running: Running) -> list[tuple[int, bool]]:
    """The recorded ends: status, and whether the harness meant it."""
    return [(event.status, event.expected) for event in running.events(h.ServerExited)]


# -- ready -------------------------------------------------------------------------------------------------------

LATE = "import time; time.sleep(0.2)\n"
ANSWER = (
    LISTEN
    + """
first = listener.accept()[0]
first.recv(1000)
first.sendall(b"%s")
first.close()
print("first answer given", flush=True)
while True:
    accepted = listener.accept()[0]
    accepted.recv(1000)
    accepted.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    accepted.close()
"""
)


@in_event_loop
async def test_tcp_server_is_ready_when_its_port_accepts(tmp_path: Path) -> None:
    """With `tcp`, start returns when the port accepts connections, and records which process it is."""
    async with serving(target(tmp_path, python(LATE + ACCEPT, ready="tcp")), tmp_path) as running:
        await running.server.start()
        assert listens(running.port)
        assert [event.pid for event in running.events(h.ServerStarted)] == pids(running)
        assert running.events(h.ServerExited) == []


@in_event_loop
async def test_port_that_calls_itself_accepts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection from a port to itself, which TCP makes where nobody listens, is no server that is ready."""

    class FromItself(socket.socket):
        def setblocking(self, flag: bool, /) -> None:
            self.bind(("127.0.0.1", port))
            super().setblocking(flag)

    with reserved() as port:
        monkeypatch.setattr(socket, "socket", FromItself)
        assert not await local._accepts(port)


@pytest.mark.parametrize(
    "first_answer",
    [
        "HTTP/1.1 503 Service Unavailable\\r\\nContent-Length: 0\\r\\n\\r\\n",
        "HTTP/1.1 404 Not Found\\r\\nContent-Length: 0\\r\\n\\r\\n",
        "this is no HTTP\\r\\n",
        "HTTP/1.1 999999 What\\r\\n\\r\\n",
        "",
    ],
)
@in_event_loop
async def test_http_server_is_ready_when_it_answers_well(first_answer: str, tmp_path: Path) -> None:
    """With `http`, an error, nonsense or silence is not ready yet; a good answer is."""
    code = ANSWER.replace("%s", first_answer)
    async with serving(target(tmp_path, python(code, ready="http:/health?x=1")), tmp_path) as running:
        await running.server.start()
        assert "first answer given" in running.log.read_text()


@in_event_loop
async def test_log_server_is_ready_when_it_says_so(tmp_path: Path) -> None:
    """With `log`, start returns when a line matches."""
    code = "import time; print('getting there', flush=True); time.sleep(0.2)\n" + LISTEN + SLEEP
    async with serving(target(tmp_path, python(code, ready=r"log:^listen\w+$")), tmp_path) as running:
        await running.server.start()
        assert listens(running.port)


@in_event_loop
async def test_log_of_the_server_before_does_not_count(tmp_path: Path) -> None:
    """After a restart only what the new server prints makes it ready."""
    code = "import time; time.sleep(0.1)\n" + LISTEN + SLEEP
    async with serving(target(tmp_path, python(code, ready="log:listening")), tmp_path) as running:
        await running.server.start()
        await running.server.kill()
        await running.server.start()
        assert listens(running.port)
        first, second = pids(running)
        assert first != second
        assert [event.pid for event in running.events(h.ServerStarted)] == [first, second]


@pytest.mark.parametrize("ready", ["tcp", "http:/", "log:nobody says this"])
@in_event_loop
async def test_server_that_never_gets_ready_is_one_clear_error(ready: str, tmp_path: Path) -> None:
    """At the deadline the error says what was awaited, with the last log lines, and the process is gone."""
    code = "import os; print('line one'); print('pid', os.getpid()); print('waiting for a disk', flush=True);" + SLEEP
    server = python(code, ready=ready, ready_timeout_seconds=0.5)
    async with serving(target(tmp_path, server), tmp_path) as running:
        with pytest.raises(TargetError) as raised:
            await running.server.start()
        text = str(raised.value)
        assert "did not get ready within 0.5 s" in text
        assert ready in text
        assert str(running.port) in text
        assert text.endswith("    waiting for a disk")
        assert not any(runs(pid) for pid in pids(running))
        assert running.events(h.ServerStarted) == []
        assert exits(running) == [(-signal.SIGKILL, True)]


@in_event_loop
async def test_http_server_that_accepts_and_never_answers_is_not_ready(tmp_path: Path) -> None:
    """A health check that hangs costs the deadline, and no more."""
    server = python(LISTEN + SLEEP, ready="http:/", ready_timeout_seconds=0.3)
    async with serving(target(tmp_path, server), tmp_path) as running:
        with pytest.raises(TargetError, match=r"did not get ready within 0\.3 s"):
            await running.server.start()


@pytest.mark.parametrize("ready", ["tcp", "http:/", "log:nobody says this"])
@in_event_loop
async def test_server_that_ends_before_it_is_ready_is_one_clear_error(ready: str, tmp_path: Path) -> None:
    """The error says with which status, with the last log lines, and does not wait for the deadline."""
    code = "print('x' * 1000); print('no such table: users', flush=True); raise SystemExit(4)"
    async with serving(target(tmp_path, python(code, ready=ready)), tmp_path) as running:
        with pytest.raises(TargetError) as raised:
            await running.server.start()
        assert "ended with exit status 4 before it was ready" in str(raised.value)
        assert str(raised.value).endswith("\n    no such table: users")
        assert running.events(h.ServerStarted) == []


@in_event_loop
async def test_missing_command_is_one_clear_error(tmp_path: Path) -> None:
    """A program that is not there is named."""
    async with serving(target(tmp_path, {"command": ["no-such-program", "{port}"]}), tmp_path) as running:
        with pytest.raises(TargetError, match=r"server of reference cannot be started.*no-such-program"):
            await running.server.start()


@in_event_loop
async def test_missing_working_directory_is_one_clear_error(tmp_path: Path) -> None:
    """A folder that is not there is named."""
    async with serving(target(tmp_path, python(ACCEPT, cwd="nowhere")), tmp_path) as running:
        with pytest.raises(TargetError, match=r"cannot be started.*nowhere"):
            await running.server.start()


@pytest.mark.parametrize("ready", ["tcp", "http:/", "log:anything"])
@in_event_loop
async def test_port_that_is_taken_is_one_clear_error(
    ready: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's program on the port is never taken for the server, which is not even started."""
    monkeypatch.setattr(local, "_PORT_TIMEOUT_SECONDS", 0.2)
    async with serving(target(tmp_path, python(ACCEPT, ready=ready)), tmp_path) as running:
        with closing(socket.create_server(("127.0.0.1", running.port))):
            with pytest.raises(TargetError, match=f"another program listens on port {running.port}"):
                await running.server.start()
            assert not running.log.exists()
        await running.server.start() if ready == "tcp" else None


@in_event_loop
async def test_port_that_is_taken_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    """What is left of a server that was just killed delays the next one, and no more."""
    async with serving(target(tmp_path, python(ACCEPT)), tmp_path) as running:
        other = socket.create_server(("127.0.0.1", running.port))
        starting = asyncio.create_task(running.server.start())
        await asyncio.sleep(0.1)
        other.close()
        await soon(starting)
        assert [event.pid for event in running.events(h.ServerStarted)] == pids(running)


@in_event_loop
async def test_placeholders_and_environment_reach_the_server(tmp_path: Path) -> None:
    """Port and database stand in the command and in the environment, which adds to the inherited one."""
    code = "import os; print('got', *(os.environ[k] for k in ('A', 'B', 'PATH')), flush=True);" + ACCEPT
    server = python(code, env={"A": "{port}", "B": "in {database}"})
    async with serving(target(tmp_path, server), tmp_path) as running:
        await running.server.start({"B": "instead {port}"})
        assert f"got {running.port} instead {running.port} {os.environ['PATH']}\n" in running.log.read_text()


@in_event_loop
async def test_control_runs_its_own_command(tmp_path: Path) -> None:
    """A control of the target's own is started with its command."""
    command = ["{python}", "-S", "-c", "print('unprotected', flush=True)\n" + ACCEPT, "{port}"]
    made = described(tmp_path, server=python(ACCEPT), controls={"without_unique": command})
    async with serving(made, tmp_path, control="without_unique") as running:
        await running.server.start()
        assert running.log.read_text().startswith("unprotected\n")


# -- the end -----------------------------------------------------------------------------------------------------


@in_event_loop
async def test_stopped_server_ends_as_it_likes(tmp_path: Path) -> None:
    """SIGTERM lets a server finish; its status is recorded as expected."""
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(7)));" + ACCEPT
    async with serving(target(tmp_path, python(code)), tmp_path) as running:
        await running.server.start()
        await running.server.stop()
        assert exits(running) == [(7, True)]
        assert "bye" in running.log.read_text()
        assert not listens(running.port)


@in_event_loop
async def test_server_that_does_not_stop_is_killed_as_expected(tmp_path: Path) -> None:
    """A stop that runs into its timeout ends with SIGKILL, recorded as what the harness did."""
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + ACCEPT
    async with serving(target(tmp_path, python(code, stop_timeout_seconds=0.2)), tmp_path) as running:
        await running.server.start()
        await running.server.stop()
        assert exits(running) == [(-signal.SIGKILL, True)]
        assert running.events(h.ServerExited)[0].reason == "signal 9"


@in_event_loop
async def test_killed_server_is_recorded_as_expected(tmp_path: Path) -> None:
    """A kill is the harness's own doing, once, however often it is asked for."""
    async with serving(target(tmp_path, python(ACCEPT)), tmp_path) as running:
        await running.server.kill()
        await running.server.start()
        await running.server.kill()
        await running.server.kill()
        await running.server.stop()
        assert exits(running) == [(-signal.SIGKILL, True)]


@in_event_loop
async def test_server_that_ends_by_itself_is_recorded_as_unexpected(tmp_path: Path) -> None:
    """A crash is told from a kill, whether a kill came before or a stop, a kill and a start come after."""
    async with serving(target(tmp_path, python(ACCEPT)), tmp_path) as running:
        await running.server.start()
        await running.server.kill()
        await running.server.start()
        with closing(socket.create_connection(("127.0.0.1", running.port))) as connection:
            connection.send(b"die")
            await seen(lambda: len(exits(running)) == 2, "the end")
        await running.server.stop()
        await running.server.kill()
        await running.server.start()
        await running.server.kill()
        assert exits(running) == [(-signal.SIGKILL, True), (3, False), (-signal.SIGKILL, True)]
        assert running.events(h.ServerExited)[1].reason == "exit status 3"


@pytest.mark.parametrize("how", ["kill", "stop"])
@in_event_loop
async def test_whole_process_group_ends(how: str, tmp_path: Path) -> None:
    """A server behind a shell goes with its shell, which leaves neither process nor port."""
    server = {
        "command": ["sh", "-c", '"$0" -S -c "$1" "$2" & echo shell; wait', "{python}", ACCEPT, "{port}"],
        "stop_timeout_seconds": 0.5,
    }
    async with serving(target(tmp_path, server), tmp_path) as running:
        for _ in range(3):
            await running.server.start()
            (*_, pid) = pids(running)
            assert pid != running.events(h.ServerStarted)[-1].pid
            assert runs(pid)
            await getattr(running.server, how)()
            assert not runs(pid)
            assert not listens(running.port)
        assert len(set(pids(running))) == 3


@in_event_loop
async def test_restart_is_on_the_same_port_with_the_same_database(tmp_path: Path) -> None:
    """The next server finds the rows of the one before, and is reached through the same links."""
    async with serving(described(tmp_path), tmp_path) as running:
        await running.server.start()
        async with clients(tmp_path, running.port, store=running.store) as here:
            alice = await here.sender()
            await soon(alice.send("before"))
            await running.server.stop()
            await running.server.start()
            await soon(alice.send("after"))
            assert [row.content for row in await running.store.rows()] == [m.content for m in alice.messages]
        assert exits(running) == [(0, True)]


@in_event_loop
async def test_start_that_is_cancelled_can_be_killed(tmp_path: Path) -> None:
    """A schedule that is interrupted while the server starts leaves a server that the clean-up finds."""
    async with serving(target(tmp_path, python(LISTEN + SLEEP, ready="log:never")), tmp_path) as running:
        starting = asyncio.create_task(running.server.start())
        await seen(lambda: listens(running.port), "the server to listen")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await running.server.kill()
        assert not listens(running.port)


# -- faults ------------------------------------------------------------------------------------------------------


async def bitten(here: Clients, running: Running, fault: Fault, alice: Sender, *, in_vain: int = 0) -> str:
    """Send, have the fault bite a message, let it be sent again; the evidence. Every message is stored once.

    `in_vain` is how often the server is started and does not get ready.
    """
    await soon(alice.send())
    await fault.begin()
    try:
        message = alice.post()
        evidence = await soon(fault.bite(message))
    finally:
        await fault.heal()
    await soon(message.done.wait())
    await soon(alice.send())
    stored = [h.identity_in(RUN, row.content) for row in await running.store.rows()]
    assert stored == [message.id for message in alice.messages]
    outcomes = {event.message: type(event) for event in here.recorder.events if isinstance(event, h.Info | h.Ok)}
    assert list(outcomes.values()) == [h.Ok] * 3
    assert len(running.events(h.ServerStarted)) == len(running.events(h.ServerExited)) + 1 - in_vain
    return evidence


@TRANSPORTS
@in_event_loop
async def test_kill_mid_emit_bites_and_heals(transport: str, tmp_path: Path) -> None:
    """A message that reaches a paused server dies with it, and is stored by the next one."""
    async with (
        serving(described(tmp_path), tmp_path) as running,
        clients(tmp_path, running.port, transport, store=running.store) as here,
    ):
        await running.server.start()
        alice = await here.sender()
        evidence = await bitten(here, running, running.server.kill_mid_emit(alice.link), alice)
        assert "paused, then killed" in evidence
        assert exits(running) == [(-signal.SIGKILL, True)]


@TRANSPORTS
@in_event_loop
async def test_kill_after_commit_bites_and_heals(transport: str, tmp_path: Path) -> None:
    """A message that is stored when the server is killed has no answer, and is not stored again."""
    async with (
        serving(described(tmp_path), tmp_path) as running,
        clients(tmp_path, running.port, transport, store=running.store) as here,
    ):
        await running.server.start()
        alice = await here.sender()
        assert "a row is readable" in await bitten(here, running, running.server.kill_after_commit(alice.link), alice)
        assert exits(running) == [(-signal.SIGKILL, True)]


@TRANSPORTS
@in_event_loop
async def test_crash_point_bites_and_heals(transport: str, tmp_path: Path) -> None:
    """A server that dies at its crash point was expected to, and the next one has none."""
    async with (
        serving(described(tmp_path), tmp_path) as running,
        clients(tmp_path, running.port, transport, store=running.store) as here,
    ):
        await running.server.start()
        alice = await here.sender()
        assert "crash point 'after_commit'" in await bitten(here, running, running.server.crash("after_commit"), alice)
        assert exits(running) == [(0, True), (-signal.SIGKILL, True)]


@TRANSPORTS
@in_event_loop
async def test_restart_while_held_bites_and_heals(transport: str, tmp_path: Path) -> None:
    """A message that is in the network while the server is stopped is stored by the next one."""
    async with (
        serving(described(tmp_path), tmp_path) as running,
        clients(tmp_path, running.port, transport, store=running.store) as here,
    ):
        await running.server.start()
        alice = await here.sender()
        assert "and no row was there" in await bitten(
            here, running, running.server.restart_while_held(alice.link), alice
        )
        assert [expected for _, expected in exits(running)] == [True]


@in_event_loop
async def test_fault_on_a_server_that_has_crashed_is_not_seen_and_starts_it(tmp_path: Path) -> None:
    """A server that died before the fault acted was not killed by it; the end of the scope starts it again."""
    async with serving(target(tmp_path, python(ACCEPT)), tmp_path) as running:
        await running.server.start()
        fault = running.server.kill_now()
        await fault.begin()
        os.kill(pids(running)[0], signal.SIGSEGV)
        await seen(lambda: bool(exits(running)), "the end")
        with pytest.raises(NotSeen, match="not running any more"):
            await fault.bite(None)  # type: ignore[arg-type]
        await fault.heal()
        assert exits(running) == [(-signal.SIGSEGV, False)]
        assert listens(running.port)


@in_event_loop
async def test_crash_point_that_is_never_reached_is_not_seen(tmp_path: Path) -> None:
    """A server that does not die is a bite that was not seen, and is started again without the crash point."""
    made = described(
        tmp_path,
        server=python("import os; print('env', os.environ.get('DIE'), flush=True);" + ACCEPT),
        crash_points={"here": {"DIE": "at {message}"}},
    )
    async with serving(made, tmp_path) as running:
        running.server._patience_seconds = 0.1
        await running.server.start()
        fault = running.server.crash("here")
        await fault.begin()
        with pytest.raises(waiting.WaitTimeout, match="die at its crash point 'here'"):
            await fault.bite(None)  # type: ignore[arg-type]
        await fault.heal()
        assert [line for line in running.log.read_text().splitlines() if line.startswith("env")] == [
            "env None",
            "env at 1",
            "env None",
        ]
        assert [expected for _, expected in exits(running)] == [True, True]


@asynccontextmanager
async def chat(
    folder: Path,
    transport: str = "websocket",
    *,
    policy: h.Policy = "persistent",
    made: Target | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Running, Clients, Sender]]:
    """The reference server, or a target made of it, with a sender."""
    async with (
        serving(made or described(folder), folder) as running,
        clients(folder, running.port, transport, store=running.store, **options) as here,
    ):
        await running.server.start()
        yield running, here, await here.sender(policy=policy)


def reference(folder: Path, script: str, **server: Any) -> Target:
    """The reference target, started by a shell script in which "$@" starts it."""
    command = ["sh", "-c", script, "sh", *described(folder).server.command]
    return described(folder, server={"command": command, **server})


def states(running: Running) -> set[str]:
    """The kernel's letters for what the processes of the server's group are doing, threads and all."""
    files = [path for pid in running.server.pids for path in Path(f"/proc/{pid}").glob("task/*/stat")]
    return {path.read_text().rpartition(")")[2].split()[0] for path in files}


# -- pause -------------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_paused_server_goes_on_where_it_stood(transport: str, tmp_path: Path) -> None:
    """A message waits for a server that is paused, and is answered by the same one afterwards, at the first attempt."""
    async with chat(tmp_path, transport) as (running, here, alice):
        began = time.monotonic()
        evidence = await bitten(here, running, running.server.pause(alice.link, 0.2), alice)
        assert time.monotonic() - began >= 0.2
        assert evidence.startswith("the process group was paused for 0.2 s with attempt 1 of ")
        assert [message.attempts for message in alice.messages] == [1, 1, 1]
        assert exits(running) == []


@LINUX
@in_event_loop
async def test_pause_stops_the_whole_group(tmp_path: Path) -> None:
    """A server behind a shell stands still with its shell, every thread of it, and both go on."""
    async with chat(tmp_path, made=reference(tmp_path, '"$@" & wait')) as (running, _, alice):
        assert len(running.server.pids) == 2
        await soon(alice.send())
        pause = running.server.pause(alice.link, 0.01)
        await pause.begin()
        assert states(running) == {"T"}
        message = alice.post()
        await soon(pause.bite(message))
        assert states(running) == {"T"}
        await pause.heal()
        await soon(message.done.wait())
        assert "T" not in states(running)
        assert message.attempts == 1


@in_event_loop
async def test_pause_of_an_answered_message_is_not_seen_and_ends(tmp_path: Path) -> None:
    """A message that was answered before the server was paused did not wait for it."""
    async with chat(tmp_path) as (running, _, alice):
        message = await soon(alice.send())
        pause = running.server.pause(alice.link, 0.01)
        await pause.begin()
        with pytest.raises(NotSeen, match="acknowledged before"):
            await soon(pause.bite(message))
        await pause.heal()
        assert (await soon(alice.send())).attempts == 1
        assert exits(running) == []


@LINUX
@in_event_loop
async def test_pids_are_those_of_the_group_that_runs(tmp_path: Path) -> None:
    """A server has the processes of its group, its shell's and its own, and none before it runs or afterwards."""
    server = {"command": ["sh", "-c", '"$0" -S -c "$1" "$2" & echo shell; wait', "{python}", ACCEPT, "{port}"]}
    async with serving(target(tmp_path, server), tmp_path) as running:
        assert running.server.pids == []
        await running.server.start()
        shell = running.events(h.ServerStarted)[0].pid
        assert sorted(running.server.pids) == sorted([shell, *pids(running)])
        await running.server.kill()
        assert running.server.pids == []


# -- restarts that are slow, in vain, or elsewhere ---------------------------------------------------------------


@in_event_loop
async def test_slow_restart_leaves_the_server_away_for_so_long(tmp_path: Path) -> None:
    """The server is started again that much later, and nobody gets a connection before."""
    async with chat(tmp_path) as (running, here, alice):
        await soon(alice.send())
        fault = running.server.restart_while_held(alice.link, slow_seconds=0.3)
        await fault.begin()
        message = alice.post()
        evidence = await soon(fault.bite(message))
        (exited,) = running.events(h.ServerExited)
        assert running.now() - exited.time >= 0.3
        assert evidence.startswith("the server was stopped and was away for 0.3 s, and no row was there;")
        assert len(here.events(h.Connected)) == len(running.events(h.ServerStarted)) == 1
        await fault.heal()
        await soon(message.done.wait())
        assert exits(running) == [(0, True)]


@TRANSPORTS
@in_event_loop
async def test_restart_in_vain_fails_so_often_and_then_succeeds(transport: str, tmp_path: Path) -> None:
    """Each start on the taken port ends by itself, as expected, and the one at the end gets ready on the same port."""
    async with chat(tmp_path, transport) as (running, here, alice):
        fault = running.server.restart_in_vain(alice.link, 2)
        evidence = await bitten(here, running, fault, alice, in_vain=2)
        assert evidence.startswith("it failed to start 2 times (exit status 1), with attempt 1 of ")
        assert exits(running) == [(0, True), (1, True), (1, True)]
        assert listens(running.port)


@pytest.mark.parametrize(("script", "ends"), [('"$@" || exit 0', r"\[0\]"), ('"$@" || sleep 300', r"\[None\]")])
@in_event_loop
async def test_server_that_does_not_fail_on_a_taken_port_was_not_started_in_vain(
    script: str, ends: str, tmp_path: Path
) -> None:
    """A server that ends well, or that stays, although its port is taken shows nothing; it is started at the end."""
    made = reference(tmp_path, script, ready_timeout_seconds=3)
    async with chat(tmp_path, made=made) as (running, _, alice):
        fault = running.server.restart_in_vain(alice.link, 1)
        await fault.begin()
        message = alice.post()
        with pytest.raises(NotSeen, match=f"its port was taken, and ended with {ends}"):
            await soon(fault.bite(message))
        await fault.heal()
        await soon(message.done.wait())
        assert [expected for _, expected in exits(running)] == [True, True]


@TRANSPORTS
@in_event_loop
async def test_moved_server_is_found_on_its_new_port(transport: str, tmp_path: Path) -> None:
    """The server leaves its port for another; senders and receivers find it there, on the links that they have."""
    async with chat(tmp_path, transport) as (running, here, alice):
        receiver, link = await here.receiver()
        before = (alice.link.port, link.port)
        with reserved() as port:

            async def move() -> Address:
                for each in here.links:
                    await each.lead_to(address(port))
                return address(port)

            running.moves = move
            evidence = await bitten(here, running, running.server.move(alice.link), alice)
            assert evidence.startswith(f"the server moved from port {running.port} to {port}, with attempt 1 of ")
            assert listens(port)
            assert not listens(running.port)
            assert (alice.link.port, link.port) == before
            everything = {message.id for message in alice.messages}
            await seen(lambda: receiver.messages == everything, "the broadcasts", lambda: receiver.messages)
            assert [event.client for event in here.events(h.Connected)].count("rita") == 2
            await running.server.kill()
        assert exits(running) == [(0, True), (-signal.SIGKILL, True)]


# -- acknowledgements --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "sent"), [("retries=3", 4), ("persistent", 5)])
@in_event_loop
async def test_server_that_forgets_acknowledgements_stores_and_says_nothing(
    policy: h.Policy, sent: int, tmp_path: Path
) -> None:
    """A sender gives up after its tries, or has sent once more; the row is there, and the own server answers again."""
    async with chat(tmp_path, policy=policy, ack_timeout_seconds=0.3) as (running, here, alice):
        await soon(alice.send())
        fault = running.server.forget_acknowledgements(alice.link, 4)
        await fault.begin()
        message = alice.post()
        evidence = await soon(fault.bite(message))
        assert evidence.startswith(f"sent {sent} times to a server that acknowledges nothing, with attempt {sent} of ")
        assert message.done.is_set() is (policy == "retries=3")
        assert await running.store.holds(message)
        assert not [event for event in here.events(h.Ok) if event.message == message.id]
        await fault.heal()
        await soon(message.done.wait())
        assert message.acknowledged is (policy == "persistent")
        assert (await soon(alice.send())).acknowledged
        stored = [h.identity_in(RUN, row.content) for row in await running.store.rows()]
        assert stored == [each.id for each in alice.messages]
        assert [expected for _, expected in exits(running)] == [True, True]


@in_event_loop
async def test_message_that_is_given_up_after_fewer_sends_is_not_seen(tmp_path: Path) -> None:
    """A sender that was to send so often, and gave up sooner, is not what was asked for."""
    async with chat(tmp_path, policy="retries=3", ack_timeout_seconds=0.1) as (running, _, alice):
        fault = running.server.forget_acknowledgements(alice.link, 6)
        await fault.begin()
        with pytest.raises(NotSeen, match="sent 4 times, and not 6 times"):
            await soon(fault.bite(alice.post()))
        await fault.heal()
        assert (await soon(alice.send())).acknowledged


# -- permissions -------------------------------------------------------------------------------------------------


def permissions(running: Running) -> dict[str, int]:
    """Those of the store, of its journals and of its folder, as far as they stay."""
    files = [running.database.parent, *running.database.parent.glob("store.db")]
    return {path.name: path.stat().st_mode for path in files}


@LINUX
@in_event_loop
async def test_server_that_lost_its_write_permission_does_not_start_until_it_has_it_back(tmp_path: Path) -> None:
    """A server that needs to write ends at its start, as expected, and starts when it has its permissions again."""
    async with chat(tmp_path) as (running, here, alice):
        before = permissions(running)
        fault = running.server.lose_write_permission(alice.link, 0.1)
        evidence = await bitten(here, running, fault, alice, in_vain=1)
        assert evidence.startswith("with a read-only store for 0.1 s the server did not start (exit status 1); with")
        assert exits(running) == [(-signal.SIGKILL, True), (1, True)]
        assert permissions(running) == before


@LINUX
@in_event_loop
async def test_server_that_starts_without_its_write_permission_serves_and_stores_nothing(tmp_path: Path) -> None:
    """A server that does not care at its start gets the message, cannot store it, and is killed at the end."""
    careless = "import os; os.access = lambda *_: True; from harness.targets.reference.__main__ import main; main()"
    command = ["{python}", "-c", careless, "--port", "{port}", "--database", "{database}"]
    made = described(tmp_path, server={"command": command})
    async with chat(tmp_path, made=made, ack_timeout_seconds=0.2) as (running, here, alice):
        before = permissions(running)
        fault = running.server.lose_write_permission(alice.link, 0.5)
        evidence = await bitten(here, running, fault, alice, in_vain=1)
        assert evidence.startswith("with a read-only store for 0.5 s the server served its clients; with attempt ")
        assert exits(running) == [(-signal.SIGKILL, True)] * 2
        assert permissions(running) == before


@ROOT
@LINUX
@in_event_loop
async def test_server_that_may_write_all_the_same_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root writes whatever the permissions say: then the message is stored, and the permissions are put back."""
    monkeypatch.setattr(process, "_UNPRIVILEGED", ())
    async with chat(tmp_path) as (running, _, alice):
        await soon(alice.send())
        before = permissions(running)
        fault = running.server.lose_write_permission(alice.link, 1)
        await fault.begin()
        message = alice.post()
        with pytest.raises(NotSeen, match="the permission to write could not be taken away"):
            await soon(fault.bite(message))
        assert permissions(running) == before
        await fault.heal()
        await soon(message.done.wait())
        assert (await soon(alice.send())).acknowledged


# -- space -------------------------------------------------------------------------------------------------------


@LINUX
@in_event_loop
async def test_full_disk_bites_the_server_and_heals(tmp_path: Path) -> None:
    """A server whose files cannot grow stores nothing and acknowledges nothing, and goes on when they can."""
    async with chat(tmp_path, ack_timeout_seconds=0.2) as (running, here, alice):
        evidence = await bitten(here, running, running.store.full(0.5), alice)
        assert "no row and no answer without space for 0.5 s" in evidence
        assert exits(running) == []


@LINUX
@in_event_loop
async def test_server_that_ends_by_the_size_limit_has_not_crashed(tmp_path: Path) -> None:
    """The signal that tells of the harness's own limit is expected to end a server; another one is not."""
    code = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL);" + ACCEPT
    async with serving(target(tmp_path, python(code)), tmp_path) as running:
        for number in (signal.SIGXFSZ, signal.SIGXCPU):
            await running.server.start()
            os.kill(pids(running)[-1], number)
            await seen(lambda: not running.server.is_running, "the end")
        assert exits(running) == [(-signal.SIGXFSZ, True), (-signal.SIGXCPU, False)]


# -- where its handlers stand still, and where its database reports an error ------------------------------------


@asynccontextmanager
async def hardened(folder: Path, ack_timeout_seconds: float = NEVER_SECONDS) -> AsyncIterator[tuple[Running, Clients]]:
    """The hardened server on Node, started."""
    async with (
        serving(await asyncio.to_thread(hardened_node), folder) as running,
        clients(folder, running.port, store=running.store, ack_timeout_seconds=ack_timeout_seconds) as here,
    ):
        await running.server.start()
        yield running, here


def hardened_node() -> Target:
    """Its description, when its packages are installed."""
    node.modules()
    return load("hardened-node")


@in_event_loop
async def test_delay_holds_the_first_message_for_so_long(tmp_path: Path) -> None:
    """Its row comes so late, that of the next does not, and at the end a server without the delay runs."""
    async with hardened(tmp_path) as (running, here):
        alice = await here.sender()
        evidence = await bitten(here, running, running.server.delay("before_insert", 0.4), alice)
        assert "its handler stood before insert: " in evidence
        # At least 0.4 s, or it would not have been seen to bite; its answer may be lost in the restart that follows.
        assert f"{alice.messages[1].id} was stored after 0." in evidence
        assert alice.messages[1].acknowledged
        assert alice.messages[2].answer_seconds[0] < 0.4


@in_event_loop
async def test_delay_behind_the_insert_is_not_seen_before_it(tmp_path: Path) -> None:
    """A message that was stored sooner than the delay was not held before it was."""
    async with hardened(tmp_path) as (running, here):
        alice = await here.sender()
        fault = running.server.delay("after_insert", 0.4)
        await fault.begin()
        message = alice.post()
        with pytest.raises(NotSeen, match="sooner than the delay"):
            await soon(fault.bite(message))
        await fault.heal()


@in_event_loop
async def test_database_that_reports_an_error_has_the_message_sent_again(tmp_path: Path) -> None:
    """The first attempt is stored and not answered, a second one is answered, and there is one row."""
    async with hardened(tmp_path, ack_timeout_seconds=0.5) as (running, here):
        alice = await here.sender()
        await soon(alice.send())
        fault = running.server.fail("after_insert")
        await fault.begin()
        message = await soon(alice.send())
        assert await soon(fault.bite(message)) == (
            f"attempt 1 of {message.id} was stored, reported as an error, and not answered"
        )
        await fault.heal()
        stored = [h.identity_in(RUN, row.content) for row in await running.store.rows()]
        assert stored == [message.id for message in alice.messages]


@in_event_loop
async def test_message_that_is_acknowledged_at_once_met_no_error(tmp_path: Path) -> None:
    """The second message after the start is beyond the error point."""
    async with hardened(tmp_path) as (running, here):
        alice, bob = await here.sender(), await here.sender("bob", "once")
        fault = running.server.fail("after_insert")
        await fault.begin()
        await bob.connected(DEADLINE_SECONDS)
        bob.post()
        await alice.connected(DEADLINE_SECONDS)
        await seen(lambda: here.events(h.Attempt), "an attempt")
        await running.store.wait_for(bob.messages[0])
        message = await soon(alice.send())
        with pytest.raises(NotSeen, match="the first attempt of the message was acknowledged"):
            await soon(fault.bite(message))
        await fault.heal()


@in_event_loop
async def test_joining_and_replay_can_be_delayed(tmp_path: Path) -> None:
    """A row is there before its broadcast when somebody joins; and a broadcast comes before the rows that were read."""
    async with hardened(tmp_path) as (running, here):
        alice = await here.sender()
        await soon(alice.send())
        joining = running.server.delay_joining(alice.link, 1, 0.5)
        await joining.begin()
        await alice.connected(DEADLINE_SECONDS)
        message = alice.post()
        await running.store.wait_for(message)
        rita, _ = await here.receiver()
        running.hear_of("rita")
        assert f"rita joined when the row of {message.id} was there, before" in await soon(joining.bite(message))
        await joining.heal()
        await soon(rita.heard(message))
        replay = running.server.delay_replay(alice.link, 2, 0.5)
        await replay.begin()
        await alice.connected(DEADLINE_SECONDS)
        await rita.connected(DEADLINE_SECONDS)
        rob, _ = await here.receiver("rob")
        running.hear_of("rob")
        later = alice.post()
        assert f"{later.id} was broadcast when rob had joined" in await soon(replay.bite(later))
        await replay.heal()
        await soon(rob.heard(later))
        assert later.id in rob.messages


@in_event_loop
async def test_message_that_is_broadcast_before_anybody_joins_is_not_seen(tmp_path: Path) -> None:
    """Who would have joined then came too late, or not at all."""
    async with hardened(tmp_path) as (running, here):
        alice = await here.sender()
        fault = running.server.delay_joining(alice.link, 1, 0.3)
        await fault.begin()
        await alice.connected(DEADLINE_SECONDS)
        message = alice.post()
        await running.store.wait_for(message)
        assert not alice.has_heard(message)
        with pytest.raises(NotSeen, match="nobody has joined"):
            await soon(fault.bite(message))
        assert alice.has_heard(message)
        await fault.heal()
        again = running.server.delay_joining(alice.link, 1, 0.1)
        await again.begin()
        await alice.connected(DEADLINE_SECONDS)
        later = alice.post()
        await seen(lambda: alice.has_heard(later), "its broadcast")
        with pytest.raises(NotSeen, match=f"{later.id} was broadcast before anybody had joined"):
            await soon(again.bite(later))
        await again.heal()
        assert (await soon(alice.send())).acknowledged


@in_event_loop
async def test_newcomer_that_has_its_rows_before_the_message_is_not_seen(tmp_path: Path) -> None:
    """The delay was that of a later one to join: this one was sent the rows at once."""
    async with hardened(tmp_path) as (running, here):
        alice = await here.sender()
        row = await soon(alice.send())
        fault = running.server.delay_replay(alice.link, 5, 0.1)
        await fault.begin()
        await alice.connected(DEADLINE_SECONDS)
        rita, _ = await here.receiver()
        running.hear_of("rita")
        await soon(rita.heard(row))
        running.hear_of("rita", row.content)
        message = await soon(alice.send())
        with pytest.raises(NotSeen, match=f"rita was sent its rows before {message.id} was broadcast"):
            await soon(fault.bite(message))
        await fault.heal()
        assert (await soon(alice.send())).acknowledged


@asynccontextmanager
async def tutorial(folder: Path) -> AsyncIterator[tuple[Running, Clients]]:
    """The tutorial's server on Node, started."""
    await asyncio.to_thread(node.modules)
    async with (
        serving(load("tutorial-node"), folder) as running,
        clients(folder, running.port, store=running.store) as here,
    ):
        await running.server.start()
        yield running, here


@in_event_loop
async def test_broadcast_is_delayed_and_others_overtake_it(tmp_path: Path) -> None:
    """The row of the first is there before that of the second, and its broadcast comes behind it: answered, too."""
    async with tutorial(tmp_path) as (running, here):
        alice, bob = await here.sender(), await here.sender("bob")
        rita, _ = await here.receiver()
        fault = running.server.delay_broadcast(3)
        await fault.begin()
        for client in (alice, bob, rita):
            await client.connected(DEADLINE_SECONDS)
        message = alice.post()
        await running.store.wait_for(message)
        other = await soon(bob.send())
        await soon(rita.heard(other))
        evidence = await soon(fault.bite(message))
        unanswered = f"a row is readable, and attempt 1 of {message.id} open is not answered"
        assert evidence == f"its handler stood behind its INSERT: {unanswered}"
        await soon(message.done.wait())
        await soon(rita.heard(message))
        assert message.answer_seconds[0] >= 3
        assert [h.identity_in(RUN, event.content) for event in here.events(h.Received)] == [other.id, message.id]
        rows = [h.identity_in(RUN, row.content) for row in await running.store.rows()]
        assert rows == [message.id, other.id]
        await fault.heal()
        assert (await soon(alice.send())).answer_seconds[0] < 3
        assert len(running.events(h.ServerStarted)) == 3


@in_event_loop
async def test_broadcast_of_a_message_that_was_answered_was_not_delayed(tmp_path: Path) -> None:
    """The second message after the start is beyond the delay."""
    async with tutorial(tmp_path) as (running, here):
        alice, bob = await here.sender(), await here.sender("bob")
        fault = running.server.delay_broadcast(3)
        await fault.begin()
        for client in (alice, bob):
            await client.connected(DEADLINE_SECONDS)
        first = bob.post()
        await running.store.wait_for(first)
        message = await soon(alice.send())
        with pytest.raises(NotSeen, match="the message was acknowledged"):
            await soon(fault.bite(message))
        await fault.heal()
        await soon(first.done.wait())
        rows = [h.identity_in(RUN, row.content) for row in await running.store.rows()]
        assert rows == [first.id, message.id]


@in_event_loop
async def test_broadcast_of_a_message_that_is_not_stored_was_not_delayed(tmp_path: Path) -> None:
    """A message that has not reached the server does not stand behind its INSERT: not seen, at the deadline."""
    async with tutorial(tmp_path) as (running, here):
        running.store._patience_seconds = 0.1
        alice = await here.sender()
        fault = running.server.delay_broadcast(3)
        await fault.begin()
        await alice.connected(DEADLINE_SECONDS)
        await alice.link.hold("upstream")
        message = alice.post()
        with pytest.raises(waiting.WaitTimeout, match="a row of"):
            await soon(fault.bite(message))
        await fault.heal()
        await alice.link.restore()
        await soon(message.done.wait())
        assert message.answer_seconds[0] < 3


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("delay", "delay"),
        ("fail", "error"),
        ("delay_joining", "delay"),
        ("delay_replay", "delay"),
        ("delay_broadcast", "delay"),
    ],
)
@in_event_loop
async def test_point_that_the_target_does_not_have_is_an_error(what: str, kind: str, tmp_path: Path) -> None:
    """It is named, and the server runs again."""
    made = described(tmp_path, delay_points={}, error_points={})
    async with (
        serving(made, tmp_path) as running,
        clients(tmp_path, running.port, store=running.store) as here,
    ):
        await running.server.start()
        alice = await here.sender()
        arguments: dict[str, tuple[Any, ...]] = {
            "delay": ("nowhere", 0.1),
            "fail": ("nowhere",),
            "delay_joining": (alice.link, 1, 0.1),
            "delay_replay": (alice.link, 1, 0.1),
            "delay_broadcast": (0.1,),
        }
        fault = getattr(running.server, what)(*arguments[what])
        with pytest.raises(TargetError, match=f"the target reference has no {kind} point '"):
            await fault.begin()
        await fault.heal()
        assert (await soon(alice.send())).acknowledged
