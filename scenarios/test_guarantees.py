"""What the tutorial says of the client's own ways, each named after its claim."""

from harness.clients.author import Offsets
from harness.scenario import scenario
from harness.system import System


@scenario(
    family="at-most-once",
    controls=["fire-and-forget"],
    variants={"cut": {"cause": "cut"}, "kill": {"cause": "kill"}, "lock": {"cause": "lock"}},
    transports=["websocket"],
    policy="fire-and-forget",
    guarantee="at-most-once",
)
async def test_plain_emit_is_delivered_at_most_once(system: System, cause: str) -> None:
    """A plain emit is never stored twice; a cut, a kill and a locked database each lose it."""
    alice = await system.sender("alice")
    await system.store.wait_for(await alice.send())  # nothing else tells that it has arrived

    causes = {
        "cut": alice.link.flap(1),
        "kill": system.server.kill_mid_emit(alice.link),
        "lock": system.store.lock(system.seconds(ack_timeouts=0.5)),
    }
    async with system.inject(causes[cause]) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="buffered", controls=["once"], transports=["websocket"], policy="fire-and-forget")
async def test_plain_emits_are_buffered_while_disconnected(system: System) -> None:
    """What is emitted while disconnected is sent after the reconnect, in order; what drops it loses it."""
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

    async with system.inject(system.store.lock(system.seconds(ack_timeouts=0.5))) as fault:
        message = alice.post()
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
    controls=["new-offset"],
    variants={"order": {}},
    transports=["websocket"],
    policy="retries=3",
)
async def test_retries_deliver_at_least_once_in_order(system: System) -> None:
    """With `retries` one message is on the way at a time: those behind a message that is sent again wait for it."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.lose_acknowledgement()) as fault:
        message = alice.post()
        for _ in range(5):
            alice.post()
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
