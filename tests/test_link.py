"""Links through the real Toxiproxy: each fault does to the bytes what it says, to one client, and heals at once."""

import asyncio
import contextlib
import itertools
import re
import socket
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness import history as h
from harness import waiting
from harness.clients.connection import ConnectFailedError, Connection
from harness.clients.receiver import Receiver
from harness.clients.sender import IN_FLIGHT, Sender
from harness.fault import NotSeen
from harness.link import Cut, Direction, Phase, ReceiverLink
from harness.store import SQLiteStore
from tests.systems import (
    DEADLINE_SECONDS,
    NEVER_SECONDS,
    RUN,
    Clients,
    Flow,
    Running,
    Tap,
    chatting,
    clients,
    connect,
    connected,
    described,
    in_event_loop,
    make_store,
    seen,
    serving,
    soon,
    tapped,
)
from tests.systems import Direction as WireDirection

TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "polling"])
DIRECTIONS = pytest.mark.parametrize("direction", ["upstream", "downstream"])
REPETITIONS = 10
TEXT = "as long as the other"


class Behind(NamedTuple):
    """The reference server, with a tap between Toxiproxy and it."""

    running: Running
    tap: Tap
    here: Clients


@contextlib.asynccontextmanager
async def behind(folder: Path, transport: str, *, ack_timeout_seconds: float = NEVER_SECONDS) -> AsyncIterator[Behind]:
    """Everything that a link stands between."""
    async with serving(described(folder), folder) as running:
        await running.server.start()
        async with (
            tapped(running.port) as tap,
            clients(folder, tap.port, transport, store=running.store, ack_timeout_seconds=ack_timeout_seconds) as here,
        ):
            yield Behind(running, tap, here)


@contextlib.asynccontextmanager
async def in_front_of(client: Sender | Receiver) -> AsyncIterator[Tap]:
    """A tap between a client and its link: what the client sees of the bytes, from its next connection on."""
    async with tapped(client.link.port) as tap:
        client._port = tap.port
        before = await client.connected(DEADLINE_SECONDS)
        await client.link.restore()
        await soon(asyncio.shield(before.closed))
        await client.connected(DEADLINE_SECONDS)
        try:
            yield tap
        finally:
            await client.close()  # to whom the tap looks like its server


def open_flows(tap: Tap) -> list[Flow]:
    """The connections that are open."""
    return [flow for flow in tap.flows if not flow.ended.is_set()]


async def all_ended(flows: list[Flow]) -> None:
    """Wait until connections have ended."""
    for flow in flows:
        await soon(flow.ended.wait())


def ended_since(before: list[Flow], tap: Tap) -> list[Flow]:
    """Later connections that have ended, but for those that met no proxy while it was renewed."""
    return [flow for flow in tap.flows if flow not in before and flow.ended.is_set() and not flow.refused]


def numbers(here: Clients, kind: type[h.Connected | h.Disconnected]) -> list[int]:
    """The numbers of a sole client's connections that were made, or that ended."""
    return [event.connection for event in here.events(kind)]


def to_front(direction: Direction, behind: Tap, front: Tap) -> tuple[Tap, WireDirection]:
    """The tap at the far end of a direction, where what has passed the link can be seen, and its name there."""
    return (behind, "up") if direction == "upstream" else (front, "down")


async def stored_once(running: Running, sender: Sender) -> bool:
    """Whether a sender's messages are stored, each once and in their order."""
    rows = [h.identity_in(RUN, row.content) for row in await running.store.rows()]
    return rows == [message.id for message in sender.messages]


def empty(folder: Path) -> SQLiteStore:
    """A store that nobody writes."""
    database = folder / "empty.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, client_offset TEXT, content TEXT)")
    return make_store(database)


async def refused_connection(port: int) -> None:
    """Check that who connects there is refused."""
    with pytest.raises(ConnectionRefusedError):
        await soon(asyncio.open_connection("127.0.0.1", port))


async def connection_that_is_reset(port: int) -> None:
    """Check that who connects there and says something is reset."""
    with contextlib.closing(socket.socket()) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await soon(loop.sock_connect(client, ("127.0.0.1", port)))
        await soon(loop.sock_sendall(client, b"GET / HTTP/1.1"))
        with pytest.raises(ConnectionResetError):
            await soon(loop.sock_recv(client, 100))


# -- cut upstream ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
@TRANSPORTS
@in_event_loop
async def test_cut_inside_lets_exactly_so_many_bytes_pass(transport: str, at: float, tmp_path: Path) -> None:
    """Cut at 0, in the middle or at 1, the server gets one byte, half of the frame or all but one; each cut bites."""
    async with behind(tmp_path, transport) as (running, tap, here):
        alice = await here.sender()
        for _ in range(REPETITIONS):
            await soon(alice.send(TEXT))
            cut = alice.link.cut_inside(at)
            await cut.begin()
            length = (await alice.idle()).last_unit_bytes
            before = {flow: len(flow.up) for flow in tap.flows if not flow.ended.is_set()}
            message = alice.post(TEXT)
            evidence = await soon(cut.bite(message))
            for flow in before:
                await soon(flow.ended.wait())
            passed = sum(len(flow.up) - count for flow, count in before.items())
            assert passed == {0.0: 1, 0.5: round(length / 2), 1.0: length - 1}[at]
            assert f"cut after {passed} of {length} bytes" in evidence
            assert message.attempts == 1
            await cut.heal()
            await soon(message.done.wait())
            assert message.attempts == 2
        await soon(alice.send(TEXT))
        rows = await running.store.rows()
        assert [h.identity_in(RUN, row.content) for row in rows] == [message.id for message in alice.messages]


@pytest.mark.parametrize("fault", ["cut_inside", "cut_after"])
@in_event_loop
async def test_poll_that_is_still_on_its_way_is_not_cut_in_the_place_of_the_message(fault: str, tmp_path: Path) -> None:
    """Its bytes are not counted, whenever they come: exactly so many of the message get through."""
    async with behind(tmp_path, "polling") as (running, tap, here):
        alice = await here.sender()
        async with in_front_of(alice) as front:
            front.poll_seconds = 0.2
            for _ in range(3):
                await soon(alice.send(TEXT))
                cut = alice.link.cut_inside(0) if fault == "cut_inside" else alice.link.cut_after(1, "upstream")
                await cut.begin()
                await seen(lambda: not front.polls, "the poll to come")
                before = {flow: len(flow.up) for flow in open_flows(tap)}
                message = alice.post(TEXT)
                assert "attempt 1 of" in await soon(cut.bite(message))
                await all_ended(list(before))
                passed = [bytes(flow.up[count:]) for flow, count in before.items()]
                assert b"P" in passed
                await cut.heal()
                await soon(message.done.wait())
    assert await stored_once(running, alice)


@pytest.mark.parametrize("count", [0, 1, 50, -1, 0.5])
@in_event_loop
async def test_cut_at_lets_exactly_so_many_bytes_pass(count: float, tmp_path: Path) -> None:
    """Whatever the position: so many bytes of the message get through, no row is there, and it is sent again."""
    async with behind(tmp_path, "websocket") as (running, tap, here):
        alice = await here.sender()
        await soon(alice.send(TEXT))
        length = (await alice.idle()).last_unit_bytes
        count = length + int(count) if count < 0 else round(count * length) if 0 < count < 1 else int(count)
        cut = alice.link.cut_at("upstream", length, length, count)
        await cut.begin()
        (flow,) = open_flows(tap)
        before = len(flow.up)
        message = alice.post(TEXT)
        evidence = await soon(cut.bite(message))
        await soon(flow.ended.wait())
        assert len(flow.up) - before == count
        assert evidence.startswith(f"the connection was cut after {count} byte")
        assert evidence.endswith(f"attempt 1 of {message.id} open")
        assert (numbers(here, h.Connected), alice.connect_failures) == ([1], [])  # nobody tries before the end
        await cut.heal()
        await soon(message.done.wait())
        assert message.attempts == 2
    assert await stored_once(running, alice)


