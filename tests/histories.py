"""Histories written by hand, and strategies that generate valid ones and ones of arbitrary events."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import msgspec
from hypothesis import strategies as st

from harness import history as h
from harness.checker import Anomaly, judge

T = TypeVar("T")

RUN = "r4f1c"
"""The token that begins the identities of the run."""

Outcome = Literal["acknowledged", "handed-over", "gave-up"]


def identity(sender: str, sequence: int) -> str:
    """The identity of a message of the run."""
    return h.message_id(RUN, sender, sequence)


def content_of(message: str, body: str = "hello") -> str:
    """A content with the message's identity at both ends."""
    return f"{message} {body} {message}"


def started(
    *,
    guarantee: h.Guarantee = "exactly-once",
    order: h.Order = "total",
    receivers: h.Receivers = "exactly-once",
    role: h.Role = "claim",
    control: str | None = None,
    recovery_seconds: float | None = None,
) -> h.Started:
    """The first event of a run."""
    return h.Started(
        time=0.0,
        run=RUN,
        scenario="lock-long-python-polling",
        role=role,
        control=control,
        expected=None,
        client="python",
        transport="polling",
        seed=7,
        target="reference",
        guarantee=guarantee,
        order=order,
        receivers=receivers,
        recovery_seconds=recovery_seconds,
    )


def in_time(first: h.Started, events: Iterable[h.AnyEvent]) -> h.History:
    """A history whose events happen a millisecond after each other."""
    return h.History(
        [first, *(msgspec.structs.replace(event, time=number / 1000) for number, event in enumerate(events, start=1))]
    )


@dataclass(frozen=True)
class Posted:
    """A message as its sender knows it."""

    message: str
    sender: str
    sequence: int
    content: str


def finding(anomaly: Anomaly) -> tuple[str, str | None, str | None]:
    """What is compared of an anomaly: its kind, its message and its receiver."""
    return anomaly.kind, anomaly.message, anomaly.receiver


def findings(history: h.History) -> list[tuple[str, str | None, str | None]]:
    """What the checker finds in a history: kind, message and receiver of each anomaly."""
    return sorted(map(finding, judge(history).anomalies), key=str)


