"""What came of each case of a sweep: a pure function of the history of its run."""

from collections.abc import Iterable

import msgspec

from harness import checker
from harness import history as h
from harness.history import History


class Outcome(msgspec.Struct, frozen=True):
    """What came of one case: in words, whether that is as it should be, and the evidence of its fault."""

    case: str
    outcome: str
    good: bool
    evidence: str


def outcomes(history: History, judgement: checker.Judgement) -> list[Outcome]:
    """What came of each case of a sweep, in the order of their positions."""
    cases = {event.number: event.case for event in history if isinstance(event, h.FaultBegan) and event.case}
    if not cases:
        return []
    fates = checker.fold(history)
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
