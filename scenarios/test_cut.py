"""The link is cut before the server has the whole message."""

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

    async with system.inject(alice.link.cut_upstream(at)) as fault:
        message = alice.post(TEXT)
        await fault.bitten(message)

    await alice.send()
