"""Judges one run: History in, Judgement out. Pure: no clock, no file, no process.

The history is folded once into fates, what became of each message; every anomaly is a small function of fates; the
target's claims decide which anomalies break.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from harness import history as h
from harness.errors import HarnessError

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
    "slow_recovery",
]


class Attempted(msgspec.Struct):
    """One emission of a message and how it ended."""

    number: int
    offset: str
    connection: int
    began: float
    outcome: Literal["ok", "info", "fail"] | None = None
    late: bool = False
    timed_out: bool = False
    ended: float | None = None
    reason: str = ""


class Fate(msgspec.Struct):
    """What became of one message. `rows` and `received` hold positions in the final read and in each receiver.

    `received_otherwise` holds the receivers that got other content than was sent, with that.
    """

    message: str
    sender: str
    sequence: int
    content: str
    policy: h.Policy
    invoked: float
    attempts: list[Attempted] = []
    settled: Literal["acknowledged", "handed-over", "gave-up"] | None = None
    settled_at: float | None = None
    rows: list[int] = []
    received: dict[str, list[int]] = {}
    received_otherwise: list[tuple[str, str | None]] = []

    @property
    def outcome(self) -> Literal["ok", "info", "fail"] | None:
        """The fold of the attempts that did not answer late: ok outweighs info, info outweighs fail."""
        outcomes = {attempt.outcome for attempt in self.attempts}
        return next((word for word in ("ok", "info", "fail") if word in outcomes), None)

    @property
    def acknowledged_at(self) -> float | None:
        """When its first acknowledgement came."""
        return min((a.ended for a in self.attempts if a.outcome == "ok" and a.ended is not None), default=None)

    @property
    def arrived_at(self) -> float | None:
        """When it was acknowledged, or, where nobody asked for that, handed over, if it is stored."""
        handed_over = self.settled_at if self.settled == "handed-over" and self.rows else None
        return self.acknowledged_at if self.acknowledged_at is not None else handed_over


class Fates(msgspec.Struct):
    """A folded history.

    `first_fault` and `last_heal` are the times between which the faults of the run lie, None without a fault;
    `last_heal` is None also when a fault did not heal, and `heal_began` is when the last of them began to.
    """

    started: h.Started
    messages: dict[str, Fate] = {}
    rows: list[h.Row] = []
    row_messages: list[str | None] = []
    receivers: dict[str, list[str]] = {}
    foreign: int = 0
    exits: list[h.ServerExited] = []
    faults: dict[int, str] = {}
    kinds: dict[int, h.FaultKind] = {}
    bites: list[h.Bitten] = []
    failures: list[h.Failed] = []
    first_fault: float | None = None
    heal_began: float | None = None
    last_heal: float | None = None
    finished: bool = False


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


# -- the fold ----------------------------------------------------------------------------------------------------


def fold(history: h.History) -> Fates:
    """Fold a history into the fates of its messages, in one pass.

    Raises:
        HarnessError: an event speaks of a message, an attempt, a receiver or a fault that no earlier event names, or
            contradicts one: the history is damaged, and says nothing.
    """
    fates = Fates(history.started)
    run = history.started.run
    attempts: dict[tuple[str, int], Attempted] = {}
    acting: set[int] = set()
    healing: set[int] = set()
    seen_unposted: set[str | None] = set()

    def answer(event: h.Ok | h.Info | h.Fail, outcome: Literal["ok", "info", "fail"]) -> None:
        attempt = attempts[event.message, event.attempt]
        if attempt.outcome is None:
            attempt.outcome, attempt.ended = outcome, event.time
        elif attempt.outcome != outcome:
            raise KeyError(event.attempt)

    def take(event: h.AnyEvent) -> None:
        match event:
            case h.Invoke():
                # An identity that could not be told in a row would make every message look lost.
                known = event.message in fates.messages or event.message in seen_unposted
                if known or h.identity_in(run, event.message) != event.message:
                    raise KeyError(event.message)
                fates.messages[event.message] = Fate(
                    event.message, event.sender, event.sequence, event.content, event.policy, event.time
                )
            case h.Attempt():
                if (event.message, event.attempt) in attempts:
                    raise KeyError(event.attempt)
                attempt = Attempted(event.attempt, event.offset, event.connection, event.time)
                attempts[event.message, event.attempt] = attempt
                fates.messages[event.message].attempts.append(attempt)
            case h.Ok(late=True):
                attempts[event.message, event.attempt].late = True
            case h.Ok():
                answer(event, "ok")
            case h.Info():
                answer(event, "info")
                attempts[event.message, event.attempt].timed_out = event.timed_out
                attempts[event.message, event.attempt].reason = event.reason
            case h.Fail():
                answer(event, "fail")
                attempts[event.message, event.attempt].reason = event.reason
            case h.Settled():
                fate = fates.messages[event.message]
                fate.settled, fate.settled_at = event.outcome, event.time
            case h.Row():
                message = h.identity_in(run, event.content, event.client_offset)
                if message not in fates.messages:
                    seen_unposted.add(message)
                _add_row(fates, event, message)
            case h.Receiving():
                fates.receivers.setdefault(event.receiver, [])
            case h.Received():
                message = h.identity_in(run, event.content)
                if message not in fates.messages:
                    seen_unposted.add(message)
                _add_received(fates, event, message)
            case h.ServerExited():
                fates.exits.append(event)
            case h.Bitten():
                if event.message not in fates.messages:
                    raise KeyError(event.message)
                fates.bites.append(event)
            case h.Failed():
                fates.failures.append(event)
            case h.FaultBegan():
                acting.add(event.number)
                fates.faults[event.number] = event.fault
                fates.kinds[event.number] = event.kind
                fates.first_fault = event.time if fates.first_fault is None else fates.first_fault
                fates.last_heal = fates.heal_began = None
            case h.Healing():
                healing.add(event.number)
                fates.heal_began = event.time
            case h.FaultEnded():
                acting.remove(event.number)
                fates.last_heal = None if acting else event.time
                if event.number not in healing:
                    fates.heal_began = event.time
            case h.Finished():
                fates.finished = True
            case _:
                pass

    for number, event in enumerate(history, start=1):
        try:
            take(event)
        except KeyError:
            text = f"event {number} of the history does not fit what came before it: {event}"
            raise HarnessError(text[:400]) from None
    return fates


def _add_row(fates: Fates, row: h.Row, message: str | None) -> None:
    if message is None:
        fates.foreign += 1
    elif message in fates.messages:
        fates.messages[message].rows.append(len(fates.rows))
    fates.rows.append(row)
    fates.row_messages.append(message)


def _add_received(fates: Fates, event: h.Received, message: str | None) -> None:
    sequence = fates.receivers[event.receiver]
    if message is None:
        return
    if message in fates.messages:
        fate = fates.messages[message]
        fate.received.setdefault(event.receiver, []).append(len(sequence))
        if event.content != fate.content:
            fate.received_otherwise.append((event.receiver, event.content))
    sequence.append(message)


# -- the anomalies -----------------------------------------------------------------------------------------------


def lost(fates: Fates) -> Iterator[Anomaly]:
    """Acknowledged (or handed over, where the policy has no acknowledgement), not stored."""
    for fate in fates.messages.values():
        if not fate.rows and (fate.outcome == "ok" or fate.settled in ("acknowledged", "handed-over")):
            told = "acknowledged" if fate.outcome == "ok" or fate.settled == "acknowledged" else "handed over"
            yield Anomaly("lost", fate.message, f"{told}, not stored", time=fate.settled_at)


def silent_drop(fates: Fates) -> Iterator[Anomaly]:
    """Given up without telling the sender, as a later message of the same sender shows."""
    latest = _latest_settled(fates)
    for fate in fates.messages.values():
        if fate.settled is None and fate.sequence < latest[fate.sender]:
            detail = "never settled, though a later message of its sender was attempted and settled"
            yield Anomaly("silent_drop", fate.message, detail, time=fate.invoked)


def stuck(fates: Fates) -> Iterator[Anomaly]:
    """Not settled by the deadline."""
    latest = _latest_settled(fates)
    for fate in fates.messages.values():
        if fate.settled is None and fate.sequence >= latest[fate.sender]:
            detail = f"not settled by the deadline, after {_times(len(fate.attempts), 'attempt')}"
            yield Anomaly("stuck", fate.message, detail, time=fate.invoked)


def _latest_settled(fates: Fates) -> dict[str, int]:
    latest: dict[str, int] = defaultdict(lambda: -1)
    for fate in fates.messages.values():
        if fate.attempts and fate.settled is not None:
            latest[fate.sender] = max(latest[fate.sender], fate.sequence)
    return latest


def duplicate(fates: Fates) -> Iterator[Anomaly]:
    """Stored more than once."""
    for fate in fates.messages.values():
        if len(fate.rows) > 1:
            ids = ", ".join(str(fates.rows[position].id) for position in fate.rows)
            yield Anomaly("duplicate", fate.message, f"stored {len(fate.rows)} times: rows {ids}", time=fate.invoked)


def corrupted(fates: Fates) -> Iterator[Anomaly]:
    """Stored with other content, or received with other content than was sent and is stored."""
    for fate in fates.messages.values():
        for position in fate.rows:
            row = fates.rows[position]
            if row.content != fate.content:
                detail = f"row {row.id}: {_difference(fate.content, row.content)}"
                yield Anomaly("corrupted", fate.message, detail, time=fate.invoked)
        stored = [fates.rows[position].content for position in fate.rows]
        for receiver, content in fate.received_otherwise:
            if content not in stored:
                detail = f"received by {receiver}: {_difference(fate.content, content)}"
                yield Anomaly("corrupted", fate.message, detail, receiver, fate.invoked)


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
    for row, message in zip(fates.rows, fates.row_messages, strict=True):
        if message is not None and message not in fates.messages:
            yield Anomaly("unexpected", message, f"row {row.id} holds a message that was never posted")


def aborted_read(fates: Fates) -> Iterator[Anomaly]:
    """Definitely failed, yet stored."""
    for fate in fates.messages.values():
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
    for fate, before in _overtaken(fates, _first_of_each(fates.row_messages)):
        row, other = (fates.rows[f.rows[0]].id for f in (fate, before))
        detail = f"stored as row {row}, after the later {before.message} (row {other})"
        yield Anomaly("reordered", fate.message, detail, time=fate.invoked)


def missed(fates: Fates) -> Iterator[Anomaly]:
    """A receiver did not get a stored message."""
    for receiver in fates.receivers:
        for fate in fates.messages.values():
            if fate.rows and receiver not in fate.received:
                detail = f"stored as row {fates.rows[fate.rows[0]].id}, never received by {receiver}"
                yield Anomaly("missed", fate.message, detail, receiver, fate.invoked)


def repeated(fates: Fates) -> Iterator[Anomaly]:
    """A receiver got a message more often than it is stored (a message stored twice is a `duplicate`)."""
    for fate in fates.messages.values():
        for receiver, positions in fate.received.items():
            if len(positions) > max(1, len(fate.rows)):
                detail = f"received {len(positions)} times by {receiver}"
                yield Anomaly("repeated", fate.message, detail, receiver, fate.invoked)


def misordered(fates: Fates) -> Iterator[Anomaly]:
    """A receiver got a sender's messages out of order; under `total`, rows out of the order of the rows query."""
    position = {message: place for place, message in enumerate(_first_of_each(fates.row_messages))}
    for receiver, sequence in fates.receivers.items():
        order = _first_of_each(sequence)
        for fate, before in _overtaken(fates, order):
            detail = f"received by {receiver} after the later {before.message} of the same sender"
            yield Anomaly("misordered", fate.message, detail, receiver, fate.invoked)
        if fates.started.order == "total":
            own = {fate.message for fate, _ in _overtaken(fates, order)}
            highest = ""
            for message in order:
                if message not in position or message not in fates.messages:
                    continue
                if highest and position[message] < position[highest] and message not in own:
                    detail = f"received by {receiver} after {highest}, stored before it"
                    yield Anomaly("misordered", message, detail, receiver, fates.messages[message].invoked)
                elif not highest or position[message] > position[highest]:
                    highest = message


