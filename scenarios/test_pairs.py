"""Two faults at once, or one in the recovery from the other."""

from harness.scenario import scenario
from harness.system import System

TEXT = "as long as the other"


@scenario(family="pair", controls=["once", "new-offset"], variants={"lock-cut": {}})
async def test_message_cut_off_under_a_lock_is_stored_once(system: System) -> None:
    """A link that is cut while the database is locked leaves the message stored once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.store.lock(system.seconds(ack_timeouts=1.2))) as lock:
        message = alice.post()
        await lock.bitten(message)
        async with system.inject(alice.link.cut()) as cut:
            await cut.bitten(message)

    await alice.send()


@scenario(family="pair", controls=["once"], variants={"lock-kill": {}})
async def test_message_of_a_server_killed_under_a_lock_is_stored_once(system: System) -> None:
    """A server that is killed while the database is locked, and started after its release, stores it once."""
    alice = await system.sender("alice")
    await alice.send()

    lock_seconds = system.seconds(ack_timeouts=0.5)
    async with system.inject(system.server.kill_now()) as kill, system.inject(system.store.lock(lock_seconds)) as lock:
        message = alice.post()
        await lock.bitten(message)
        await kill.bitten(message)

    await alice.send()


@scenario(family="pair", controls=["once"], variants={"cut-restart": {}})
async def test_message_cut_mid_emit_before_a_restart_is_stored_once(system: System) -> None:
    """A server that restarts before the cut-off client is back gets its message again, and stores it once."""
    alice = await system.sender("alice")
    await alice.send(TEXT)

    async with system.inject(alice.link.cut_upstream(0.5)) as cut:
        message = alice.post(TEXT)
        await cut.bitten(message)
        async with system.inject(system.server.restart()) as restart:
            await restart.bitten(message)

    await alice.send()
