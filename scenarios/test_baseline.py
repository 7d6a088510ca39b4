"""Without a fault every message is stored exactly once and in order."""

import asyncio

from harness.clients.content import KINDS
from harness.scenario import scenario
from harness.system import System


@scenario(
    family="baseline",
    variants={"one": {"senders": 1}, "five": {"senders": 5}},
    transports=["websocket", "polling", "upgrade"],
)
async def test_every_message_is_stored_once_in_order(system: System, senders: int) -> None:
    """Senders that each have one message in flight find all of them stored once, in their order."""
    await asyncio.gather(*(sender.send_many(KINDS) for sender in await system.senders(senders)))


@scenario(family="baseline", variants={"pipelined": {}}, order=["sender", "total"])
async def test_pipelined_messages_of_one_connection_stay_in_order(system: System) -> None:
    """Messages of all kinds on one connection, up to eight of them in flight, are stored once, in their order."""
    alice = await system.sender("alice", policy="pipelined")
    for _ in range(3 * KINDS):
        alice.post()
