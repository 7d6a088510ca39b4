"""Fault spaces that are covered completely: every byte of an exchange is a case.

A case is named by what is swept, where and at which position: `wire/up/37` is a cut after 37 bytes upstream. Its
outcome is a pure function of the history.
"""

import asyncio
import itertools
from collections.abc import Iterable

import msgspec

from harness import checker
from harness import history as h
from harness.history import History
from harness.link import Direction
from harness.system import AnySender, System

_WAYS: dict[Direction, str] = {"upstream": "up", "downstream": "down"}
# Upstream a link carries nothing but its own sender's bytes; downstream it carries the broadcasts of all.
_LANES: dict[Direction, tuple[str, ...]] = {"upstream": ("lanea", "laneb", "lanec", "laned"), "downstream": ("lanea",)}
_TEXT = "hello"
# A row's id is in the broadcast: from here on it has as many digits as the last one.
_FIRST_ID = 100
_DRY_RUNS = 5


async def every_byte(system: System, direction: Direction) -> None:
    """Cut the exchange of one message after each of its bytes in one direction, each time on a new connection."""
    senders = [await system.sender(name) for name in _LANES[direction]]
    if direction == "downstream":
        await senders[0].send_many(_FIRST_ID)
    lengths = [await _measured(senders[0], direction) for _ in range(_DRY_RUNS)]
    # Over polling an answer and a broadcast can share one response, or not: there, an exchange may end anywhere.
    shortest, longest = (min(lengths) if system.transport != "polling" else 0), max(lengths)
    space = f"wire{system.spoken}/{_WAYS[direction]}"
    cases = iter(system.cases([f"{space}/{count}" for count in range(longest + 2)]))

    async def work(sender: AnySender) -> None:
        for case in cases:
            cut = sender.link.cut_at(direction, shortest, longest, int(case.rpartition("/")[2]))
            async with system.inject(cut, case) as fault:
                message = sender.post(_TEXT)
                await fault.bitten(message)
            await sender.finished(message)

    await asyncio.gather(*map(work, senders))
    await senders[0].send(_TEXT)


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


# -- what came of it ---------------------------------------------------------------------------------------------


class Outcome(msgspec.Struct, frozen=True):
    """What came of one case: in words, whether that is as it should be, and the evidence of its fault."""

    case: str
    outcome: str
    good: bool
    evidence: str


def outcomes(history: History) -> list[Outcome]:
    """What came of each case of a sweep, in the order of their positions."""
    cases = {event.number: event.case for event in history if isinstance(event, h.FaultBegan) and event.case}
    if not cases:
        return []
    judgement, fates = checker.judge(history), checker.fold(history)
    wrong: dict[str | None, list[str]] = {}
    for anomaly in judgement.broken_by:
        wrong.setdefault(anomaly.message, []).append(anomaly.kind)
    bites = {bite.number: bite for bite in fates.bites}
    found = [Outcome(case, *_told(bites.get(number), fates, wrong)) for number, case in cases.items()]
    return sorted(found, key=lambda outcome: _position(outcome.case))


def _told(bite: h.Bitten | None, fates: checker.Fates, wrong: dict[str | None, list[str]]) -> tuple[str, bool, str]:
    if bite is None:
        return "it did not come to its end", False, ""
    fate = fates.messages[bite.message]
    if kinds := wrong.get(bite.message):
        return " and ".join(dict.fromkeys(kinds)), False, bite.evidence
    if not bite.seen:
        return "not cut where it should be", False, bite.evidence
    if bite.evidence.startswith("nothing was cut"):
        return "not cut, stored once", True, bite.evidence
    if len(fate.attempts) == 1:
        return "acknowledged, then cut", True, bite.evidence
    return "cut, sent again, stored once", True, bite.evidence


def folded(found: Iterable[Outcome]) -> list[str]:
    """Neighbouring cases with the same outcome as one line: `wire/up/0..71: cut, sent again, stored once`."""
    lines: list[tuple[str, int, int, str]] = []
    for outcome in found:
        space, _, position = outcome.case.rpartition("/")
        here = int(position)
        if lines and lines[-1][0] == space and lines[-1][2] == here - 1 and lines[-1][3] == outcome.outcome:
            lines[-1] = (space, lines[-1][1], here, outcome.outcome)
        else:
            lines.append((space, here, here, outcome.outcome))
    return [
        f"{space}/{first}: {told}" if first == last else f"{space}/{first}..{last}: {told}"
        for space, first, last, told in lines
    ]


def _position(case: str) -> tuple[str, int]:
    space, _, position = case.rpartition("/")
    return space, int(position)
