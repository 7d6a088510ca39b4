"""A sender in a process of its own: what it tells is recorded, and a kill or a freeze of it does what it says."""

import contextlib
import random
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from harness import history as h
from harness.clients.driver import DriverSender, Program
from harness.errors import ClientError
from harness.fault import NotSeen
from tests.systems import DEADLINE_SECONDS, RUN, in_event_loop, seen, soon
from tests.test_link import Behind, behind

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
