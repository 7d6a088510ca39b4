"""Receivers on real links: the order of arrival, the highest server offset, and whatever a server may broadcast."""

from pathlib import Path

import pytest

from harness import history as h
from tests.systems import DEADLINE_SECONDS, RUN, Clients, chatting, clients, in_event_loop

TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "polling"])


async def received(here: Clients, count: int) -> list[tuple[object, object]]:
    """Wait for so many broadcasts; their contents and offsets."""
    return [(event.content, event.server_offset) for event in await here.recorded(h.Received, count)]


@TRANSPORTS
@in_event_loop
async def test_broadcasts_are_recorded_in_the_order_of_arrival(transport: str, tmp_path: Path) -> None:
    """A burst is recorded whole and in its order, with content and offset."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        await here.receiver()
        for number in range(200):
            await server.broadcast(f"text {number}", number)
        assert await received(here, 200) == [(f"text {number}", number) for number in range(200)]


@in_event_loop
async def test_receiver_is_recorded_as_one_before_it_hears_anything(tmp_path: Path) -> None:
    """The history says that somebody listens before it says what was heard."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        await here.receiver("rita")
        await server.broadcast("text", 1)
        await here.recorded(h.Received)
        assert [type(event) for event in here.recorder.events[1:]] == [h.Receiving, h.Connected, h.Received]
        assert here.events(h.Receiving)[0].receiver == here.events(h.Received)[0].receiver == "rita"


@pytest.mark.parametrize(
    ("offsets", "highest"),
    [
        ([], 0),
        ([1, 2, 3], 3),
        ([5, 3, 4], 5),
        ([-2, -1], 0),
        ([1, 2.5, 2], 2.5),
        ([0.25], 0.25),
        ([1e300, 7], 1e300),
        (["a", "c", "b"], "b"),
        ([7, "id-1"], "id-1"),
        (["10", "9"], "9"),
        ([4, None], 4),
        ([4, {"id": 9}, [5]], 4),
        ([-4, True], 0),
        ([2**63 - 1, 7], 2**63 - 1),
    ],
)
@in_event_loop
async def test_reconnect_names_the_highest_server_offset(
    offsets: list[object], highest: object, tmp_path: Path
) -> None:
    """After a cut a receiver asks for what is above the highest number it got or, where ids are texts, the latest."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        receiver, link = await here.receiver()
        for offset in offsets:
            await server.broadcast("text", offset)
        await received(here, len(offsets))
        await link.close()
        await here.recorded(h.Disconnected)
        await link.restore()
        await receiver.connected(DEADLINE_SECONDS)
        assert server.auths == [{"serverOffset": 0}, {"serverOffset": highest}]


@TRANSPORTS
@in_event_loop
async def test_receiver_comes_back_after_a_disconnect_by_the_server(transport: str, tmp_path: Path) -> None:
    """A receiver that the server disconnects connects again, and hears what is said then."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        await here.receiver()
        await server.broadcast("before", 1)
        await here.recorded(h.Received)
        await server.dismiss()
        await here.recorded(h.Connected, 2)
        await server.broadcast("after", 2)
        assert await received(here, 2) == [("before", 1), ("after", 2)]
        assert server.auths[-1] == {"serverOffset": 1}


@TRANSPORTS
@in_event_loop
async def test_identities_that_were_heard_are_known(transport: str, tmp_path: Path) -> None:
    """Messages of this run are told from those of others, wherever in the content their identity stands."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        receiver, _ = await here.receiver()
        await server.broadcast(f"{RUN}-alice-0001 text {RUN}-alice-0001", 1)
        await server.broadcast(f"ends with {RUN}-bob-0012", 2)
        await server.broadcast("fedcba98-alice-0007 of another run", 3)
        await here.recorded(h.Received, 3)
        assert receiver.messages == {f"{RUN}-alice-0001", f"{RUN}-bob-0012"}


@pytest.mark.parametrize(
    ("arguments", "recorded"),
    [
        ((), (None, None)),
        (("text",), ("text", None)),
        ((None, None), (None, None)),
        ((42, 1), (None, 1)),
        (({"content": "text"}, 1), (None, 1)),
        ((["text"], 1), (None, 1)),
        ((b"bytes", 1), (None, 1)),
        (("text", 1, "an offset of connection state recovery"), ("text", 1)),
        (("text", 1, 2, {}, None), ("text", 1)),
        (("text", {"id": 1}), ("text", None)),
        (("text", b"1"), ("text", None)),
        (("text", True), ("text", None)),
        (("text", 1.5), ("text", 1.5)),
        (("text", "one"), ("text", "one")),
        (("text", 2**70), ("text", 2**70)),
        (("text", -(2**70)), ("text", -(2**70))),
        (("\ud83d half an emoji", 1), ("\\ud83d half an emoji", 1)),
        (("\x00\x1f\u2028\U0010ffff", 1), ("\x00\x1f\u2028\U0010ffff", 1)),
    ],
)
@in_event_loop
async def test_any_broadcast_is_recorded(
    arguments: tuple[object, ...], recorded: tuple[object, object], tmp_path: Path
) -> None:
    """Missing, further and strange arguments are no failure of the client, and the history stays readable."""
    async with chatting() as server, clients(tmp_path, server.port) as here:
        await here.receiver()
        await server.broadcast(*arguments)
        assert await received(here, 1) == [recorded]
        await server.broadcast("the next", 2)
        assert (await received(here, 2))[1] == ("the next", 2)
        assert len(here.events(h.Connected)) == 1
    first = next(event for event in h.History.load(tmp_path / "history.jsonl") if isinstance(event, h.Received))
    assert (first.content, first.server_offset) == recorded


@TRANSPORTS
@in_event_loop
async def test_other_events_are_not_broadcasts(transport: str, tmp_path: Path) -> None:
    """What the server emits under another name is not recorded."""
    async with chatting() as server, clients(tmp_path, server.port, transport) as here:
        await here.receiver()
        await server.io.emit("typing", ("alice",))
        await server.broadcast("text", 1)
        assert await received(here, 1) == [("text", 1)]
