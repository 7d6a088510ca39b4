"""Streams of 200 messages from one or many senders, with faults on chosen messages of it."""

import asyncio
from collections.abc import Callable

from harness.fault import Fault
from harness.scenario import scenario
from harness.system import AnySender, System

MESSAGES = 200
# What meets a fault has to be short, so that its pieces do not take for ever.
TEXT = "a text that is long enough for ten slices"
SIZES = {"1": {"senders": 1}, "5": {"senders": 5}, "20": {"senders": 20}}


async def stream(
    system: System, senders: int, faults: int, make: Callable[[AnySender], Fault], carriers: int = 1
) -> None:
    """Have each sender send its share, one after the other; `carriers` of them share messages that meet a fault."""
    everyone = await system.senders(senders)
    await asyncio.gather(*(sender.send() for sender in everyone))

    async def send_share(sender: AnySender, own_faults: int) -> None:
        for _ in range(own_faults):
            await sender.send_many(MESSAGES // senders // (own_faults + 1))
            async with system.inject(make(sender)) as fault:
                message = sender.post(TEXT)
                await fault.bitten(message)
        await sender.send_many(MESSAGES // senders - len(sender.messages))

    own = [len(range(number, faults, carriers)) if number < carriers else 0 for number in range(senders)]
    await asyncio.gather(*(send_share(*pair) for pair in zip(everyone, own, strict=True)))
    await asyncio.gather(*(sender.send() for sender in everyone))


@scenario(
    family="stream",
    controls=["once"],
    variants={f"flaps-{size}": senders for size, senders in SIZES.items()},
    transports=["websocket"],
)
async def test_stream_with_ten_flaps_is_stored_once_in_order(system: System, senders: int) -> None:
    """A stream in which ten messages lose their connection, whoever sends them, is stored once, in order."""
    await stream(system, senders, 10, lambda sender: sender.link.flap(1), carriers=min(senders, 10))


@scenario(
    family="stream",
    controls=["once"],
    variants={f"kills-{size}": senders for size, senders in SIZES.items()},
    transports=["websocket"],
)
async def test_stream_with_three_kills_is_stored_once_in_order(system: System, senders: int) -> None:
    """A stream of one or many senders in which the server is killed three times is stored once, in order."""
    await stream(system, senders, 3, lambda sender: system.server.kill_mid_emit(sender.link))


@scenario(family="stream", controls=["once"], variants={"locks-5": {"senders": 5}}, transports=["websocket"])
async def test_stream_with_repeated_locks_is_stored_once_in_order(system: System, senders: int) -> None:
    """A stream during which the database is locked again and again is stored once, in order."""
    await stream(system, senders, 3, lambda _: system.store.lock(system.seconds(ack_timeouts=0.4)))


@scenario(family="stream", controls=["once"], variants={"restart-20": {"senders": 20}}, transports=["websocket"])
async def test_stream_with_a_graceful_restart_is_stored_once_in_order(system: System, senders: int) -> None:
    """A stream of twenty senders in which the server is restarted is stored once, in order."""
    await stream(system, senders, 1, lambda sender: system.server.restart_while_held(sender.link))


@scenario(family="stream", controls=["new-offset"], variants={"latency-5": {"senders": 5}}, transports=["websocket"])
async def test_stream_with_answers_beyond_the_ack_timeout_is_stored_once_in_order(system: System, senders: int) -> None:
    """A stream in which answers come later than the ack timeout is stored once, in order."""
    milliseconds = round(system.seconds(ack_timeouts=1.3) * 1000)
    await stream(system, senders, 2, lambda sender: sender.link.latency("downstream", milliseconds))


@scenario(family="stream", controls=["new-offset"], variants={"slices-1": {"senders": 1}}, transports=["websocket"])
async def test_stream_that_trickles_in_is_stored_once_in_order(system: System, senders: int) -> None:
    """A stream in which a message arrives in pieces, more slowly than its sender waits, is stored once, in order."""
    pause_ms = round(system.seconds(ack_timeouts=0.15) * 1000)
    await stream(system, senders, 1, lambda sender: sender.link.slices(16, pause_ms))