def phantom(fates: Fates) -> Iterator[Anomaly]:
    """Received, never stored."""
    for receiver, sequence in fates.receivers.items():
        for message in dict.fromkeys(sequence):
            fate = fates.messages.get(message)
            if fate is None or not fate.rows:
                detail = f"received by {receiver}, never stored"
                yield Anomaly("phantom", message, detail, receiver, fate.invoked if fate else None)


def false_failure(fates: Fates) -> Iterator[Anomaly]:
    """The sender was told that it failed, the row is stored."""
    for fate in fates.messages.values():
        if fate.settled == "gave-up" and fate.rows:
            detail = f"its sender was told that it failed; stored as row {fates.rows[fate.rows[0]].id}"
            yield Anomaly("false_failure", fate.message, detail, time=fate.settled_at)


def slow_recovery(fates: Fates) -> Iterator[Anomaly]:
    """The first acknowledgement after the last heal came later than the target claims to recover."""
    limit, recovery = fates.started.recovery_seconds, _recovery(fates)
    if limit is not None and recovery is not None and recovery[1] > limit:
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
    slow_recovery,
)


def _first_of_each(messages: list[str | None] | list[str]) -> list[str]:
    return [message for message in dict.fromkeys(messages) if message is not None]


def _overtaken(fates: Fates, order: list[str]) -> Iterator[tuple[Fate, Fate]]:
    """Messages that stand in `order` behind a later message of their sender, each with that later message."""
    latest: dict[str, Fate] = {}
    for message in order:
        fate = fates.messages.get(message)
        if fate is None:
            continue
        before = latest.get(fate.sender)
        if before is not None and fate.sequence < before.sequence:
            yield fate, before
        else:
            latest[fate.sender] = fate


