"""Every byte of an exchange, of a stream and of a handshake: the connection is cut behind each of them."""

import asyncio
import itertools
import string
from collections.abc import Awaitable, Callable, Sequence

from harness.clients.author import Message, SeenConnection
from harness.clients.sender import Sender
from harness.errors import HarnessError
from harness.fault import Fault
from harness.link import Direction, SenderLink
from harness.sweeps import TEXT
from harness.system import AnySender, System

FIRST = 100
"""So many messages are sent first: from then on the numbers in what follows have as many digits as the last one.

Those of rows, in broadcasts and in handshakes, and those of acknowledgements, which some clients count over all
connections.
"""

# Upstream a link carries nothing but its own sender's bytes; downstream it carries the broadcasts of all.
_LANES: dict[Direction, int] = {"upstream": 4, "downstream": 1}
_DRY_RUNS = 5
_LARGEST_BYTES = 2**16
# With those of the case before, fewer than ten on a connection: their acknowledgements have one digit. And shorter than
# a handshake and a message: who comes back before its time gets nothing through that the limit does not cut.
_STREAM = 3
# Of the sender whose answers are cut, and one more at the end.
_ANSWERED = 2
_LATER = 1000
"""As `FIRST`, where there are more rows than fit into three digits."""
# A WebSocket frame: two bytes, two more where the payload is longer than 125 bytes, and of a client the mask.
_HEADER_BYTES, _LONG_HEADER_BYTES, _LONGEST_SHORT_PAYLOAD, _MASK_BYTES = 2, 4, 125, 4


async def every_byte(system: System, direction: Direction, lanes: int | None = None) -> None:
    """Cut the exchange of one message after each of its bytes in one direction, each time on a new connection.

    Args:
        system: with nobody else connected.
        direction: in which bytes are counted.
        lanes: how many links are at work at once, up to 26; by default as many as can be.
    """
    senders = await _senders(system, lanes or _LANES[direction])
    if direction == "downstream" or not isinstance(senders[0], Sender):
        await _send_first(senders)
    shortest, longest = await _ends(system, senders[0], direction)
    await _through(
        system,
        senders,
        longest + 2,
        lambda link, count: link.cut_at(direction, shortest, longest, count),
        lambda count: place(
            count, longest, part_of_exchange(direction, count, longest) if system.transport == "websocket" else ""
        ),
    )


