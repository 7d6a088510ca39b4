"""The server is stopped gracefully and started again: at once, late, after failures, on another port."""

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


@scenario(family="restart", controls=["once"], variants={"slow": {}}, transports=["websocket"])
async def test_message_on_its_way_at_a_slow_restart_is_stored_once(system: System) -> None:
    """A message is stored once by a server that was away for longer than its sender waits."""
    alice = await system.sender("alice")
    await alice.send()

    slow_seconds = system.seconds(ack_timeouts=1.5)
    async with system.inject(system.server.restart_while_held(alice.link, slow_seconds)) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="restart", controls=["once"], variants={"in-vain": {}}, transports=["websocket"])
async def test_message_on_its_way_at_a_restart_that_fails_first_is_stored_once(system: System) -> None:
    """A message is stored once by a server that fails to start twice, since its port is taken."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.restart_in_vain(alice.link, times=2)) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="restart", controls=["once"], variants={"moved": {}}, transports=["websocket"])
async def test_message_on_its_way_to_a_server_that_moves_is_stored_once(system: System) -> None:
    """A message is stored once by a server that comes back on another port."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.move(alice.link)) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()
