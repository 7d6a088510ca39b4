"""Senders on real links: each policy, what is recorded of an emission, and what its schedule gets to know."""

import asyncio
import itertools
import random
import re
import time
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import socketio.packet

from harness import history as h
from harness import waiting
from harness.clients import author as author_module
from harness.clients import client as client_module
from harness.clients.author import Message, patience_seconds
from harness.clients.content import KINDS
from harness.clients.sender import IN_FLIGHT, Sender
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
POLICIES = pytest.mark.parametrize("policy", get_args(h.Policy))
SHORT_SECONDS = 0.1
TRIES = 4
"""How often a `retries=3` sender emits at most."""


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


def patience_of(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let senders lose their patience after so long."""
    monkeypatch.setattr(author_module, "patience_seconds", lambda _: seconds)


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


# -- retries -----------------------------------------------------------------------------------------------------


def contents(server: ChatServer) -> list[object]:
    """What arrived, in its order, repetitions in a row told once."""
    return [content for content, _ in itertools.groupby(arguments[0] for arguments in server.received)]


@TRANSPORTS
@in_event_loop
async def test_retries_sender_emits_four_times_and_tells_the_failure(transport: str, tmp_path: Path) -> None:
    """Without any answer a message is emitted once and three times again, under one offset, and then it has failed."""
    async with (
        chatting() as server,
        clients(tmp_path, server.port, transport, ack_timeout_seconds=SHORT_SECONDS) as here,
    ):
        server.answer = server.forget
        alice = await here.sender(policy="retries=3")
        message = await soon(alice.send())
        assert story(here) == [
            "invoke a1",
            *(
                line
                for number in range(1, TRIES + 1)
                for line in (f"attempt a1/{number} on 1", f"info a1/{number} timed out")
            ),
            "gave-up a1",
        ]
        assert server.received == [(message.content, message.offset)] * TRIES
        assert (message.attempts, message.emissions, message.acknowledged) == (TRIES, TRIES, False)
        assert alice.unsettled == 0


@TRANSPORTS
@in_event_loop
async def test_retries_sender_goes_on_with_the_next_message(transport: str, tmp_path: Path) -> None:
    """A message that has failed makes room for the next one, which has tries of its own; the order is kept."""
    async with (
        chatting() as server,
        clients(tmp_path, server.port, transport, ack_timeout_seconds=SHORT_SECONDS) as here,
    ):
        Answers(server, silent=2 * TRIES + 1)
        alice = await here.sender(policy="retries=3")
        messages = [alice.post() for _ in range(4)]
        for message in messages:
            await finished(message)
        outcomes = [(event.message, event.outcome) for event in here.events(h.Settled)]
        assert outcomes[:2] == [(message.id, "gave-up") for message in messages[:2]]
        assert [message for message, _ in outcomes] == [message.id for message in messages]
        assert [message.emissions for message in messages[:2]] == [TRIES, TRIES]
        assert 2 <= messages[2].emissions <= TRIES
        assert contents(server) == [message.content for message in messages]


@in_event_loop
async def test_retries_sender_stops_at_its_first_acknowledgement(tmp_path: Path) -> None:
    """An answer ends the tries."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender(policy="retries=3")
        await soon(alice.send())
        assert story(here) == ["invoke a1", "attempt a1/1 on 1", "ok a1/1", "acknowledged a1"]


@TRANSPORTS
@in_event_loop
async def test_what_was_never_emitted_uses_no_try(transport: str, tmp_path: Path) -> None:
    """However long it is without a connection, a message has all its tries when there is one."""
    async with (
        chatting() as server,
        clients(tmp_path, server.port, transport, ack_timeout_seconds=SHORT_SECONDS) as here,
    ):
        server.answer = server.forget
        alice = await here.sender(policy="retries=3")
        await alice.link.close()
        await here.recorded(h.ConnectFailed)
        message = alice.post()
        await here.recorded(h.ConnectFailed, 2 * TRIES)
        assert (message.attempts, message.emissions) == (0, 0)
        await alice.link.restore()
        await finished(message)
        assert (message.attempts, message.emissions, len(server.received)) == (TRIES, TRIES, TRIES)


@in_event_loop
async def test_emission_that_the_client_refuses_uses_no_try(tmp_path: Path) -> None:
    """An attempt that definitely failed is followed by as many emissions as any message has."""
    protocol = Protocol(event=EVENT, namespace="/chat", ack_timeout_seconds=SHORT_SECONDS)
    async with chatting("/chat") as server, clients(tmp_path, server.port, protocol=protocol) as here:
        server.answer = server.forget
        alice = await here.sender(policy="retries=3")
        refusal = socketio.packet.Packet(socketio.packet.CONNECT_ERROR, namespace="/", data={"message": "no"})
        await server.io._send_packet(server.io.manager.eio_sid_from_sid(server.sids[0], "/chat"), refusal)
        connection = await alice.online()
        await seen(lambda: not connection._client.namespaces, "the namespace to be lost")
        message = alice.post()
        await finished(message)
        assert story(here)[:3] == ["invoke a1", "attempt a1/1 on 1", "fail a1/1"]
        assert (message.attempts, message.emissions, len(server.received)) == (TRIES + 1, TRIES, TRIES)
        assert story(here)[-1] == "gave-up a1"


@TRANSPORTS
@in_event_loop
async def test_try_ends_with_its_connection(transport: str, tmp_path: Path) -> None:
    """A message whose connection is cut at each of its tries has failed after the last of them."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        server.answer = server.forget
        alice = await here.sender(policy="retries=3")
        message = alice.post()
        for number in range(1, TRIES + 1):
            await seen(partial(lambda n: len(server.received) == n, number), "the message")
            assert not message.done.is_set()
            await alice.link.restore()
        await finished(message)
        assert [event.timed_out for event in here.events(h.Info)] == [False] * TRIES
        assert story(here)[-1] == "gave-up a1"


# -- resend ------------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_resend_sender_has_any_number_in_flight(transport: str, tmp_path: Path) -> None:
    """All messages leave before the first is answered, in their order, each under its own offset."""
    answers = asyncio.Event()

    async def answer(_: int) -> object:
        await answers.wait()
        return None

    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        server.answer = answer
        alice = await here.sender(policy="resend")
        messages = [alice.post() for _ in range(3 * IN_FLIGHT)]
        await seen(lambda: len(server.received) == len(messages), "the messages")
        assert here.events(h.Ok) == []
        answers.set()
        for message in messages:
            await finished(message)
        assert server.received == [(message.content, message.offset) for message in messages]
        assert {event.outcome for event in here.events(h.Settled)} == {"acknowledged"}


@TRANSPORTS
@in_event_loop
async def test_resend_sender_sends_again_behind_later_messages(transport: str, tmp_path: Path) -> None:
    """A message without an answer is sent again on the next connection, the others are not."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        Answers(server, silent=1)
        alice = await here.sender(policy="resend")
        first, *others = (alice.post() for _ in range(4))
        for message in others:
            await finished(message)
        assert not first.done.is_set()
        await alice.link.restore()
        await finished(first)
        assert server.received == [(m.content, m.offset) for m in (first, *others, first)]
        assert [message.attempts for message in alice.messages] == [2, 1, 1, 1]
        assert story(here)[-2:] == ["ok a1/2", "acknowledged a1"]


@in_event_loop
async def test_resend_sender_never_gives_up(tmp_path: Path) -> None:
    """However often the ack timeout passes, a message is sent again until it is acknowledged."""
    async with chatting() as server, clients(tmp_path, server.port, ack_timeout_seconds=SHORT_SECONDS) as here:
        Answers(server, silent=2 * TRIES)
        alice = await here.sender(policy="resend")
        message = await soon(alice.send())
        assert message.emissions > 2 * TRIES
        assert set(server.received) == {(message.content, message.offset)}
        assert [event.timed_out for event in here.events(h.Info)] == [True] * (message.attempts - 1)
        assert [event.outcome for event in here.events(h.Settled)] == ["acknowledged"]


@in_event_loop
async def test_messages_of_a_resend_sender_wait_for_a_connection_in_order(tmp_path: Path) -> None:
    """What is posted while disconnected is attempted when there is a connection, in the order of posting."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender(policy="resend")
        await alice.link.close()
        await here.recorded(h.ConnectFailed)
        messages = [alice.post() for _ in range(20)]
        assert here.events(h.Attempt) == []
        await alice.link.restore()
        for message in messages:
            await finished(message)
        assert server.received == [(message.content, message.offset) for message in messages]


# -- fire and forget ---------------------------------------------------------------------------------------------


@in_event_loop
async def test_fire_and_forget_sender_asks_for_nothing_on_the_wire(tmp_path: Path) -> None:
    """Its packets have no id to be acknowledged by, as those of another sender have."""
    for policy, packet in (("persistent", rb"\r\n\r\n42[0-9]+\["), ("fire-and-forget", rb"\r\n\r\n42\[")):
        async with chatting() as server, tapped(server.port) as tap, clients(tmp_path, tap.port, "polling") as here:
            alice = await here.sender(policy=policy)  # type: ignore[arg-type]
            await soon(alice.send())
            await seen(lambda: bool(server.received), "the message")
            sent = b"".join(flow.up for flow in tap.flows)
            assert len(re.findall(packet, sent)) == 1
            assert alice.asks_nothing is (policy == "fire-and-forget")


@in_event_loop
async def test_fire_and_forget_sender_gets_no_answer(tmp_path: Path) -> None:
    """Not a byte comes back for its messages, and none counts as acknowledged."""
    async with chatting() as server, tapped(server.port) as tap, clients(tmp_path, tap.port) as here:
        alice = await here.sender(policy="fire-and-forget")
        before = tap.bytes_passed("down")
        await soon(alice.send_many(5))
        await seen(lambda: len(server.received) == 5, "the messages")
        bob = await here.sender("bob")
        await soon(bob.send())  # time for an answer
        assert len(tap.flows[0].down) == before
        assert [event.message for event in here.events(h.Ok)] == [bob.messages[0].id]
        assert not any(message.acknowledged or message.answer_seconds for message in alice.messages)


@TRANSPORTS
@in_event_loop
async def test_fire_and_forget_sender_is_done_when_it_has_handed_over(transport: str, tmp_path: Path) -> None:
    """A message counts as handed over when it is posted, and nothing more is done about it once it has left."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        server.answer = server.forget
        alice = await here.sender(policy="fire-and-forget")
        message = alice.post()
        assert story(here) == ["invoke a1", "handed-over a1"]
        assert (message.settled, message.done.is_set(), alice.unsettled) == (True, False, 0)
        await finished(message)
        assert story(here) == ["invoke a1", "handed-over a1", "attempt a1/1 on 1"]
        await seen(lambda: bool(server.received), "the message")
        assert (message.attempts, message.emissions, message.acknowledged) == (1, 1, False)


@TRANSPORTS
@in_event_loop
async def test_fire_and_forget_sender_keeps_messages_while_disconnected(transport: str, tmp_path: Path) -> None:
    """What is posted without a connection waits for one, and then leaves in the order of posting, once."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        alice = await here.sender(policy="fire-and-forget")
        await alice.link.close()
        await here.recorded(h.ConnectFailed)
        messages = [alice.post() for _ in range(20)]
        await here.recorded(h.ConnectFailed, len(here.events(h.ConnectFailed)) + 2)
        assert here.events(h.Attempt) == []
        assert not any(message.done.is_set() for message in messages)
        assert [event.outcome for event in here.events(h.Settled)] == ["handed-over"] * 20
        await alice.link.restore()
        for message in messages:
            await finished(message)
        await seen(lambda: len(server.received) >= 20, "the messages")
        await soon(alice.send())
        await seen(lambda: len(server.received) >= 21, "one more")
        assert server.received == [(message.content, message.offset) for message in alice.messages]


@TRANSPORTS
@in_event_loop
async def test_fire_and_forget_sender_sends_nothing_again(transport: str, tmp_path: Path) -> None:
    """What was under way when the connection ended is lost, and nobody knows."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        alice = await here.sender(policy="fire-and-forget")
        await alice.idle()
        await alice.link.hold("upstream")
        lost = alice.post()
        await soon(alice.left(lost))
        await finished(lost)
        await alice.link.restore()
        await here.recorded(h.Connected, 2)
        later = await soon(alice.send())
        await seen(lambda: bool(server.received), "the later message")
        assert server.received == [(later.content, later.offset)]
        assert story(here)[:4] == ["invoke a1", "handed-over a1", "attempt a1/1 on 1", "invoke a2"]


@in_event_loop
async def test_fire_and_forget_sender_keeps_what_the_client_refused(tmp_path: Path) -> None:
    """An emission that definitely failed has handed nothing over: the next connection gets it."""
    protocol = Protocol(event=EVENT, namespace="/chat", ack_timeout_seconds=NEVER_SECONDS)
    async with chatting("/chat") as server, clients(tmp_path, server.port, protocol=protocol) as here:
        alice = await here.sender(policy="fire-and-forget")
        refusal = socketio.packet.Packet(socketio.packet.CONNECT_ERROR, namespace="/", data={"message": "no"})
        await server.io._send_packet(server.io.manager.eio_sid_from_sid(server.sids[0], "/chat"), refusal)
        connection = await alice.online()
        await seen(lambda: not connection._client.namespaces, "the namespace to be lost")
        messages = [alice.post(), alice.post()]
        for message in messages:
            await finished(message)
        await seen(lambda: len(server.received) == 2, "the messages")
        assert server.received == [(message.content, message.offset) for message in messages]
        assert [(message.attempts, message.emissions) for message in messages] == [(2, 1), (1, 1)]


# -- offsets -----------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_counter_offsets_are_those_of_the_tutorial(transport: str, tmp_path: Path) -> None:
    """An offset is the id of the connection and a counter that goes on over connections, the same at each attempt."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        Answers(server, silent=1)
        alice = await here.sender(offsets="counter")
        (first_sid,) = server.sids
        again = alice.post()
        await seen(lambda: bool(server.received), "the message")
        second = alice.post()
        await alice.link.close()
        await here.recorded(h.ConnectFailed)
        offline = alice.post()
        await alice.link.restore()
        for message in (again, second, offline):
            await finished(message)
        sid = str((await alice.online()).sid)
        assert sid != first_sid
        later = await soon(alice.send())
        assert [message.offset for message in (again, second, offline, later)] == [
            f"{first_sid}-0",
            f"{first_sid}-1",
            "undefined-2",
            f"{sid}-3",
        ]
        assert [offset for _, offset in server.received] == [again.offset, *(m.offset for m in alice.messages)]


@in_event_loop
async def test_counter_offsets_of_two_senders_collide_only_while_they_are_disconnected(tmp_path: Path) -> None:
    """Connected senders have ids of their own; those that post before they have one share their offsets."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        everyone = [await here.sender(name, offsets="counter") for name in ("alice", "bob")]
        online = [await soon(sender.send()) for sender in everyone]
        assert len({message.offset for message in online}) == 2
        for sender in everyone:
            await sender.link.close()
        await here.recorded(h.Disconnected, 2)
        offline = [sender.post() for sender in everyone]
        assert {message.offset for message in offline} == {"undefined-1"}


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
    patience_of(monkeypatch, 0.2)
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
    patience_of(monkeypatch, 0.2)
    async with chatting() as server, clients(tmp_path, server.port) as here:
        server.answer = server.forget
        alice = await here.sender()
        await soon(alice.send())
        began = time.monotonic()
        await soon(alice.send_many(20))
        assert time.monotonic() - began < 20 * 0.2
        assert len(alice.messages) == alice.unsettled == 21


@in_event_loop
async def test_done_within_tells_whether_it_was(tmp_path: Path) -> None:
    """Who gives a message a while is told whether it is done, at once when it is."""
    async with chatting() as server, clients(tmp_path, server.port, ack_timeout_seconds=0.3) as here:
        server.answer = server.forget
        message = (await here.sender()).post()
        assert not await message.done_within(SHORT_SECONDS)
        server.answer = server.acknowledge
        assert await message.done_within(NEVER_SECONDS)


@in_event_loop
async def test_patience_scales_with_the_ack_timeout_and_has_a_minimum(tmp_path: Path) -> None:
    """Patience is ten ack timeouts, and at least five seconds."""
    async with chatting() as server:
        for ack_timeout_seconds, patience in ((0.1, 5.0), (2.0, 20.0)):
            async with clients(tmp_path, server.port, ack_timeout_seconds=ack_timeout_seconds) as here:
                assert patience_seconds(here.dialer) == patience


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
        return [(message.content, str(message.offset)) for message in alice.messages]


@in_event_loop
async def test_same_seed_deals_the_same_contents_and_offsets(tmp_path: Path) -> None:
    """Contents and offsets are those of the seed, however often messages had to be sent again."""
    plain = await dealt(tmp_path, seed=7)
    assert await dealt(tmp_path, seed=7, silent=3) == plain
    other = await dealt(tmp_path, seed=8)
    assert not {offset for _, offset in plain} & {offset for _, offset in other}
    assert [content for content, _ in plain] != [content for content, _ in other]


@in_event_loop
async def test_sender_that_is_told_to_stay_away_comes_back_when_it_is_called_and_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the connection that it has, tries nothing when that has ended, and waits for no delay when called."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender()
        assert alice.stay_away()
        assert (await soon(alice.send())).acknowledged
        await alice.link.restore()
        await here.recorded(h.Disconnected)
        await waiting.pause(2 * client_module.RECONNECT_DELAYS_SECONDS[1])
        assert len(server.auths) == 1
        alice.connect()
        await alice.connected(DEADLINE_SECONDS)
        monkeypatch.setattr(client_module, "RECONNECT_DELAYS_SECONDS", (NEVER_SECONDS, NEVER_SECONDS))
        await alice.link.restore()
        await here.recorded(h.Disconnected, 2)
        alice.connect()
        await alice.connected(DEADLINE_SECONDS)
        assert alice.connect_failures == []


@pytest.mark.parametrize("transport", ["websocket", "polling", "upgrade"])
@in_event_loop
async def test_sender_that_is_told_to_halt_waits_when_its_session_is_open(transport: str, tmp_path: Path) -> None:
    """It asks for its namespace when it is called, and the next time without a word; what opened it is counted."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        alice = await here.sender()
        opened = alice.halt()
        await alice.link.restore()
        await soon(opened.wait())
        await waiting.pause(2 * client_module.RECONNECT_DELAYS_SECONDS[1])
        assert (alice.connection, len(server.auths)) == (None, 1)
        alice.connect()
        connection = await soon(alice.online())
        assert len(server.auths) == 2
        assert 0 < connection.opening_bytes[0] < connection.bytes_sent
        await alice.link.restore()
        await here.recorded(h.Connected, 3)
        assert alice.connect_failures == []


@in_event_loop
async def test_sender_comes_back_with_the_highest_server_offset_it_heard_of(tmp_path: Path) -> None:
    """Like a receiver it asks for what it lacks, and not for everything that it has heard."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender()
        first, second = alice.post(), alice.post()
        await server.broadcast(first.content, 5)
        await server.broadcast(second.content, 3)
        await seen(second.heard.is_set, "the broadcasts")
        await alice.link.close()
        await here.recorded(h.Disconnected)
        await alice.link.restore()
        await alice.connected(DEADLINE_SECONDS)
        assert server.auths == [{"serverOffset": 0}, {"serverOffset": 5}]


@in_event_loop
async def test_sender_that_is_hurried_comes_back_before_its_delay_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: the next delay is as long as ever. While it is connected there is nothing to hurry for."""
    monkeypatch.setattr(client_module, "RECONNECT_DELAYS_SECONDS", (NEVER_SECONDS, NEVER_SECONDS))
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender()
        await alice.link.close()
        await here.recorded(h.Disconnected)
        await alice.link.restore()
        alice.hurry()
        await alice.connected(DEADLINE_SECONDS)
        alice.hurry()
        await alice.link.close()
        await seen(lambda: alice.connection is None, "the end of its connection")
        alice.hurry()
        await here.recorded(h.ConnectFailed)
        await alice.link.restore()
        alice.hurry()
        await alice.connected(DEADLINE_SECONDS)


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
async def test_idle_does_not_wait_for_what_was_never_stored(tmp_path: Path) -> None:
    """A message that was given up without an answer has no broadcast to wait for."""
    async with chatting() as server, clients(tmp_path, server.port, ack_timeout_seconds=NEVER_SECONDS) as here:
        server.answer = server.forget
        alice = await here.sender(policy="once")
        message = alice.post()
        await here.recorded(h.Attempt)
        await alice.link.restore()
        await finished(message)
        await alice.connected(DEADLINE_SECONDS)
        await soon(alice.idle(downstream=True))


@TRANSPORTS
@in_event_loop
async def test_bytes_by_wire_are_those_of_each_tcp_connection(transport: str, tmp_path: Path) -> None:
    """Both directions of every connection, as many as a tap counts."""
    async with (
        chatting() as server,
        tapped(server.port) as tap,
        clients(tmp_path, tap.port, transport, ack_timeout_seconds=DEADLINE_SECONDS) as here,
    ):
        server.echo = True
        alice = await here.sender()
        for text in ("", "é" * 80, "x" * 3000):
            await soon(alice.send(text))
            connection = await soon(alice.idle(downstream=True))
            counted = sorted(connection.bytes_by_wire)
            await seen(
                lambda counted=counted: sorted((len(flow.up), len(flow.down)) for flow in tap.flows) == counted,  # type: ignore[misc]  # bound to this round
                "the same bytes",
                lambda: [(len(flow.up), len(flow.down)) for flow in tap.flows],
            )


@in_event_loop
async def test_idle_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that never gets its connection back holds a schedule up for its patience, and no longer."""
    patience_of(monkeypatch, 0.2)
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender()
        await alice.link.close()
        await here.recorded(h.ConnectFailed)
        with pytest.raises(WaitTimeout, match="alice to be connected"):
            await soon(alice.idle())


# -- what faults see ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transport", "allowed", "upgraded"),
    [("websocket", True, True), ("polling", True, False), ("upgrade", True, True), ("upgrade", False, False)],
)
@in_event_loop
async def test_sender_has_upgraded_where_it_is_connected_over_websocket(
    transport: str, allowed: bool, upgraded: bool, tmp_path: Path
) -> None:
    """From the beginning or since its upgrade, and neither without a connection nor where nobody offers an upgrade."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        server.io.eio.allow_upgrades = allowed
        alice = await here.sender()
        assert alice.has_upgraded is upgraded
        await soon(alice.send())
        assert alice.has_upgraded is upgraded
        await alice.link.close()
        await here.recorded(h.Disconnected)
        assert not alice.has_upgraded
        await alice.link.restore()
        await alice.connected(DEADLINE_SECONDS)
        assert alice.has_upgraded is upgraded


@in_event_loop
async def test_left_tells_the_bytes_of_the_message(tmp_path: Path) -> None:
    """A message has left when its frame has, whole, whether or not the link lets it pass."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender()
        for body in ("short", "a longer text " * 100):
            connection = await soon(alice.idle())
            message = alice.post(body)
            assert await soon(alice.left(message)) == connection.last_unit_bytes > len(message.content)
            await finished(message)
        await alice.link.hold("upstream")
        assert await soon(alice.left(alice.post("held"))) > 0
        assert len(server.received) == 2


