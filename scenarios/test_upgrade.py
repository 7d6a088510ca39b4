"""The upgrade from polling to WebSocket is cut, at bytes that are sent before, in and behind its probe."""

import random

from harness.scenario import scenario
from harness.system import System

# Upstream. The official client has a connection for the upgrade: 285 bytes of request, 12 of probe, 7 behind it; its
# CONNECT has one of its own and needs up to 257. Our client has one connection for everything: the request ends at 460.
COUNTS = (275, 291, 299, 466, 475)
# Longer than what passes, also when it is compressed.
LONG = random.Random(1).randbytes(600).hex()


@scenario(
    family="upgrade",
    controls=["once"],
    variants={f"cut-{count}": {"count": count} for count in COUNTS},
    transports=["upgrade"],
)
async def test_message_of_a_client_whose_upgrade_is_cut_is_stored_once(system: System, count: int) -> None:
    """A message of a client whose upgrades are cut again and again is stored once, when they are not cut any more."""
    alice = await system.sender("alice")
    await alice.send()

    cut = alice.link.cut_ways_back(count, "upstream", system.seconds(ack_timeouts=0.5))
    async with system.inject(cut) as fault:
        message = alice.post(LONG)
        await fault.bitten(message)

    await alice.send()
