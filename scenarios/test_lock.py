"""Somebody else holds the database's write lock."""

from harness.scenario import scenario
from harness.system import System


@scenario(family="lock", controls=["once", "new-offset"], variants={"long": {}})
async def test_message_posted_under_a_lock_is_stored_once(system: System) -> None:
    """A message that the locked database refuses for several ack timeouts is stored once, when it is released."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.store.lock(system.seconds(ack_timeouts=3.2))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()