async def every_byte_of_a_stream(system: System) -> None:
    """Cut a stream of messages after each of its bytes upstream, while others send streams, too."""
    senders = await _senders(system, _LANES["upstream"])
    await _send_first(senders)
    each = max([await measured(senders[0], "upstream") for _ in range(_DRY_RUNS)])
    length = each * _STREAM

    def cut(link: SenderLink, count: int) -> Fault:
        return link.cut_at("upstream", length, length, count, min(count, length - 1) // each * each)

    def place_of(count: int) -> str:
        number, at = divmod(count, each)
        return place(count, length, f"message {number + 1} of {_STREAM}, {part_of_exchange('upstream', at, each)}")

    await _through(system, senders, length + 2, cut, place_of, stream=_STREAM)


async def every_byte_of_the_answers_to_a_stream(system: System) -> None:
    """Cut what comes to the sender of a stream after each of its bytes: its answers, and what others say meanwhile.

    In which order that comes is not the same each time, and how much it is, is.
    """
    sender, *others = everyone = await _senders(system, 3)
    await asyncio.gather(*(each.send_many(_LATER // len(everyone) + 1) for each in everyone))

    async def measured() -> int:
        await sender.link.refresh()
        await sender.send(TEXT)  # behind all that the others have said
        connection = await sender.idle(downstream=True)
        ((_, before),) = connection.bytes_by_wire
        await sender.finished(await _among_others(sender, others))
        await sender.idle(downstream=True)
        ((_, after),) = connection.bytes_by_wire
        return after - before

    length = max([await measured() for _ in range(_DRY_RUNS)])
    await sender.send(TEXT)
    for case in system.cases(length + 2):
        fault = sender.link.cut_among(length, case)
        async with system.inject(fault, case=case, place=place(case, length)) as injected:
            await injected.bitten(await _among_others(sender, others))
        await sender.finished(sender.messages[-1])
    await sender.send(TEXT)


async def _among_others(sender: AnySender, others: Sequence[AnySender]) -> Message:
    """Have all send, and the sender once more when it can hear nothing of the others any more.

    Returns what was under way when the connection was cut, or that last message.
    """
    connection = await sender.idle(downstream=True)
    messages = [sender.post(TEXT) for _ in range(_ANSWERED)]
    await asyncio.gather(*(other.send(TEXT) for other in others))
    await _unless_closed(connection, messages[-1].done)
    messages.append(sender.post(TEXT))
    await _unless_closed(connection, messages[-1].attempted)
    return [message for message in messages if message.emitted_on is connection][-1]


async def _unless_closed(connection: SeenConnection, event: asyncio.Event) -> None:
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait((waiting, connection.closed), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def every_byte_of_a_handshake(system: System, direction: Direction) -> None:
    """Cut the way back of a sender after each byte of its handshake in one direction; a message waits for it.

    Over polling that is each byte of the requests that open a session, and then of those that follow on whatever TCP
    connection, or of the answers to them: what follows is limited when the session is open, where a sender waits there.
    """
    # The answer to CONNECT can share a response with what others have said meanwhile.
    senders = await _senders(system, _LANES[direction if system.transport == "polling" else "upstream"])
    await _send_first(senders)
    await senders[0].send()  # now the last row that it has heard of, which it tells when it comes back, is its own
    opening = await _opening(senders[0], direction) if system.transport == "polling" else None
    lengths = [await handshake(senders[0], direction, opening) for _ in range(_DRY_RUNS)]
    # The limit may have let pass what ends where it does.
    shortest, longest = (min(lengths), max(lengths) + 1) if _limit_tells(senders[0]) else (max(lengths), max(lengths))
    request = None
    if direction == "upstream" and system.transport == "websocket" and len(set(lengths)) == 1:
        request = await _request(senders[0], longest)
    await _through(
        system,
        senders,
        longest + 2,
        lambda link, count: link.cut_handshake(direction, count, shortest, longest, opening),
        lambda count: place(count, longest, "" if request is None else _part_of_handshake(count, longest, request)),
    )


def _limit_tells(sender: AnySender) -> bool:
    """Whether only a limit tells the length of its handshake, and not its client."""
    return sender.polls or not isinstance(sender, Sender)


async def _opening(sender: AnySender, direction: Direction) -> int | None:
    """How many bytes open a session over polling, or None where its sender does not wait behind them."""
    if not isinstance(sender, Sender):
        return None
    sent, received = (await sender.online()).opening_bytes
    return sent if direction == "upstream" else received


async def measured(sender: AnySender, direction: Direction) -> int:
    """How many bytes an exchange has on the TCP connection that has more of it."""
    # As in every case: the second message of a connection, whose acknowledgement has a number of one digit.
    await sender.link.refresh()
    await sender.send(TEXT)
    connection = await sender.idle(downstream=True)
    before = connection.bytes_by_wire
    await sender.send(TEXT)
    await sender.idle(downstream=True)
    of = 0 if direction == "upstream" else 1
    sums = itertools.zip_longest(connection.bytes_by_wire, before, fillvalue=(0, 0))
    return max(after[of] - earlier[of] for after, earlier in sums)


async def unanswered(sender: AnySender) -> int:
    """After how many bytes downstream a message still has no answer, and comes again."""

    async def comes_again(count: int) -> bool:
        await sender.link.cuts_message(TEXT, count, "downstream")
        return sender.messages[-1].attempts > 1

    return min([await _most_that_cuts(comes_again) for _ in range(_DRY_RUNS)])


async def _ends(system: System, sender: AnySender, direction: Direction) -> tuple[int, int]:
    """After how many bytes an exchange is over at the earliest and at the latest."""
    if system.transport == "websocket" or isinstance(sender, Sender):
        lengths = [await measured(sender, direction) for _ in range(_DRY_RUNS)]
        shortest, longest = min(lengths), max(lengths)
    else:
        # A message that is cut here must not be missing in a control or a null: its sender is none of theirs.
        probe = await system.sender("probe", policy="persistent")
        await probe.send_many(FIRST)

        async def cuts(count: int) -> bool:
            return await probe.link.cuts_message(TEXT, count, direction)

        lengths = [await _most_that_cuts(cuts) for _ in range(_DRY_RUNS)]
        # Behind the last byte the answer may have come before the end of the connection.
        shortest, longest = min(lengths) - 1, max(lengths)
    # Over polling an answer and a broadcast can share one response, or not: there, an exchange may end anywhere.
    shared = system.transport == "polling" and direction == "downstream"
    return (1 if shared else shortest), longest


async def _most_that_cuts(cuts: Callable[[int], Awaitable[bool]]) -> int:
    """The largest limit that cuts, as no client tells what it sends and gets on each of its TCP connections.

    Raises:
        HarnessError: any limit does.
    """
    low, high = 0, 1
    while await cuts(high):
        low, high = high, 2 * high
        if high > _LARGEST_BYTES:
            raise HarnessError(f"a limit of {low} bytes cuts what is to be measured")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if await cuts(middle) else (low, middle)
    return low


async def handshake(sender: AnySender, direction: Direction, opening: int | None = None) -> int:
    """How many bytes a handshake has, up to the answer to CONNECT; see `SenderLink.cut_handshake`."""
    if _limit_tells(sender):
        return await _most_that_cuts(lambda count: sender.link.cuts_handshake(count, direction, opening))
    await sender.idle(downstream=True)
    await sender.link.refresh()
    connection = await sender.idle()
    ((sent, received),) = connection.bytes_by_wire
    return sent if direction == "upstream" else received


async def _request(sender: AnySender, length: int) -> int | None:
    """How many bytes of a handshake upstream, over WebSocket, are the HTTP request; behind it is only CONNECT.

    None where no client tells the length of that frame.
    """
    return length - (await sender.idle()).last_unit_bytes if isinstance(sender, Sender) else None


async def _send_first(senders: Sequence[AnySender]) -> None:
    """Have so many messages sent that numbers have as many digits as they will have.

    All together, but where the client counts its acknowledgements over all its connections.
    """
    each = FIRST // len(senders) if isinstance(senders[0], Sender) else FIRST
    await asyncio.gather(*(sender.send_many(each) for sender in senders))


async def _senders(system: System, count: int) -> list[AnySender]:
    return [await system.sender(f"lane{letter}") for letter in string.ascii_lowercase[:count]]


async def _through(
    system: System,
    senders: Sequence[AnySender],
    count: int,
    fault: Callable[[SenderLink, int], Fault],
    place_of: Callable[[int], str],
    stream: int = 1,
) -> None:
    """Go through the cases: each is a fault that bites a message, on whatever link has nothing to do.

    Of a `stream` of messages, all of one length, it bites the one that is being sent.
    """
    cases = iter(system.cases(count))
    each = (count - 2) // stream
    await senders[0].send(TEXT)

    async def work(sender: AnySender) -> None:
        for case in cases:
            async with system.inject(fault(sender.link, case), case=case, place=place_of(case)) as injected:
                messages = [sender.post(TEXT) for _ in range(stream)]
                await injected.bitten(messages[min(case // each, stream - 1)])
            await sender.finished(messages[-1])

    await asyncio.gather(*map(work, senders))
    await senders[0].send(TEXT)


def place(count: int, length: int, part: str = "") -> str:
    """What stands behind so many bytes: the first byte that does not get through, and what it is part of, if known."""
    if count >= length:
        return "behind the last byte" if count == length else "one byte more than there are"
    where = f"byte {count + 1} of {length}"
    return f"{where}, {part}" if part else where


def part_of_exchange(direction: Direction, at: int, length: int) -> str:
    """What the byte `at`, from 0, of an exchange over WebSocket is part of; nothing where that is not known.

    Upstream it is one frame. Downstream it is several, and what is known is where the first one begins.
    """
    is_short = length <= _header_bytes(direction) + _LONGEST_SHORT_PAYLOAD
    header = _header_bytes(direction, is_short=is_short)
    if direction == "upstream":
        return "frame header" if at < header else "payload"
    if at < _HEADER_BYTES:
        return "header of the first frame"
    return "behind the header of the first frame" if at >= header else ""


def _header_bytes(direction: Direction, *, is_short: bool = True) -> int:
    mask = _MASK_BYTES if direction == "upstream" else 0
    return (_HEADER_BYTES if is_short else _LONG_HEADER_BYTES) + mask


def _part_of_handshake(at: int, length: int, request: int) -> str:
    return (
        "HTTP request" if at < request else f"CONNECT, {part_of_exchange('upstream', at - request, length - request)}"
    )