class Script:
    """A history written by hand: each method appends what its name says."""

    def __init__(
        self,
        *,
        guarantee: h.Guarantee = "exactly-once",
        order: h.Order = "total",
        receivers: h.Receivers = "exactly-once",
        role: h.Role = "claim",
        control: str | None = None,
        recovery_seconds: float | None = None,
    ) -> None:
        self.started = started(
            guarantee=guarantee,
            order=order,
            receivers=receivers,
            role=role,
            control=control,
            recovery_seconds=recovery_seconds,
        )
        self.events: list[h.AnyEvent] = []
        self._attempts: dict[str, int] = {}
        self._sequences: dict[str, int] = {}
        self._rows = 0

    def history(self) -> h.History:
        """What has been written, as a history."""
        return in_time(self.started, self.events)

    def finished(self) -> h.History:
        """The history, with its last event."""
        self.events.append(h.Finished(time=0.0))
        return self.history()

    # -- senders -------------------------------------------------------------------------------------------------

    def post(
        self,
        sender: str = "alice",
        *,
        policy: h.Policy = "persistent",
        sequence: int | None = None,
        body: str = "hello",
    ) -> Posted:
        """A message is handed to its sender."""
        number = self._sequences.get(sender, 0) + 1 if sequence is None else sequence
        self._sequences[sender] = number
        message = identity(sender, number)
        posted = Posted(message, sender, number, content_of(message, body))
        self.events.append(
            h.Invoke(time=0.0, message=message, sender=sender, sequence=number, content=posted.content, policy=policy)
        )
        return posted

    def attempt(self, posted: Posted) -> None:
        """Its next attempt begins."""
        number = self._attempts[posted.message] = self._attempts.get(posted.message, 0) + 1
        self.events.append(
            h.Attempt(time=0.0, message=posted.message, attempt=number, offset=f"{posted.message}-o", connection=1)
        )

    def ok(self, posted: Posted) -> None:
        """Its last attempt is acknowledged."""
        self.events.append(h.Ok(time=0.0, message=posted.message, attempt=self._attempts[posted.message], late=False))

    def late_ok(self, posted: Posted, attempt: int = 1) -> None:
        """An attempt that has ended is acknowledged after all."""
        self.events.append(h.Ok(time=0.0, message=posted.message, attempt=attempt, late=True))

    def info(self, posted: Posted, *, timed_out: bool = False) -> None:
        """Its last attempt ends without an answer."""
        self.events.append(
            h.Info(
                time=0.0,
                message=posted.message,
                attempt=self._attempts[posted.message],
                reason="no answer",
                timed_out=timed_out,
            )
        )

    def fail(self, posted: Posted) -> None:
        """Its last attempt ends before anything was sent."""
        self.events.append(
            h.Fail(time=0.0, message=posted.message, attempt=self._attempts[posted.message], reason="not connected")
        )

    def settle(self, posted: Posted, outcome: Outcome = "acknowledged") -> None:
        """Its sender is told what became of it."""
        self.events.append(h.Settled(time=0.0, message=posted.message, outcome=outcome))

    def acknowledge(self, posted: Posted) -> None:
        """Its last attempt is acknowledged and its sender told."""
        self.ok(posted)
        self.settle(posted)

    def send(
        self,
        sender: str = "alice",
        *,
        policy: h.Policy = "persistent",
        sequence: int | None = None,
        body: str = "hello",
    ) -> Posted:
        """A message is posted, attempted once and acknowledged."""
        posted = self.post(sender, policy=policy, sequence=sequence, body=body)
        self.attempt(posted)
        self.acknowledge(posted)
        return posted

    def give_up(self, sender: str = "alice", *, policy: h.Policy = "pipelined") -> Posted:
        """A message is posted, attempted once without an answer, and its sender told so."""
        posted = self.post(sender, policy=policy)
        self.attempt(posted)
        self.info(posted)
        self.settle(posted, "gave-up")
        return posted

    def hand_over(self, sender: str = "alice") -> Posted:
        """A message is posted by a sender that asks for no acknowledgement, and attempted once."""
        posted = self.post(sender, policy="fire-and-forget")
        self.settle(posted, "handed-over")
        self.attempt(posted)
        return posted

    # -- faults and the server -----------------------------------------------------------------------------------

    def fault(self, number: int = 1) -> None:
        """A fault is about to act."""
        self.events.append(h.FaultBegan(time=0.0, number=number, fault="cut", kind="link", on="alice"))

    def bitten(self, posted: Posted, *, seen: bool = True, number: int = 1) -> None:
        """The fault was, or was not, seen to bite a message."""
        evidence = "its row is readable, and no attempt is answered" if seen else "its row was never readable"
        self.events.append(
            h.Bitten(time=0.0, number=number, fault="cut", message=posted.message, seen=seen, evidence=evidence)
        )

    def healed(self, number: int = 1) -> None:
        """A fault has healed."""
        self.events.append(h.FaultEnded(time=0.0, number=number))

    def exited(self, *, expected: bool) -> None:
        """The server's process ended."""
        self.events.append(h.ServerExited(time=0.0, status=-9, expected=expected, reason="signal 9"))

    def failed(self) -> None:
        """Something around the traffic failed."""
        self.events.append(h.Failed(time=0.0, where="toxiproxy", reason="it does not answer"))

    # -- the store and the receivers -----------------------------------------------------------------------------

    def row(self, content: str | None, client_offset: str | None = None) -> None:
        """The next row of the final read."""
        self._rows += 1
        self.events.append(h.Row(time=0.0, id=self._rows, client_offset=client_offset, content=content))

    def rows(self, *stored: Posted) -> None:
        """The next rows of the final read hold these messages, whole."""
        for posted in stored:
            self.row(posted.content, f"{posted.message}-o")

    def receiving(self, *receivers: str) -> None:
        """Receivers are connected."""
        self.events += [h.Receiving(time=0.0, receiver=receiver) for receiver in receivers]

    def receives(self, receiver: str, *received: Posted) -> None:
        """A receiver gets these messages, in this order."""
        for posted in received:
            self.broadcast(receiver, posted.content)

    def broadcast(self, receiver: str, content: str | None) -> None:
        """A receiver gets a broadcast."""
        self.events.append(h.Received(time=0.0, receiver=receiver, server_offset=None, content=content))


# -- valid histories ---------------------------------------------------------------------------------------------

