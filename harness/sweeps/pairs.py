"""A second fault in the recovery from the first: more pairs than anybody waits for, so as many as a budget allows."""

import contextlib
from collections.abc import AsyncIterator

from harness.calls import unsynced
from harness.clients.author import Message
from harness.fault import Fault
from harness.sweeps import TEXT, syscalls, tried, wire
from harness.system import AnySender, System

Pair = tuple[int | None, int | None]
"""The positions of both faults; None for one that is left out."""

# Below and above the busy timeout of the shipped servers, and the ack timeout.
_HELD_ACK_TIMEOUTS = (0.1, 0.3, 1.1, 1.5)


async def cut_and_cut(system: System) -> None:
    """Cut the exchange of a message after any of its bytes, and the way back after any of its own."""
    sender = await system.sender("alice")
    await sender.send_many(wire.FIRST)
    exchange = await wire.measured(sender, "upstream")
    way_back = await wire.handshake(sender, "upstream") + exchange
    async for case, (first, second) in _pairs(system, sender, exchange, way_back + 1):
        if second is None:
            fault = sender.link.cut_at("upstream", exchange, exchange, first or 0)
        elif first is None:
            fault = sender.link.cut_handshake("upstream", second, way_back)
        else:
            fault = sender.link.cut_twice(first, second)
        await tried(system, sender, fault, case, f"bytes {first} and {second}")


async def cut_and_kill(system: System) -> None:
    """Cut the exchange of a message after any of its bytes, and kill the server at any call when it comes again."""
    probe = await system.sender("probe", policy="persistent")
    sender = await syscalls.prepared(system)

    async def again() -> Message:
        """A message that comes with a new connection, as after a cut."""
        await probe.link.close()
        message = probe.post(TEXT)
        await probe.link.restore()
        await probe.finished(message)
        await probe.idle(downstream=True)
        return message

    found = await syscalls.of_dry_runs(system, probe, lambda: system.calls.dry_run(again))
    await syscalls.afresh(system, sender)
    exchange = await wire.measured(sender, "upstream")
    async for case, (first, second) in _pairs(system, sender, exchange, len(found)):
        await syscalls.afresh(system, sender)
        call = found[second] if second is not None else None
        kill = system.calls.kill_at_call(call) if call is not None else None
        await _cut_and(system, sender, exchange, case, first, kill, str(call))


async def cut_and_lock(system: System) -> None:
    """Cut the exchange of a message after any of its bytes, and lock the store when it comes again."""
    sender = await system.sender("alice")
    await sender.send_many(wire.FIRST)
    exchange = await wire.measured(sender, "upstream")
    async for case, (first, second) in _pairs(system, sender, exchange, len(_HELD_ACK_TIMEOUTS)):
        seconds = system.seconds(ack_timeouts=_HELD_ACK_TIMEOUTS[second or 0])
        lock = system.store.lock(seconds) if second is not None else None
        await _cut_and(system, sender, exchange, case, first, lock, f"a lock of {seconds:g} s")


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
        place = " and ".join(map(str, [firsts[first or 0], *([] if second is None else [seconds[second]])]))
        await tried(system, sender, fault, case, place)


async def _pairs(system: System, sender: AnySender, first: int, second: int) -> AsyncIterator[tuple[str, Pair]]:
    """Pairs with their names, between a message before the first and one behind the last, which have to get through."""
    await sender.send(TEXT)
    for one, other in system.pairs(first, second):
        yield f"{'' if one is None else one}+{'' if other is None else other}", (one, other)
    await sender.send(TEXT)


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
            message = sender.post(TEXT)
            await injected.bitten(message)
        if second is not None:
            other = await healing.enter_async_context(system.inject(second, case=case, place=f"{place}, {what}"))
            await opening.aclose()
            if first is None:
                message = sender.post(TEXT)
            await other.bitten(message)
    await sender.finished(message)
