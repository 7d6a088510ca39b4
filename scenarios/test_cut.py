"""The link is cut inside a message's frame, or inside the answer's."""

from harness.scenario import scenario
from harness.system import System

# Both messages have the same length: the first one's length on the wire tells where to cut the second.
TEXT = "as long as the other"


@scenario(
    family="cut",
    controls=["once"],
    variants={"first-byte": {"at": 0.0}, "middle": {"at": 0.5}, "last-byte": {"at": 1.0}},
)
async def test_message_cut_inside_its_frame_is_stored_once(system: System, at: float) -> None:
    """A message whose frame is cut inside was not received: it is sent again, and stored once."""
    alice = await system.sender("alice")
    await alice.send(TEXT)

    async with system.inject(alice.link.cut_inside(at)) as fault:
        message = alice.post(TEXT)
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="cut",
    controls=["new-offset"],
    variants={"answer": {"count": 1}},
    transports=["websocket"],
)
async def test_message_whose_answer_is_cut_is_stored_once(system: System, count: int) -> None:
    """A message whose answer is cut after its first byte is stored: it is sent again, and adds nothing."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.cut_after(count, "downstream")) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="flap", controls=["once"], variants={"five": {"times": 5}}, transports=["websocket"])
async def test_message_on_a_flapping_link_is_stored_once(system: System, times: int) -> None:
    """A message whose connection is cut again and again is stored once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.flap(times)) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()