@in_event_loop
async def test_cut_at_one_byte_more_than_there_are_cuts_nothing(tmp_path: Path) -> None:
    """The same connection goes on, and that is the evidence; a message that is longer than that is not seen."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        await soon(alice.send(TEXT))
        length = (await alice.idle()).last_unit_bytes
        whole = alice.link.cut_at("upstream", length, length, length + 1)
        await whole.begin()
        assert (await soon(whole.bite(alice.post(TEXT)))).startswith("nothing was cut: the exchange had less than")
        assert numbers(here, h.Disconnected) == []
        await whole.heal()
        short = alice.link.cut_at("upstream", length - 2, length - 2, length - 1)
        await short.begin()
        with pytest.raises(NotSeen, match=f"the connection was cut, and no exchange had more than {length - 2} bytes"):
            await soon(short.bite(alice.post(TEXT)))
        await short.heal()
        assert (await soon(alice.send(TEXT))).acknowledged


@in_event_loop
async def test_cut_at_a_poll_behind_the_exchange_cuts_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come before anybody has seen that the exchange is over: all of that got through, and has its answer."""
    async with behind(tmp_path, "polling") as (running, _, here):
        alice, bob = await here.sender(), await here.sender("bob")
        await soon(alice.send(TEXT))
        connection = await alice.idle(downstream=True)
        length = 10 * connection.last_unit_bytes  # that and the polls until its answer come to less
        cut = alice.link.cut_at("upstream", length, length, length + 1)
        await cut.begin()
        monkeypatch.setattr(alice, "_hear_of", lambda _: None)  # as if its broadcast were late
        message = alice.post(TEXT)
        bite = asyncio.create_task(cut.bite(message))
        await soon(message.done.wait())
        while connection.is_open:
            await soon(bob.send())  # which answers a poll, and the next one follows
        evidence = await soon(bite)
        assert evidence.startswith(f"nothing was cut of the exchange, but a poll behind it, after {length + 1} bytes")
        assert evidence.endswith(f"attempt 1 of {message.id} acknowledged")
        await cut.heal()
        assert (await soon(alice.send())).acknowledged
        rows = [h.identity_in(RUN, row.content) for row in await running.store.rows()]
        assert rows.count(message.id) == 1


@in_event_loop
async def test_cut_at_what_is_no_answer_is_not_seen(tmp_path: Path) -> None:
    """Downstream the row has to be there: what was cut was something else that the server said."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice, bob = await here.sender(), await here.sender("bob")
        await soon(alice.send(TEXT))
        cut = alice.link.cut_at("downstream", 1000, 1000, 3)
        await cut.begin()
        await soon(bob.send(TEXT))  # its broadcast comes to alice, too
        await here.recorded(h.Disconnected)
        message = alice.post(TEXT)
        with pytest.raises(NotSeen, match="the message was not stored: what was cut was not its answer"):
            await soon(cut.bite(message))
        await cut.heal()
        await soon(message.done.wait())


@TRANSPORTS
@in_event_loop
async def test_cut_inside_does_not_bite_what_was_answered(transport: str, tmp_path: Path) -> None:
    """A cut on which nothing travels is not seen, and heals."""
    async with behind(tmp_path, transport) as (_, _, here):
        alice = await here.sender()
        alice.link._patience_seconds = 0.1
        message = await soon(alice.send(TEXT))
        cut = alice.link.cut_inside(0.5)
        await cut.begin()
        with pytest.raises(waiting.WaitTimeout, match="the connection of alice to be cut"):
            await cut.bite(message)
        await cut.heal()
        assert (await soon(alice.send(TEXT))).acknowledged


@in_event_loop
async def test_cut_inside_that_cuts_behind_the_message_is_not_seen(tmp_path: Path) -> None:
    """A message that was longer before, and so is whole when the link is cut, was not cut: the row says so."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        await soon(alice.send(TEXT * 10))
        cut = alice.link.cut_inside(0.9)
        await cut.begin()
        message = alice.post(TEXT)
        alice.post(TEXT * 10)
        with pytest.raises(NotSeen, match="acknowledged"):
            await soon(cut.bite(message))
        await cut.heal()


# -- cut ---------------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_cut_closes_and_refuses_until_it_heals(transport: str, tmp_path: Path) -> None:
    """While a link is cut its client has no connection and gets none; afterwards it has one, on the same port."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        server.answer = server.forget
        alice = await here.sender()
        port = alice.link.port
        cut = alice.link.cut()
        await cut.begin()
        message = alice.post()
        await soon(message.attempted.wait())
        assert f"{message.id} had no answer" in await soon(cut.bite(message))
        with pytest.raises(ConnectFailedError):
            await connect(port, transport)
        await here.recorded(h.ConnectFailed)
        server.answer = server.acknowledge
        await cut.heal()
        await soon(message.done.wait())
        assert alice.link.port == port


@in_event_loop
async def test_cut_of_an_acknowledged_message_is_not_seen(tmp_path: Path) -> None:
    """A message that was answered before the link was cut was not hit."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender()
        cut = alice.link.cut()
        await cut.begin()
        message = await soon(alice.send())
        with pytest.raises(NotSeen, match="acknowledged before"):
            await soon(cut.bite(message))
        await cut.heal()


@in_event_loop
async def test_faults_on_a_client_without_a_connection_have_a_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that needs the connection of a client that gets none says so, and leaves nothing armed."""
    monkeypatch.setattr("harness.clients.author.patience_seconds", lambda _: 0.1)
    async with chatting() as server, clients(tmp_path, server.port) as here:
        alice = await here.sender()
        alice.link._patience_seconds = 0.1
        await alice.link.close()
        await here.recorded(h.ConnectFailed)
        for fault in (alice.link.cut(), alice.link.cut_inside(0.5)):
            with pytest.raises(waiting.WaitTimeout, match="alice to be connected"):
                await soon(fault.begin())
            await fault.heal()


# -- the acknowledgement -----------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_lost_acknowledgement_is_lost_and_the_message_stored(transport: str, tmp_path: Path) -> None:
    """Each time the row is there and no answer has come; one further attempt is acknowledged, and adds no row."""
    async with behind(tmp_path, transport) as (running, _, here):
        alice = await here.sender()
        for _ in range(REPETITIONS):
            await soon(alice.send())
            fault = alice.link.lose_acknowledgement()
            await fault.begin()
            message = alice.post()
            assert "a row is readable" in await soon(fault.bite(message))
            assert await running.store.holds(message)
            assert (message.acknowledged, message.attempts) == (False, 1)
            await fault.heal()
            await soon(message.done.wait())
            assert (message.acknowledged, message.attempts) == (True, 2)
        await soon(alice.send())
        rows = await running.store.rows()
        assert [h.identity_in(RUN, row.content) for row in rows] == [message.id for message in alice.messages]
        assert not [event for event in here.events(h.Ok) if event.late]


@TRANSPORTS
@in_event_loop
async def test_message_that_is_never_stored_is_no_lost_acknowledgement(transport: str, tmp_path: Path) -> None:
    """Without a row there was no acknowledgement to lose: not seen, at the deadline."""
    async with serving(described(tmp_path), tmp_path) as running:
        await running.server.start()
        running.store._patience_seconds = 0.1
        async with chatting() as server, clients(tmp_path, server.port, transport, store=running.store) as here:
            server.answer = server.forget
            alice = await here.sender()
            fault = alice.link.lose_acknowledgement()
            await fault.begin()
            with pytest.raises(waiting.WaitTimeout, match="a row of"):
                await fault.bite(alice.post())
            await fault.heal()


# -- freezing ----------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_restoring_a_link_that_holds_data_is_quick(transport: str, tmp_path: Path) -> None:
    """A link that was frozen with bytes in it is free again within half a second, and they are not delivered."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        receiver, link = await here.receiver()
        await server.broadcast("before", 1)
        await here.recorded(h.Received)
        await link.hold("downstream")
        for number in range(2, 12):
            await server.broadcast("held" * 100, number)
        await link.hold("upstream")
        began = time.monotonic()
        await link.restore()
        assert time.monotonic() - began < 0.5
        await here.recorded(h.Connected, 2)
        await receiver.connected(10)
        await server.broadcast("after", 12)
        heard = await here.recorded(h.Received, 2)
        assert [event.content for event in heard] == ["before", "after"]


