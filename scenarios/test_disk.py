"""The store cannot be written: no space is left, or no permission."""

from harness.scenario import scenario
from harness.system import System


@scenario(family="disk", controls=["once"], variants={"full": {}}, transports=["websocket"], linux=True)
async def test_message_posted_to_a_full_disk_is_stored_once(system: System) -> None:
    """A message that meets a full disk is stored once, when there is space again."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.store.full(system.seconds(ack_timeouts=1.5))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="disk", controls=["once"], variants={"read-only": {}}, transports=["websocket"], linux=True)
async def test_message_posted_to_a_read_only_store_is_stored_once(system: System) -> None:
    """A message of a server that lost the permission to write is stored once, when it has it again."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.lose_write_permission(alice.link, system.seconds(ack_timeouts=1))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()
