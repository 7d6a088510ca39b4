"""Senders on real links: each policy, what is recorded of an emission, and what its schedule gets to know."""

import asyncio
import itertools
import random
import time
from functools import partial
from pathlib import Path

import pytest
import socketio.packet

from harness import history as h
from harness.clients import sender as sender_module
from harness.clients.content import KINDS
from harness.clients.sender import Message, Sender
from harness.target import Protocol
from harness.waiting import WaitTimeout
from tests.systems import (
    DEADLINE_SECONDS,
    EVENT,
    NEVER_SECONDS,
    RUN,
    ChatServer,
    Clients,
    chatting,
    clients,
    in_event_loop,
    seen,
    soon,
    tapped,
)

TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "polling"])
POLICIES = pytest.mark.parametrize("policy", ["persistent", "new-offset", "pipelined", "once"])
SHORT_SECONDS = 0.1
IN_FLIGHT = 8


def story(here: Clients) -> list[str]:
    """What was recorded of the messages, in short: `a2/1` is attempt 1 of the second message of alice."""
    lines = []
    for event in here.recorder.events:
        message = "" if isinstance(event, h.Started) else getattr(event, "message", "")
        short = f"{message[9:10]}{int(message[-4:])}" if message else ""
        match event:
            case h.Invoke():
                lines.append(f"invoke {short}")
            case h.Attempt():
                lines.append(f"attempt {short}/{event.attempt} on {event.connection}")
            case h.Ok():
                lines.append(f"{'late ' if event.late else ''}ok {short}/{event.attempt}")
            case h.Fail():
                lines.append(f"fail {short}/{event.attempt}")
            case h.Info():
                lines.append(f"info {short}/{event.attempt}{' timed out' if event.timed_out else ''}")
            case h.Settled():
                lines.append(f"{event.outcome} {short}")
            case _:
                pass
    return lines


class Answers:
    """Leaves the first emissions without an answer."""

    def __init__(self, server: ChatServer, silent: int) -> None:
        self.server = server
        self.silent = silent
        server.answer = self.answer

    async def answer(self, number: int) -> object:
        """Acknowledge, or not."""
        return self.server.io.not_handled if number <= self.silent else None


async def finished(message: Message) -> None:
    """Wait until nothing more will be done about a message."""
    await soon(message.done.wait())


# -- persistent --------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_persistent_sender_emits_until_it_is_acknowledged(transport: str, tmp_path: Path) -> None:
    """Every attempt without an answer within the ack timeout is told apart, and the next has the same offset."""
    async with (
        chatting() as server,
        clients(tmp_path, server.port, transport, ack_timeout_seconds=SHORT_SECONDS) as here,
    ):
        Answers(server, silent=2)
        alice = await here.sender()
        message = alice.post()
        await finished(message)
        attempts = [line for line in story(here) if line.startswith("attempt")]
        assert len(attempts) >= 3
        assert story(here)[:5] == [
            "invoke a1",
            "attempt a1/1 on 1",
            "info a1/1 timed out",
            "attempt a1/2 on 1",
            "info a1/2 timed out",
        ]
        assert story(here)[-2:] == [f"ok a1/{len(attempts)}", "acknowledged a1"]
        assert {event.offset for event in here.events(h.Attempt)} == {message.offset}
        assert set(server.received) == {(message.content, message.offset)}
        assert message.acknowledged
        assert alice.unsettled == 0


@TRANSPORTS
@in_event_loop
async def test_persistent_sender_emits_again_after_a_disconnect(transport: str, tmp_path: Path) -> None:
    """An attempt whose connection ends is over at once, and the next is made on the next connection."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        Answers(server, silent=1)
        alice = await here.sender()
        message = alice.post()
        await seen(lambda: bool(server.received), "the message")
        await alice.link.close()
        await here.recorded(h.Info)
        await here.recorded(h.ConnectFailed)
        await alice.link.restore()
        await finished(message)
        number = here.events(h.Connected)[-1].connection
        assert number > 2  # those that were refused have numbers, too
        assert story(here) == [
            "invoke a1",
            "attempt a1/1 on 1",
            "info a1/1",
            f"attempt a1/2 on {number}",
            "ok a1/2",
            "acknowledged a1",
        ]
        assert len({event.offset for event in here.events(h.Attempt)}) == 1


@TRANSPORTS
@in_event_loop
async def test_sender_connects_again_after_a_disconnect_by_the_server(transport: str, tmp_path: Path) -> None:
    """A sender that the server disconnects comes back by itself, and both are recorded."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        alice = await here.sender()
        await server.dismiss()
        await here.recorded(h.Connected, 2)
        message = await soon(alice.send())
        assert message.acknowledged
        assert [event.connection for event in here.events(h.Connected)] == [1, 2]
        assert [(event.connection, event.reason) for event in here.events(h.Disconnected)] == [(1, "server disconnect")]
        assert here.events(h.Attempt)[0].connection == 2


