"""What came of each case of a sweep: a pure function of the history of its run."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Literal

import msgspec

from harness import history as h
from harness.checker import Judgement
from harness.history import History

Kind = Literal["resent", "acknowledged", "untouched", "unproven", "broken"]

# What became of a message, around what was done to it.
_IN_WORDS: dict[Kind, str] = {
    "resent": "{}, sent again, stored once",
    "acknowledged": "acknowledged, then {}",
    "untouched": "not {}, stored once",
    "unproven": "not {} where it should be",
}
# What is done to the server's files comes before its answer.
_BEFORE_THE_ANSWER = ("failed", "locked")
# By the first word of a fault's name.
_DONE = {"cut": "cut", "kill": "killed", "fail": "failed", "hit": "hit", "lock": "locked"}


class Outcome(msgspec.Struct, frozen=True):
    """What came of one case: its id, what stands at its position, the outcome, also in words, and the evidence.

    `message` is the one that was bitten; none where the case did not come to its end.
    """

    case: str
    place: str
    kind: Kind
    words: str
    evidence: str
    message: str = ""

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        return self.kind not in ("unproven", "broken")


def outcomes(history: History, judgement: Judgement) -> list[Outcome]:
    """What came of each case of a sweep, in the order of their positions; nothing of a history without any.

    What breaks the claim on any message of a case breaks the case, whichever of them its fault bit.
    """
    cases = {event.number: event for event in history if isinstance(event, h.FaultBegan) and event.case}
    attempts = Counter(event.message for event in history if isinstance(event, h.Attempt))
    bites = {bite.number: bite for bite in judgement.bites if bite.number in cases}
    broken: dict[int | None, list[str]] = {}
    case_of = _cases_of_messages(history, bites)
    for anomaly in judgement.broken_by:
        broken.setdefault(case_of.get(anomaly.message or ""), []).append(anomaly.kind)
    found = []
    for number, began in cases.items():
        bite = bites.get(number)
        kind, words = _of(bite, attempts, broken.get(number, []), _DONE[began.fault.partition(" ")[0]])
        assert began.case is not None
        evidence, message = (bite.evidence, bite.message) if bite else ("", "")
        found.append(Outcome(began.case, began.place or "", kind, words, evidence, message))
    return sorted(found, key=lambda outcome: _position(outcome.case))


def _cases_of_messages(history: History, bites: Mapping[int, h.Bitten]) -> dict[str, int]:
    """The case of each message that was posted within one: several can be at work at once, each with its own sender.

    And of each that its fault bit: the second fault of a pair begins when the message is under way.
    """
    senders = {event.message: event.sender for event in history if isinstance(event, h.Invoke)}
    of = {bite.message: number for number, bite in bites.items()}
    acting: dict[str, int] = {}
    for event in history:
        match event:
            case h.FaultBegan() if event.number in bites:
                acting[senders[bites[event.number].message]] = event.number
            case h.FaultEnded() if event.number in acting.values():
                acting = {sender: number for sender, number in acting.items() if number != event.number}
            case h.Invoke() if event.sender in acting:
                of[event.message] = acting[event.sender]
            case _:
                pass
    return of


def _of(bite: h.Bitten | None, attempts: Counter[str], broken: list[str], done: str) -> tuple[Kind, str]:
    if bite is None:
        return "unproven", "it did not come to its end"
    if broken:
        return "broken", " and ".join(dict.fromkeys(broken))
    kind: Kind = "resent" if attempts[bite.message] > 1 else "acknowledged"
    if not bite.seen:
        kind = "unproven"
    elif bite.evidence.startswith("nothing was "):
        kind = "untouched"
    if kind == "acknowledged" and done in _BEFORE_THE_ANSWER:
        return kind, f"{done}, then acknowledged"
    return kind, _IN_WORDS[kind].format(done)


def joined(shares: Iterable[Iterable[Outcome]]) -> list[Outcome]:
    """What came of the cases of several shares of a sweep, in the order of their positions."""
    return sorted(chain.from_iterable(shares), key=lambda outcome: _position(outcome.case))


def folded(found: Iterable[Outcome]) -> list[tuple[str, Outcome]]:
    """Neighbouring cases with the same outcome as one: `wire/up/0..71`, and the first of them.

    Pairs have no neighbours: all with the same outcome are one, `pairs/up-kill (408)`.
    """
    found = list(found)
    if any("+" in outcome.case for outcome in found):
        kinds: dict[str, list[Outcome]] = {}
        for outcome in found:
            kinds.setdefault(outcome.words, []).append(outcome)
        return [(f"{kind[0].case.rpartition('/')[0]} ({len(kind):,})", kind[0]) for kind in kinds.values()]
    groups: list[list[Outcome]] = []
    for outcome in found:
        if groups and groups[-1][-1].words == outcome.words and _follows(groups[-1][-1].case, outcome.case):
            groups[-1].append(outcome)
        else:
            groups.append([outcome])
    return [
        (group[0].case + (f"..{group[-1].case.rpartition('/')[2]}" if len(group) > 1 else ""), group[0])
        for group in groups
    ]


def _follows(before: str, case: str) -> bool:
    (position,), (last,) = _position(case), _position(before)
    return before.rpartition("/")[0] == case.rpartition("/")[0] and position == last + 1


def _position(case: str) -> tuple[int, ...]:
    """The position of a case; of a pair both, -1 for a fault that is left out."""
    return tuple(int(position or -1) for position in case.rpartition("/")[2].split("+"))