SENDERS = ("alice", "bob", "carol")
RECEIVERS = ("rita", "rob")
# Half a surrogate pair is no text: what the recorder makes of it is a test of its own.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@dataclass
class Sketch:
    """The parts of a valid history, to be put together or damaged first.

    `posted` are the messages, `acknowledged` and `stored` those of them that were, the latter in the order of their
    rows. Each sender's first and last messages are acknowledged.
    """

    started: h.Started
    traffic: list[h.AnyEvent]
    rows: list[h.Row]
    receptions: dict[str, list[h.Received]]
    posted: list[Posted]
    acknowledged: list[Posted]
    stored: list[Posted]

    def history(self) -> h.History:
        """Put the parts together."""
        receiving: list[h.AnyEvent] = [h.Receiving(time=0.0, receiver=receiver) for receiver in self.receptions]
        received = [reception for receptions in self.receptions.values() for reception in receptions]
        drained = h.Drained(time=0.0, complete=True)
        return in_time(self.started, [*receiving, *self.traffic, *received, drained, *self.rows, h.Finished(time=0.0)])

    def of_sender(self, sender: str) -> list[Posted]:
        """The stored messages of a sender, in its order."""
        return [posted for posted in self.stored if posted.sender == sender]

    def places(self, posted: Posted) -> list[int]:
        """Where in `rows` a message is stored."""
        return [place for place, row in enumerate(self.rows) if row.content == posted.content]

    def heard(self, receiver: str, posted: Posted) -> int:
        """Where among a receiver's receptions a message is."""
        contents = [reception.content for reception in self.receptions[receiver]]
        return contents.index(posted.content)


@st.composite
def _message(
    draw: st.DrawFn, sender: str, sequence: int, policy: h.Policy, acknowledged: bool
) -> tuple[Posted, list[h.AnyEvent], bool]:
    """One message with any attempts; its events, and whether it is stored."""
    message = identity(sender, sequence)
    posted = Posted(message, sender, sequence, content_of(message, draw(TEXTS)))
    events: list[h.AnyEvent] = [
        h.Invoke(time=0.0, message=message, sender=sender, sequence=sequence, content=posted.content, policy=policy)
    ]
    endings = draw(st.lists(st.sampled_from(["info", "fail", "late"]), max_size=3))
    if acknowledged:
        endings.append("ok")
    late = []
    for number, ending in enumerate(endings, start=1):
        events.append(
            h.Attempt(time=0.0, message=message, attempt=number, offset=f"{message}-{number}", connection=number)
        )
        match ending:
            case "ok":
                events.append(h.Ok(time=0.0, message=message, attempt=number, late=False))
            case "fail":
                events.append(h.Fail(time=0.0, message=message, attempt=number, reason="not connected"))
            case _:
                timed_out = draw(st.booleans())
                events.append(
                    h.Info(time=0.0, message=message, attempt=number, reason="no answer", timed_out=timed_out)
                )
        if ending == "late":
            late.append(h.Ok(time=0.0, message=message, attempt=number, late=True))
    events.append(h.Settled(time=0.0, message=message, outcome="acknowledged" if acknowledged else "gave-up"))
    # A server that acknowledges late has stored; what was never sent cannot be; the rest is open.
    stored = acknowledged or bool(late) or ("info" in endings and draw(st.booleans()))
    return posted, [*events, *late], stored


@st.composite
def _merged(draw: st.DrawFn, tracks: Sequence[Sequence[T]]) -> list[T]:
    """Several tracks in one order that keeps each track's own."""
    turns = draw(st.permutations([number for number, track in enumerate(tracks) for _ in track]))
    following = [iter(track) for track in tracks]
    return [next(following[turn]) for turn in turns]


@st.composite
def _store(
    draw: st.DrawFn, first: h.Started, stored: Sequence[Sequence[Posted]]
) -> tuple[list[Posted], list[h.Row], dict[str, list[h.Received]]]:
    """The final read and the receptions for what is stored of each sender: once, in order, foreign rows between."""
    in_rows = draw(_merged(stored))
    rows = []
    for place, posted in enumerate(in_rows):
        offset = draw(st.sampled_from([None, f"{posted.message}-1", "not ours"]))
        rows.append(h.Row(time=0.0, id=place * 10, client_offset=offset, content=posted.content))
    for place in draw(st.lists(st.integers(0, len(rows)), max_size=2)):
        content = draw(st.none() | TEXTS)
        rows.insert(place, h.Row(time=0.0, id="foreign", client_offset=None, content=content))
    receptions = {}
    for receiver in RECEIVERS:
        heard = in_rows if first.order == "total" else draw(_merged(stored))
        receptions[receiver] = [
            h.Received(time=0.0, receiver=receiver, server_offset=place, content=posted.content)
            for place, posted in enumerate(heard)
        ]
    return in_rows, rows, receptions


