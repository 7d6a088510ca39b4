"""Links through the real Toxiproxy: each fault does to the bytes what it says, to one client, and heals at once."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness import history as h
from harness import waiting
from harness.clients.connection import ConnectFailedError
from harness.fault import NotSeen
from tests.systems import (
    RUN,
    Clients,
    Running,
    Tap,
    chatting,
    clients,
    connect,
    connected,
    described,
    in_event_loop,
    seen,
    serving,
    soon,
    tapped,
)

TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "polling"])
REPETITIONS = 10
TEXT = "as long as the other"


class Behind(NamedTuple):
    """The reference server, with a tap between Toxiproxy and it."""

    running: Running
    tap: Tap
    here: Clients

    async def stored(self) -> list[str | None]:
        """Whose rows there are, in their order."""
        return [h.identity_in(RUN, row.content) for row in await self.running.store.rows()]


@contextlib.asynccontextmanager
async def behind(folder: Path, transport: str) -> AsyncIterator[Behind]:
    """Everything that a link stands between."""
    async with serving(described(folder), folder) as running:
        await running.server.start()
        async with (
            tapped(running.port) as tap,
            clients(folder, tap.port, transport, store=running.store) as here,
        ):
            yield Behind(running, tap, here)


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
        await soon(message.done.wait())
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
    monkeypatch.setattr("harness.clients.sender.patience_seconds", lambda _: 0.1)
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


# -- one client --------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_other_clients_notice_nothing(transport: str, tmp_path: Path) -> None:
    """Whatever is done to one client's link, another one stays connected and is answered."""
    async with behind(tmp_path, transport) as (_, _, here):
        alice, bob = await here.sender("alice"), await here.sender("bob")
        await soon(alice.send(TEXT))
        for fault in (alice.link.lose_acknowledgement(), alice.link.cut_inside(0.5), alice.link.cut()):
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