@in_event_loop
async def test_left_over_polling_tells_that_the_request_has_begun(tmp_path: Path) -> None:
    """Over polling a message has left when bytes of its request have, and not before."""
    async with chatting() as server, clients(tmp_path, server.port, "polling") as here:
        server.answer = server.forget  # an answer would be followed by the next poll
        alice = await here.sender()
        connection = await soon(alice.idle())
        before = connection.bytes_sent
        message = alice.post()
        assert connection.bytes_sent == before
        assert await soon(alice.left(message)) > 0
        await seen(lambda: bool(server.received), "the message")


@in_event_loop
async def test_message_that_does_not_leave_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of a sender without a connection has not left, and is not waited for longer than patience lasts."""
    patience_of(monkeypatch, 0.1)
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender()
        await alice.link.close()
        await here.recorded(h.ConnectFailed)
        message = alice.post()
        with pytest.raises(WaitTimeout, match=f"{message.id} to leave its sender"):
            await soon(alice.left(message))


@in_event_loop
async def test_left_is_about_the_last_attempt(tmp_path: Path) -> None:
    """What an attempt on an earlier connection sent does not count for the next one."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        Answers(server, silent=1)
        alice = await here.sender()
        message = alice.post("equally long")
        length = await soon(alice.left(message))
        await seen(lambda: bool(server.received), "the message")
        await alice.link.restore()
        await finished(message)
        assert message.emitted_on is not None
        assert (message.attempts, message.emitted_on.number) == (2, here.events(h.Connected)[-1].connection)
        assert await soon(alice.left(message)) == length


