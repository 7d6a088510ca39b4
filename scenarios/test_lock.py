"""Somebody else holds a lock on the database."""

from typing import Literal

from harness.scenario import scenario
from harness.system import System


# A server that gives up soon loses what is sent once; one that waits finds every attempt in its queue.
@scenario(family="lock", controls=["once", "new-offset"], variants={"long": {}})
async def test_message_posted_under_a_lock_is_stored_once(system: System) -> None:
    """A message that the locked database refuses for several ack timeouts is stored once, when it is released."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.store.lock(system.seconds(ack_timeouts=3.2))) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="lock",
    controls=["once"],
    variants={"exclusive": {"mode": "EXCLUSIVE"}, "immediate": {"mode": "IMMEDIATE"}},
    transports=["websocket"],
)
async def test_message_posted_between_locks_is_stored_once(
    system: System, mode: Literal["IMMEDIATE", "EXCLUSIVE"]
) -> None:
    """A message that meets one lock after the other is stored once, between them or when all are over."""
    alice = await system.sender("alice")
    await alice.send()

    seconds = system.seconds(ack_timeouts=0.5)
    async with system.inject(system.store.lock_repeatedly(3, seconds, mode)) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()
