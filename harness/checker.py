"""Judges one run: History in, Judgement out. Pure: no clock, no file, no process.

The history is folded once into fates, what became of each message; every anomaly is a small function of the fates that
are not as plain as can be; the target's claims decide which anomalies break.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from harness import history as h
from harness.calls import changes, is_durable
from harness.fates import Attempted, Fate, Fates, fold

__all__ = ["Anomaly", "Attempted", "Fate", "Fates", "Judgement", "Kind", "VerdictWord", "breaks", "fold", "judge"]

VerdictWord = Literal["kept", "broken", "unproven", "error"]
Kind = Literal[
    "lost",
    "silent_drop",
    "stuck",
    "duplicate",
    "corrupted",
    "unexpected",
    "aborted_read",
    "crashed",
    "reordered",
    "missed",
    "repeated",
    "misordered",
    "phantom",
    "false_failure",
    "not_durable",
    "slow_recovery",
]


class Anomaly(msgspec.Struct, frozen=True):
    """One way in which the run differs from exactly once and in order.

    `message` is None for what concerns no single message (a crash).
    """

    kind: Kind
    message: str | None
    detail: str
    receiver: str | None = None
    time: float | None = None


class Judgement(msgspec.Struct):
    """The verdict on one run: `broken_by` breaks what the target claims, `reported` does not."""

    verdict: VerdictWord
    why: str
    broken_by: list[Anomaly]
    reported: list[Anomaly]
    counts: dict[str, int]
    bites: list[h.Bitten]
    recovery_seconds: float | None = None
    worst_delay_seconds: float | None = None

    @property
    def anomalies(self) -> list[Anomaly]:
        """All of them, the breaking ones first."""
        return self.broken_by + self.reported


# -- the anomalies -----------------------------------------------------------------------------------------------


def lost(fates: Fates) -> Iterator[Anomaly]:
    """Acknowledged (or handed over, where the policy has no acknowledgement), not stored."""
    for fate in fates.apart:
        if not fate.rows and (fate.outcome == "ok" or fate.settled in ("acknowledged", "handed-over")):
            told = "acknowledged" if fate.outcome == "ok" or fate.settled == "acknowledged" else "handed over"
            yield Anomaly("lost", fate.message, f"{told}, not stored", time=fate.settled_at)
    for again in fates.rereads:
        if again.rows < again.before:
            gone = f"of {again.before:,} rows that were read before, {again.rows:,} are left"
            yield Anomaly("lost", None, gone, time=again.time)


def silent_drop(fates: Fates) -> Iterator[Anomaly]:
    """Given up without telling the sender, as a later message of the same sender shows."""
    for fate, overtaken in _unsettled(fates):
        if overtaken:
            detail = "never settled, though a later message of its sender was attempted and settled"
            yield Anomaly("silent_drop", fate.message, detail, time=fate.invoked)


def stuck(fates: Fates) -> Iterator[Anomaly]:
    """Not settled by the deadline."""
    for fate, overtaken in _unsettled(fates):
        if not overtaken:
            detail = f"not settled by the deadline, after {_times(len(fate.attempts), 'attempt')}"
            yield Anomaly("stuck", fate.message, detail, time=fate.invoked)


def _unsettled(fates: Fates) -> Iterator[tuple[Fate, bool]]:
    """Messages that their senders were told nothing of, each with whether a later one was attempted and settled."""
    if unsettled := [fate for fate in fates.apart if fate.settled is None]:
        latest = fates.messages.latest_settled()
        yield from ((fate, fate.sequence < latest[fate.sender]) for fate in unsettled)


def duplicate(fates: Fates) -> Iterator[Anomaly]:
    """Stored more than once."""
    for fate in fates.apart:
        if len(fate.rows) > 1:
            ids = ", ".join(str(fates.rows[position].id) for position in fate.rows)
            yield Anomaly("duplicate", fate.message, f"stored {len(fate.rows)} times: rows {ids}", time=fate.invoked)
    for position, message in fates.messages.unposted(fates.messages.stored.order):
        if fates.messages.is_judged_before(message):
            detail = f"row {fates.rows[position].id} holds a message of which a row had been read before"
            yield Anomaly("duplicate", message, detail)


def corrupted(fates: Fates) -> Iterator[Anomaly]:
    """Stored with other content, or received with other content than was sent and is stored."""
    for fate in fates.apart:
        for position in fate.rows_otherwise:
            row = fates.rows[position]
            detail = f"row {row.id}: {_difference(fate.content, row.content)}"
            yield Anomaly("corrupted", fate.message, detail, time=fate.invoked)
        stored = [fates.rows[position].content for position in fate.rows] if fate.received_otherwise else []
        for receiver, content in fate.received_otherwise:
            if content not in stored:
                detail = f"received by {receiver}: {_difference(fate.content, content)}"
                yield Anomaly("corrupted", fate.message, detail, receiver, fate.invoked)
    for again in fates.rereads:
        if again.rows >= again.before and not again.same:
            detail = f"the first {again.before:,} rows are not what they were when they were read"
            yield Anomaly("corrupted", None, detail, time=again.time)


def _difference(sent: str, stored: str | None) -> str:
    if stored is None:
        return f"sent {len(sent)} characters, found NULL"
    at = next((i for i, (a, b) in enumerate(zip(sent, stored, strict=False)) if a != b), min(len(sent), len(stored)))
    return (
        f"sent {len(sent)} characters, found {len(stored)}; they part at character {at}: "
        f"sent {sent[at : at + 24]!r}, found {stored[at : at + 24]!r}"
    )


def unexpected(fates: Fates) -> Iterator[Anomaly]:
    """Stored with an identity of this run that was never posted."""
    for position, message in fates.messages.unposted(fates.messages.stored.order):
        if not fates.messages.is_judged_before(message):
            detail = f"row {fates.rows[position].id} holds a message that was never posted"
            yield Anomaly("unexpected", message, detail)


def aborted_read(fates: Fates) -> Iterator[Anomaly]:
    """Definitely failed, yet stored."""
    for fate in fates.apart:
        if fate.outcome == "fail" and fate.rows:
            detail = f"every attempt failed before anything was sent, yet row {fates.rows[fate.rows[0]].id} holds it"
            yield Anomaly("aborted_read", fate.message, detail, time=fate.invoked)


def crashed(fates: Fates) -> Iterator[Anomaly]:
    """The server died although nobody killed it."""
    for event in fates.exits:
        if not event.expected:
            yield Anomaly("crashed", None, f"the server ended by itself: {event.reason}", time=event.time)


def reordered(fates: Fates) -> Iterator[Anomaly]:
    """First rows of a sender out of its order."""
    for fate, before in fates.messages.overtaken(fates.messages.stored.each()):
        row, other = (fates.rows[f.rows[0]].id for f in (fate, before))
        detail = f"stored as row {row}, after the later {before.message} (row {other})"
        yield Anomaly("reordered", fate.message, detail, time=fate.invoked)


def missed(fates: Fates) -> Iterator[Anomaly]:
    """A receiver did not get a stored message."""
    for receiver in fates.receivers:
        for fate in fates.apart:
            if fate.rows and receiver not in fate.received:
                detail = f"stored as row {fates.rows[fate.rows[0]].id}, never received by {receiver}"
                yield Anomaly("missed", fate.message, detail, receiver, fate.invoked)


def repeated(fates: Fates) -> Iterator[Anomaly]:
    """A receiver got a message more often than it is stored (a message stored twice is a `duplicate`)."""
    for fate in fates.apart:
        for receiver, positions in fate.received.items():
            if len(positions) > max(1, len(fate.rows)):
                detail = f"received {len(positions)} times by {receiver}"
                yield Anomaly("repeated", fate.message, detail, receiver, fate.invoked)
    for receiver, arrivals in fates.receivers.items():
        for _, message in fates.messages.unposted(arrivals.each()):
            if fates.messages.is_judged_before(message):
                yield Anomaly("repeated", message, f"received by {receiver}, which had received it before", receiver)


def misordered(fates: Fates) -> Iterator[Anomaly]:
    """A receiver got a sender's messages out of order; under `total`, rows out of the order of the rows query."""
    for receiver, arrivals in fates.receivers.items():
        own = set()
        for fate, before in fates.messages.overtaken(arrivals.each()):
            own.add(fate.message)
            detail = f"received by {receiver} after the later {before.message} of the same sender"
            yield Anomaly("misordered", fate.message, detail, receiver, fate.invoked)
        if fates.started.order == "total":
            for fate, before in _out_of_rows(fates, arrivals.each()):
                if fate.message not in own:
                    detail = f"received by {receiver} after {before.message}, stored before it"
                    yield Anomaly("misordered", fate.message, detail, receiver, fate.invoked)


