"""What the tutorial says of delivery, each scenario named after its claim.

Clients and targets beside each other:
`pytest scenarios/test_guarantees.py --client python --client node --target tutorial-node --target hardened-node`.
"""

from harness.clients.author import Offsets
from harness.scenario import scenario
from harness.system import System


@scenario(
    family="at-most-once",
    controls=["fire-and-forget"],
    variants={cause: {"cause": cause} for cause in ("cut", "kill", "restart", "lock")},
    transports=["websocket"],
    policy="fire-and-forget",
    guarantee="at-most-once",
    server="without_acknowledgement",
)
async def test_plain_emit_is_delivered_at_most_once(system: System, cause: str) -> None:
    """A plain emit is never stored twice; a cut, a kill, a restart and a locked database each lose it."""
    alice = await system.sender("alice")
    await system.store.wait_for(await alice.send())  # nothing else tells that it has arrived

    causes = {
        "cut": alice.link.flap(1),
        "kill": system.server.kill_mid_emit(alice.link),
        "restart": system.server.restart_while_held(alice.link),
        "lock": system.store.lock(system.seconds(ack_timeouts=0.5)),
    }
    async with system.inject(causes[cause]) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="buffered",
    controls=["once"],
    transports=["websocket"],
    policy="fire-and-forget",
    server="without_acknowledgement",
)
async def test_plain_emits_are_buffered_while_disconnected(system: System) -> None:
    """What is emitted while disconnected is sent after the reconnect; it is stored in order where that is promised."""
    alice = await system.sender("alice")
    await system.store.wait_for(await alice.send())  # nothing else tells that it has arrived

    async with system.inject(alice.link.refuse(system.seconds(ack_timeouts=0.5))) as fault:
        message = alice.post()
        for _ in range(9):
            alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="at-least-once",
    controls=["resend"],
    variants={"order": {}},
    transports=["websocket"],
    policy="resend",
    guarantee="at-least-once",
)
async def test_manual_resend_is_delivered_at_least_once_and_reorders(system: System) -> None:
    """A message that is sent again after its ack timeout is stored, behind one that was posted later."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.store.lock(system.seconds(ack_timeouts=0.1))) as fault:
        message = alice.post()
        await message.done_within(system.seconds(ack_timeouts=0.4))  # it is, unless the database is locked
        await fault.bitten(message)

    await alice.send()  # half an ack timeout before the other is sent again


@scenario(
    family="at-least-once",
    controls=["resend-without_unique"],
    variants={"unique": {}},
    transports=["websocket"],
    policy="resend",
)
async def test_manual_resend_needs_a_unique_id(system: System) -> None:
    """A message whose answer was lost is sent again; only a unique id keeps it from being stored twice."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.lose_acknowledgement()) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="retries",
    controls=["resend"],
    variants={"order": {}},
    transports=["websocket"],
    policy="retries=3",
)
async def test_retries_deliver_at_least_once_in_order(system: System) -> None:
    """With `retries` one message is on the way at a time: the one behind a message that is sent again waits for it."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.store.lock(system.seconds(ack_timeouts=0.1))) as fault:
        message = alice.post()
        await message.done_within(system.seconds(ack_timeouts=0.4))  # it is, unless the database is locked
        await fault.bitten(message)

    await alice.send()  # half an ack timeout before the other is sent again


@scenario(
    family="exactly-once",
    controls=["without_unique", "new-offset"],
    variants={"constraint": {}},
    transports=["websocket"],
    policy="retries=3",
)
async def test_resend_of_a_stored_message_is_acknowledged_through_the_constraint(system: System) -> None:
    """A message whose server died between its row and its answer is acknowledged by the next, and stored once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.kill_after_commit(alice.link)) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="exactly-once",
    controls=["once"],
    variants={"error": {}},
    transports=["websocket"],
    policy="retries=3",
)
async def test_database_error_is_not_acknowledged_and_leads_to_a_resend(system: System) -> None:
    """A message that a locked database refuses gets no answer, is sent again, and is stored once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.store.lock(system.seconds(ack_timeouts=1.5))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="retries",
    controls=["retries"],
    variants={"unanswered": {"sends": 4}},
    transports=["websocket"],
    switch="without_acknowledgement",
)
async def test_message_to_a_server_that_forgets_to_acknowledge_is_sent_as_often_as_retries_say(
    system: System, sends: int
) -> None:
    """`retries=3` sends exactly four times, then tells a failure that is none; a sender that never gives up is told."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.forget_acknowledgements(alice.link, sends)) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="offset",
    controls=["new-offset"],
    variants={"random": {"offsets": "random"}, "counter": {"offsets": "counter"}},
    transports=["websocket"],
)
async def test_any_unique_offset_makes_delivery_exactly_once(system: System, offsets: Offsets) -> None:
    """A random offset tells a resend as well as the connection's id with a counter does."""
    alice = await system.sender("alice", offsets=offsets)
    await alice.send()

    async with system.inject(alice.link.lose_acknowledgement()) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="replay", controls=["without_offset"], transports=["websocket"])
async def test_receiver_that_was_away_gets_every_row_once_in_order(system: System) -> None:
    """A receiver that is cut behind a message gets what follows when it is back, and that message not again."""
    bob = await system.receiver("bob")
    alice = await system.sender("alice")
    await bob.heard(await alice.send())

    async with system.inject(bob.link.cut_behind()) as fault:
        message = await alice.send()
        await fault.bitten(message)
        await alice.send_many(3)

    await bob.online()
    await bob.heard(await alice.send())


@scenario(
    family="recovery",
    controls=["without_offset"],
    transports=["websocket"],
    clients=["node"],
    target="hardened-node/recovery.toml",
)
async def test_receiver_whose_session_is_recovered_gets_every_row_once_in_order(system: System) -> None:
    """A receiver that is sent what it missed by the recovery and by the replay takes it once."""
    bob = await system.receiver("bob")
    alice = await system.sender("alice")
    await bob.heard(await alice.send())

    async with system.inject(bob.link.cut_and_recover()) as fault:
        message = await alice.send()
        await fault.bitten(message)
        await alice.send_many(3)

    await bob.online()
    await bob.heard(await alice.send())