@TRANSPORTS
@in_event_loop
async def test_frozen_bytes_reach_nobody_and_stay_on_their_connection(transport: str, tmp_path: Path) -> None:
    """A message in a frozen link does not reach the server, and its connection stays open."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        alice = await here.sender()
        connection = await soon(alice.idle())
        sent = connection.bytes_sent
        await alice.link.hold("upstream")
        message = alice.post()
        await seen(lambda: connection.bytes_sent > sent, "the message to leave")
        bob = await here.sender("bob")
        await soon(bob.send())  # time for more than a round trip
        assert [arguments[1] for arguments in server.received] == [bob.messages[0].offset]
        assert connection.is_open
        await alice.link.restore()
        await soon(message.done.wait())
        assert len(server.received) == 2


# -- cut after so many bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "count"),
    [("upstream", 1), ("upstream", 7), ("upstream", 40), ("downstream", 1), ("downstream", 3), ("downstream", 6)],
)
@in_event_loop
async def test_cut_after_lets_exactly_so_many_bytes_pass(direction: Direction, count: int, tmp_path: Path) -> None:
    """The far end of the direction gets so many bytes and no more; the message has a row only if it got through."""
    async with behind(tmp_path, "websocket") as (running, wire, here):
        alice = await here.sender()
        async with in_front_of(alice) as front:
            before_it = await soon(alice.send(TEXT))
            await seen(before_it.heard.is_set, "the own broadcast, which travels downstream too")
            cut = alice.link.cut_after(count, direction)
            await cut.begin()
            tap, towards = to_front(direction, wire, front)
            flows = {flow: len(flow.passed(towards)) for flow in open_flows(tap)}
            message = alice.post(TEXT)
            evidence = await soon(cut.bite(message))
            await all_ended(list(flows))
            assert [len(flow.passed(towards)) - before for flow, before in flows.items()] == [count]
            bytes_ = "1 byte" if count == 1 else f"{count} bytes"
            row = "and its row is there" if direction == "downstream" else "and no row"
            assert evidence == (
                f"the connection was cut after {bytes_} {direction} with attempt 1 of {message.id} open, {row}"
            )
            assert (numbers(here, h.Connected)[-1], alice.connect_failures) == (2, [])  # nobody tries before the end
            await cut.heal()
            await soon(message.done.wait())
            assert message.attempts == 2
    assert await stored_once(running, alice)


@in_event_loop
async def test_cut_after_over_polling_cuts_the_request_and_names_it(tmp_path: Path) -> None:
    """A message cut inside its request has lost the connection of its POST, after exactly so many bytes of it."""
    async with behind(tmp_path, "polling") as (running, wire, here):
        alice = await here.sender()
        await soon(alice.send(TEXT))
        cut = alice.link.cut_after(50, "upstream")
        await cut.begin()
        flows = {flow: len(flow.up) for flow in open_flows(wire)}
        message = alice.post(TEXT)
        evidence = await soon(cut.bite(message))
        assert "the connection of the POST was cut after 50 bytes upstream" in evidence
        await all_ended(list(flows))
        # The poll was on its way before.
        assert sorted(len(flow.up) - before for flow, before in flows.items()) == [0, 50]
        await cut.heal()
        await soon(message.done.wait())
    assert await stored_once(running, alice)


@in_event_loop
async def test_cut_after_over_polling_counts_each_connection_and_names_the_first(tmp_path: Path) -> None:
    """Downstream the answers to the request and to the poll are counted each for itself, and one is cut first."""
    async with behind(tmp_path, "polling") as (running, _, here):
        alice = await here.sender()
        async with in_front_of(alice) as front:
            await soon(alice.send(TEXT))
            cut = alice.link.cut_after(1, "downstream")
            await cut.begin()
            flows = {flow: len(flow.down) for flow in open_flows(front)}
            message = alice.post(TEXT)
            evidence = await soon(cut.bite(message))
            assert re.search("the connection of the (GET|POST) was cut after 1 byte downstream", evidence)
            assert not message.acknowledged
            await all_ended(list(flows))
            assert max(len(flow.down) - before for flow, before in flows.items()) == 1
            await cut.heal()
            await soon(message.done.wait())
    assert await stored_once(running, alice)


@in_event_loop
async def test_cut_after_that_cuts_behind_the_message_is_not_seen(tmp_path: Path) -> None:
    """A message that was answered within the bytes that may pass was not cut; a later one was."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        length = (await soon(alice.send(TEXT))).emitted_on
        assert length is not None
        cut = alice.link.cut_after(length.last_unit_bytes + 1, "upstream")
        await cut.begin()
        message, later = alice.post(TEXT), alice.post(TEXT)
        with pytest.raises(NotSeen, match="acknowledged before the fault was over"):
            await soon(cut.bite(message))
        await cut.heal()
        await soon(later.done.wait())
        assert (message.attempts, later.attempts) == (1, 2)


@in_event_loop
async def test_cut_after_more_bytes_than_there_are_is_not_seen(tmp_path: Path) -> None:
    """A link on which nothing is cut is not seen to be, at the deadline."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        alice.link._patience_seconds = 0.1
        cut = alice.link.cut_after(100_000, "downstream")
        await cut.begin()
        message = alice.post()
        with pytest.raises(waiting.WaitTimeout, match="the connection of alice to be cut"):
            await cut.bite(message)
        await cut.heal()
        assert (await soon(alice.send())).acknowledged


# -- clients that come back by themselves ------------------------------------------------------------------------


@in_event_loop
async def test_cut_of_a_client_that_may_come_back_waits_until_it_was_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was not back before, and is not until the end."""
    async with behind(tmp_path, "websocket") as (running, _, here):
        alice = await here.sender()
        monkeypatch.setattr(alice, "stay_away", lambda: False)
        await soon(alice.send(TEXT))
        cut = alice.link.cut_after(1, "upstream")
        await cut.begin()
        message = alice.post(TEXT)
        assert (await soon(cut.bite(message))).endswith(f"attempt 1 of {message.id} open, and no row")
        assert "Connect call failed" in alice.connect_failures[-1]
        await refused_connection(alice.link.port)
        await cut.heal()
        await soon(message.done.wait())
    assert await stored_once(running, alice)


@in_event_loop
async def test_cut_of_a_client_that_is_back_before_it_is_refused_is_not_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its message is on another connection by then, of which nobody knows how much has got through."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        monkeypatch.setattr(alice, "stay_away", lambda: False)
        close = alice.link.close

        async def late() -> None:
            await here.recorded(h.Connected, 2)
            await close()

        monkeypatch.setattr(alice.link, "close", late)
        long = TEXT * 100
        await soon(alice.send(long))
        cut = alice.link.cut_after(1000, "upstream")
        await cut.begin()
        message = alice.post(long)
        with pytest.raises(NotSeen, match="alice came back before it was refused"):
            await soon(cut.bite(message))
        await cut.heal()
        await soon(message.done.wait())


# -- two cuts ----------------------------------------------------------------------------------------------------


@in_event_loop
async def test_cut_twice_has_no_row_between_the_cuts(tmp_path: Path) -> None:
    """The exchange is cut, and the way back; where that has fewer bytes nothing is cut again, and it is said so."""
    async with behind(tmp_path, "websocket") as (running, tap, here):
        alice = await here.sender()
        for second, again in ((10, "and the way back was cut after 10 bytes"), (10_000, "and nothing was cut again")):
            await soon(alice.send(TEXT))
            cut = alice.link.cut_twice("upstream", 5, second)
            await cut.begin()
            (flow,) = open_flows(tap)
            before = len(flow.up)
            message = alice.post(TEXT)
            evidence = await soon(cut.bite(message))
            assert evidence.startswith("the connection was cut after 5 bytes upstream, no row was there, ")
            assert again in evidence
            assert len(flow.up) - before == 5
            await cut.heal()
            await soon(message.done.wait())
    assert await stored_once(running, alice)