def phantom(fates: Fates) -> Iterator[Anomaly]:
    """Received, never stored."""
    stored = fates.messages.stored.first
    for receiver, arrivals in fates.receivers.items():
        for place in arrivals.each():
            if place < 0 and fates.messages.is_judged_before(fates.messages.name(place)):
                continue
            if place < 0 or stored[place] < 0:
                invoked = fates.messages.at(place).invoked if place >= 0 else None
                detail = f"received by {receiver}, never stored"
                yield Anomaly("phantom", fates.messages.name(place), detail, receiver, invoked)


def false_failure(fates: Fates) -> Iterator[Anomaly]:
    """The sender was told that it failed, the row is stored."""
    for fate in fates.apart:
        if fate.settled == "gave-up" and fate.rows:
            detail = f"its sender was told that it failed; stored as row {fates.rows[fate.rows[0]].id}"
            yield Anomaly("false_failure", fate.message, detail, time=fate.settled_at)


def not_durable(fates: Fates) -> Iterator[Anomaly]:
    """Acknowledged before all that the server wrote for it was synced: a power loss could lose it."""
    for trace in fates.traces:
        if trace.acknowledged and not is_durable(trace.calls):
            made = ", ".join(changes(trace.calls)) or "nothing"
            yield Anomaly("not_durable", trace.message, f"acknowledged when its store had seen {made}", time=trace.time)


