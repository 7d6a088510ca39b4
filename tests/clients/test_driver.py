"""A sender in a process of its own: what it tells is recorded, and a kill or a freeze of it does what it says."""

import contextlib
import json
import random
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from harness import history as h
from harness import waiting
from harness.clients import driver as driver_module
from harness.clients import protocol as p
from harness.clients.driver import DriverReceiver, DriverSender, Program
from harness.errors import ClientError
from harness.fault import NotSeen
from tests.systems import DEADLINE_SECONDS, RUN, Clients, clients, in_event_loop, seen, soon
from tests.test_link import Behind, behind, empty

WORKER = (sys.executable, "-m", "harness.clients.worker")


@contextlib.asynccontextmanager
async def sending(
    there: Behind,
    folder: Path,
    *,
    outbox: bool = True,
    policy: h.Policy = "persistent",
    command: Sequence[str] = WORKER,
) -> AsyncIterator[DriverSender]:
    """A sender of the reference server's, in a process of its own; it is started, and perhaps connected."""
    sender = DriverSender(
        "alice",
        there.here.dialer,
        await there.here.link("alice"),
        there.running.store,
        Program(command, folder, folder / "client.log", folder / "outbox.jsonl" if outbox else None),
        policy=policy,
        random_numbers=random.Random(1),
    )
    await sender.start()
    try:
        yield sender
    finally:
        await sender.close()


async def stored(there: Behind) -> list[str | None]:
    """Whose rows there are, in their order."""
    return [h.identity_in(RUN, row.content) for row in await there.running.store.rows()]


def told(there: Behind, message: str) -> list[str]:
    """What was recorded of one message, in short."""
    lines = []
    for event in there.here.recorder.events:
        if getattr(event, "message", None) == message and not isinstance(event, h.Bitten):
            number = getattr(event, "attempt", "")
            lines.append(f"{type(event).__name__.lower()} {number}".strip())
    return lines


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@in_event_loop
async def test_what_the_process_tells_is_recorded_like_what_happens_in_here(transport: str, tmp_path: Path) -> None:
    """Its messages are stored in their order, and each has its attempt, its answer and its end in the history."""
    async with behind(tmp_path, transport) as there, sending(there, tmp_path) as alice:
        await alice.connected(DEADLINE_SECONDS)
        for _ in range(3):
            await alice.send()
        assert await stored(there) == [message.id for message in alice.messages]
        for message in alice.messages:
            assert told(there, message.id) == ["invoke", "attempt 1", "ok 1", "settled"]
        assert [event.connection for event in there.here.events(h.Connected)] == [1]


@in_event_loop
async def test_killed_client_goes_on_with_its_outbox(tmp_path: Path) -> None:
    """A message that was on the way is sent again by the next process, under the next numbers, and stored once."""
    async with behind(tmp_path, "websocket") as there, sending(there, tmp_path) as alice:
        await alice.connected(DEADLINE_SECONDS)
        await alice.send()
        kill = alice.kill()
        await kill.begin()
        message = alice.post()
        assert "was killed with attempt 1" in await soon(kill.bite(message))
        assert await stored(there) == [alice.messages[0].id]
        await kill.heal()
        await soon(message.done.wait())
        assert told(there, message.id) == ["invoke", "attempt 1", "info 1", "attempt 2", "ok 2", "settled"]
        assert await stored(there) == [message.id for message in alice.messages]
        connections = [event.connection for event in there.here.events(h.Connected)]
        assert connections == sorted(set(connections))
        assert len(connections) == 2


@in_event_loop
async def test_killed_client_without_an_outbox_has_forgotten(tmp_path: Path) -> None:
    """Nothing more is done about a message that was on the way, and nobody is told."""
    async with behind(tmp_path, "websocket") as there, sending(there, tmp_path, outbox=False) as alice:
        await alice.connected(DEADLINE_SECONDS)
        kill = alice.kill()
        await kill.begin()
        message = alice.post()
        await soon(kill.bite(message))
        await kill.heal()
        after = await alice.send()
        assert message.done.is_set()
        assert not message.settled
        assert told(there, message.id) == ["invoke", "attempt 1", "info 1"]
        assert await stored(there) == [after.id]