@TRANSPORTS
@in_event_loop
async def test_messages_posted_while_disconnected_are_sent_later_in_order(transport: str, tmp_path: Path) -> None:
    """What is posted without a connection is attempted when there is one, in the order of posting."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        alice = await here.sender()
        await alice.link.close()
        await here.recorded(h.ConnectFailed)
        messages = [alice.post() for _ in range(20)]
        assert here.events(h.Attempt) == []
        assert len(here.events(h.Invoke)) == 20
        await alice.link.restore()
        for message in messages:
            await finished(message)
        assert [arguments[0] for arguments in server.received] == [message.content for message in messages]
        assert len(here.events(h.Attempt)) == 20


@TRANSPORTS
@in_event_loop
async def test_persistent_sender_has_one_message_in_flight(transport: str, tmp_path: Path) -> None:
    """The next message is attempted when the one before is acknowledged, not earlier."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        alice = await here.sender()
        for message in [alice.post() for _ in range(5)]:
            await finished(message)
        each = [["attempt {} on 1", "ok {}", "acknowledged {}"]] * 5
        assert story(here)[5:] == [
            line.format(f"a{number}" if line.startswith("ack") else f"a{number}/1")
            for number, lines in enumerate(each, start=1)
            for line in lines
        ]


@in_event_loop
async def test_connection_without_its_namespace_is_replaced(tmp_path: Path) -> None:
    """An emission that the client refuses definitely failed, and the sender goes on, on a new connection."""
    protocol = Protocol(event=EVENT, namespace="/chat", ack_timeout_seconds=NEVER_SECONDS)
    async with chatting("/chat") as server, clients(tmp_path, server.port, protocol=protocol) as here:
        alice = await here.sender()
        refusal = socketio.packet.Packet(socketio.packet.CONNECT_ERROR, namespace="/", data={"message": "no"})
        await server.io._send_packet(server.io.manager.eio_sid_from_sid(server.sids[0], "/chat"), refusal)
        connection = await alice.online()
        await seen(lambda: not connection._client.namespaces, "the namespace to be lost")
        assert connection.is_open
        await finished(alice.post())
        assert story(here) == [
            "invoke a1",
            "attempt a1/1 on 1",
            "fail a1/1",
            "attempt a1/2 on 2",
            "ok a1/2",
            "acknowledged a1",
        ]
        assert len(server.received) == 1


# -- acknowledgements --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [(), ("stored",), ({"id": 1}, None, 3)])
@TRANSPORTS
@in_event_loop
async def test_any_acknowledgement_counts(transport: str, answer: tuple[object, ...], tmp_path: Path) -> None:
    """An acknowledgement means stored, with any arguments and with none."""

    async def acknowledge(_: int) -> object:
        return answer

    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        server.answer = acknowledge
        alice = await here.sender()
        assert (await soon(alice.send())).acknowledged


@pytest.mark.parametrize("policy", ["persistent", "pipelined"])
@in_event_loop
async def test_late_acknowledgement_is_recorded_and_changes_nothing(policy: h.Policy, tmp_path: Path) -> None:
    """An answer after the ack timeout is marked late: neither the message nor the next attempt takes it for theirs."""
    late = asyncio.Event()

    async def answer(number: int) -> object:
        if number == 1:
            await late.wait()
        return None

    async with chatting() as server, clients(tmp_path, server.port, ack_timeout_seconds=SHORT_SECONDS) as here:
        server.answer = answer
        alice = await here.sender(policy=policy)
        message = alice.post()
        await here.recorded(h.Info)
        if policy == "pipelined":
            late.set()
        await finished(message)
        late.set()
        await seen(lambda: "late ok a1/1" in story(here), "the late answer", lambda: story(here))
        if policy == "pipelined":
            assert not message.acknowledged
            assert story(here).count("gave-up a1") == 1
            assert here.events(h.Settled)[0].outcome == "gave-up"
        else:
            assert story(here)[:3] == ["invoke a1", "attempt a1/1 on 1", "info a1/1 timed out"]
            assert message.acknowledged
            assert [event.outcome for event in here.events(h.Settled)] == ["acknowledged"]
            assert [event.attempt for event in here.events(h.Ok) if not event.late] == [message.attempts]


