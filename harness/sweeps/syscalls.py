"""Every system call by which the server handles a message, and every one of its recovery: killed there, or failed.

Each case begins with the same store, so that the server makes the same calls.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from harness.calls import Call, Error, addressed, fails_with, unsynced
from harness.clients.author import Message
from harness.fault import Fault
from harness.sweeps import TEXT, tried
from harness.system import AnySender, System

# Each is a start of the server.
_DRY_RUNS = 3


async def every_call(system: System, action: Literal["kill"] | Error) -> None:
    """Kill the server at each system call while it handles a message, or have each fail that can."""
    async with system.server.forking():
        await _every_call(system, action)


async def _every_call(system: System, action: Literal["kill"] | Error) -> None:
    sender = await prepared(system)
    found = await of_message(system, sender)
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
    sender = await prepared(system)
    first = unsynced(await of_message(system, probe))
    chosen = await of_recovery(system, probe, first)
    await _each_on_its_own(
        system,
        sender,
        len(chosen),
        lambda case: system.calls.kill_in_recovery(first, chosen[case]),
        [*map(str, chosen)],
    )


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

    async def handled() -> Message:
        message = await sender.send(TEXT)
        await sender.idle(downstream=True)
        return message

    return await of_dry_runs(system, sender, lambda: system.calls.dry_run(handled))


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
    system: System, sender: AnySender, count: int, fault: Callable[[int], Fault], places: Sequence[str]
) -> None:
    for case in system.cases(count):
        await afresh(system, sender)
        await tried(system, sender, fault(case), case, places[case])
    await sender.send(TEXT)