@in_event_loop
async def test_frozen_client_sends_a_stored_message_again(tmp_path: Path) -> None:
    """After it stood still it knows of no answer: it sends again what is stored, and its connection is the same."""
    async with behind(tmp_path, "websocket", ack_timeout_seconds=0.3) as there, sending(there, tmp_path) as alice:
        await alice.connected(DEADLINE_SECONDS)
        freeze = alice.freeze(0.4)
        await freeze.begin()
        message = alice.post()
        assert "after attempt 1 was stored" in await soon(freeze.bite(message))
        await freeze.heal()
        await soon(message.done.wait())
        assert message.attempts >= 2
        assert await stored(there) == [message.id]
        assert len(there.here.events(h.Connected)) == 1


@in_event_loop
async def test_kill_that_hits_nothing_leaves_one_program(tmp_path: Path) -> None:
    """It is started again as after any other kill, and not beside itself."""
    async with behind(tmp_path, "websocket") as there, sending(there, tmp_path) as alice:
        await alice.connected(DEADLINE_SECONDS)
        kill = alice.kill()
        await kill.begin()
        await kill.heal()
        assert (await alice.send()).acknowledged
        assert len(there.here.events(h.Connected)) == 2
        assert len(there.here.events(h.Disconnected)) == 1


@in_event_loop
async def test_kill_after_the_answer_is_not_seen(tmp_path: Path) -> None:
    """A message that had its answer before the kill was not bitten."""
    async with behind(tmp_path, "websocket") as there, sending(there, tmp_path) as alice:
        await alice.connected(DEADLINE_SECONDS)
        message = await alice.send()
        kill = alice.kill()
        await kill.begin()
        with pytest.raises(NotSeen, match="was stored or acknowledged"):
            await soon(kill.bite(message))
        await kill.heal()


@in_event_loop
async def test_handed_over_is_not_done(tmp_path: Path) -> None:
    """Where nobody waits for an answer a message is done when its only attempt is over."""
    async with behind(tmp_path, "websocket") as there, sending(there, tmp_path, policy="once") as alice:
        await alice.connected(DEADLINE_SECONDS)
        message = await alice.send()
        assert told(there, message.id) == ["invoke", "settled", "attempt 1", "ok 1"]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('hello')", "told what its protocol does not know"),
        ('print(\'{"event": "dance", "time": 1}\')', "told what its protocol does not know"),
        ("import sys; sys.exit('out of ideas')", "exited with status 1; its last lines:\n    out of ideas"),
        ("import os; os.abort()", "was ended by SIGABRT"),
    ],
)
@in_event_loop
async def test_program_that_does_not_keep_to_the_protocol_has_failed(program: str, reason: str, tmp_path: Path) -> None:
    """Garbage, unknown events and an end that nobody asked for are failures of the client, with a reason."""
    async with behind(tmp_path, "websocket") as there:
        command = (sys.executable, "-c", program)
        async with sending(there, tmp_path, command=command) as alice:
            await seen(lambda: there.here.failures, "a failure")
            assert there.here.failures[0].startswith(f"{alice.title}: ")
            assert reason in there.here.failures[0]
        there.here.failures.clear()


@in_event_loop
async def test_program_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    """The error names the client and the program."""
    async with behind(tmp_path, "websocket") as there:
        with pytest.raises(ClientError, match="the client of alice cannot be started: cannot start '/no/such/program'"):
            async with sending(there, tmp_path, command=("/no/such/program",)):
                pass


