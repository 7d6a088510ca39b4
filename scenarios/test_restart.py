"""The server is stopped gracefully and started again."""

from harness.scenario import scenario
from harness.system import System


@scenario(family="restart", controls=["once"], variants={"graceful": {}})
async def test_message_on_its_way_at_a_restart_is_stored_once(system: System) -> None:
    """A message that is still in the network when the server stops reaches the next one, once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.restart_while_held(alice.link)) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()