@in_event_loop
async def test_cut_twice_of_a_message_that_was_stored_between_the_cuts_is_not_seen(tmp_path: Path) -> None:
    """It had fewer bytes than the first cut lets through: that has cut the next one."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        length = (await soon(alice.send(TEXT))).emitted_on
        assert length is not None
        cut = alice.link.cut_twice("upstream", length.last_unit_bytes + 1, 10)
        await cut.begin()
        message, later = alice.post(TEXT), alice.post(TEXT)
        with pytest.raises(NotSeen, match="acknowledged before the second cut"):
            await soon(cut.bite(message))
        await cut.heal()
        await soon(later.done.wait())


@in_event_loop
async def test_cut_twice_downstream_has_a_row_between_the_cuts(tmp_path: Path) -> None:
    """Its answer is cut, and the way back of the message that is stored already: it is stored once."""
    async with behind(tmp_path, "websocket") as (running, _, here):
        alice = await here.sender()
        for second, again in ((10, "and the way back was cut after 10 bytes"), (10_000, "and nothing was cut again")):
            await soon(alice.send(TEXT))
            cut = alice.link.cut_twice("downstream", 5, second)
            await cut.begin()
            message = alice.post(TEXT)
            evidence = await soon(cut.bite(message))
            assert evidence.startswith("the connection was cut after 5 bytes downstream, its row was there, ")
            assert again in evidence
            await cut.heal()
            await soon(message.done.wait())
            assert message.attempts > 1
    assert await stored_once(running, alice)


# -- a lock and a cut --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["never", "under", "behind"])
@pytest.mark.parametrize("taken", ["before", "during", "after"])
@in_event_loop
async def test_lock_before_during_and_after_the_insert(taken: Phase, cut: Cut, tmp_path: Path) -> None:
    """Whether the row is there under the lock is what tells them apart; the message is stored once."""
    async with behind(tmp_path, "websocket", ack_timeout_seconds=1) as (running, _, here):
        alice = await here.sender()
        await soon(alice.send(TEXT))
        lock = alice.link.lock_and_cut(taken, 0.05, cut)
        await lock.begin()
        message = alice.post(TEXT)
        held = "held the message" if taken == "after" else "did not hold the message"
        evidence = await soon(lock.bite(message))
        assert evidence.startswith(f"the store was locked {taken} the insert for 0.05 s, when it {held}")
        await lock.heal()
        await soon(message.done.wait())
        assert message.acknowledged
    assert await stored_once(running, alice)


@pytest.mark.parametrize("taken", ["before", "during", "after"])
@in_event_loop
async def test_lock_without_a_cut_leaves_the_connection_alone(taken: Phase, tmp_path: Path) -> None:
    """A server that waits for the lock answers on the connection that the message came by."""
    async with behind(tmp_path, "websocket") as (running, _, here):
        alice = await here.sender()
        await soon(alice.send(TEXT))
        lock = alice.link.lock_and_cut(taken, 0.01)
        await lock.begin()
        message = alice.post(TEXT)
        await soon(lock.bite(message))
        await lock.heal()
        await soon(message.done.wait())
        assert message.attempts == 1
        assert numbers(here, h.Disconnected) == []
    assert await stored_once(running, alice)


@pytest.mark.parametrize("taken", ["before", "during"])
@in_event_loop
async def test_lock_that_finds_the_row_there_is_not_seen(taken: Phase, tmp_path: Path) -> None:
    """A message that was stored before waits for no lock."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        message = await soon(alice.send(TEXT))
        lock = alice.link.lock_and_cut(taken)
        await lock.begin()
        with pytest.raises(NotSeen, match=f"the store was locked {taken} the insert, and it held the message"):
            await soon(lock.bite(message))
        await lock.heal()


# -- flap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2, 5])
@TRANSPORTS
@in_event_loop
async def test_flap_cuts_so_many_connections(transport: str, times: int, tmp_path: Path) -> None:
    """The message is lost with the first connection, and so many in a row end; the next one stays."""
    async with chatting() as server, clients(tmp_path, server.port, transport, store=empty(tmp_path)) as here:
        server.answer = server.forget
        alice = await here.sender()
        flap = alice.link.flap(times)
        await flap.begin()
        message = alice.post()
        evidence = await soon(flap.bite(message))
        assert f"cut with attempt 1 of {message.id} held in it, and no row" in evidence
        assert (f"then {times - 1} time" in evidence) is (times > 1)
        await here.recorded(h.Disconnected, times)
        assert numbers(here, h.Disconnected) == numbers(here, h.Connected)[:times]
        assert numbers(here, h.Disconnected)[times:] == []
        assert len(server.received) < message.attempts  # the first time it did not get through
        server.answer = server.acknowledge
        await flap.heal()
        await soon(message.done.wait())


@TRANSPORTS
@in_event_loop
async def test_message_in_a_flapping_link_is_lost_with_its_first_connection(transport: str, tmp_path: Path) -> None:
    """No byte of the first attempt passes the link, and the message is stored by a later one, once."""
    async with behind(tmp_path, transport) as (running, wire, here):
        alice = await here.sender()
        await soon(alice.send(TEXT))
        flap = alice.link.flap(1)
        await flap.begin()
        flows = {flow: len(flow.up) for flow in open_flows(wire)}
        message = alice.post(TEXT)
        await soon(flap.bite(message))
        await all_ended(list(flows))
        assert [len(flow.up) - before for flow, before in flows.items()] == [0] * len(flows)
        await flap.heal()
        await soon(message.done.wait())
    assert await stored_once(running, alice)


@in_event_loop
async def test_flap_of_a_client_that_does_not_come_back_is_not_seen(tmp_path: Path) -> None:
    """A client that is cut once and gets no second connection to be cut was not cut twice."""
    async with chatting() as server, clients(tmp_path, server.port, store=empty(tmp_path)) as here:
        alice = await here.sender()
        alice.link._patience_seconds = 0.3
        back = asyncio.Event()

        async def hesitate(_: str) -> None:
            await back.wait()

        server.admit = hesitate
        flap = alice.link.flap(2)
        await flap.begin()
        message = alice.post()
        with pytest.raises(waiting.WaitTimeout, match="alice to be connected"):
            await soon(flap.bite(message))
        back.set()
        await flap.heal()
        await soon(message.done.wait())
        assert len(server.received) == 1


# -- the way back ------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_refused_connections_are_refused_and_counted(transport: str, tmp_path: Path) -> None:
    """While it acts whoever connects gets ECONNREFUSED; the evidence counts the tries that failed."""
    async with behind(tmp_path, transport) as (running, wire, here):
        alice = await here.sender()
        await soon(alice.send())
        before = list(wire.flows)
        refuse = alice.link.refuse(0.3)
        await refuse.begin()
        await refused_connection(alice.link.port)
        message = alice.post()
        known = len(alice.connect_failures)
        biting = asyncio.create_task(refuse.bite(message))
        evidence = await soon(biting)
        failed = alice.connect_failures[known:]
        assert evidence.startswith(f"{len(failed)} tries to connect were refused while {message.id} waited (")
        assert len(failed) >= 2
        assert failed[0] in evidence
        assert message.attempts == 0
        await all_ended(before)
        assert wire.flows == before
        await refused_connection(alice.link.port)
        await refuse.heal()
        await soon(message.done.wait())
        assert message.attempts == 1
    assert await stored_once(running, alice)


@in_event_loop
async def test_refusal_that_nobody_meets_is_not_seen(tmp_path: Path) -> None:
    """Where no try to connect fails while connections are refused, nobody was refused."""
    async with chatting() as server, clients(tmp_path, server.port, store=empty(tmp_path)) as here:
        alice = await here.sender()
        refuse = alice.link.refuse(0.05)
        await refuse.begin()
        await alice.close()
        with pytest.raises(NotSeen, match="no try to connect failed while"):
            await soon(refuse.bite(alice.post()))
        await refuse.heal()
        async with connected(alice.link.port, "websocket"):
            assert len(server.sids) == 1


@TRANSPORTS
@in_event_loop
async def test_reset_connections_end_with_rst(transport: str, tmp_path: Path) -> None:
    """Every connection that is opened after the message left ends with a reset at the peer; the one before with FIN."""
    async with behind(tmp_path, transport) as (running, _, here):
        alice = await here.sender()
        async with in_front_of(alice) as front:
            await soon(alice.send())
            reset = alice.link.reset()
            await reset.begin()
            before = list(front.flows)
            message = alice.post()
            evidence = await soon(reset.bite(message))
            assert f"a new connection was reset while {message.id} waited" in evidence
            assert "Connect call failed" not in evidence
            await all_ended(before)
            assert [flow for flow in before if flow.resets] == []
            after = ended_since(before, front)
            assert after
            assert [flow.resets for flow in after] == [{"down"}] * len(after)
            assert alice.connection is None
            assert message.attempts == 1
            await connection_that_is_reset(alice.link.port)
            await reset.heal()
            await soon(message.done.wait())
            assert message.attempts == 2
    assert await stored_once(running, alice)


