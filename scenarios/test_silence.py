"""The connection stays and nothing comes through, or too late: dropped, held, delayed, sliced."""

from harness.scenario import scenario
from harness.system import System


@scenario(family="blackhole", controls=["once"], variants={"upstream": {}}, transports=["websocket"])
async def test_message_dropped_on_its_way_is_stored_once(system: System) -> None:
    """A message that a silent network has dropped is sent again when the ack timeout has passed, and stored once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.blackhole("upstream", system.seconds(ack_timeouts=1.2))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="blackhole", controls=["new-offset"], variants={"downstream": {}}, transports=["websocket"])
async def test_message_whose_answers_are_dropped_is_stored_once(system: System) -> None:
    """A message whose answers are dropped is sent again and again, and stored once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.blackhole("downstream", system.seconds(ack_timeouts=1.2))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="freeze",
    controls=["new-offset"],
    variants={"upstream": {"direction": "upstream"}, "downstream": {"direction": "downstream"}},
    transports=["websocket"],
)
async def test_message_held_beyond_its_ack_timeout_is_stored_once(system: System, direction: str) -> None:
    """A message that is held and delivered late, with its resend behind it, is stored once."""
    alice = await system.sender("alice")
    await alice.send()

    seconds = system.seconds(ack_timeouts=1.2)
    freeze = alice.link.freeze("upstream" if direction == "upstream" else "downstream", seconds)
    async with system.inject(freeze) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="latency", controls=["new-offset"], transports=["websocket"])
async def test_message_answered_after_its_ack_timeout_is_stored_once(system: System) -> None:
    """A message whose answer comes later than the ack timeout has been sent again by then, and is stored once."""
    alice = await system.sender("alice")
    await alice.send()

    milliseconds = round(system.seconds(ack_timeouts=1.3) * 1000)
    async with system.inject(alice.link.latency("downstream", milliseconds)) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="slices", controls=["new-offset"], transports=["websocket"])
async def test_message_that_trickles_in_is_stored_once(system: System) -> None:
    """A message that arrives in small pieces, more slowly than its sender waits, is stored once."""
    alice = await system.sender("alice")
    await alice.send()

    pause_ms = round(system.seconds(ack_timeouts=0.15) * 1000)
    async with system.inject(alice.link.slices(16, pause_ms)) as fault:
        message = alice.post("a text that is long enough for ten slices")
        await fault.bitten(message)

    await alice.send()
