"""The known defects, each with the tutorial's pair, which has to show it, and with the hardened pair, which has not.

What is known of each is in `harness.defects`; `pytest 'scenarios/test_known_defects.py::test_known_defect[A1]'` shows
one.
"""

import asyncio

from harness.defects import known_defect
from harness.system import System

# So long that a handshake and a short message are shorter.
LONG, HANDSHAKE_BYTES = "a long text " * 400, 2000
# The official client's request for an upgrade has 285 bytes, and its probe 12.
PROBE_BYTES = 291


@known_defect("A1")
async def four_cuts_spend_all_tries(system: System) -> None:
    """A message whose connection is cut within it, four times in a row."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.cut_long_frames(HANDSHAKE_BYTES, times=4)) as fault:
        message = alice.post(LONG)
        await fault.bitten(message)

    await alice.send()


@known_defect("A2")
async def silence_outlasts_all_tries(system: System) -> None:
    """A message into a network that falls silent right after both ends have heard from each other."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.silence(system.seconds(ack_timeouts=4.2))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@known_defect("A3", policy="retries=3")
async def server_stands_still_for_all_tries(system: System) -> None:
    """A message to a server that goes on when its client has just given up."""
    alice = await system.sender("alice")
    await alice.send()
    await alice.link.refresh()  # heartbeats begin anew, so that none is due while the server stands still

    async with system.inject(system.server.pause(alice.link, system.seconds(ack_timeouts=4.2))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@known_defect("A5")
async def lock_outlasts_all_tries(system: System) -> None:
    """A message to a database that is locked for longer than there are tries."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.store.lock(system.seconds(ack_timeouts=5.2))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@known_defect("A6")
async def lock_ends_before_the_last_try(system: System) -> None:
    """A message to a database that is free again when the last try is still waiting."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.store.lock(system.seconds(ack_timeouts=2.5))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@known_defect("A7", linux=True)
async def disk_is_full_for_all_tries(system: System) -> None:
    """A message to a disk that is full for longer than there are tries."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.store.full(system.seconds(ack_timeouts=4.2))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@known_defect("A8", has_null=False)
async def two_clients_emit_before_they_are_connected(system: System) -> None:
    """Two messages that are posted when there is no connection yet to make an offset of."""
    for name in ("alice", "bob"):
        sender = await system.absent_sender(name)
        sender.post()
        await sender.send()


@known_defect("A10")
async def page_is_reloaded_with_messages_queued(system: System) -> None:
    """Messages on their way and in the queue of a page that is reloaded."""
    alice = await system.process_sender("alice")
    await alice.send()

    async with system.inject(alice.reload()) as fault:
        message = alice.post()
        alice.post()
        alice.post()
        await fault.bitten(message)

    await alice.send()


@known_defect("A12", policy="tutorial-untimed", has_null=False)
async def retries_without_an_ack_timeout(system: System) -> None:
    """A message that is acknowledged with no argument."""
    alice = await system.sender("alice")
    await alice.send()


@known_defect(
    "A13", policy="fire-and-forget", claims_policy="fire-and-forget", guarantee="at-most-once", has_null=False
)
async def emit_without_a_callback(system: System) -> None:
    """A message whose sender asks for no acknowledgement."""
    alice = await system.sender("alice")
    await system.store.wait_for(await alice.send())
    await system.server.ended_within(system.seconds(ack_timeouts=2))


@known_defect("A14", has_null=False)
async def message_is_larger_than_the_server_takes(system: System) -> None:
    """A message of a little more than a megabyte."""
    alice = await system.sender("alice")
    await alice.send()
    alice.post("x" * 1_000_100)
    await alice.send()


@known_defect("A16", policy="retries=3")
async def handler_stands_still_past_all_tries(system: System) -> None:
    """A message whose handler reaches the database when the next message has long been stored."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.delay("before_insert", system.seconds(ack_timeouts=4.5))) as fault:
        await system.all_online()
        message = alice.post()
        alice.post()
        await fault.bitten(message)

    await alice.send()


@known_defect("A17")
async def server_dies_between_insert_and_broadcast(system: System) -> None:
    """A message that is stored when the server dies, and acknowledged by the next."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.crash("after_commit")) as fault:
        await system.all_online()
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@known_defect("A19")
async def stored_row_is_reported_as_an_error(system: System) -> None:
    """A message that was stored by an attempt which the database said to have failed."""
    bob = await system.receiver("bob")
    alice = await system.sender("alice")
    await bob.heard(await alice.send())

    async with system.inject(system.server.fail("after_insert")) as fault:
        await system.all_online()
        message = await alice.send()
        await fault.bitten(message)
        await bob.heard(await alice.send())  # what he asks for when he comes back begins behind it

    await bob.online()
    await alice.send()


@known_defect("A20", tries=10)
async def lock_is_released_while_several_inserts_wait(system: System) -> None:
    """Messages of six clients that wait for a database which is locked for a while."""
    await system.receiver("rita")
    everyone = await system.senders(6)
    await asyncio.gather(*(sender.send() for sender in everyone))

    async with system.inject(system.store.lock(system.seconds(ack_timeouts=0.25))) as fault:
        message, *_ = [sender.post() for sender in everyone]
        await fault.bitten(message)

    await everyone[0].send()


@known_defect("B1", targets=("tutorial-node", "hardened-node/recovery.toml"))
async def recovery_is_cut_behind_the_first_missed_messages(system: System) -> None:
    """Messages that a receiver has missed, and was about to be sent when it was cut again."""
    bob = await system.receiver("bob")
    alice = await system.sender("alice")
    await bob.heard(await alice.send())

    async with system.inject(bob.link.cut_return(8000)) as fault:
        message = await alice.send(LONG)
        await alice.send(LONG)
        await alice.send(LONG)
        await fault.bitten(message)

    await bob.online()
    await alice.send()


@known_defect("B2", tries=5)  # in vain where the sender, who has just come back, is sent its message with its rows
async def receiver_joins_between_a_row_and_its_broadcast(system: System) -> None:
    """A message that is in the rows of who joins, and is broadcast before those are sent."""
    alice = await system.sender("alice")
    await alice.send()
    await alice.send()

    delay = system.server.delay_joining(alice.link, system.undisturbed, system.seconds(ack_timeouts=2))
    async with system.inject(delay) as fault:
        await system.all_online()
        message = alice.post()
        await system.store.wait_for(message)
        bob = await system.receiver("bob")
        await fault.bitten(message)
        await bob.heard(alice.messages[1])  # the last of the rows before it
        await bob.heard(await alice.send())

    await system.all_online()
    await alice.send()


@known_defect("B3", server="without_recovery", tries=5)  # as B2
async def receiver_is_cut_behind_a_live_message(system: System) -> None:
    """Rows that were to be sent to who has joined, behind a live message after which the connection is cut."""
    alice = await system.sender("alice")
    await alice.send()
    await alice.send()

    delay = system.server.delay_replay(alice.link, system.undisturbed, system.seconds(ack_timeouts=2))
    async with system.inject(delay) as fault:
        await system.all_online()
        bob = await system.receiver("bob")
        message = await alice.send()
        await fault.bitten(message)
        async with system.inject(bob.link.cut_behind()) as cut:
            await cut.bitten(message)
        await bob.online()
        await bob.heard(await alice.send())

    await system.all_online()
    await alice.send()


@known_defect("B4", order="total")
async def handlers_of_several_clients_overtake_each_other(system: System) -> None:
    """A message whose handler stands between its row and its broadcast while five other clients write."""
    rita = await system.receiver("rita")
    alice, *others = await system.senders(6)
    await alice.send()

    async with system.inject(system.server.delay_broadcast(system.seconds(ack_timeouts=0.8))) as fault:
        await system.all_online()
        message = alice.post()
        await system.store.wait_for(message)
        await asyncio.gather(*(other.send() for other in others))
        await fault.bitten(message)
        await rita.heard(message)
        await rita.heard(await alice.send())  # what she asks for when she comes back begins behind it

    await system.all_online()
    await alice.send()


@known_defect("P1", policy="resend", transport="polling")
async def poll_is_cut_in_the_head_of_its_response(system: System) -> None:
    """A message whose way to a receiver is cut before the first byte that says what it is."""
    bob = await system.receiver("bob")
    alice = await system.sender("alice")
    await bob.heard(await alice.send())

    async with system.inject(bob.link.cut_poll(50, system.seconds(ack_timeouts=0.5))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await bob.heard(await alice.send())
    await alice.send()


@known_defect("P2", policy="resend", transport="polling")
async def poll_is_cut_in_the_body_of_its_response(system: System) -> None:
    """A message whose way to a receiver is cut within it."""
    bob = await system.receiver("bob")
    alice = await system.sender("alice")
    await bob.heard(await alice.send())

    async with system.inject(bob.link.cut_poll(300, system.seconds(ack_timeouts=0.5))) as fault:
        message = alice.post(LONG)
        await fault.bitten(message)

    await alice.send()


@known_defect("P3", policy="resend", transport="polling")
async def reconnect_is_cut_in_the_body_of_its_response(system: System) -> None:
    """A message of a client whose ways back are cut for a while within what tells it its id."""
    alice = await system.sender("alice")
    await alice.send()

    cut = alice.link.cut_ways_back(250, "downstream", system.seconds(ack_timeouts=1.5))
    async with system.inject(cut) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@known_defect(
    "P4",
    policy="persistent",
    transport="upgrade",
    clients=("node", "node"),
    targets=("tutorial-python", "hardened-node"),
    tries=5,  # it is not stuck, only late, where the namespace was there before the upgrade was cut
)
async def upgrade_is_cut_within_its_probe(system: System) -> None:
    """A message of a client that was polling when its upgrade was cut."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.cut_probe(PROBE_BYTES, system.seconds(ack_timeouts=0.5))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@known_defect(
    "P5",
    policy="fire-and-forget",
    targets=("tutorial-python/fractional.toml", "reference"),
    has_null=False,
)
async def ping_interval_has_a_fraction(system: System) -> None:
    """A message that is posted when the connection has ended by itself, if it does."""
    alice = await system.sender("alice")
    await alice.send()
    await alice.dropped_within(system.seconds(ack_timeouts=3))
    alice.post()
    await alice.send()


@known_defect("P6", policy="resend", transport="polling", has_null=False)
async def client_disconnects_and_connects_again(system: System) -> None:
    """A message of a user that went away and came back at once."""
    alice = await system.sender("alice")
    await alice.idle()
    alice.disconnect()
    alice.connect()
    await alice.send()


@known_defect("P7", policy="fire-and-forget", transport="polling", has_null=False)
async def more_than_sixteen_emits_in_one_request(system: System) -> None:
    """Messages that wait for the end of a request, and are all sent in the next one."""
    alice = await system.sender("alice")
    await system.store.wait_for(await alice.send())

    async with system.inject(alice.link.freeze("upstream", system.seconds(ack_timeouts=0.3))) as fault:
        message = alice.post()
        for _ in range(30):
            alice.post()
        await fault.bitten(message)

    await alice.send()


@known_defect("P8", policy="fire-and-forget", transport="polling", has_null=False)
async def message_does_not_fit_into_one_read(system: System) -> None:
    """A message of a little more than half a megabyte."""
    alice = await system.sender("alice")
    await system.store.wait_for(await alice.send())
    alice.post("x" * 600_000)
    await alice.send()