@st.composite
def sketches(draw: st.DrawFn, *, order: h.Order | None = None, senders: int = 1) -> Sketch:
    """The parts of a valid history: at least `senders` senders, any attempts, faults that bit, foreign rows."""
    first = started(
        guarantee=draw(st.sampled_from(get_args(h.Guarantee))),
        order=draw(st.sampled_from(get_args(h.Order))) if order is None else order,
        receivers=draw(st.sampled_from(get_args(h.Receivers))),
    )
    tracks: list[list[tuple[Posted, list[h.AnyEvent]]]] = []
    acknowledged: list[Posted] = []
    stored: list[list[Posted]] = []
    for sender in SENDERS[: draw(st.integers(senders, len(SENDERS)))]:
        policy: h.Policy = draw(st.sampled_from(("persistent", "pipelined", "resend")))
        track, stored_of_sender = [], []
        fates = [True, *draw(st.lists(st.booleans(), max_size=2)), True]
        for sequence, is_acknowledged in enumerate(fates, start=1):
            posted, events, is_stored = draw(_message(sender, sequence, policy, is_acknowledged))
            track.append((posted, events))
            acknowledged += [posted] if is_acknowledged else []
            stored_of_sender += [posted] if is_stored else []
        tracks.append(track)
        stored.append(stored_of_sender)

    # Every sender's first message comes before the faults, its last one after them.
    before = [track[0] for track in tracks]
    during = draw(_merged([track[1:-1] for track in tracks]))
    after = [track[-1] for track in tracks]
    faults = range(draw(st.integers(0, 2)))
    traffic: list[h.AnyEvent] = [event for _, events in before for event in events]
    traffic += [h.FaultBegan(time=0.0, number=fault, fault="cut", kind="link", on="alice") for fault in faults]
    traffic += [event for _, events in during for event in events]
    for fault in faults:
        message = draw(st.sampled_from(during or before))[0].message
        traffic.append(h.Bitten(time=0.0, number=fault, fault="cut", message=message, seen=True, evidence="no answer"))
        traffic.append(h.FaultEnded(time=0.0, number=fault))
    traffic += [event for _, events in after for event in events]

    in_rows, rows, receptions = draw(_store(first, stored))
    posts = [posted for track in tracks for posted, _ in track]
    return Sketch(first, traffic, rows, receptions, posts, acknowledged, in_rows)


# -- arbitrary events --------------------------------------------------------------------------------------------

_TIMES = st.floats(0, 1e6)
_COUNTS = st.integers(-1, 3)
_NAMES = st.sampled_from(["alice", "rita", ""])
_MESSAGES = st.sampled_from([identity("alice", 1), identity("alice", 2), identity("bob", 1), "nobody's"])
_OFFSETS = st.none() | TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


def events(texts: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[h.AnyEvent]:
    """Any event but `started`, about few messages, clients and faults, so that some events fit each other."""
    contents = st.none() | _MESSAGES | texts
    counts, names, messages = _COUNTS, _NAMES, _MESSAGES
    kinds: dict[type[h.AnyEvent], dict[str, st.SearchStrategy[Any]]] = {
        h.Connected: {"client": names, "connection": counts},
        h.ConnectFailed: {"client": names, "connection": counts, "reason": texts},
        h.Disconnected: {"client": names, "connection": counts, "reason": texts},
        h.Invoke: {
            "message": messages,
            "sender": names,
            "sequence": counts,
            "content": texts,
            "policy": st.sampled_from(get_args(h.Policy)),
        },
        h.Attempt: {"message": messages, "attempt": counts, "offset": texts, "connection": counts},
        h.Ok: {"message": messages, "attempt": counts, "late": st.booleans()},
        h.Fail: {"message": messages, "attempt": counts, "reason": texts},
        h.Info: {"message": messages, "attempt": counts, "reason": texts, "timed_out": st.booleans()},
        h.Settled: {"message": messages, "outcome": st.sampled_from(["acknowledged", "handed-over", "gave-up"])},
        h.Receiving: {"receiver": names},
        h.Received: {"receiver": names, "server_offset": _OFFSETS, "content": contents},
        h.FaultBegan: {
            "number": counts,
            "fault": texts,
            "kind": st.sampled_from(get_args(h.FaultKind)),
            "on": names,
        },
        h.FaultEnded: {"number": counts},
        h.Bitten: {
            "number": counts,
            "fault": texts,
            "message": messages,
            "seen": st.booleans(),
            "evidence": texts,
        },
        h.ServerStarted: {"pid": counts},
        h.ServerExited: {"status": counts, "expected": st.booleans(), "reason": texts},
        h.Drained: {"complete": st.booleans()},
        h.Row: {"id": _OFFSETS, "client_offset": contents, "content": contents},
        h.Failed: {"where": texts, "reason": texts},
        h.Finished: {},
    }
    return st.one_of([st.builds(kind, time=_TIMES, **fields) for kind, fields in kinds.items()])