@pytest.mark.parametrize("count", [1, 10])
@DIRECTIONS
@TRANSPORTS
@in_event_loop
async def test_handshakes_are_cut_after_so_many_bytes(
    transport: str, direction: Direction, count: int, tmp_path: Path
) -> None:
    """Each connection that is opened after the message left ends when so many bytes of its handshake have passed."""
    async with behind(tmp_path, transport) as (running, wire, here):
        alice = await here.sender()
        async with in_front_of(alice) as front:
            await soon(alice.send())
            cut = alice.link.cut_handshake(direction, count)
            await cut.begin()
            tap, towards = to_front(direction, wire, front)
            before = list(tap.flows)
            message = alice.post()
            evidence = await soon(cut.bite(message))
            assert f"a handshake was cut after {count} byte" in evidence
            assert f"{direction} while {message.id} waited" in evidence
            after = ended_since(before, tap)
            assert after
            assert [len(flow.passed(towards)) for flow in after] == [count] * len(after)
            assert len(numbers(here, h.Connected)) == 2  # the second through the tap, and no other since
            await here.recorded(h.ConnectFailed, len(here.events(h.ConnectFailed)) + 2)  # and so it goes on
            assert message.attempts == 1
            await cut.heal()
            await soon(message.done.wait())
            assert message.attempts == 2
    assert await stored_once(running, alice)


@pytest.mark.parametrize("more", [0, 1, 10])
@DIRECTIONS
@in_event_loop
async def test_handshake_over_polling_is_cut_behind_what_opens_its_session(
    direction: Direction, more: int, tmp_path: Path
) -> None:
    """That gets through, and then so many bytes on each TCP connection, be it the same or another."""
    async with behind(tmp_path, "polling") as (running, wire, here):
        alice = await here.sender()
        async with in_front_of(alice) as front:
            await soon(alice.send())
            opening = (await alice.online()).opening_bytes[0 if direction == "upstream" else 1]
            cut = alice.link.cut_handshake(direction, opening + more, opening=opening)
            await cut.begin()
            tap, towards = to_front(direction, wire, front)
            before = list(tap.flows)
            message = alice.post()
            evidence = await soon(cut.bite(message))
            first, second, *_ = [flow for flow in tap.flows if flow not in before and not flow.refused]
            await all_ended([first, second])
            lengths = len(first.passed(towards)) - opening, len(second.passed(towards))
            assert max(lengths) == more  # which of them is cut first ends the other
            assert min(lengths) >= 0
            assert f"{opening + more} bytes {direction}, the {opening} that open its session among them" in evidence
            assert message.attempts == 1
            await cut.heal()
            await soon(message.done.wait())
            assert message.attempts == 2
    assert await stored_once(running, alice)


@in_event_loop
async def test_handshake_of_a_sender_that_does_not_wait_is_not_cut_behind_what_opens_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows may have got through before it could be limited."""
    async with behind(tmp_path, "polling") as (_, _, here):
        alice = await here.sender()
        monkeypatch.setattr(alice, "halt", lambda: None)
        cut = alice.link.cut_handshake("upstream", 10, opening=10)
        await cut.begin()
        with pytest.raises(NotSeen, match="alice does not wait when its session is open"):
            await soon(cut.bite(alice.post()))
        await cut.heal()
        assert (await soon(alice.send())).acknowledged


@in_event_loop
async def test_handshake_from_its_least_length_on_may_be_cut_or_not(tmp_path: Path) -> None:
    """Up to its greatest: where one byte more is cut, the fault is not seen."""
    async with chatting() as server, clients(tmp_path, server.port, store=empty(tmp_path)) as here:
        alice = await here.sender()
        ((length, _),) = (await alice.idle()).bytes_by_wire
        for count, shortest, longest, said in (
            (length + 1, length, length + 1, "a handshake was cut after"),
            (length + 1, length, length, "nothing was cut: a handshake has"),
            (length + 1, length + 2, length + 2, "the handshake got through: it had less than"),
            (length - 1, 1, length - 2, f"a handshake of more than {length - 2} bytes upstream was cut"),
        ):
            cut = alice.link.cut_handshake("upstream", count, shortest, longest)
            await cut.begin()
            message = alice.post()
            try:
                evidence = await soon(cut.bite(message))
            except NotSeen as error:
                evidence = str(error)
            assert evidence.startswith(said)
            await cut.heal()
            await soon(message.done.wait())


@in_event_loop
async def test_handshake_that_fits_is_not_cut(tmp_path: Path) -> None:
    """A client whose handshake is shorter than what may pass has a connection, and the fault is not seen."""
    async with chatting() as server, clients(tmp_path, server.port, store=empty(tmp_path)) as here:
        alice = await here.sender()
        alice.link._patience_seconds = 0.3
        cut = alice.link.cut_handshake("downstream", 100_000)
        await cut.begin()
        with pytest.raises(NotSeen, match="the handshake got through: it had less than 100000 bytes downstream"):
            await soon(cut.bite(alice.post()))
        assert len(numbers(here, h.Connected)) == 2
        await cut.heal()
        assert (await soon(alice.send())).acknowledged


@DIRECTIONS
@in_event_loop
async def test_limit_tells_the_length_of_a_handshake(direction: Direction, tmp_path: Path) -> None:
    """What is one byte short cuts it, with one byte to spare it passes; the sender can be used behind either."""
    async with chatting() as server, clients(tmp_path, server.port, store=empty(tmp_path)) as here:
        alice = await here.sender()
        ((sent, received),) = (await alice.idle()).bytes_by_wire
        length = sent if direction == "upstream" else received
        assert await soon(alice.link.cuts_handshake(length - 1, direction))
        assert not await soon(alice.link.cuts_handshake(length + 1, direction))
        assert (await soon(alice.send())).attempts == 1


@in_event_loop
async def test_limit_tells_the_length_of_a_message_over_polling(tmp_path: Path) -> None:
    """That of the longest request; the message is done in any case."""
    async with behind(tmp_path, "polling") as (running, _, here):
        alice = await here.sender()
        await soon(alice.send(TEXT))
        post = (await alice.idle(downstream=True)).last_unit_bytes
        assert await soon(alice.link.cuts_message(TEXT, post - 1, "upstream"))
        assert not await soon(alice.link.cuts_message(TEXT, 10 * post, "upstream"))
        assert [message.attempts for message in alice.messages] == [1, 2, 1]
    assert await stored_once(running, alice)


@in_event_loop
async def test_try_that_began_before_shows_nothing_of_a_way_back_that_is_closed(tmp_path: Path) -> None:
    """The first try that fails may have been under way when the link was renewed: the next one is the evidence."""
    async with chatting() as server, clients(tmp_path, server.port, store=empty(tmp_path)) as here:
        alice = await here.sender()
        await alice.close()
        message = alice.post()
        failing = asyncio.create_task(alice.link._failed_connect(message))
        await asyncio.sleep(0)
        alice.connect_failures.append("began before")
        await asyncio.wait({failing}, timeout=0.1)
        assert not failing.done()
        alice.connect_failures.append("began afterwards")
        assert await soon(failing) == "began afterwards"


@in_event_loop
async def test_reset_of_a_client_that_does_not_come_back_is_not_seen(tmp_path: Path) -> None:
    """Without a try to connect nothing was reset."""
    async with chatting() as server, clients(tmp_path, server.port, store=empty(tmp_path)) as here:
        alice = await here.sender()
        alice.link._patience_seconds = 0.1
        reset = alice.link.reset()
        await reset.begin()
        message = alice.post()
        await soon(alice.left(message))
        await alice.close()
        with pytest.raises(waiting.WaitTimeout, match="a try of alice to connect to fail"):
            await soon(reset.bite(message))
        await reset.heal()
        async with connected(alice.link.port, "websocket"):
            assert len(server.sids) == 1


# -- dropped and held --------------------------------------------------------------------------------------------


@DIRECTIONS
@in_event_loop
async def test_blackhole_drops_for_good_and_keeps_the_connection(direction: Direction, tmp_path: Path) -> None:
    """No byte of that direction comes out, the connection is open until the heal, and then ends with a FIN."""
    async with behind(tmp_path, "websocket") as (running, wire, here):
        alice = await here.sender()
        async with in_front_of(alice) as front:
            await soon(alice.send())
            hole = alice.link.blackhole(direction, 0.1)
            await hole.begin()
            tap, towards = to_front(direction, wire, front)
            (flow,) = open_flows(tap)
            before = len(flow.passed(towards))
            connection = alice.connection
            assert connection is not None
            message = alice.post()
            evidence = await soon(hole.bite(message))
            row = "and its row is there" if direction == "downstream" else "and no row"
            assert evidence == f"the {direction} was dropped for 0.1 s with attempt 1 of {message.id} open, {row}"
            assert await running.store.holds(message) is (direction == "downstream")
            assert connection.is_open
            await hole.heal()
            await soon(message.done.wait())
            await soon(flow.ended.wait())
            assert len(flow.passed(towards)) == before
            assert not connection.is_open
            assert [each for each in (*front.flows, *wire.flows) if each.resets] == []
            assert (message.attempts, message.emissions) == (2, 2)
            assert [event.attempt for event in here.events(h.Ok) if event.message == message.id] == [2]
    assert await stored_once(running, alice)


@DIRECTIONS
@TRANSPORTS
@in_event_loop
async def test_freeze_holds_and_delivers_on_the_same_connection(
    transport: str, direction: Direction, tmp_path: Path
) -> None:
    """Nothing of that direction comes out for so long, and then all of it does: one attempt, one connection."""
    async with behind(tmp_path, transport) as (running, wire, here):
        alice = await here.sender()
        await soon(alice.send())
        freeze = alice.link.freeze(direction, 0.1)
        await freeze.begin()
        passed = wire.bytes_passed("up")
        began = time.monotonic()
        message = alice.post()
        evidence = await soon(freeze.bite(message))
        assert time.monotonic() - began >= 0.1
        row = "and its row is there" if direction == "downstream" else "and no row"
        assert evidence == f"the {direction} was held for 0.1 s with attempt 1 of {message.id} open, {row}"
        assert (wire.bytes_passed("up") > passed) is (direction == "downstream")
        await freeze.heal()
        await soon(message.done.wait())
        assert (message.attempts, message.acknowledged) == (1, True)
        assert (await soon(alice.send())).attempts == 1
        assert numbers(here, h.Connected) == [1]
        assert numbers(here, h.Disconnected) == []
    assert await stored_once(running, alice)


@in_event_loop
async def test_freeze_of_a_connection_that_has_ended_heals_at_once(tmp_path: Path) -> None:
    """Where an end is gone meanwhile what was held for it is lost, and the link is free again without a delay."""
    async with behind(tmp_path, "websocket") as (running, _, here):
        alice = await here.sender(policy="resend")
        await soon(alice.send())
        freeze = alice.link.freeze("upstream", 0.05)
        await freeze.begin()
        messages = [alice.post("much to hold " * 5000) for _ in range(IN_FLIGHT)]
        await soon(freeze.bite(messages[0]))
        await running.server.kill()
        await here.recorded(h.Disconnected)
        began = time.monotonic()
        await freeze.heal()
        assert time.monotonic() - began < 2  # lifting it can take Toxiproxy 5 s
        await running.server.start()
        for message in messages:
            await soon(message.done.wait())
    assert len(await running.store.rows()) == 1 + IN_FLIGHT


@pytest.mark.parametrize("fault", ["blackhole", "freeze"])
@pytest.mark.parametrize("answered", [True, False])
@in_event_loop
async def test_silence_that_a_message_came_through_is_not_seen(fault: str, answered: bool, tmp_path: Path) -> None:
    """A message that was answered, or that is stored, has not met a link that drops or holds what is sent."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        message = await soon(alice.send())
        message.acknowledged = answered
        silence = getattr(alice.link, fault)("upstream", 0.01)
        await silence.begin()
        with pytest.raises(NotSeen, match="acknowledged before the fault was over" if answered else "was stored"):
            await soon(silence.bite(message))
        await silence.heal()
        assert (await soon(alice.send())).acknowledged