def slow_recovery(fates: Fates) -> Iterator[Anomaly]:
    """The first acknowledgement after the last heal came later than the target claims to recover."""
    limit = fates.started.recovery_seconds
    if limit is not None and (recovery := _recovery(fates)) is not None and recovery[1] > limit:
        first, seconds = recovery
        detail = f"first acknowledgement {seconds:.3f} s after the heal, claimed are {limit:g} s"
        yield Anomaly("slow_recovery", first.message, detail, time=first.acknowledged_at)


ANOMALIES: tuple[Callable[[Fates], Iterator[Anomaly]], ...] = (
    lost,
    silent_drop,
    stuck,
    duplicate,
    corrupted,
    unexpected,
    aborted_read,
    crashed,
    reordered,
    missed,
    repeated,
    misordered,
    phantom,
    false_failure,
    not_durable,
    slow_recovery,
)


def _out_of_rows(fates: Fates, order: Iterable[int]) -> Iterator[tuple[Fate, Fate]]:
    """Stored messages that stand in `order` behind one whose row is later, each with the one of the latest row."""
    rows = fates.messages.stored.first
    highest = None
    for place in order:
        if place < 0 or rows[place] < 0:
            continue
        if highest is not None and rows[place] < rows[highest]:
            yield fates.messages.at(place), fates.messages.at(highest)
        else:
            highest = place


# -- the verdict -------------------------------------------------------------------------------------------------

_ALWAYS = frozenset({"corrupted", "unexpected", "aborted_read", "crashed", "slow_recovery"})
_BROKEN_BY: dict[h.Guarantee, frozenset[str]] = {
    "at-most-once": _ALWAYS | {"duplicate"},
    "at-least-once": _ALWAYS | {"lost", "silent_drop", "stuck", "not_durable"},
    "exactly-once": _ALWAYS | {"duplicate", "lost", "silent_drop", "stuck", "not_durable"},
}
_RECEIVERS_BROKEN_BY: dict[h.Receivers, frozenset[str]] = {
    "none": frozenset(),
    "at-least-once": frozenset({"missed", "phantom", "misordered"}),
    "exactly-once": frozenset({"missed", "phantom", "misordered", "repeated"}),
}


def threatens(kind: str, guarantee: h.Guarantee, order: h.Order, receivers: h.Receivers = "none") -> bool:
    """Whether an anomaly threatens what is claimed: a control that shows another one proves nothing.

    A sender that is told a failure which is none threatens no claim, and still is a thing to show.
    """
    if kind == "reordered":
        return order != "none"
    return kind in _BROKEN_BY[guarantee] | _RECEIVERS_BROKEN_BY[receivers] or kind == "false_failure"


def breaks(anomaly: Anomaly, fates: Fates) -> bool:
    """Whether an anomaly breaks what the target claims."""
    claims = fates.started
    if anomaly.kind in ("reordered", "misordered") and not _order_is_claimed(anomaly, fates):
        return False
    if anomaly.kind == "reordered":
        return True
    return anomaly.kind in _BROKEN_BY[claims.guarantee] | _RECEIVERS_BROKEN_BY[claims.receivers]


# Policies with several messages in flight, and those of them that send one again behind later ones.
_CONCURRENT = ("pipelined", "fire-and-forget", "resend", "once")
_OVERTAKING = ("resend",)


