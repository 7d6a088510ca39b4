"""Every system call by which the server handles a message, and every one of its recovery: killed there, or failed.

Each case begins with the same store, so that the server makes the same calls. Where the target offers forks each start
is one; that they make no difference is seen from a few cases that are gone through again with starts from nothing.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

from harness.calls import Call, Error, addressed, changes, fails_with, unsynced
from harness.clients.author import Message
from harness.errors import HarnessError
from harness.fault import Fault
from harness.sweeps import TEXT, tried
from harness.system import AnySender, System

# Each is a start of the server.
_DRY_RUNS = 3
_BEHIND = "behind the last call"
_NO_STARTS = "the starts by server.fork are no starts of the server"


async def every_call(system: System, action: Literal["kill"] | Error) -> None:
    """Kill the server at each system call while it handles a message, or have each fail that can."""

    def fault(case: int) -> Fault:
        if case == len(chosen):
            return system.calls.hit_no_call()
        return (
            system.calls.kill_at_call(chosen[case])
            if action == "kill"
            else system.calls.fail_at_call(chosen[case], action)
        )

    sender = await prepared(system)
    found = await of_message(system, sender)
    chosen = found if action == "kill" else [call for call in found if fails_with(call, action)]
    resent = await _each_on_its_own(system, sender, fault, [*map(str, chosen), _BEHIND])
    if system.server.forks:
        await _again_from_nothing(system, sender, found, fault, chosen, resent)


async def every_call_of_a_recovery(system: System) -> None:
    """Kill the server when a message is written and not yet valid, and at each call of the start that follows."""

    def fault(case: int) -> Fault:
        if case == len(chosen):
            return system.calls.hit_no_call_of_recovery(first)
        return system.calls.kill_in_recovery(first, chosen[case])

    # A dry run kills the server, too. So that it does no harm in a control or a null its sender is none of theirs.
    probe = await system.sender("probe", policy="persistent")
    sender = await prepared(system)
    found = await of_message(system, probe)
    first = unsynced(found)
    chosen = await of_recovery(system, probe, first)
    resent = await _each_on_its_own(system, sender, fault, [*map(str, chosen), _BEHIND])
    if system.server.forks:
        await _again_from_nothing(system, sender, found, fault, chosen, resent)


async def prepared(system: System) -> AnySender:
    """A sender that has sent a message before the store becomes the template of every case."""
    sender = await system.sender("alice")
    await sender.send(TEXT)
    await system.make_template()
    return sender


async def afresh(system: System, sender: AnySender) -> None:
    """The state that each case and each dry run begins with: the template, and one message."""
    await system.renew()
    await sender.send(TEXT)
    await sender.idle(downstream=True)
    await system.server.idle()


async def of_message(system: System, sender: AnySender) -> list[Call]:
    """The calls by which a message is handled, of which each has to be in every dry run."""
    return await of_dry_runs(system, sender, lambda: _dry_run(system, sender))


async def _dry_run(system: System, sender: AnySender) -> tuple[str, ...]:
    async def handled() -> Message:
        message = await sender.send(TEXT)
        await sender.idle(downstream=True)
        return message

    return await system.calls.dry_run(handled)


async def of_recovery(system: System, probe: AnySender, first: Call) -> list[Call]:
    """The calls of a start after a kill at `first`, up to the acknowledgement; its sender sends again."""

    async def recovered() -> tuple[str, ...]:
        made = await system.calls.dry_recovery(first, lambda: probe.post(TEXT))
        await probe.finished(probe.messages[-1])
        return made

    return await of_dry_runs(system, probe, recovered)


async def of_dry_runs(system: System, sender: AnySender, run: Callable[[], Awaitable[tuple[str, ...]]]) -> list[Call]:
    """The calls that each of some dry runs makes, which begin with the same state."""
    runs = []
    for _ in range(_DRY_RUNS):
        await afresh(system, sender)
        runs.append(await run())
    return addressed(runs)


async def _each_on_its_own(
    system: System, sender: AnySender, fault: Callable[[int], Fault], places: Sequence[str]
) -> dict[int, bool]:
    """Go through the cases; of each, whether its message was sent again."""
    resent = {}
    for case in system.cases(len(places)):
        await afresh(system, sender)
        resent[case] = (await tried(system, sender, fault(case), case, places[case])).attempts > 1
    await sender.send(TEXT)
    return resent


async def _again_from_nothing(
    system: System,
    sender: AnySender,
    found: Sequence[Call],
    fault: Callable[[int], Fault],
    chosen: Sequence[Call],
    resent: Mapping[int, bool],
) -> None:
    """Go through some of the cases without forks: the same calls have to be there, and the cases have to end alike.

    They are cases at calls that change the store, as of the other calls that its start makes a fork has made some.

    Raises:
        HarnessError: a call is not there, or a case ends otherwise.
    """
    cases = system.spot_checks([case for case in resent if changes([call.fingerprint for call in chosen[case:][:1]])])
    if not cases:
        return
    with system.server.from_nothing():
        await afresh(system, sender)
        made = addressed([await _dry_run(system, sender)])
        if missing := [call for call in found if call not in made]:
            raise HarnessError(f"{_NO_STARTS}: without them there is no {missing[0]} when a message is handled")
        for case in cases:
            await afresh(system, sender)
            message = await tried(system, sender, fault(case), None, f"{chosen[case]}, without forks")
            if (message.attempts > 1) != resent[case]:
                raise HarnessError(
                    f"{_NO_STARTS}: with them the message at {chosen[case]} was "
                    f"{'sent again' if resent[case] else 'sent once'}, without them it was not"
                )
        await sender.send(TEXT)