@pytest.mark.parametrize("fault", ["blackhole", "freeze"])
@in_event_loop
async def test_silence_downstream_of_an_answered_message_is_not_seen(fault: str, tmp_path: Path) -> None:
    """A message whose answer came has not met a link that drops or holds answers."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        message = await soon(alice.send())
        silence = getattr(alice.link, fault)("downstream", 0.01)
        await silence.begin()
        with pytest.raises(NotSeen, match="acknowledged before the time was over"):
            await soon(silence.bite(message))
        await silence.heal()
        assert (await soon(alice.send())).acknowledged


# -- slow --------------------------------------------------------------------------------------------------------


@DIRECTIONS
@in_event_loop
async def test_latency_delays_and_keeps_the_order(direction: Direction, tmp_path: Path) -> None:
    """That direction, and no other, comes that much later; none is lost, and all stay in their order."""
    arrived: list[float] = []

    def watch(_: Flow, towards: WireDirection, __: bytes) -> None:
        if towards == "up":
            arrived.append(time.monotonic())

    async with behind(tmp_path, "websocket") as (running, wire, here):
        alice = await here.sender(policy="pipelined")
        await soon(alice.send())
        latency = alice.link.latency(direction, 400)
        await latency.begin()
        wire.rule = watch
        began = time.monotonic()
        messages = [alice.post() for _ in range(IN_FLIGHT)]
        evidence = await soon(latency.bite(messages[0]))
        for message in messages:
            await soon(message.done.wait())
            assert [seconds >= 0.4 for seconds in message.answer_seconds] == [True]
        assert evidence == f"attempt 1 of {messages[0].id} was answered after {messages[0].answer_seconds[0]:.3f} s"
        assert (arrived[0] - began >= 0.4) is (direction == "upstream")
        assert [event.message for event in here.events(h.Ok)] == [message.id for message in alice.messages]
        await latency.heal()
        await here.recorded(h.Connected, 2)
        assert (await soon(alice.send())).answer_seconds[0] < 0.4
    assert await stored_once(running, alice)


@in_event_loop
async def test_latency_is_measured_over_a_late_answer_too(tmp_path: Path) -> None:
    """An answer that comes after the ack timeout shows the delay: it is the first attempt's, and no other's."""
    async with behind(tmp_path, "websocket", ack_timeout_seconds=0.1) as (running, _, here):
        alice = await here.sender()
        await soon(alice.send())
        latency = alice.link.latency("downstream", 250)
        await latency.begin()
        message = alice.post()
        assert "attempt 1" in await soon(latency.bite(message))
        assert message.answer_seconds[0] >= 0.25
        assert not message.acknowledged
        await latency.heal()
        await soon(message.done.wait())
    assert await stored_once(running, alice)


@in_event_loop
async def test_delay_that_the_answer_did_not_have_is_not_seen(tmp_path: Path) -> None:
    """An answer that came sooner than the delay, or than the pauses between pieces, had none."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        message = await soon(alice.send(TEXT))
        for fault in (alice.link.latency("upstream", 5000), alice.link.slices(1, 1000)):
            await fault.begin()
            with pytest.raises(NotSeen, match="sooner than"):
                await soon(fault.bite(message))
            await fault.heal()
            message = await soon(alice.send(TEXT))


@pytest.mark.parametrize(("fault", "arguments"), [("latency", ("upstream", 1)), ("slices", (100, 1))])
@in_event_loop
async def test_delay_without_an_answer_is_not_seen(fault: str, arguments: tuple[object, ...], tmp_path: Path) -> None:
    """A message that is never answered does not show how late it would have been."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        server.answer = server.forget
        alice = await here.sender()
        alice.link._patience_seconds = 0.1
        slow = getattr(alice.link, fault)(*arguments)
        await slow.begin()
        with pytest.raises(waiting.WaitTimeout, match=r"an acknowledgement of .*, late or not"):
            await soon(slow.bite(alice.post()))
        await slow.heal()


@pytest.mark.parametrize("size", [16, 50])
@in_event_loop
async def test_slices_deliver_pieces_with_pauses(size: int, tmp_path: Path) -> None:
    """On the wire a message comes in pieces of at most that size, each later than the one before, and is whole."""
    pause_ms = 60
    pieces: list[tuple[float, int]] = []

    def watch(_: Flow, towards: WireDirection, data: bytes) -> None:
        if towards == "up":
            pieces.append((time.monotonic(), len(data)))

    async with behind(tmp_path, "websocket") as (running, wire, here):
        alice = await here.sender()
        await soon(alice.send(TEXT))
        slices = alice.link.slices(size, pause_ms)
        await slices.begin()
        wire.rule = watch
        message = alice.post(TEXT)
        evidence = await soon(slices.bite(message))
        length = (await soon(alice.idle())).last_unit_bytes
        assert evidence.startswith(f"attempt 1 of {message.id} ({length} bytes) was answered after ")
        assert sum(count for _, count in pieces) == length
        assert max(count for _, count in pieces) <= size
        assert len(pieces) >= length / size
        gaps = [later - sooner for (sooner, _), (later, _) in itertools.pairwise(pieces)]
        # Each is sent that much after the one before; what comes late once makes up for it with the next.
        assert sum(gaps) >= (len(gaps) - 1) * pause_ms / 1000
        assert message.answer_seconds[0] >= (length // size - 1) * pause_ms / 1000
        await slices.heal()
        pieces.clear()
        await soon(alice.send(TEXT))
        assert message.attempts == 1
    assert await stored_once(running, alice)


# -- one client --------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_other_clients_notice_nothing(transport: str, tmp_path: Path) -> None:
    """Whatever is done to one client's link, another one stays connected and is answered."""
    async with behind(tmp_path, transport) as (_, _, here):
        alice, bob = await here.sender("alice"), await here.sender("bob")
        await soon(alice.send(TEXT))
        for fault in (
            alice.link.lose_acknowledgement(),
            alice.link.cut_inside(0.5),
            alice.link.cut_after(5, "upstream"),
            alice.link.flap(2),
            alice.link.refuse(0.1),
            alice.link.reset(),
            alice.link.cut_handshake("downstream", 5),
            alice.link.blackhole("upstream", 0.05),
            alice.link.freeze("downstream", 0.05),
            alice.link.latency("downstream", 50),
            alice.link.slices(50, 5),
            alice.link.cut(),  # the last: what was open can end when the message has been answered, and so in the next
        ):
            await fault.begin()
            assert (await soon(bob.send())).attempts == 1
            message = alice.post(TEXT)
            if fault.name != "cut":  # which needs no time to act
                await soon(fault.bite(message))
            assert (await soon(bob.send())).attempts == 1
            await fault.heal()
            await soon(message.done.wait())
        assert [event.connection for event in here.events(h.Connected) if event.client == "bob"] == [1]
        assert not [event for event in here.events(h.Disconnected) if event.client == "bob"]


