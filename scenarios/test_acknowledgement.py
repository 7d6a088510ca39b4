"""The server stores a message, and its acknowledgement is lost."""

import asyncio

from harness.scenario import scenario
from harness.system import System


@scenario(
    family="ack-lost",
    controls=["new-offset", "without_unique"],
    variants={"one": {"senders": 1}, "five": {"senders": 5}},
    transports=["websocket", "polling", "upgrade"],
)
async def test_resend_after_lost_acknowledgement_is_stored_once(system: System, senders: int) -> None:
    """A commit whose acknowledgement is lost is sent again, yet stored once; the other senders notice nothing."""
    alice, *others = everyone = await system.senders(senders)
    await asyncio.gather(*(sender.send() for sender in everyone))

    async with system.inject(alice.link.lose_acknowledgement()) as fault:
        message = alice.post()
        for other in others:
            other.post()
        await fault.bitten(message)

    await asyncio.gather(*(sender.send() for sender in everyone))