@in_event_loop
async def test_late_acknowledgement_does_not_settle_a_message(tmp_path: Path) -> None:
    """A message whose only answer is late is sent again: the sender had stopped listening."""
    late = asyncio.Event()

    async def answer(number: int) -> object:
        if number > 1:
            return server.io.not_handled
        await late.wait()
        return None

    async with chatting() as server, clients(tmp_path, server.port, ack_timeout_seconds=SHORT_SECONDS) as here:
        server.answer = answer
        message = (await here.sender()).post()
        await here.recorded(h.Info)
        late.set()
        (ok,) = await here.recorded(h.Ok)
        assert ok.late
        assert not message.acknowledged
        await here.recorded(h.Info, 2)
        assert here.events(h.Settled) == []


# -- the other policies ------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_new_offset_sender_has_a_fresh_offset_for_each_attempt(transport: str, tmp_path: Path) -> None:
    """The first attempt has the offset of the message, and each further one another, with the same identity."""
    async with (
        chatting() as server,
        clients(tmp_path, server.port, transport, ack_timeout_seconds=SHORT_SECONDS) as here,
    ):
        Answers(server, silent=2)
        message = (await here.sender(policy="new-offset")).post()
        await finished(message)
        offsets = [event.offset for event in here.events(h.Attempt)]
        assert len(offsets) >= 3
        assert len(set(offsets)) == len(offsets)
        assert offsets[0] == message.offset
        assert all(h.identity_in(RUN, offset) == message.id for offset in offsets)
        assert {content for content, _ in server.received} == {message.content}


@TRANSPORTS
@in_event_loop
async def test_once_sender_emits_once_and_counts_as_handed_over(transport: str, tmp_path: Path) -> None:
    """Without a promise a message is settled when it is posted, and an answer that does not come changes nothing."""
    async with (
        chatting() as server,
        clients(tmp_path, server.port, transport, ack_timeout_seconds=SHORT_SECONDS) as here,
    ):
        Answers(server, silent=1)
        alice = await here.sender(policy="once")
        first = alice.post()
        assert story(here) == ["invoke a1", "handed-over a1"]
        assert alice.unsettled == 0
        await finished(first)
        await soon(alice.send())
        assert story(here)[2:] == [
            "attempt a1/1 on 1",
            "info a1/1 timed out",
            "invoke a2",
            "handed-over a2",
            "attempt a2/1 on 1",
            "ok a2/1",
        ]
        assert len(server.received) == 2


@TRANSPORTS
@in_event_loop
async def test_once_sender_emits_at_posting_time(transport: str, tmp_path: Path) -> None:
    """Messages of a sender that awaits nothing are all on the wire before the first is answered, in their order."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        alice = await here.sender(policy="once")
        messages = [alice.post() for _ in range(20)]
        await here.recorded(h.Ok, 20)
        kinds = [type(event) for event in here.recorder.events if isinstance(event, h.Attempt | h.Ok)]
        assert kinds == [h.Attempt] * 20 + [h.Ok] * 20
        assert [arguments[0] for arguments in server.received] == [message.content for message in messages]


@TRANSPORTS
@in_event_loop
async def test_once_sender_drops_what_is_posted_while_disconnected(transport: str, tmp_path: Path) -> None:
    """A message without a connection definitely failed, counts as handed over, and is never sent."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        alice = await here.sender(policy="once")
        await alice.link.close()
        await here.recorded(h.ConnectFailed)
        dropped = alice.post()
        await finished(dropped)
        assert story(here) == ["invoke a1", "handed-over a1", "attempt a1/1 on 0", "fail a1/1"]
        await alice.link.restore()
        await alice.connected(DEADLINE_SECONDS)
        later = await soon(alice.send())
        assert [arguments[0] for arguments in server.received] == [later.content]