@in_event_loop
async def test_deleted_link_refuses_connections(tmp_path: Path) -> None:
    """A link that is deleted is gone from its port."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        link = await here.link("rita")
        async with connected(link.port, "websocket") as connection:
            await link.delete()
            await soon(asyncio.shield(connection.closed))
        with pytest.raises(ConnectFailedError):
            await connect(link.port, "websocket")


# -- what the known defects are made of --------------------------------------------------------------------------

LONG = "a long text " * 400


@in_event_loop
async def test_long_frames_are_cut_as_often_as_it_is_said(tmp_path: Path) -> None:
    """Handshakes pass and the long message does not, so many times; then it is stored, once."""
    async with behind(tmp_path, "websocket") as (running, _, here):
        alice = await here.sender()
        await soon(alice.send())
        cut = alice.link.cut_long_frames(2000, times=3)
        await cut.begin()
        message = alice.post(LONG)
        evidence = await soon(cut.bite(message))
        assert evidence == f"3 times a connection was cut after 2000 bytes, within {message.id}, and no row"
        assert message.attempts >= 3
        await cut.heal()
        await soon(message.done.wait())
        assert len({event.connection for event in here.events(h.Attempt) if event.message == message.id}) >= 4
    assert await stored_once(running, alice)


@in_event_loop
async def test_short_frames_pass_a_link_that_cuts_long_ones(tmp_path: Path) -> None:
    """A message that fits is answered: it was not cut, at the deadline."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        alice.link._patience_seconds = 0.5
        cut = alice.link.cut_long_frames(2000, times=2)
        await cut.begin()
        message = await soon(alice.send())
        assert message.acknowledged
        with pytest.raises(waiting.WaitTimeout, match="attempt 2 of"):
            await soon(cut.bite(message))
        await cut.heal()


@in_event_loop
async def test_ways_back_are_cut_after_so_many_bytes(tmp_path: Path) -> None:
    """Handshakes pass and the long message does not, for so long; then it is stored, once."""
    async with behind(tmp_path, "websocket") as (running, wire, here):
        alice = await here.sender()
        await soon(alice.send())
        (before,) = open_flows(wire)
        cut = alice.link.cut_ways_back(2000, "upstream", 0.5)
        await cut.begin()
        assert before.ended.is_set()
        began = time.monotonic()
        message = alice.post(LONG)
        evidence = await soon(cut.bite(message))
        assert time.monotonic() - began >= 0.5
        assert evidence == (
            f"no way back had more than 2000 bytes upstream while {message.id} waited for 0.5 s, and no row"
        )
        ended = ended_since([before], wire)
        assert ended
        assert {len(flow.up) for flow in ended} == {2000}
        await cut.heal()
        await soon(message.done.wait())
        assert message.attempts > len(ended)
    assert await stored_once(running, alice)


@TRANSPORTS
@in_event_loop
async def test_handshakes_of_ways_back_are_cut_after_so_many_bytes(transport: str, tmp_path: Path) -> None:
    """What does not get through its handshake has no connection until the heal, and then has one."""
    async with behind(tmp_path, transport) as (running, _, here):
        alice = await here.sender()
        await soon(alice.send())
        cut = alice.link.cut_ways_back(100, "downstream", 0.5)
        await cut.begin()
        message = alice.post()
        assert "more than 100 bytes downstream" in await soon(cut.bite(message))
        assert numbers(here, h.Connected) == [1]
        assert message.attempts == 0
        await cut.heal()
        await soon(message.done.wait())
        assert message.attempts == 1
    assert await stored_once(running, alice)


@in_event_loop
async def test_message_that_fits_into_a_way_back_is_not_cut(tmp_path: Path) -> None:
    """A message that is answered within what may pass was not hit."""
    async with behind(tmp_path, "websocket") as (_, _, here):
        alice = await here.sender()
        cut = alice.link.cut_ways_back(100_000, "upstream", 0.01)
        await cut.begin()
        message = await soon(alice.send())
        assert message.attempts == 1
        with pytest.raises(NotSeen, match="acknowledged before the fault was over"):
            await soon(cut.bite(message))
        await cut.heal()
        assert (await soon(alice.send())).acknowledged


@in_event_loop
async def test_message_whose_answer_alone_is_cut_on_a_way_back_is_not_seen(tmp_path: Path) -> None:
    """A message that got through is stored, although each connection ends within its answer."""
    async with behind(tmp_path, "websocket") as (running, _, here):
        alice = await here.sender()
        ((_, handshake),) = (await alice.connected(DEADLINE_SECONDS)).bytes_by_wire
        cut = alice.link.cut_ways_back(handshake + 1, "downstream", 0.01)
        await cut.begin()
        message = alice.post()
        await running.store.wait_for(message)
        with pytest.raises(NotSeen, match="the message was stored"):
            await soon(cut.bite(message))
        assert not message.acknowledged
        await cut.heal()
        await soon(message.done.wait())
        assert message.acknowledged
    assert await stored_once(running, alice)


# Our client's request for an upgrade ends at 460 bytes of its connection, and its probe at 472.
PROBE_BYTES = 466


@in_event_loop
async def test_probe_is_cut_and_the_session_stays_over_polling(tmp_path: Path) -> None:
    """The upgrade ends within its probe, the message goes over polling, and the next connection is upgraded again."""
    async with behind(tmp_path, "upgrade") as (running, wire, here):
        alice = await here.sender()
        await soon(alice.send())
        assert alice.has_upgraded
        before = list(wire.flows)
        cut = alice.link.cut_probe(PROBE_BYTES, 0.3)
        await cut.begin()
        connection = await alice.connected(DEADLINE_SECONDS)
        message = alice.post()
        assert await soon(cut.bite(message)) == (
            f"the upgrade was cut after {PROBE_BYTES} bytes, 0.3 s before {message.id} was posted"
        )
        probes = [flow for flow in wire.flows if flow not in before and b"transport=websocket" in flow.up]
        assert probes
        assert {len(flow.up) for flow in probes} == {PROBE_BYTES}
        assert {flow.ended.is_set() for flow in probes} == {True}
        await cut.heal()
        await soon(message.done.wait())
        assert connection.is_open
        assert not connection.is_websocket
        assert (message.attempts, message.emitted_on) == (1, connection)
        await alice.link.refresh()
        assert alice.has_upgraded
        assert (await soon(alice.send())).attempts == 1
    assert await stored_once(running, alice)


@pytest.mark.parametrize(("transport", "count"), [("upgrade", 100_000), ("websocket", PROBE_BYTES), ("upgrade", 100)])
@in_event_loop
async def test_upgrade_that_goes_through_was_not_cut(transport: str, count: int, tmp_path: Path) -> None:
    """Whether it fits, or there is none to cut, or it is another handshake that was cut until the limit went."""
    async with behind(tmp_path, transport) as (_, _, here):
        alice = await here.sender()
        cut = alice.link.cut_probe(count, 0.5)
        await cut.begin()
        await alice.connected(DEADLINE_SECONDS)
        assert alice.has_upgraded
        message = await soon(alice.send())
        with pytest.raises(NotSeen, match="the upgrade went through"):
            await soon(cut.bite(message))
        connection = alice.connection
        await cut.heal()
        assert (await soon(alice.send())).emitted_on is connection


