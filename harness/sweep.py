"""Fault spaces that are covered completely: every byte of an exchange is a case.

A case is named by what is swept, where and at which position: `wire/up/37` is a cut after 37 bytes upstream.
"""

import asyncio
import itertools
import string
from collections.abc import Callable, Sequence

from harness.clients.sender import Sender
from harness.fault import Fault
from harness.link import Direction, SenderLink
from harness.system import AnySender, System

# Upstream a link carries nothing but its own sender's bytes; downstream it carries the broadcasts of all.
_LANES: dict[Direction, int] = {"upstream": 4, "downstream": 1}
_TEXT = "hello"
# So many messages first, as from then on the numbers in what follows have as many digits as the last one: those of
# rows, in broadcasts and in handshakes, and those of acknowledgements, which some clients count over all connections.
_FIRST = 100
_DRY_RUNS = 5


async def every_byte(system: System, direction: Direction, lanes: int | None = None) -> None:
    """Cut the exchange of one message after each of its bytes in one direction, each time on a new connection.

    Args:
        system: with nobody else connected.
        direction: in which bytes are counted.
        lanes: how many links are at work at once, up to 26; by default as many as can be.
    """
    senders = await _senders(system, lanes or _LANES[direction])
    if direction == "downstream" or not isinstance(senders[0], Sender):
        await asyncio.gather(*(sender.send_many(_FIRST) for sender in senders))
    lengths = [await _measured(senders[0], direction) for _ in range(_DRY_RUNS)]
    # Over polling an answer and a broadcast can share one response, or not: there, an exchange may end anywhere.
    shared = system.transport == "polling" and direction == "downstream"
    shortest, longest = (1 if shared else min(lengths)), max(lengths)
    await _through(system, senders, longest + 2, lambda link, count: link.cut_at(direction, shortest, longest, count))


async def every_byte_of_a_handshake(system: System, direction: Direction) -> None:
    """Cut the way back of a sender after each byte of its handshake in one direction; a message waits for it."""
    senders = await _senders(system, _LANES["upstream"])
    await asyncio.gather(*(sender.send_many(_FIRST // len(senders)) for sender in senders))
    lengths = [await _handshake(senders[0], direction) for _ in range(_DRY_RUNS)]
    length = min(lengths)
    await _through(system, senders, length + 2, lambda link, count: link.cut_handshake(direction, count, length))


async def _senders(system: System, count: int) -> list[AnySender]:
    return [await system.sender(f"lane{letter}") for letter in string.ascii_lowercase[:count]]


async def _through(
    system: System, senders: Sequence[AnySender], count: int, fault: Callable[[SenderLink, int], Fault]
) -> None:
    """Go through the cases: each is a fault that bites a message, on whatever link has nothing to do."""
    cases = iter(system.cases(count))
    await senders[0].send(_TEXT)

    async def work(sender: AnySender) -> None:
        for case in cases:
            async with system.inject(fault(sender.link, case), case=case) as injected:
                message = sender.post(_TEXT)
                await injected.bitten(message)
            await sender.finished(message)

    await asyncio.gather(*map(work, senders))
    await senders[0].send(_TEXT)


async def _handshake(sender: AnySender, direction: Direction) -> int:
    """How many bytes a handshake has, up to the answer to CONNECT."""
    await sender.idle(downstream=True)
    await sender.link.refresh()
    connection = await sender.idle()
    ((sent, received),) = connection.bytes_by_wire
    return sent if direction == "upstream" else received


async def _measured(sender: AnySender, direction: Direction) -> int:
    """How many bytes an exchange has on the TCP connection that has more of it."""
    # As in every case: the second message of a connection, whose acknowledgement has a number of one digit.
    await sender.link.refresh()
    await sender.send(_TEXT)
    connection = await sender.idle(downstream=True)
    before = connection.bytes_by_wire
    await sender.send(_TEXT)
    await sender.idle(downstream=True)
    of = 0 if direction == "upstream" else 1
    sums = itertools.zip_longest(connection.bytes_by_wire, before, fillvalue=(0, 0))
    return max(after[of] - earlier[of] for after, earlier in sums)
