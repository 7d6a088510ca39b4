"""A second fault in the recovery from the first: more pairs than anybody waits for, so as many as a budget allows."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import msgspec

from harness.calls import unsynced
from harness.clients.author import Message
from harness.fault import Fault
from harness.link import Direction, SenderLink
from harness.sweeps import TEXT, syscalls, tried, wire
from harness.system import AnySender, System

_T = TypeVar("_T")
_U = TypeVar("_U")
Pair = tuple[int | None, int | None]
"""The positions of both faults; None for one that is left out."""

# Below and above the busy timeout of the shipped servers, and the ack timeout.
_HELD_ACK_TIMEOUTS = (0.1, 0.3, 1.1, 1.5)


class _FirstCut(msgspec.Struct, frozen=True):
    """Cuts of a message's exchange that make it come again: behind the first `count` of `length` bytes.

    Upstream all of them do. Downstream those do before the end of the answer, and leave a row.
    """

    direction: Direction
    count: int
    length: int

    def at(self, link: SenderLink, position: int) -> Fault:
        """The cut after so many bytes."""
        return link.cut_at(self.direction, self.length, self.length, position)

    def place(self, position: int) -> str:
        """What stands there."""
        return wire.place(position, self.length, wire.part_of_exchange(self.direction, position, self.length))


async def cut_and_cut(system: System, direction: Direction) -> None:
    """Cut the exchange of a message after any of its bytes, and the way back after any of its own."""
    probe = await system.sender("probe", policy="persistent")
    sender = await system.sender("alice")
    await sender.send_many(wire.FIRST)
    cut = await _first_cut(probe, sender, direction)
    way_back = await wire.handshake(sender, "upstream") + await wire.measured(sender, "upstream")
    async for case, (first, second) in _pairs(system, sender, cut.count, way_back + 1):
        if second is None:
            fault = cut.at(sender.link, first or 0)
        elif first is None:
            fault = sender.link.cut_handshake("upstream", second, way_back, way_back)
        else:
            fault = sender.link.cut_twice(direction, first, second)
        places = _optional(cut.place, first), _optional(lambda second: wire.place(second, way_back), second)
        await tried(system, sender, fault, case, _both(*places))


async def cut_and_kill(system: System, direction: Direction) -> None:
    """Cut the exchange of a message after any of its bytes, and kill the server at any call when it comes again."""
    probe = await system.sender("probe", policy="persistent")
    sender = await system.sender("alice")
    await sender.send_many(wire.FIRST)
    await system.make_template()

    async def again() -> tuple[str, ...]:
        """The calls by which a message is handled that comes again after such a cut."""
        await probe.link.hold(direction)
        message = probe.post(TEXT)
        if direction == "downstream":
            await system.store.wait_for(message)
        await probe.link.close()
        await system.server.idle()

        async def handled() -> Message:
            await probe.link.restore()
            await probe.finished(message)
            await probe.idle(downstream=True)
            return message

        return await system.calls.dry_run(handled)

    found = await syscalls.of_dry_runs(system, probe, again)
    await syscalls.afresh(system, sender)
    cut = await _first_cut(probe, sender, direction)
    async for case, (first, second) in _pairs(system, sender, cut.count, len(found)):
        await syscalls.afresh(system, sender)
        call = _optional(found.__getitem__, second)
        kill = _optional(system.calls.kill_at_call, call)
        await _cut_and(system, sender, cut, case, first, kill, _optional(str, call))


async def cut_and_lock(system: System, direction: Direction) -> None:
    """Cut the exchange of a message after any of its bytes, and lock the store when it comes again."""
    probe = await system.sender("probe", policy="persistent")
    sender = await system.sender("alice")
    await sender.send_many(wire.FIRST)
    cut = await _first_cut(probe, sender, direction)
    held = [system.seconds(ack_timeouts=timeouts) for timeouts in _HELD_ACK_TIMEOUTS]
    async for case, (first, second) in _pairs(system, sender, cut.count, len(held)):
        stored = first is not None and direction == "downstream"
        lock = system.store.lock_again if stored else system.store.lock
        seconds = _optional(held.__getitem__, second)
        what = _optional(lambda seconds: f"a lock of {seconds:g} s", seconds)
        await _cut_and(system, sender, cut, case, first, _optional(lock, seconds), what)


async def kill_and_kill(system: System) -> None:
    """Kill the server at any call by which it handles a message, and at any call of the start that follows."""
    probe = await system.sender("probe", policy="persistent")
    sender = await syscalls.prepared(system)
    firsts = await syscalls.of_message(system, probe)
    seconds = await syscalls.of_recovery(system, probe, unsynced(firsts))
    async for case, (first, second) in _pairs(system, sender, len(firsts), len(seconds)):
        await syscalls.afresh(system, sender)
        if second is None:
            fault = system.calls.kill_at_call(firsts[first or 0])
        else:
            fault = system.calls.kill_in_recovery(firsts[first or 0], seconds[second])
        await tried(
            system, sender, fault, case, _both(str(firsts[first or 0]), _optional(lambda at: str(seconds[at]), second))
        )


async def _pairs(system: System, sender: AnySender, first: int, second: int) -> AsyncIterator[tuple[str, Pair]]:
    """Pairs with their names, between a message before the first and one behind the last, which have to get through."""
    await sender.send(TEXT)
    for one, other in system.pairs(first, second):
        yield f"{'' if one is None else one}+{'' if other is None else other}", (one, other)
    await sender.send(TEXT)


async def _first_cut(probe: AnySender, sender: AnySender, direction: Direction) -> _FirstCut:
    length = await wire.measured(sender, direction)
    # A message that is cut to find that out must not be doubled in a control or a null: its sender is none of theirs.
    # Where the connection ends right behind the answer it races with that: some clients take it, and not each time.
    count = length if direction == "upstream" else await wire.unanswered(probe)
    await sender.send(TEXT)  # behind all that others have said
    return _FirstCut(direction, count, length)


async def _cut_and(
    system: System,
    sender: AnySender,
    cut: _FirstCut,
    case: str,
    first: int | None,
    second: Fault | None,
    what: str | None,
) -> None:
    """Cut, and have another fault act before the message comes again; one of them may be left out."""
    async with contextlib.AsyncExitStack() as healing, contextlib.AsyncExitStack() as opening:
        place = _optional(cut.place, first)
        if first is not None:
            own = None if second is not None else case
            injected = await opening.enter_async_context(
                system.inject(cut.at(sender.link, first), case=own, place=place)
            )
            message = sender.post(TEXT)
            await injected.bitten(message)
        if second is not None:
            other = await healing.enter_async_context(system.inject(second, case=case, place=_both(place, what)))
            await opening.aclose()
            if first is None:
                message = sender.post(TEXT)
            await other.bitten(message)
    await sender.finished(message)


def _both(first: str | None, second: str | None) -> str:
    """What stands at the positions of a pair, of which one may be left out."""
    return ", then ".join(place for place in (first, second) if place is not None)


def _optional(of: Callable[[_T], _U], what: _T | None) -> _U | None:
    return of(what) if what is not None else None