@TRANSPORTS
@in_event_loop
async def test_once_sender_does_not_know_what_was_cut(transport: str, tmp_path: Path) -> None:
    """A message that is under way when the connection ends has an unknown outcome, and is not sent again."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        Answers(server, silent=1)
        alice = await here.sender(policy="once")
        message = alice.post()
        await seen(lambda: bool(server.received), "the message")
        await alice.link.close()
        await finished(message)
        assert story(here) == ["invoke a1", "handed-over a1", "attempt a1/1 on 1", "info a1/1"]
        await alice.link.restore()
        await alice.connected(DEADLINE_SECONDS)
        assert len(server.received) == 1


@TRANSPORTS
@in_event_loop
async def test_pipelined_sender_has_eight_in_flight_in_order(transport: str, tmp_path: Path) -> None:
    """Eight messages are under way at most; each further one leaves when one is answered, in the order of posting."""
    answers = asyncio.Semaphore(0)

    async def answer(_: int) -> object:
        await answers.acquire()
        return None

    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        server.answer = answer
        alice = await here.sender(policy="pipelined")
        messages = [alice.post() for _ in range(20)]
        for answered in range(20 - IN_FLIGHT):
            await seen(partial(lambda n: len(server.received) == IN_FLIGHT + n, answered), "the messages")
            assert len(here.events(h.Attempt)) == IN_FLIGHT + answered
            answers.release()
        for _ in range(IN_FLIGHT):
            answers.release()
        for message in messages:
            await finished(message)
        assert [arguments[0] for arguments in server.received] == [message.content for message in messages]
        assert [event.message for event in here.events(h.Attempt)] == [message.id for message in messages]
        flying = [
            1 if isinstance(event, h.Attempt) else -1
            for event in here.recorder.events
            if isinstance(event, h.Attempt | h.Ok)
        ]
        assert max(itertools.accumulate(flying)) == IN_FLIGHT
        assert {event.outcome for event in here.events(h.Settled)} == {"acknowledged"}


@in_event_loop
async def test_pipelined_sender_is_told_when_it_gives_up(tmp_path: Path) -> None:
    """A message without an answer is not sent again: its sender is told, and those behind it go on."""
    async with chatting() as server, clients(tmp_path, server.port, ack_timeout_seconds=SHORT_SECONDS) as here:
        Answers(server, silent=IN_FLIGHT)
        alice = await here.sender(policy="pipelined")
        messages = [alice.post() for _ in range(IN_FLIGHT + 1)]
        for message in messages:
            await finished(message)
        outcomes = {event.message: event.outcome for event in here.events(h.Settled)}
        assert [outcomes[message.id] for message in messages] == ["gave-up"] * IN_FLIGHT + ["acknowledged"]
        assert len(here.events(h.Attempt)) == len(server.received) == IN_FLIGHT + 1


# -- what a schedule sees ----------------------------------------------------------------------------------------


@POLICIES
@in_event_loop
async def test_post_returns_at_once(policy: h.Policy, tmp_path: Path) -> None:
    """Posting needs no connection and no answer: it is a plain function, and the invocation is recorded."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender(policy=policy)
        await alice.link.close()
        await here.recorded(h.ConnectFailed)
        message = alice.post()
        (invoke,) = here.events(h.Invoke)
        assert (invoke.message, invoke.content, invoke.policy) == (message.id, message.content, policy)
        assert (invoke.sender, invoke.sequence) == ("alice", 1)
        assert not message.attempted.is_set()