@pytest.mark.parametrize(
    ("outbox", "story"),
    [
        (True, ["invoke", "attempt 1", "info 1", "attempt 2", "ok 2", "settled"]),
        (False, ["invoke", "attempt 1", "info 1"]),
    ],
)
@in_event_loop
async def test_reloaded_page_has_what_is_in_its_outbox(outbox: bool, story: list[str], tmp_path: Path) -> None:
    """What was on the way is sent again from an outbox, and is gone without one; the next message is sent anyway."""
    async with behind(tmp_path, "websocket") as there, sending(there, tmp_path, outbox=outbox) as alice:
        await alice.connected(DEADLINE_SECONDS)
        reload = alice.reload()
        await reload.begin()
        message = alice.post()
        assert await soon(reload.bite(message)) == f"the page was reloaded with {message.id} held in the link"
        await reload.heal()
        await soon(message.done.wait())
        after = await soon(alice.send())
        assert told(there, message.id) == story
        assert await stored(there) == ([message.id, after.id] if outbox else [after.id])


# -- what a program tells, word by word --------------------------------------------------------------------------

# For each command it tells the next lines that are planned for its kind; what is no event is printed as it is.
PLAYER = """
import json, pathlib, sys
plan = json.loads(pathlib.Path(sys.argv[1]).read_text())
for line in sys.stdin:
    command = json.loads(line)
    for told in plan[command["command"]].pop(0) if plan.get(command["command"]) else []:
        if told == "exit":
            sys.exit(0)
        print(told if isinstance(told, str) else json.dumps(told), flush=True)
"""
FIRST, SECOND = f"{RUN}-alice-0001", f"{RUN}-alice-0002"
CONNECTED = p.Connected(connection=1)
GONE = p.Disconnected(connection=1, reason="gone")
INVOKE = p.Invoke(message=FIRST, offset="given")
ATTEMPT = p.Attempt(message=FIRST, attempt=1, offset="given", connection=1)
OK = p.Ok(message=FIRST, attempt=1)
POLLS = p.Wire(connection=1, sent=0, poll_pending=True, websocket=False)
UPGRADED = p.Wire(connection=1, sent=0, poll_pending=True, websocket=True)
OTHER = p.Wire(connection=2, sent=0, poll_pending=True, websocket=False)
Lines = Sequence[p.AnyTold | str]


def planned(folder: Path, **plan: Lines) -> Program:
    """A program that tells `plan["connect"]` when it is told to connect first, and so on."""
    path = folder / "plan.json"
    path.write_text(json.dumps({kind: [msgspec.to_builtins(list(lines))] for kind, lines in plan.items()}))
    return Program((sys.executable, "-c", PLAYER, str(path)), folder, folder / "client.log")


@contextlib.asynccontextmanager
async def playing(
    folder: Path, policy: h.Policy = "persistent", **plan: Lines
) -> AsyncIterator[tuple[Clients, DriverSender]]:
    """A sender whose program does as planned."""
    nobody = 1
    async with clients(folder, nobody) as here:
        sender = DriverSender(
            "alice",
            here.dialer,
            await here.link("alice"),
            empty(folder),
            planned(folder, **plan),
            policy=policy,
            random_numbers=random.Random(1),
        )
        await sender.start()
        try:
            yield here, sender
        finally:
            await sender.close()


def recorded(here: Clients) -> list[h.Event]:
    """What was recorded of the clients, without times and without what is posted here."""
    events = [event for event in here.recorder.events if not isinstance(event, h.Started | h.Invoke | h.Receiving)]
    return [msgspec.structs.replace(event, time=0.0) for event in events]