@TRANSPORTS
@in_event_loop
async def test_silence_drops_both_directions_of_a_new_connection(transport: str, tmp_path: Path) -> None:
    """The connection is a new one that stays open, and nothing passes it, either way, for so long."""
    async with behind(tmp_path, transport) as (running, wire, here):
        alice = await here.sender()
        await soon(alice.send())
        silence = alice.link.silence(0.3)
        await silence.begin()
        assert len(numbers(here, h.Connected)) == 2
        flows = {flow: len(flow.up) for flow in open_flows(wire)}
        message = alice.post()
        began = time.monotonic()
        evidence = await soon(silence.bite(message))
        assert time.monotonic() - began >= 0.3
        assert evidence == f"both directions were dropped for 0.3 s with attempt 1 of {message.id} open, and no row"
        assert [len(flow.up) - before for flow, before in flows.items()] == [0] * len(flows)
        assert numbers(here, h.Disconnected) == [1]
        await silence.heal()
        await soon(message.done.wait())
    assert await stored_once(running, alice)


@TRANSPORTS
@in_event_loop
async def test_refresh_is_another_connection(transport: str, tmp_path: Path) -> None:
    """When it returns the one before has ended and the next is there, and messages pass."""
    async with behind(tmp_path, transport) as (running, _, here):
        alice = await here.sender()
        await soon(alice.link.refresh())
        assert numbers(here, h.Disconnected) == [1]
        assert len(numbers(here, h.Connected)) == 2
        assert (await soon(alice.send())).attempts == 1
    assert await stored_once(running, alice)


@contextlib.asynccontextmanager
async def received(here: Clients, name: str = "rita") -> AsyncIterator[ReceiverLink]:
    """The link of a connected receiver, with its faults."""
    receiver, link = await here.receiver(name)
    own = ReceiverLink(name, link._proxy, link._store, patience_seconds=DEADLINE_SECONDS)
    own.receiver, receiver.link = receiver, own
    yield own


@in_event_loop
async def test_poll_is_cut_within_the_message_that_it_carries(tmp_path: Path) -> None:
    """So many bytes of its response come, the receiver has not got the message, and gets it when it comes back."""
    async with behind(tmp_path, "polling") as (_, _, here), received(here) as link:
        alice = await here.sender()
        assert isinstance(link.receiver, Receiver)
        async with in_front_of(link.receiver) as front:
            cut = link.cut_poll(50, 0.1)
            await cut.begin()
            flows = {flow: len(flow.down) for flow in open_flows(front)}
            message = await soon(alice.send())
            assert await soon(cut.bite(message)) == (
                f"the response to the poll of rita was cut after 50 bytes of {message.id}"
            )
            assert sorted({len(flow.down) - before for flow, before in flows.items()})[-1] == 50
            assert message.id not in link.receiver.messages
            await cut.heal()
            await soon(link.receiver.heard(message))
            assert message.id in link.receiver.messages
        assert [event.client for event in here.events(h.Disconnected)].count("alice") == 0


@in_event_loop
async def test_poll_that_fits_is_not_cut(tmp_path: Path) -> None:
    """A receiver that got the message was not cut before it, and its connection stays when the limit goes."""
    async with behind(tmp_path, "polling") as (_, _, here), received(here) as link:
        alice = await here.sender()
        cut = link.cut_poll(1_000_000, 0.01)
        await cut.begin()
        message = await soon(alice.send())
        await soon(link.receiver.heard(message))
        with pytest.raises(NotSeen, match="rita received it"):
            await soon(cut.bite(message))
        await cut.heal()
        later = await soon(alice.send())
        await soon(link.receiver.heard(later))
        assert later.id in link.receiver.messages
        assert [event.client for event in here.events(h.Connected)].count("rita") == 1


@in_event_loop
async def test_poll_does_not_carry_a_message_that_is_not_stored(tmp_path: Path) -> None:
    """A message that has no row was nothing that a poll could carry: not seen, at the deadline."""
    async with behind(tmp_path, "polling") as (running, _, here), received(here) as link:
        running.store._patience_seconds = 0.1
        alice = await here.sender()
        cut = link.cut_poll(50, 0.01)
        await cut.begin()
        await alice.link.hold("upstream")
        message = alice.post()
        with pytest.raises(waiting.WaitTimeout, match="a row of"):
            await soon(cut.bite(message))
        await cut.heal()
        await alice.link.restore()
        await soon(message.done.wait())
        await soon(link.receiver.heard(message))
        assert message.id in link.receiver.messages


@in_event_loop
async def test_receiver_is_cut_behind_the_message(tmp_path: Path) -> None:
    """It has the message when its connection ends, and comes back at once."""
    async with behind(tmp_path, "websocket") as (_, _, here), received(here) as link:
        alice = await here.sender()
        cut = link.cut_behind()
        await cut.begin()
        message = await soon(alice.send())
        assert await soon(cut.bite(message)) == f"rita was cut when it had received {message.id}"
        await cut.heal()
        assert message.id in link.receiver.messages
        await here.recorded(h.Disconnected)
        ended = [type(e) for e in here.recorder.events if getattr(e, "client", getattr(e, "receiver", "")) == "rita"]
        assert ended.index(h.Received) < ended.index(h.Disconnected)


@in_event_loop
async def test_receiver_that_does_not_get_the_message_is_not_cut_behind_it(tmp_path: Path) -> None:
    """At the deadline, and its connection is the same until then."""
    async with behind(tmp_path, "websocket") as (_, _, here), received(here) as link:
        link._patience_seconds = 0.2
        alice = await here.sender()
        cut = link.cut_behind()
        await cut.begin()
        await link.hold("downstream")
        message = await soon(alice.send())
        with pytest.raises(waiting.WaitTimeout, match="rita to receive"):
            await soon(cut.bite(message))
        await cut.heal()


@pytest.mark.parametrize("restores", [True, False])
@in_event_loop
async def test_receiver_is_cut_before_the_message_and_has_to_be_recovered(
    restores: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message was on its way when the connection ended; the next has to be a recovered session."""
    monkeypatch.setattr(Connection, "recovered", restores)
    async with behind(tmp_path, "websocket") as (_, _, here), received(here) as link:
        alice = await here.sender()
        cut = link.cut_and_recover()
        await cut.begin()
        message = await soon(alice.send())
        assert message.id not in link.receiver.messages
        if restores:
            evidence = f"rita was cut before {message.id} reached it, and its session was recovered"
            assert await soon(cut.bite(message)) == evidence
        else:
            with pytest.raises(NotSeen, match="the server did not restore the session of rita"):
                await soon(cut.bite(message))
        await cut.heal()
        assert [event.recovered for event in here.events(h.Connected) if event.client == "rita"] == [False, False]
        await soon(link.receiver.heard(message))
        assert message.id in link.receiver.messages


@in_event_loop
async def test_way_back_is_cut_after_so_many_bytes(tmp_path: Path) -> None:
    """The receiver is away until the bite, and its way back ends within what it has missed."""
    async with behind(tmp_path, "websocket") as (_, _, here), received(here) as link:
        alice = await here.sender()
        cut = link.cut_return(1000)
        await cut.begin()
        await here.recorded(h.Disconnected)
        message = await soon(alice.send(LONG))
        assert message.id not in link.receiver.messages
        assert (await soon(cut.bite(message))).startswith("rita was cut after 1000 bytes of its way back (")
        assert message.id not in link.receiver.messages
        await cut.heal()
        await soon(link.receiver.heard(message))
        assert message.id in link.receiver.messages


@in_event_loop
async def test_way_back_that_fits_is_not_cut(tmp_path: Path) -> None:
    """A receiver that comes back within what may pass was not cut, at the deadline."""
    async with behind(tmp_path, "websocket") as (_, _, here), received(here) as link:
        link._patience_seconds = 0.5
        alice = await here.sender()
        cut = link.cut_return(1_000_000)
        await cut.begin()
        message = await soon(alice.send())
        with pytest.raises(waiting.WaitTimeout, match="rita to be cut on its way back"):
            await soon(cut.bite(message))
        await cut.heal()
        assert message.id in link.receiver.messages
