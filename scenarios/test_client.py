"""The sender's own process is killed, stands still, or has to wait."""

from harness.scenario import scenario
from harness.system import System


@scenario(family="client", controls=["without_outbox"], variants={"killed": {}}, transports=["websocket"])
async def test_message_of_a_client_killed_mid_emit_is_stored_once(system: System) -> None:
    """A client that is killed with a message on the way finds it in its outbox; it is stored once."""
    alice = await system.process_sender("alice")
    await alice.send()

    async with system.inject(alice.kill()) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="client", controls=["new-offset"], variants={"frozen": {}}, transports=["websocket"])
async def test_message_of_a_client_that_stood_still_is_stored_once(system: System) -> None:
    """A client that stood still for longer than its ack timeout sends a stored message again, which adds nothing."""
    alice = await system.process_sender("alice")
    await alice.send()

    async with system.inject(alice.freeze(system.seconds(ack_timeouts=1.2))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="client", variants={"early": {}}, transports=["websocket"])
async def test_messages_posted_before_the_first_connection_are_stored_once(system: System) -> None:
    """What two clients are given before either has been connected, and what follows it, is stored once, in order."""
    for name in ("alice", "bob"):
        sender = await system.absent_process_sender(name)
        sender.post()
        await sender.send()


@scenario(family="client", controls=["once"], variants={"patient": {}}, transports=["websocket"])
async def test_messages_of_a_patient_client_are_stored_once_in_order(system: System) -> None:
    """A client whose message is refused for several ack timeouts neither drops it nor lets the next one overtake it."""
    alice = await system.process_sender("alice")
    await alice.send()

    async with system.inject(system.store.lock(system.seconds(ack_timeouts=3.5))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()