@in_event_loop
async def test_every_event_is_recorded_as_what_it_is(tmp_path: Path) -> None:
    """Each line is one event of the history, in the order of the lines; `invoke` and `wire` leave none."""
    script: Lines = [
        INVOKE,
        p.Attempt(message=FIRST, attempt=1, offset="given", connection=2),
        p.Wire(connection=2, sent=50, poll_pending=True),
        p.Info(message=FIRST, attempt=1, reason="no answer", timed_out=True),
        p.Attempt(message=FIRST, attempt=2, offset="given", connection=0),
        p.Fail(message=FIRST, attempt=2, reason="away"),
        p.Attempt(message=FIRST, attempt=3, offset="other", connection=2),
        p.Ok(message=FIRST, attempt=3),
        p.Ok(message=FIRST, attempt=1, late=True),
        p.Received(content=f"{FIRST} text", server_offset=7),
        p.Settled(message=FIRST, outcome="acknowledged"),
        p.Disconnected(connection=2, reason="gone"),
    ]
    connect: Lines = [p.ConnectFailed(connection=1, reason="refused"), p.Connected(connection=2)]
    async with playing(tmp_path, connect=connect, post=script) as (here, alice):
        await alice.connected(DEADLINE_SECONDS)
        message = alice.post()
        await here.recorded(h.Disconnected)
        assert recorded(here) == [
            h.ConnectFailed(time=0.0, client="alice", connection=1, reason="refused"),
            h.Connected(time=0.0, client="alice", connection=2),
            h.Attempt(time=0.0, message=FIRST, attempt=1, offset="given", connection=2),
            h.Info(time=0.0, message=FIRST, attempt=1, reason="no answer", timed_out=True),
            h.Attempt(time=0.0, message=FIRST, attempt=2, offset="given", connection=0),
            h.Fail(time=0.0, message=FIRST, attempt=2, reason="away"),
            h.Attempt(time=0.0, message=FIRST, attempt=3, offset="other", connection=2),
            h.Ok(time=0.0, message=FIRST, attempt=3, late=False),
            h.Ok(time=0.0, message=FIRST, attempt=1, late=True),
            h.Settled(time=0.0, message=FIRST, outcome="acknowledged"),
            h.Disconnected(time=0.0, client="alice", connection=2, reason="gone"),
        ]
        assert (message.offset, message.attempts, message.acknowledged, message.settled) == ("given", 3, True, True)
        assert message.done.is_set()
        assert alice.has_heard(message)
        assert alice.connect_failures == ["refused"]


@in_event_loop
async def test_numbers_go_on_when_the_program_is_started_again(tmp_path: Path) -> None:
    """A program that counts from 1 again has its connections and attempts recorded under the next numbers."""
    async with playing(tmp_path, connect=[CONNECTED], post=[INVOKE, ATTEMPT]) as (here, alice):
        await alice.connected(DEADLINE_SECONDS)
        message = alice.post()
        await here.recorded(h.Attempt)
        await alice.close()
        planned(tmp_path, connect=[CONNECTED, ATTEMPT, OK])
        await alice.start()
        await here.recorded(h.Ok)
        assert [event.connection for event in here.events(h.Connected)] == [1, 2]
        assert [(event.attempt, event.connection) for event in here.events(h.Attempt)] == [(1, 1), (2, 2)]
        assert [(event.attempt, event.reason) for event in here.events(h.Info)] == [(1, "the client's process ended")]
        assert [event.attempt for event in here.events(h.Ok)] == [2]
        assert message.attempts == 2


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([ATTEMPT, ATTEMPT], f"attempt 1 of {FIRST} begins a second time"),
        ([ATTEMPT, OK, ATTEMPT], f"attempt 1 of {FIRST} begins a second time"),
        ([OK], f"attempt 1 of {FIRST} ends before it begins"),
        ([ATTEMPT, p.Info(message=FIRST, attempt=2, reason="?")], f"attempt 2 of {FIRST} ends before it begins"),
        ([p.Fail(message=FIRST, attempt=1, reason="?")], f"attempt 1 of {FIRST} ends before it begins"),
        ([p.Invoke(message=SECOND, offset="x")], f"{SECOND} is not a message that it was given"),
        ([p.Settled(message="nobody's", outcome="gave-up")], "nobody's is not a message that it was given"),
        ([GONE, CONNECTED], "the number 1 of a connection is told for the second time"),
        ([GONE, p.ConnectFailed(connection=1, reason="?")], "the number 1 of a connection is told for the second time"),
        ([p.Connected(connection=2)], "connection 2 begins before the end of connection 1"),
        ([p.ConnectFailed(connection=2, reason="?")], "connection 2 begins before the end of connection 1"),
        ([p.Disconnected(connection=2, reason="?")], "connection 2 has ended, which was not open"),
        ([GONE, GONE], "connection 1 has ended, which was not open"),
        (["ready"], "JSON is malformed"),
        (["{}"], "missing required field `event`"),
        (['{"event": "sung"}'], "Invalid value 'sung'"),
        (['{"event": "ok", "message": "m", "attempt": "1"}'], "Expected `int`, got `str`"),
        (['{"event": "settled", "message": "m", "outcome": "fine"}'], "Invalid enum value 'fine'"),
    ],
)
@in_event_loop
async def test_what_contradicts_the_protocol_is_a_failure_of_the_client(
    lines: Lines, reason: str, tmp_path: Path
) -> None:
    """What cannot be is no event but the client's failure, with its reason, and the program is ended."""
    async with playing(tmp_path, connect=[CONNECTED], post=[INVOKE, *lines]) as (here, alice):
        await alice.connected(DEADLINE_SECONDS)
        alice.post()
        await seen(lambda: here.failures, "a failure")
        assert here.failures[0].startswith("the client of alice: told what its protocol does not know: ")
        assert reason in here.failures[0]
        assert len(here.failures) == 1
        await here.recorded(h.Disconnected)
        here.failures.clear()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([p.Error(reason="out of memory")], "out of memory"),
        (["exit"], "exited with status 0"),
        ([ATTEMPT, OK, GONE, "exit"], "exited with status 0"),
    ],
)
@in_event_loop
async def test_error_and_end_are_failures_by_name(lines: Lines, reason: str, tmp_path: Path) -> None:
    """A program that says it cannot go on has failed for that reason, and one that ends unasked with its status."""
    async with playing(tmp_path, connect=[CONNECTED], post=[INVOKE, *lines]) as (here, alice):
        await alice.connected(DEADLINE_SECONDS)
        alice.post()
        await seen(lambda: here.failures, "a failure")
        assert [failure.partition("; its last")[0] for failure in here.failures] == [f"the client of alice: {reason}"]
        here.failures.clear()