def _order_is_claimed(anomaly: Anomaly, fates: Fates) -> bool:
    fate = fates.messages.get(anomaly.message or "")
    policy = fate.policy if fate is not None else None
    match fates.started.order:
        case "none":
            return False
        case "sequential":
            return policy is not None and policy not in _CONCURRENT
        case "sender" | "total":
            return policy not in _OVERTAKING


def judge(history: h.History) -> Judgement:
    """Judge one run by what its target claims.

    Raises:
        HarnessError: the history is damaged.
    """
    fates = fold(history)
    # A run that did not come to its end accuses nobody: what it lacks may only not have been read.
    ended = fates.finished and not fates.failures
    anomalies = [anomaly for find in ANOMALIES for anomaly in find(fates)] if ended else []
    broken_by = [anomaly for anomaly in anomalies if breaks(anomaly, fates)]
    recovery = _recovery(fates)
    verdict, why = _verdict(fates, broken_by)
    return Judgement(
        verdict,
        why,
        broken_by,
        [anomaly for anomaly in anomalies if not breaks(anomaly, fates)],
        _counts(fates, anomalies),
        fates.bites,
        recovery[1] if recovery is not None else None,
        _worst_delay_seconds(fates),
    )


def _verdict(fates: Fates, broken_by: list[Anomaly]) -> tuple[VerdictWord, str]:
    if fates.failures:
        return "error", f"{fates.failures[0].where}: {fates.failures[0].reason}"
    if not fates.finished:
        return "error", "the run was interrupted before its final read"
    if broken_by:
        kinds = list(dict.fromkeys(anomaly.kind for anomaly in broken_by))
        claim = f"recovery in {fates.started.recovery_seconds:g} s" if kinds == ["slow_recovery"] else _claim(fates)
        return "broken", f"{claim} does not hold: {', '.join(kinds)}"
    unseen = [bite for bite in fates.bites if not bite.seen]
    if unseen:
        return "unproven", f"the fault {unseen[0].fault} was not seen to bite {unseen[0].message}: {unseen[0].evidence}"
    if missing := _missing_evidence(fates):
        return "unproven", missing
    if fates.messages.soaked is not None and fates.messages.soaked.unproven:
        return "unproven", f"in a part before: {fates.messages.soaked.unproven}"
    return "kept", f"{_claim(fates)} held"


def _claim(fates: Fates) -> str:
    order = fates.started.order
    return fates.started.guarantee + ("" if order == "none" else f" in {order} order")


def _missing_evidence(fates: Fates) -> str | None:
    """Why a run without an anomaly says nothing, if so: a server that does nothing must not pass."""
    if next(fates.messages.arrivals(), None) is None:
        return "no message was acknowledged"
    if fates.first_fault is None:
        return None
    if not any(at < fates.first_fault for _, at in fates.messages.arrivals()):
        return "no message was acknowledged before the fault"
    if fates.last_heal is None or not any(invoked > fates.last_heal for invoked, _ in fates.messages.arrivals()):
        return "no message that was posted after the fault was acknowledged"
    bitten = {bite.number for bite in fates.bites}
    unshown = [name for number, name in fates.faults.items() if number not in bitten]
    if unshown:
        return f"the fault {unshown[0]} acted, and nothing shows that it bit a message"
    return None


def _counts(fates: Fates, anomalies: list[Anomaly]) -> dict[str, int]:
    shown = ("lost", "duplicate", "reordered", "unexpected")
    counts = fates.messages.counts() | {"foreign": fates.foreign}
    counts |= {kind: sum(anomaly.kind == kind for anomaly in anomalies) for kind in shown}
    before = fates.messages.soaked.counts if fates.messages.soaked is not None else {}
    return {what: count + before.get(what, 0) for what, count in counts.items()}


def _recovery(fates: Fates) -> tuple[Fate, float] | None:
    """The first message that was acknowledged after the last heal began, and how long that took.

    The time runs from then, or from when there was a message to acknowledge.
    """
    if fates.last_heal is None or fates.heal_began is None:
        return None
    heal = fates.heal_began
    first, answered, waited = None, math.inf, math.inf
    for place, invoked, at in fates.messages.acknowledgements():
        if at is None or at >= heal:
            waited = min(waited, invoked)
            if at is not None and at < answered:
                first, answered = place, at
    if first is None:
        return None
    return fates.messages.at(first), round(answered - max(heal, waited), 6)


def _worst_delay_seconds(fates: Fates) -> float | None:
    """The longest time from a message being handed over to its acknowledgement."""
    delays = (at - invoked for _, invoked, at in fates.messages.acknowledgements() if at is not None)
    worst = max(delays, default=None)
    return None if worst is None else round(worst, 6)


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
