"""The server stands still, and goes on."""

from harness.scenario import scenario
from harness.system import System


@scenario(
    family="pause",
    controls=["new-offset"],
    variants={"short": {"ack_timeouts": 2.0}, "long": {"ack_timeouts": 3.5}},
    transports=["websocket"],
)
async def test_message_posted_to_a_paused_server_is_stored_once(system: System, ack_timeouts: float) -> None:
    """A server that was paused finds a message and its resends in the queue, and stores it once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.pause(alice.link, system.seconds(ack_timeouts))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()
