"""Whole runs on real systems: what they leave in the history, and that they leave nothing else, however they end."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import checker, reaper
from harness import history as h
from harness import system as system_module
from harness.clients import author as author_module
from harness.errors import TargetError
from harness.fault import Acts, fault
from harness.runtimes.local import Local
from harness.scenario import CONTROLS, Case, Run, Scenario
from harness.system import AnySender, System, perform, preflight
from harness.target import Target, load
from harness.toxiproxy import Toxiproxy
from tests.systems import DEADLINE_SECONDS, described, in_event_loop, seen, soon, toxiproxy_in

TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "polling"])
REFERENCE = load("reference")
CLAIM = Run("claim", None, "persistent", None, {}, "python", REFERENCE, receivers=True)
CONTROL = Run("control", CONTROLS["once"], "once", None, {}, "python", REFERENCE)
NULL = Run("null", CONTROLS["once"], "once", None, {}, "python", REFERENCE)

Schedule = Callable[[System], Awaitable[None]]


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for what does not come; only where it does not come."""
    monkeypatch.setattr(system_module, "patience_seconds", lambda _: 1.0)
    monkeypatch.setattr(author_module, "patience_seconds", lambda _: 1.0)
    monkeypatch.setattr(system_module, "_SETTLE_SECONDS", 0.5)


class Place:
    """Where runs are made: a Toxiproxy, and directories in which nothing may be left."""

    def __init__(self, folder: Path, toxiproxy: Toxiproxy, runtime: Local, *, forking: bool) -> None:
        self.folder = folder
        self.toxiproxy = toxiproxy
        self.runtime = runtime
        self.forking = forking
        self.target = described(folder)
        self.systems: list[System] = []
        self._held = _groups_held()  # Toxiproxy's own among them

    async def run(
        self, schedule: Schedule, run: Run = CLAIM, *, target: Target | None = None, transport: str = "websocket"
    ) -> h.History:
        """Make one run; its history."""
        await self.begin(schedule, run, target=target, transport=transport)
        return self.history

    def begin(
        self, schedule: Schedule, run: Run = CLAIM, *, target: Target | None = None, transport: str = "websocket"
    ) -> "asyncio.Task[None]":
        """Begin a run."""

        async def noted(system: System) -> None:
            self.systems.append(system)
            await schedule(system)

        run = msgspec.structs.replace(run, target=self._tested(target or self.target))
        case = Case(Scenario(noted, "test", (), {"": {}}, None, None), "", run.client, transport, run.target)
        return asyncio.create_task(perform(case, run, self.toxiproxy, self.runtime, self.folder, seed=1))

    def _tested(self, target: Target) -> Target:
        server = target.server if self.forking else msgspec.structs.replace(target.server, fork=None)
        return msgspec.structs.replace(target, server=server)

    async def preflight(self, target: Target) -> None:
        """Find out whether a target may be tested."""
        await preflight(self._tested(target), self.toxiproxy, self.runtime, self.folder)

    @property
    def history(self) -> h.History:
        """What the last run left on disk."""
        return h.History.load(self.folder / "history.jsonl")

    def proxies(self) -> dict[str, Any]:
        """What Toxiproxy has."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.toxiproxy.url}/proxies", timeout=10) as response:
            proxies: dict[str, Any] = json.load(response)
        return proxies

    def require_nothing_left(self, *, toxiproxy_lives: bool = True) -> None:
        """Neither process, port, directory nor proxy is left of any run, nor a promise to end one."""
        started = [event.pid for event in self.history if isinstance(event, h.ServerStarted)]
        assert not [pid for pid in started if _group_runs(pid)]
        for system in self.systems:
            with contextlib.closing(socket.socket()) as probe:
                assert probe.connect_ex(("127.0.0.1", system._address.port)) != 0
        assert list(Path(tempfile.gettempdir()).iterdir()) == []
        assert [kind for kind, _ in reaper._held if kind == "directory"] == []
        assert _groups_held() == self._held + self.forking  # that of the program that forks
        if toxiproxy_lives:
            assert self.proxies() == {}


def _groups_held() -> int:
    return len([kind for kind, _ in reaper._held if kind == "group"])


def _group_runs(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(process_group) == group and state not in "ZX":
                return True
    return False


@contextlib.asynccontextmanager
async def place(folder: Path, monkeypatch: pytest.MonkeyPatch, *, forking: bool = False) -> AsyncIterator[Place]:
    """A place for runs, whose servers are forked where their target offers that."""
    temporary, own = folder / "tmp", folder / "run"
    temporary.mkdir()
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    async with toxiproxy_in(folder) as toxiproxy:
        runtime = Local(folder)
        try:
            yield Place(own, toxiproxy, runtime, forking=forking)
        finally:
            await runtime.close()


def of(history: h.History, kind: type[h.Event]) -> list[Any]:
    """The events of one kind."""
    return [event for event in history if isinstance(event, kind)]


async def two_messages(system: System) -> None:
    """The shortest schedule with a fault that proves something."""
    alice = await system.sender("alice")
    await alice.send()
    async with system.inject(alice.link.lose_acknowledgement()) as lost:
        message = alice.post()
        await lost.bitten(message)
    await alice.send()


# -- a run -------------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_run_leaves_its_history_and_nothing_else(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that holds is kept, on the evidence of its history; everything that was started is gone."""
    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(two_messages, transport=transport)
        judgement = checker.judge(history)
        assert judgement.verdict == "kept", judgement.why
        assert (judgement.counts["sent"], judgement.counts["stored"]) == (3, 3)
        assert isinstance(history.events[-1], h.Finished)
        assert [event.complete for event in of(history, h.Drained)] == [True]
        assert {event.receiver for event in of(history, h.Received)} == {"steady", "shaken"}
        here.require_nothing_left()