# -- the verdict -------------------------------------------------------------------------------------------------

_ALWAYS = frozenset({"corrupted", "unexpected", "aborted_read", "crashed", "slow_recovery"})
_BROKEN_BY: dict[h.Guarantee, frozenset[str]] = {
    "at-most-once": _ALWAYS | {"duplicate"},
    "at-least-once": _ALWAYS | {"lost", "silent_drop", "stuck"},
    "exactly-once": _ALWAYS | {"duplicate", "lost", "silent_drop", "stuck"},
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
    return "kept", f"{_claim(fates)} held"


def _claim(fates: Fates) -> str:
    order = fates.started.order
    return fates.started.guarantee + ("" if order == "none" else f" in {order} order")


def _missing_evidence(fates: Fates) -> str | None:
    """Why a run without an anomaly says nothing, if so: a server that does nothing must not pass."""
    arrived = [(fate, at) for fate in _scheduled(fates) if (at := fate.arrived_at) is not None]
    if not arrived:
        return "no message was acknowledged"
    if fates.first_fault is None:
        return None
    if not any(at < fates.first_fault for _, at in arrived):
        return "no message was acknowledged before the fault"
    if fates.last_heal is None or not any(fate.invoked > fates.last_heal for fate, _ in arrived):
        return "no message that was posted after the fault was acknowledged"
    bitten = {bite.number for bite in fates.bites}
    unshown = [name for number, name in fates.faults.items() if number not in bitten]
    if unshown:
        return f"the fault {unshown[0]} acted, and nothing shows that it bit a message"
    return None


def _scheduled(fates: Fates) -> list[Fate]:
    return [fate for fate in fates.messages.values() if fate.sender != h.MARKER]


def _counts(fates: Fates, anomalies: list[Anomaly]) -> dict[str, int]:
    messages = _scheduled(fates)
    counts = {
        "sent": len(messages),
        "acknowledged": sum(fate.outcome == "ok" for fate in messages),
        "stored": sum(bool(fate.rows) for fate in messages),
        "attempts": sum(len(fate.attempts) for fate in messages),
        "foreign": fates.foreign,
    }
    shown = ("lost", "duplicate", "reordered", "unexpected")
    return counts | {kind: sum(anomaly.kind == kind for anomaly in anomalies) for kind in shown}


def _recovery(fates: Fates) -> tuple[Fate, float] | None:
    """The first message that was acknowledged after the last heal began, and how long that took.

    The time runs from then, or from when there was a message to acknowledge.
    """
    if fates.last_heal is None or fates.heal_began is None:
        return None
    heal = fates.heal_began
    waiting = [fate for fate in _scheduled(fates) if (fate.acknowledged_at or heal) >= heal]
    answered = [(at, fate) for fate in waiting if (at := fate.acknowledged_at) is not None]
    if not answered:
        return None
    at, first = min(answered, key=lambda pair: pair[0])
    return first, round(at - max(heal, min(fate.invoked for fate in waiting)), 6)


def _worst_delay_seconds(fates: Fates) -> float | None:
    """The longest time from a message being handed over to its acknowledgement."""
    delays = [at - fate.invoked for fate in _scheduled(fates) if (at := fate.acknowledged_at) is not None]
    return round(max(delays), 6) if delays else None


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