@pytest.mark.parametrize("online", [True, False])
@in_event_loop
async def test_send_returns_when_patience_ends(online: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is never acknowledged, or a link that stays down, holds a schedule up for its patience only."""
    monkeypatch.setattr(sender_module, "patience_seconds", lambda _: 0.2)
    async with chatting() as server, clients(tmp_path, server.port) as here:
        server.answer = server.forget
        alice = await here.sender()
        if not online:
            await alice.link.close()
            await here.recorded(h.ConnectFailed)
        began = time.monotonic()
        message = await soon(alice.send())
        assert time.monotonic() - began >= 0.19
        assert (message.attempts, message.done.is_set(), alice.unsettled) == (1 if online else 0, False, 1)


@in_event_loop
async def test_sender_loses_its_patience_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one message was waited for in vain the next ones are only posted: a schedule comes to its end."""
    monkeypatch.setattr(sender_module, "patience_seconds", lambda _: 0.2)
    async with chatting() as server, clients(tmp_path, server.port) as here:
        server.answer = server.forget
        alice = await here.sender()
        await soon(alice.send())
        began = time.monotonic()
        await soon(alice.send_many(20))
        assert time.monotonic() - began < 20 * 0.2
        assert len(alice.messages) == alice.unsettled == 21


@in_event_loop
async def test_patience_scales_with_the_ack_timeout_and_has_a_minimum(tmp_path: Path) -> None:
    """Patience is ten ack timeouts, and at least five seconds."""
    async with chatting() as server:
        for ack_timeout_seconds, patience in ((0.1, 5.0), (2.0, 20.0)):
            async with clients(tmp_path, server.port, ack_timeout_seconds=ack_timeout_seconds) as here:
                assert sender_module.patience_seconds(here.dialer) == patience


@in_event_loop
async def test_identity_is_at_both_ends_of_the_content_and_in_the_offset(tmp_path: Path) -> None:
    """Whichever end of a content is lost, and whatever becomes of the offset, the message is known."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender()
        await soon(alice.send_many(KINDS))
        messages = [*alice.messages, await soon(alice.send("a text of the schedule's own"))]
        assert [message.id for message in messages] == [f"{RUN}-alice-{n:04d}" for n in range(1, KINDS + 2)]
        for message in messages:
            half = len(message.content) // 2
            assert message.content.strip().startswith(message.id)
            assert message.content.strip().endswith(message.id)
            assert h.identity_in(RUN, message.content[:half]) == message.id
            assert h.identity_in(RUN, message.content[half:]) == message.id
            assert h.identity_in(RUN, message.offset) == message.id
        assert len({message.offset for message in messages}) == len(messages)
        assert "a text of the schedule's own" in messages[-1].content
        assert [tuple(arguments) for arguments in server.received] == [(m.content, m.offset) for m in messages]


async def dealt(folder: Path, seed: int, *, silent: int = 0) -> list[tuple[str, str]]:
    """What a sender with this seed says, and with which offsets."""
    async with chatting() as server, clients(folder, server.port, seed=seed, ack_timeout_seconds=0.05) as here:
        Answers(server, silent)
        alice = await here.sender(policy="new-offset")
        await soon(alice.send_many(2 * KINDS))
        return [(message.content, message.offset) for message in alice.messages]


@in_event_loop
async def test_same_seed_deals_the_same_contents_and_offsets(tmp_path: Path) -> None:
    """Contents and offsets are those of the seed, however often messages had to be sent again."""
    plain = await dealt(tmp_path, seed=7)
    assert await dealt(tmp_path, seed=7, silent=3) == plain
    other = await dealt(tmp_path, seed=8)
    assert not {offset for _, offset in plain} & {offset for _, offset in other}
    assert [content for content, _ in plain] != [content for content, _ in other]


# -- idle --------------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_idle_sender_sends_nothing_by_itself(transport: str, tmp_path: Path) -> None:
    """Once idle, the next bytes upstream are those of the next message: the own broadcast has come, the poll is out."""
    async with (
        chatting() as server,
        clients(tmp_path, server.port, transport, ack_timeout_seconds=DEADLINE_SECONDS) as here,
    ):
        server.echo = True
        alice = await here.sender()
        for _ in range(20):
            await soon(alice.send("equally long"))
            connection = await soon(alice.idle())
            before = connection.bytes_sent
            server.answer = server.forget
            server.echo = False
            arrived = len(server.received)
            message = alice.post("equally long")
            await seen(partial(lambda n: len(server.received) > n, arrived), "the message")
            assert connection.bytes_sent - before == connection.last_unit_bytes
            server.answer = server.acknowledge
            server.echo = True
            await alice.link.close()
            await alice.link.restore()
            await finished(message)


@in_event_loop
async def test_idle_gives_a_server_that_does_not_echo_one_ack_timeout(tmp_path: Path) -> None:
    """A server that does not broadcast to the sender costs one ack timeout; the schedule goes on."""
    async with chatting() as server, clients(tmp_path, server.port, "polling", ack_timeout_seconds=0.5) as here:
        alice = await here.sender()
        await soon(alice.send())
        began = time.monotonic()
        await soon(alice.idle())
        assert 0.4 < time.monotonic() - began < 5
        assert (await soon(alice.send())).acknowledged  # it still has the patience to wait for that


@in_event_loop
async def test_idle_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that never gets its connection back holds a schedule up for its patience, and no longer."""
    monkeypatch.setattr(sender_module, "patience_seconds", lambda _: 0.2)
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender()
        await alice.link.close()
        await here.recorded(h.ConnectFailed)
        with pytest.raises(WaitTimeout, match="alice to be connected"):
            await soon(alice.idle())


# -- the end -----------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_close_while_connecting_leaves_nothing(transport: str, tmp_path: Path) -> None:
    """A sender that is closed on its way to a connection, at any moment, gives up its connection and its tasks."""
    moments = random.Random(1)
    async with chatting() as server, tapped(server.port) as tap, clients(tmp_path, tap.port, transport) as here:
        for number in range(15):
            alice = Sender(
                "alice", here.dialer, await here.link(f"{number}"), policy="persistent", random_numbers=moments
            )
            alice.post()
            for _ in range(moments.randrange(25)):
                await asyncio.sleep(0)
            await soon(alice.close())
            assert not alice._tasks
        for flow in tap.flows:
            await soon(flow.ended.wait())
