"""Fault spaces that are covered completely: every byte of an exchange is a case, every system call of the server is.

A case is named by what is swept, where and at which position: `wire/up/37` is a cut after 37 bytes upstream,
`syscall/kill/9` a kill at the tenth of the server's calls.
"""

import asyncio
import contextlib
import itertools
import string
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, get_args

from harness.calls import Call, Error, addressed, fails_with
from harness.clients.author import Message
from harness.clients.sender import Sender
from harness.fault import Fault
from harness.link import Cut, Direction, Phase, SenderLink
from harness.system import AnySender, System

# Upstream a link carries nothing but its own sender's bytes; downstream it carries the broadcasts of all.
_LANES: dict[Direction, int] = {"upstream": 4, "downstream": 1}
_TEXT = "hello"
# So many messages first, as from then on the numbers in what follows have as many digits as the last one: those of
# rows, in broadcasts and in handshakes, and those of acknowledgements, which some clients count over all connections.
_FIRST = 100
_DRY_RUNS = 5
# With those of the case before, fewer than ten on a connection: their acknowledgements have one digit.
_STREAM = 4
# Around the busy timeout of the shipped servers (0.2 of their ack timeout) and the ack timeout.
_LOCKED_ACK_TIMEOUTS = (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.9, 1, 1.1, 1.5)
_LOCKED_AGAIN = (0.1, 0.3, 1.1, 1.5)
# Each is a start of the server.
_DRY_CALLS = 3
_SYNCS = ("fsync", "fdatasync")
# A WebSocket frame of a client: two bytes and the mask, and two more where the payload is longer than 125 bytes.
_HEADER_BYTES, _LONG_HEADER_BYTES, _LONGEST_SHORT_PAYLOAD = 6, 8, 125


Pair = tuple[int | None, int | None]


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
    await _through(
        system,
        senders,
        longest + 2,
        lambda link, count: link.cut_at(direction, shortest, longest, count),
        lambda count: _place(count, longest, framed=direction == "upstream" and system.transport == "websocket"),
    )