@in_event_loop
async def test_one_receiver_is_never_disturbed_and_one_always(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While faults act, also several, the shaken receiver has no link; the steady one keeps its connection."""

    async def schedule(system: System) -> None:
        alice = await system.sender("alice")
        async with system.inject(system.store.lock(0.01)):
            await seen(lambda: bool(disconnects(system)), "the receiver to be cut")
            async with system.inject(alice.link.lose_acknowledgement()):
                pass
            assert connects(system) == 1
        await seen(lambda: connects(system) == 2, "the receiver to be back")

    def disconnects(system: System) -> list[h.Disconnected]:
        return [e for e in system._recorder.events if isinstance(e, h.Disconnected) and e.client == "shaken"]

    def connects(system: System) -> int:
        return sum(isinstance(e, h.Connected) and e.client == "shaken" for e in system._recorder.events)

    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(schedule)
        assert of(history, h.Failed) == []
        steady = [event for event in of(history, h.Disconnected) if event.client == "steady"]
        assert steady == []
        assert [event.number for event in of(history, h.FaultEnded)] == [2, 1]


@in_event_loop
async def test_null_run_injects_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a null the schedule is the same, and no fault is armed, looked for or recorded."""

    async def schedule(system: System) -> None:
        alice = await system.sender("alice")
        await alice.send()
        for one in (
            system.server.kill_mid_emit(alice.link),
            system.server.crash("after_commit"),
            system.store.lock(60),
            alice.link.lose_acknowledgement(),
            alice.link.cut_inside(0.5),
        ):
            async with system.inject(one) as injected:
                await injected.bitten(alice.post())
        await alice.send()

    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(schedule, NULL)
        assert {type(event) for event in history} == {
            *(h.Started, h.ServerStarted, h.Connected, h.Invoke, h.Settled, h.Attempt, h.Ok),
            *(h.Drained, h.ServerExited, h.Row, h.Finished),
        }
        assert len(of(history, h.ServerStarted)) == len(of(history, h.Connected)) == 1
        assert checker.judge(history).verdict == "kept"
        here.require_nothing_left()


@in_event_loop
async def test_control_shows_its_anomaly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control runs with its own policy, without receivers, and shows what its protection prevents."""

    async def schedule(system: System) -> None:
        alice = await system.sender("alice")
        await alice.send("equal")
        async with system.inject(alice.link.cut_inside(0.5)) as cut:
            message = alice.post("equal")
            await cut.bitten(message)
        await alice.send()

    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(schedule, CONTROL)
        judgement = checker.judge(history)
        assert [anomaly.kind for anomaly in judgement.broken_by] == ["lost"]
        assert judgement.bites[0].message == judgement.broken_by[0].message
        assert of(history, h.Receiving) == []
        assert {event.policy for event in of(history, h.Invoke)} == {"once"}


@in_event_loop
async def test_same_seed_says_the_same_with_many_senders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each sender says and with which offsets depends on the seed, and not on who is answered first."""

    async def said(delays: random.Random) -> dict[str, tuple[str, str]]:
        async def schedule(system: System) -> None:
            async def talk(sender: AnySender) -> None:
                for _ in range(5):
                    for _ in range(delays.randrange(5)):
                        await asyncio.sleep(0)
                    await sender.send()

            await asyncio.gather(*(talk(sender) for sender in await system.senders(3)))

        history = await here.run(schedule, NULL)
        contents = {event.message: event.content for event in of(history, h.Invoke)}
        return {event.message: (contents[event.message], event.offset) for event in of(history, h.Attempt)}

    async with place(tmp_path, monkeypatch) as here:
        assert await said(random.Random(1)) == await said(random.Random(2))


# -- failures of the schedule ------------------------------------------------------------------------------------


class Clumsy:
    """Something with faults that go wrong."""

    title = "something"

    def __init__(self) -> None:
        self.done: list[str] = []

    @fault("link")
    async def not_armed(self) -> Acts:
        """Go wrong at the beginning."""
        try:
            raise TargetError("cannot be armed")
            yield None
        finally:
            self.done.append("healed")

    @fault("link")
    async def not_healed(self) -> Acts:
        """Go wrong at the end."""
        try:
            yield None
            yield "bitten"
        finally:
            raise TargetError("cannot be healed")


@TRANSPORTS
@in_event_loop
async def test_schedule_that_raises_is_an_error_with_its_place(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule is anybody's code: what it raises is an error, never a verdict, and is cleaned up after."""

    async def schedule(system: System) -> None:
        alice = await system.sender("alice")
        await alice.send()
        async with system.inject(alice.link.lose_acknowledgement()):
            alice.post()
            raise LookupError("a mistake in the schedule")

    async with place(tmp_path, monkeypatch) as here:
        judgement = checker.judge(await here.run(schedule, transport=transport))
        assert judgement.verdict == "error"
        assert judgement.why.startswith("the schedule: LookupError: a mistake in the schedule (see ")
        assert "raise LookupError" in (here.folder / "traceback.txt").read_text()
        here.require_nothing_left()


@in_event_loop
async def test_fault_that_cannot_be_armed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that goes wrong at its beginning is healed, and said to have ended; the run is an error."""
    clumsy = Clumsy()

    async def schedule(system: System) -> None:
        async with system.inject(clumsy.not_armed()):
            raise AssertionError("not reached")

    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(schedule)
        assert checker.judge(history).why == "TargetError: cannot be armed"
        assert clumsy.done == ["healed"]
        assert [event.number for event in of(history, h.FaultEnded)] == [1]
        here.require_nothing_left()


@in_event_loop
async def test_fault_that_cannot_be_healed_skips_no_other_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heal that goes wrong leaves neither the receiver without its link nor the fault without its end."""

    async def schedule(system: System) -> None:
        alice = await system.sender("alice")
        await alice.send()
        with pytest.raises(TargetError, match="cannot be healed"):
            async with system.inject(Clumsy().not_healed()) as injected:
                await injected.bitten(alice.post())
        await alice.send()

    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(schedule)
        assert [event.number for event in of(history, h.FaultEnded)] == [1]
        assert checker.judge(history).verdict == "kept"  # the shaken receiver has everything
        here.require_nothing_left()


@in_event_loop
async def test_heal_that_fails_ends_the_run_as_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that does not expect it ends with what the heal said, and everything is cleaned up."""

    async def schedule(system: System) -> None:
        async with system.inject(Clumsy().not_healed()):
            pass

    async with place(tmp_path, monkeypatch) as here:
        assert checker.judge(await here.run(schedule)).why == "TargetError: cannot be healed"
        here.require_nothing_left()


@pytest.mark.usefixtures("_impatient")
@in_event_loop
async def test_fault_that_finds_no_connection_is_not_seen_to_bite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that cannot begin for want of a connection is a bite not seen, and the schedule goes on."""

    async def schedule(system: System) -> None:
        alice = await system.sender("alice")
        await alice.send()
        connection = await alice.connected(DEADLINE_SECONDS)
        await alice.link.close()
        await alice.link._closed(connection)
        async with system.inject(alice.link.cut_inside(0.5)) as cut:
            await cut.bitten(alice.post())
        await alice.link.restore()
        await alice.send()

    async with place(tmp_path, monkeypatch) as here:
        judgement = checker.judge(await here.run(schedule))
        assert judgement.verdict == "unproven"
        assert "alice to be connected" in judgement.why
        here.require_nothing_left()


@in_event_loop
async def test_every_clean_up_step_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of the clean-up that fail are told, and the others are taken all the same."""

    async def schedule(system: System) -> None:
        alice = await system.sender("alice")
        await alice.send()
        for name in ("first", "second"):
            system._cleanup.push_async_callback(fail, name)

    async def fail(name: str) -> None:
        tried.append(name)
        raise OSError(f"{name} went wrong")

    tried: list[str] = []
    async with place(tmp_path, monkeypatch) as here:
        judgement = checker.judge(await here.run(schedule))
        assert judgement.verdict == "error"
        assert "first went wrong" in judgement.why
        assert tried == ["second", "first"]
        here.require_nothing_left()


# -- interruptions -----------------------------------------------------------------------------------------------


async def interrupted(here: Place, begun: Callable[[], object], schedule: Schedule, transport: str) -> None:
    """Cancel a run at a moment, as Ctrl-C does."""
    run = here.begin(schedule, transport=transport)
    await seen(lambda: begun() or run.done(), "the moment")
    assert not run.done()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(run)
    assert checker.judge(here.history).why == "the run was interrupted before its final read"
    here.require_nothing_left()


@TRANSPORTS
@in_event_loop
async def test_run_that_is_interrupted_in_a_fault_leaves_nothing(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while faults act heals them, ends everything, and leaves the history up to there."""
    acting = asyncio.Event()

    async def schedule(system: System) -> None:
        alice = await system.sender("alice")
        await alice.send()
        async with (
            system.inject(system.server.kill_mid_emit(alice.link)),
            system.inject(alice.link.lose_acknowledgement()),
            system.inject(system.store.lock(60)) as lock,
        ):
            message = alice.post()
            acting.set()
            await lock.bitten(message)

    async with place(tmp_path, monkeypatch) as here:
        await interrupted(here, acting.is_set, schedule, transport)
        assert len(of(here.history, h.FaultEnded)) == 3


@in_event_loop
async def test_run_that_is_interrupted_at_any_moment_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at any event of a run leaves neither process, port, directory nor proxy."""
    recorders: list[h.Recorder] = []

    class Noted(h.Recorder):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            recorders.append(self)

    monkeypatch.setattr(h, "Recorder", Noted)
    async with place(tmp_path, monkeypatch) as here:
        for count in (1, 2, 4, 7, 11, 16, 23):
            before = len(recorders)
            await interrupted(
                here,
                partial(lambda n, b: len(recorders) > b and len(recorders[-1].events) >= n, count, before),
                two_messages,
                "websocket",
            )


# -- the server --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "why"),
    [
        ({"command": ["no-such-program", "{port}", "{database}"]}, "cannot be started"),
        ({"command": ["sh", "-c", "echo no disk; exit 5", "{port}", "{database}"]}, "no disk"),
        ({"command": ["sh", "-c", "echo soon; sleep 60", "{port}{database}"], "ready_timeout_seconds": 0.2}, "soon"),
    ],
)
@in_event_loop
async def test_server_that_cannot_start_is_an_error(
    server: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not get ready ends the run before its schedule, and leaves nothing."""
    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(two_messages, target=described(here.folder, server=server))
        judgement = checker.judge(history)
        assert judgement.verdict == "error"
        assert judgement.why.startswith("TargetError: ")
        assert why in judgement.why
        assert here.systems == []
        here.require_nothing_left()


@pytest.mark.usefixtures("_impatient")
@in_event_loop
async def test_server_that_dies_by_itself_breaks_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash that nobody caused is the target's, not an error of the run: the anomaly outweighs what cannot follow."""

    async def schedule(system: System) -> None:
        alice = await system.sender("alice")
        await alice.send("equal")
        await alice.send("equal")
        async with system.inject(alice.link.cut_inside(0.5)) as cut:
            await cut.bitten(alice.post("equal"))

    async with place(tmp_path, monkeypatch) as here:
        fragile = described(here.folder, server={"env": {"REFERENCE_CRASH": "after-commit:2"}})
        judgement = checker.judge(await here.run(schedule, target=fragile))
        assert judgement.verdict == "broken", judgement.why
        assert "crashed" in {anomaly.kind for anomaly in judgement.broken_by}
        here.require_nothing_left()


@in_event_loop
async def test_rows_that_cannot_be_read_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that is wrong is an error that shows it."""
    async with place(tmp_path, monkeypatch) as here:
        wrong = described(here.folder, store={"rows": "SELECT id FROM messages"})
        judgement = checker.judge(await here.run(two_messages, target=wrong))
        assert judgement.verdict == "error"
        assert "it lacks client_offset, content" in judgement.why
        here.require_nothing_left()


# -- Toxiproxy ---------------------------------------------------------------------------------------------------


async def _before_the_sender(system: System, die: Callable[[], None]) -> None:
    die()
    await system.sender("alice")


async def _before_a_message(system: System, die: Callable[[], None]) -> None:
    alice = await system.sender("alice")
    await alice.send()
    die()
    await alice.send()


async def _before_a_fault(system: System, die: Callable[[], None]) -> None:
    alice = await system.sender("alice")
    await alice.send()
    die()
    async with system.inject(alice.link.cut_inside(0.5)) as cut:
        await cut.bitten(alice.post())


async def _in_a_fault(system: System, die: Callable[[], None]) -> None:
    alice = await system.sender("alice")
    await alice.send()
    async with system.inject(alice.link.lose_acknowledgement()) as lost:
        message = alice.post()
        die()
        await lost.bitten(message)


async def _at_the_end(system: System, die: Callable[[], None]) -> None:
    await two_messages(system)
    die()


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("moment", [_before_the_sender, _before_a_message, _before_a_fault, _in_a_fault, _at_the_end])
@TRANSPORTS
@in_event_loop
async def test_dead_toxiproxy_is_an_error_and_never_a_verdict(
    transport: str,
    moment: Callable[[System, Callable[[], None]], Awaitable[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whenever Toxiproxy dies, what looks like a loss is its own: the run is an error that names it."""

    async def schedule(system: System) -> None:
        process = here.toxiproxy._server.process
        assert process is not None
        await moment(system, lambda: os.kill(process.pid, signal.SIGKILL))

    async with place(tmp_path, monkeypatch) as here:
        judgement = checker.judge(await here.run(schedule, transport=transport))
        assert judgement.verdict == "error"
        assert "Toxiproxy" in judgement.why
        here.require_nothing_left(toxiproxy_lives=False)


# -- preflight ---------------------------------------------------------------------------------------------------


@in_event_loop
async def test_preflight_of_a_good_target_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that answers and whose rows can be read may be tested."""
    async with place(tmp_path, monkeypatch) as here:
        await here.preflight(here.target)
        here.require_nothing_left()


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("tables", "error"),
    [
        (
            {"protocol": {"event": "wrong name", "ack_timeout_seconds": 0.2}},
            "did not acknowledge a message in .*'wrong name'",
        ),
        ({"protocol": {"namespace": "/wrong"}}, "alice to be connected"),
        ({"protocol": {"path": "/wrong"}}, "alice to be connected"),
        ({"store": {"rows": "SELECT * FROM wrong"}}, "no such table: wrong"),
        ({"store": {"rows": "SELECT id FROM messages"}}, "lacks client_offset, content"),
        ({"store": {"location": "{database}.wrong"}}, "does not exist"),
        ({"store": {"location": "/etc/passwd"}}, "not a database"),
        ({"server": {"ready": "log:never said", "ready_timeout_seconds": 0.5}}, "did not get ready within 0.5 s"),
        ({"server": {"command": ["false", "{port}", "{database}"]}}, "ended with exit status 1"),
    ],
)
@in_event_loop
async def test_preflight_of_a_wrong_target_is_one_clear_error(
    tables: dict[str, dict[str, Any]], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be tested is told in one error, and leaves nothing."""
    async with place(tmp_path, monkeypatch) as here:
        with pytest.raises(TargetError, match=error):
            await here.preflight(described(here.folder, **tables))
        here.require_nothing_left()