@pytest.mark.parametrize(("lines", "hangs"), [([], True), ([INVOKE], False), ([ATTEMPT], True)])
@in_event_loop
async def test_silence_after_a_post_is_a_failure_by_name(lines: Lines, hangs: bool, tmp_path: Path) -> None:
    """A program that does not tell `invoke` within the sender's patience hangs; one that does need tell no more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver_module, "patience_seconds", lambda _: 0.3)
        async with playing(tmp_path, connect=[CONNECTED], post=lines, disconnect=[GONE]) as (here, alice):
            await alice.connected(DEADLINE_SECONDS)
            alice.post()
            await waiting.pause(0.5)
            expected = [f"the client of alice: it hangs: it was given {FIRST}, and tells nothing of it"]
            assert here.failures == (expected if hangs else [])
            here.failures.clear()


@in_event_loop
async def test_wire_counts_the_bytes_of_its_connection(tmp_path: Path) -> None:
    """What is told before `connected` holds from then on; of another connection nothing is taken over."""
    connect: Lines = [p.Wire(connection=1, sent=10, poll_pending=False), CONNECTED]
    script: Lines = [
        *(INVOKE, ATTEMPT, p.Wire(connection=1, sent=60, received=7, poll_pending=True), OK),
        *(p.Wire(connection=2, sent=99, poll_pending=False), p.Settled(message=FIRST, outcome="acknowledged")),
    ]
    async with playing(tmp_path, connect=connect, post=script) as (here, alice):
        connection = await alice.connected(DEADLINE_SECONDS)
        assert (connection.bytes_sent, connection.poll_pending) == (10, False)
        message = alice.post()
        await here.recorded(h.Settled)
        assert (connection.bytes_sent, connection.poll_pending, connection.last_unit_bytes) == (60, True, 50)
        assert connection.bytes_by_wire == [(60, 7)]
        assert (message.emitted_on, message.bytes_before) == (connection, 10)


@pytest.mark.parametrize(
    ("connect", "upgraded"),
    [
        ([], False),
        ([CONNECTED, POLLS], False),
        ([UPGRADED, CONNECTED], True),
        ([CONNECTED, POLLS, UPGRADED], True),
        ([CONNECTED, UPGRADED, GONE], False),
        ([CONNECTED, UPGRADED, GONE, p.Connected(connection=2), OTHER], False),
    ],
    ids=["no", "polling", "websocket", "upgraded", "gone", "next"],
)
@in_event_loop
async def test_sender_has_upgraded_where_its_program_says_so(connect: Lines, upgraded: bool, tmp_path: Path) -> None:
    """Of the connection that there is, and also where a poll had ended on it before."""
    last: Lines = [p.Received(content=FIRST, server_offset=1)]
    async with playing(tmp_path, connect=connect, disconnect=last) as (_, alice):
        message = alice.post()
        alice.disconnect()
        await seen(message.heard.is_set, "the last line")
        assert alice.has_upgraded is upgraded


@in_event_loop
async def test_connection_of_a_program_that_does_not_tell_its_transport_is_unknown(tmp_path: Path) -> None:
    """It is no evidence for either."""
    async with playing(tmp_path, connect=[CONNECTED]) as (_, alice):
        await alice.connected(DEADLINE_SECONDS)
        with pytest.raises(NotSeen, match="the client of alice does not tell whether its connection is a WebSocket"):
            assert alice.has_upgraded


@contextlib.asynccontextmanager
async def hearing(folder: Path, *lines: p.AnyTold | str) -> AsyncIterator[tuple[Clients, DriverReceiver]]:
    """A receiver whose program tells these lines."""
    nobody = 1
    async with clients(folder, nobody) as here:
        receiver = DriverReceiver(
            "rita", nobody, here.dialer, planned(folder, connect=[CONNECTED, *lines]), "persistent"
        )
        await receiver.start()
        try:
            yield here, receiver
        finally:
            await receiver.close()


@in_event_loop
async def test_broadcasts_are_recorded_as_they_are_told(tmp_path: Path) -> None:
    """In their order, also what has another type, and what is not of this run."""
    heard: list[tuple[str | None, int | str | None]] = [
        (f"{FIRST} text", 1),
        ("somebody else's", "a"),
        (None, None),
        (f"{FIRST} text", 1),
    ]
    lines = [p.Received(content=content, server_offset=offset) for content, offset in heard]
    async with hearing(tmp_path, *lines) as (here, rita):
        events = await here.recorded(h.Received, 4)
        assert [(event.receiver, event.content, event.server_offset) for event in events] == [
            ("rita", content, offset) for content, offset in heard
        ]
        assert rita.messages == {FIRST}


@in_event_loop
async def test_receiver_has_nothing_to_tell_of_messages(tmp_path: Path) -> None:
    """What only a sender can tell is a failure of the client."""
    async with hearing(tmp_path, OK) as (here, _):
        await seen(lambda: here.failures, "a failure")
        assert here.failures[0].startswith("the client of rita: told what its protocol does not know: ")
        assert "is not a thing to tell of a receiver" in here.failures[0]
        here.failures.clear()


@in_event_loop
async def test_program_that_tells_nothing_at_all_hangs_by_name(tmp_path: Path) -> None:
    """Who waits for it to be connected is told at once, and by whose fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver_module, "patience_seconds", lambda _: 0.3)
        async with playing(tmp_path, connect=[]) as (here, alice):
            with pytest.raises(ClientError, match="the client of alice has failed by itself"):
                await alice.connected(DEADLINE_SECONDS)
            assert here.failures == ["the client of alice: it hangs: it was told to connect, and tells nothing of it"]
            here.failures.clear()


@pytest.mark.parametrize("line", ["no line of the protocol", "exit"])
@in_event_loop
async def test_nobody_waits_for_a_program_that_has_failed(line: str, tmp_path: Path) -> None:
    """Who waits for it to be connected is told when it has said nonsense or has ended, and not at the deadline."""
    async with playing(tmp_path, connect=[line]) as (here, alice):
        with pytest.raises(ClientError, match="the client of alice has failed by itself"):
            await alice.connected(2 * DEADLINE_SECONDS)
        assert len(here.failures) == 1
        here.failures.clear()