async def every_byte_of_a_stream(system: System) -> None:
    """Cut a stream of messages after each of its bytes upstream, while others send streams, too."""
    senders = await _senders(system, _LANES["upstream"])
    await asyncio.gather(*(sender.send_many(_FIRST // len(senders)) for sender in senders))
    each = max([await _measured(senders[0], "upstream") for _ in range(_DRY_RUNS)])
    length = each * _STREAM

    def cut(link: SenderLink, count: int) -> Fault:
        return link.cut_at("upstream", length, length, count, min(count, length - 1) // each * each)

    await _through(system, senders, length + 2, cut, lambda count: _place(count, length), stream=_STREAM)


async def every_byte_of_a_handshake(system: System, direction: Direction) -> None:
    """Cut the way back of a sender after each byte of its handshake in one direction; a message waits for it."""
    senders = await _senders(system, _LANES["upstream"])
    await asyncio.gather(*(sender.send_many(_FIRST // len(senders)) for sender in senders))
    lengths = [await _handshake(senders[0], direction) for _ in range(_DRY_RUNS)]
    length = min(lengths)
    await _through(
        system,
        senders,
        length + 2,
        lambda link, count: link.cut_handshake(direction, count, length),
        lambda count: _place(count, length),
    )


# -- pairs: a second fault in the recovery from the first -------------------------------------------------------------


async def cut_and_cut(system: System) -> None:
    """Cut the exchange of a message after any of its bytes, and the way back after any of its own."""
    sender = await system.sender("alice")
    await sender.send_many(_FIRST)
    exchange = await _measured(sender, "upstream")
    way_back = await _handshake(sender, "upstream") + exchange
    async for case, (first, second) in _pairs(system, sender, exchange, way_back + 1):
        if second is None:
            fault = sender.link.cut_at("upstream", exchange, exchange, first or 0)
        elif first is None:
            fault = sender.link.cut_handshake("upstream", second, way_back)
        else:
            fault = sender.link.cut_twice(first, second)
        async with system.inject(fault, case=case, place=f"bytes {first} and {second}") as injected:
            message = sender.post(_TEXT)
            await injected.bitten(message)
        await sender.finished(message)


async def cut_and_kill(system: System) -> None:
    """Cut the exchange of a message after any of its bytes, and kill the server at any call when it comes again."""
    async with system.server.forking():
        await _cut_and_kill(system)


async def _cut_and_kill(system: System) -> None:
    probe = await system.sender("probe", policy="persistent")
    sender = await _prepared(system)

    async def again() -> Message:
        """A message that comes with a new connection, as after a cut."""
        await probe.link.close()
        message = probe.post(_TEXT)
        await probe.link.restore()
        await probe.finished(message)
        await probe.idle(downstream=True)
        return message

    runs = []
    for _ in range(_DRY_CALLS):
        await _afresh(system, probe)
        runs.append(await system.calls.dry_run(again))
    found = addressed(runs)
    await _afresh(system, sender)
    exchange = await _measured(sender, "upstream")
    async for case, (first, second) in _pairs(system, sender, exchange, len(found)):
        await _afresh(system, sender)
        kill = system.calls.kill_at_call(found[second]) if second is not None else None
        await _cut_and(system, sender, exchange, case, first, kill, str(second is not None and found[second]))


async def cut_and_lock(system: System) -> None:
    """Cut the exchange of a message after any of its bytes, and lock the store when it comes again."""
    sender = await system.sender("alice")
    await sender.send_many(_FIRST)
    exchange = await _measured(sender, "upstream")
    async for case, (first, second) in _pairs(system, sender, exchange, len(_LOCKED_AGAIN)):
        seconds = system.seconds(ack_timeouts=_LOCKED_AGAIN[second or 0])
        lock = system.store.lock(seconds) if second is not None else None
        await _cut_and(system, sender, exchange, case, first, lock, f"a lock of {seconds:g} s")


async def kill_and_kill(system: System) -> None:
    """Kill the server at any call by which it handles a message, and at any call of the start that follows."""
    async with system.server.forking():
        await _kill_and_kill(system)


async def _kill_and_kill(system: System) -> None:
    probe = await system.sender("probe", policy="persistent")
    sender = await _prepared(system)
    firsts, seconds = await _calls(system, probe), await _calls_of_recovery(system, probe)
    async for case, (first, second) in _pairs(system, sender, len(firsts), len(seconds)):
        await _afresh(system, sender)
        if second is None:
            fault = system.calls.kill_at_call(firsts[first or 0])
        else:
            fault = system.calls.kill_in_recovery(firsts[first or 0], seconds[second])
        place = " and ".join(map(str, [firsts[first or 0], *([] if second is None else [seconds[second]])]))
        async with system.inject(fault, case=case, place=place) as injected:
            message = sender.post(_TEXT)
            await injected.bitten(message)
        await sender.finished(message)


async def _pairs(system: System, sender: AnySender, first: int, second: int) -> AsyncIterator[tuple[str, Pair]]:
    """Pairs with their names, between a message before the first and one behind the last, which have to get through."""
    await sender.send(_TEXT)
    for one, other in system.pairs(first, second):
        yield f"{'' if one is None else one}+{'' if other is None else other}", (one, other)
    await sender.send(_TEXT)


async def _cut_and(
    system: System, sender: AnySender, exchange: int, case: str, first: int | None, second: Fault | None, what: str
) -> None:
    """Cut, and have another fault act before the message comes again; one of them may be left out."""
    async with contextlib.AsyncExitStack() as healing, contextlib.AsyncExitStack() as opening:
        place = f"byte {first}"
        if first is not None:
            cut = sender.link.cut_at("upstream", exchange, exchange, first)
            own = None if second is not None else case
            injected = await opening.enter_async_context(system.inject(cut, case=own, place=place))
            message = sender.post(_TEXT)
            await injected.bitten(message)
        if second is not None:
            other = await healing.enter_async_context(system.inject(second, case=case, place=f"{place}, {what}"))
            await opening.aclose()
            if first is None:
                message = sender.post(_TEXT)
            await other.bitten(message)
    await sender.finished(message)


# -- locks ------------------------------------------------------------------------------------------------------------


async def every_lock(system: System) -> None:
    """Lock the store before, during and after an insert, from none to beyond the ack timeout, with cuts or without."""
    sender = await system.sender("alice")
    spaces = itertools.product(get_args(Phase), _LOCKED_ACK_TIMEOUTS, get_args(Cut))
    points = [(taken, system.seconds(ack_timeouts=held), cut) for taken, held, cut in spaces]
    await sender.send(_TEXT)
    for case in system.cases(len(points)):
        taken, seconds, cut = points[case]
        fault = sender.link.lock_and_cut(taken, seconds, cut)
        async with system.inject(fault, case=case, place=_locked(taken, seconds, cut)) as injected:
            message = sender.post(_TEXT)
            await injected.bitten(message)
        await sender.finished(message)
    await sender.send(_TEXT)


def _locked(taken: Phase, seconds: float, cut: Cut) -> str:
    return f"{taken} the insert, for {seconds:g} s" + ("" if cut == "never" else f", cut {cut} the lock")


async def every_call(system: System, action: Literal["kill"] | Error) -> None:
    """Kill the server at each system call while it handles a message, or have each fail that can."""
    async with system.server.forking():
        await _every_call(system, action)


async def _every_call(system: System, action: Literal["kill"] | Error) -> None:
    sender = await _prepared(system)
    found = await _calls(system, sender)
    chosen = found if action == "kill" else [call for call in found if fails_with(call, action)]

    def fault(case: int) -> Fault:
        if case == len(chosen):
            return system.calls.hit_no_call()
        return (
            system.calls.kill_at_call(chosen[case])
            if action == "kill"
            else system.calls.fail_at_call(chosen[case], action)
        )

    await _each_on_its_own(system, sender, len(chosen) + 1, fault, [*map(str, chosen), "behind the last call"])


async def every_call_of_a_recovery(system: System) -> None:
    """Kill the server when a message is written and not yet valid, and at each call of the start that follows."""
    async with system.server.forking():
        await _every_call_of_a_recovery(system)


async def _every_call_of_a_recovery(system: System) -> None:
    # A dry run kills the server, too. So that it does no harm in a control or a null its sender is none of theirs.
    probe = await system.sender("probe", policy="persistent")
    sender = await _prepared(system)
    first = _unsynced(await _calls(system, probe))
    chosen = await _calls_of_recovery(system, probe)
    await _each_on_its_own(
        system,
        sender,
        len(chosen),
        lambda case: system.calls.kill_in_recovery(first, chosen[case]),
        [*map(str, chosen)],
    )


def _unsynced(found: Sequence[Call]) -> Call:
    """Where a message is written and not yet synced: its recovery has most to do."""
    return next((call for call in found if call.fingerprint.startswith(_SYNCS)), found[-1])


async def _calls_of_recovery(system: System, probe: AnySender) -> list[Call]:
    """The calls of a start after a kill, up to the acknowledgement; its sender resends, whatever others do."""
    first = _unsynced(await _calls(system, probe))
    runs = []
    for _ in range(_DRY_CALLS):
        await _afresh(system, probe)
        runs.append(await system.calls.dry_recovery(first, lambda: probe.post(_TEXT)))
        await probe.finished(probe.messages[-1])
    return addressed(runs)


async def _prepared(system: System) -> AnySender:
    """A sender that has sent a message before the store becomes the template of every case."""
    sender = await system.sender("alice")
    await sender.send(_TEXT)
    await system.make_template()
    return sender


async def _calls(system: System, sender: AnySender) -> list[Call]:
    """The calls by which a message is handled, of which each has to be in every dry run."""

    async def handled() -> Message:
        message = await sender.send(_TEXT)
        await sender.idle(downstream=True)
        return message

    runs = []
    for _ in range(_DRY_CALLS):
        await _afresh(system, sender)
        runs.append(await system.calls.dry_run(handled))
    return addressed(runs)


async def _afresh(system: System, sender: AnySender) -> None:
    """The state that each case and each dry run begins with: the template, and one message."""
    await system.renew()
    await sender.send(_TEXT)
    await sender.idle(downstream=True)
    await system.server.idle()


async def _each_on_its_own(
    system: System, sender: AnySender, count: int, fault: Callable[[int], Fault], places: Sequence[str]
) -> None:
    for case in system.cases(count):
        await _afresh(system, sender)
        async with system.inject(fault(case), case=case, place=places[case]) as injected:
            message = sender.post(_TEXT)
            await injected.bitten(message)
        await sender.finished(message)
    await sender.send(_TEXT)


async def _senders(system: System, count: int) -> list[AnySender]:
    return [await system.sender(f"lane{letter}") for letter in string.ascii_lowercase[:count]]


async def _through(
    system: System,
    senders: Sequence[AnySender],
    count: int,
    fault: Callable[[SenderLink, int], Fault],
    place: Callable[[int], str],
    stream: int = 1,
) -> None:
    """Go through the cases: each is a fault that bites a message, on whatever link has nothing to do.

    Of a `stream` of messages, all of one length, it bites the one that is being sent.
    """
    cases = iter(system.cases(count))
    each = (count - 2) // stream
    await senders[0].send(_TEXT)

    async def work(sender: AnySender) -> None:
        for case in cases:
            async with system.inject(fault(sender.link, case), case=case, place=place(case)) as injected:
                messages = [sender.post(_TEXT) for _ in range(stream)]
                await injected.bitten(messages[min(case // each, stream - 1)])
            await sender.finished(messages[-1])

    await asyncio.gather(*map(work, senders))
    await senders[0].send(_TEXT)


def _place(count: int, length: int, *, framed: bool = False) -> str:
    """What stands behind so many bytes: the first byte that does not get through."""
    if count >= length:
        return "behind the last byte" if count == length else "one byte more than there are"
    place = f"byte {count + 1} of {length}"
    if not framed:
        return place
    header = _LONG_HEADER_BYTES if length > _HEADER_BYTES + _LONGEST_SHORT_PAYLOAD else _HEADER_BYTES
    return f"{place}, {'frame header' if count < header else 'payload'}"


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