@in_event_loop
async def test_answer_seconds_are_those_of_every_answer_from_its_own_attempt(tmp_path: Path) -> None:
    """Each answer has the time since its attempt began, a late one its own, long one."""
    late = asyncio.Event()

    async def answer(number: int) -> object:
        if number == 1:
            await late.wait()
        return None

    async with chatting() as server, clients(tmp_path, server.port, ack_timeout_seconds=0.3) as here:
        server.answer = answer
        alice = await here.sender()
        message = await soon(alice.send())
        assert len(message.answer_seconds) == 1
        late.set()
        await seen(lambda: len(message.answer_seconds) == 2, "the late answer")
        began = {event.attempt: event.time for event in here.events(h.Attempt)}
        answered = [(event.attempt, event.late, event.time - began[event.attempt]) for event in here.events(h.Ok)]
        assert [(attempt, was_late) for attempt, was_late, _ in answered] == [(message.attempts, False), (1, True)]
        assert message.answer_seconds == pytest.approx([seconds for *_, seconds in answered], abs=0.05)
        assert message.answer_seconds[0] < 0.3 <= message.answer_seconds[1]


@in_event_loop
async def test_message_without_an_answer_has_no_answer_seconds(tmp_path: Path) -> None:
    """Time that passes in vain is no answer."""
    async with chatting() as server, clients(tmp_path, server.port, ack_timeout_seconds=SHORT_SECONDS) as here:
        server.answer = server.forget
        message = await soon((await here.sender(policy="retries=3")).send())
        assert message.answer_seconds == []


@TRANSPORTS
@in_event_loop
async def test_connect_failures_are_the_reasons_of_the_tries_that_failed(transport: str, tmp_path: Path) -> None:
    """Each try to connect that fails leaves its reason, in order, and one that succeeds leaves none."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        alice = await here.sender()
        assert alice.connect_failures == []
        await alice.link.close()
        await here.recorded(h.ConnectFailed, 3)
        await alice.link.restore()
        await here.recorded(h.Connected, 2)
        assert alice.connect_failures == [event.reason for event in here.events(h.ConnectFailed)]
        assert len(alice.connect_failures) >= 3
        assert all(reason.startswith("Engine.IO: ") for reason in alice.connect_failures)


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
