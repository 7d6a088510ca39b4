"""Fault spaces that are covered completely: every byte of an exchange is a case.

A case is named by what is swept, where and at which position: `wire/up/37` is a cut after 37 bytes upstream. Its
outcome is a pure function of the history.
"""

import asyncio
from collections.abc import Iterable

import msgspec

from harness import checker
from harness import history as h
from harness.errors import HarnessError
from harness.history import History
from harness.link import Direction
from harness.system import AnySender, System

_WAYS: dict[Direction, str] = {"upstream": "up", "downstream": "down"}
# Upstream a link carries nothing but its own sender's bytes; downstream it carries the broadcasts of all.
_LANES: dict[Direction, tuple[str, ...]] = {"upstream": ("lanea", "laneb", "lanec", "laned"), "downstream": ("lanea",)}
_TEXT = "hello"
# A row's id is in the broadcast: from here on it has as many digits as the last one.
_FIRST_ID = 100


async def every_byte(system: System, direction: Direction) -> None:
    """Cut the exchange of one message after each of its bytes in one direction, each time on a new connection.

    Raises:
        HarnessError: two equal exchanges have not the same length, so that no position means anything.
    """
    senders = [await system.sender(name) for name in _LANES[direction]]
    if direction == "downstream":
        await senders[0].send_many(_FIRST_ID)
    length = await _length(senders[0], direction)
    space = f"wire{system.spoken}/{_WAYS[direction]}"
    cases = iter(system.cases([f"{space}/{count}" for count in range(length + 2)]))

    async def work(sender: AnySender) -> None:
        for case in cases:
            cut = sender.link.cut_at(direction, length, int(case.rpartition("/")[2]))
            async with system.inject(cut, case) as fault:
                message = sender.post(_TEXT)
                await fault.bitten(message)
            await sender.finished(message)

    await asyncio.gather(*map(work, senders))
    await senders[0].send(_TEXT)


async def _length(sender: AnySender, direction: Direction) -> int:
    """How many bytes an exchange has: of two equal ones, on one connection each."""
    lengths = [await _measured(sender, direction) for _ in range(2)]
    if lengths[0] != lengths[1]:
        raise HarnessError(
            f"two equal exchanges have {lengths[0]} and {lengths[1]} bytes {direction}: a position in them means "
            "nothing. Does the server send something by itself?"
        )
    return lengths[0]


async def _measured(sender: AnySender, direction: Direction) -> int:
    # As in every case: the second message of a connection, whose acknowledgement has a number of one digit.
    await sender.link.refresh()
    await sender.send(_TEXT)
    connection = await sender.idle(downstream=True)

    def bytes_so_far() -> int:
        return connection.bytes_sent if direction == "upstream" else connection.bytes_received

    before = bytes_so_far()
    await sender.send(_TEXT)
    await sender.idle(downstream=True)
    return bytes_so_far() - before


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
