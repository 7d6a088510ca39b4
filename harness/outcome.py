"""What came of each case of a sweep: a pure function of the history of its run."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec

from harness import history as h
from harness.checker import Judgement
from harness.history import History

Kind = Literal["resent", "acknowledged", "untouched", "unproven", "broken"]

_IN_WORDS: dict[Kind, str] = {
    "resent": "cut, sent again, stored once",
    "acknowledged": "acknowledged, then cut",
    "untouched": "not cut, stored once",
    "unproven": "not cut where it should be",
}
# A WebSocket frame of a client: two bytes and the mask, and two more where the payload is longer than 125 bytes.
_HEADER_BYTES, _LONG_HEADER_BYTES, _LONGEST_SHORT_PAYLOAD = 6, 8, 125


class Outcome(msgspec.Struct, frozen=True):
    """What came of one case: its id, what stands at its position, the outcome, also in words, and the evidence."""

    case: str
    place: str
    kind: Kind
    words: str
    evidence: str

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        return self.kind not in ("unproven", "broken")


def outcomes(history: History, judgement: Judgement) -> list[Outcome]:
    """What came of each case of a sweep, in the order of their positions; nothing of a history without any."""
    cases = {event.number: event.case for event in history if isinstance(event, h.FaultBegan) and event.case}
    if not cases:
        return []
    attempts = Counter(event.message for event in history if isinstance(event, h.Attempt))
    broken: dict[str | None, list[str]] = {}
    for anomaly in judgement.broken_by:
        broken.setdefault(anomaly.message, []).append(anomaly.kind)
    bites = {bite.number: bite for bite in judgement.bites}
    length = max(map(_position, cases.values())) - 1
    found = []
    for number, case in cases.items():
        bite = bites.get(number)
        kind, words = _of(bite, attempts, broken)
        found.append(Outcome(case, _place(case, length), kind, words, bite.evidence if bite else ""))
    return sorted(found, key=lambda outcome: _position(outcome.case))


def _of(bite: h.Bitten | None, attempts: Counter[str], broken: dict[str | None, list[str]]) -> tuple[Kind, str]:
    if bite is None:
        return "unproven", "it did not come to its end"
    if kinds := broken.get(bite.message):
        return "broken", " and ".join(dict.fromkeys(kinds))
    kind: Kind = "resent" if attempts[bite.message] > 1 else "acknowledged"
    if not bite.seen:
        kind = "unproven"
    elif bite.evidence.startswith("nothing was cut"):
        kind = "untouched"
    return kind, _IN_WORDS[kind]


def _place(case: str, length: int) -> str:
    """What stands at the position of a case: behind so many bytes comes the first that does not get through."""
    position = _position(case)
    if position >= length:
        return "behind the last byte" if position == length else "one byte more than there are"
    if case.split("/")[1] != "up" or "polling" in case:
        return f"byte {position + 1} of {length}"
    long = length > _HEADER_BYTES + _LONGEST_SHORT_PAYLOAD
    part = "frame header" if position < (_LONG_HEADER_BYTES if long else _HEADER_BYTES) else "payload"
    return f"byte {position + 1} of {length}, {part}"


def folded(found: Iterable[Outcome]) -> list[tuple[str, Outcome]]:
    """Neighbouring cases with the same outcome as one: `wire/up/0..71`, and the first of them."""
    groups: list[list[Outcome]] = []
    for outcome in found:
        if groups and groups[-1][-1].words == outcome.words and _follows(groups[-1][-1].case, outcome.case):
            groups[-1].append(outcome)
        else:
            groups.append([outcome])
    return [
        (group[0].case + (f"..{_position(group[-1].case)}" if len(group) > 1 else ""), group[0]) for group in groups
    ]


def _follows(before: str, case: str) -> bool:
    return before.rpartition("/")[0] == case.rpartition("/")[0] and _position(case) == _position(before) + 1


def _position(case: str) -> int:
    return int(case.rpartition("/")[2])
