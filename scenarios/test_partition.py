"""The server is away from its network: nothing arrives, nothing is refused, and no connection ends."""

from harness.scenario import scenario
from harness.system import System


@scenario(
    family="partition",
    controls=["new-offset"],
    variants={"short": {"ack_timeouts": 1.5}, "long": {"ack_timeouts": 2.5}},
    partitions=True,
)
async def test_message_sent_to_a_server_without_a_network_is_stored_once(system: System, ack_timeouts: float) -> None:
    """A message is on its way, and its resends, until the server has its network back; it is stored once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.partition(alice.link, system.seconds(ack_timeouts))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()
