"""What a saved history tells about an anomaly: the fate of its message, moment by moment, and the faults near it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from harness import checker
from harness import history as h
from harness.checker import Anomaly, Fate, Fates
from harness.errors import HarnessError
from harness.history import History
from harness.report.text import times

_Surrounding = h.Connected | h.ConnectFailed | h.Disconnected | h.ServerExited | h.ServerStarted
_FIRST_MOMENTS, _LAST_MOMENTS = 16, 8


class Span(msgspec.Struct, frozen=True):
    """One fault of a run, from its beginning until it healed."""

    number: int
    fault: str
    on: str
    began: float
    ended: float | None

    @property
    def text(self) -> str:
        """The fault, what it disturbs, and when."""
        until = "never healed" if self.ended is None else f"to {self.ended:.3f} s"
        return f"{self.fault} on {self.on}, {self.began:.3f} s {until}"

    def overlaps(self, began: float, ended: float | None) -> bool:
        """Whether some of the fault lies in an interval."""
        return (ended is None or self.began <= ended) and (self.ended is None or self.ended >= began)


class Moment(msgspec.Struct, frozen=True):
    """Something that happened to a message or around it; `what` is for the eye."""

    time: float
    what: Literal["message", "ok", "trouble", "fault", "server"]
    text: str


class StoredRow(msgspec.Struct, frozen=True):
    """A row of a message; `other` is its content where that differs from what was sent."""

    id: str
    other: str | None


class Story(msgspec.Struct, frozen=True):
    """The fate of one message: `first` moments, so many `omitted`, `last` moments; its rows; who received it."""

    message: str
    sender: str
    policy: str
    content: str
    first: list[Moment]
    omitted: int
    last: list[Moment]
    rows: list[StoredRow]
    received: list[str]


class Told(msgspec.Struct, frozen=True):
    """A history, folded; `surroundings` are its connections and the server's comings and goings."""

    history: History
    fates: Fates
    spans: list[Span]
    surroundings: list[_Surrounding]


def read(path: Path) -> Told:
    """Read and fold a saved history.

    Raises:
        HarnessError: it cannot be read or is damaged; the text names the file.
    """
    history = History.load(path)
    try:
        return tell(history)
    except HarnessError as error:
        raise HarnessError(f"{path}: {error}") from error


def tell(history: History) -> Told:
    """Fold a history.

    Raises:
        HarnessError: it is damaged.
    """
    fates = checker.fold(history)
    return Told(history, fates, _spans(history), [event for event in history if isinstance(event, _Surrounding)])


def _spans(history: History) -> list[Span]:
    ends = {event.number: event.time for event in history if isinstance(event, h.FaultEnded)}
    return [
        Span(event.number, event.fault, event.on, event.time, ends.get(event.number))
        for event in history
        if isinstance(event, h.FaultBegan)
    ]


# -- faults near an anomaly --------------------------------------------------------------------------------------


def near(anomaly: Anomaly, told: Told) -> str | None:
    """The fault that has most to do with an anomaly: that bit its message, or acted then, or acted next to it."""
    bite = next((b for b in told.fates.bites if b.seen and b.message == anomaly.message), None)
    if bite is not None:
        span = next((s for s in told.spans if s.number == bite.number), None)
        return f"{span.text if span else bite.fault}: it bit this message"
    fate = told.fates.messages.get(anomaly.message or "")
    began, ended = (fate.invoked, fate.settled_at) if fate else (anomaly.time, anomaly.time)
    if began is None or not told.spans:
        return None
    if around := [span for span in told.spans if span.overlaps(began, ended)]:
        return f"{around[0].text}: it acted on the way of this message" if fate else f"during {around[0].text}"
    before = [span for span in told.spans if span.ended is not None and span.ended < began]
    if before:
        return f"{began - (before[-1].ended or 0):.3f} s after {before[-1].text}"
    return f"before {told.spans[0].text}"


# -- the fate of a message ---------------------------------------------------------------------------------------


def stories(messages: Iterable[str], told: Told) -> dict[str, Story]:
    """The fates of some messages. One that was never posted has none."""
    fates = {message: told.fates.messages[message] for message in messages if message in told.fates.messages}
    own: dict[str, list[Moment]] = {message: [] for message in fates}
    for event in told.history:
        message = _message_of(event, told.fates.started.run)
        if message in own and (moment := _own_moment(event)):
            own[message].append(moment)
    return {message: _story(fate, own[message], told) for message, fate in fates.items()}


def _message_of(event: h.AnyEvent, run: str) -> str | None:
    if isinstance(event, h.Received):
        return h.identity_in(run, event.content)
    return getattr(event, "message", None)


def _own_moment(event: h.AnyEvent) -> Moment | None:
    match event:
        case h.Invoke():
            return Moment(event.time, "message", f"handed to {event.sender}")
        case h.Attempt():
            where = f"connection {event.connection}, offset {event.offset}"
            return Moment(event.time, "message", f"attempt {event.attempt} on {where}")
        case h.Ok():
            return Moment(event.time, "ok", f"attempt {event.attempt} acknowledged" + (", late" if event.late else ""))
        case h.Info():
            why = "ack timeout: " if event.timed_out else ""
            text = f"attempt {event.attempt} has an unknown outcome: {why}{event.reason}"
            return Moment(event.time, "trouble", text)
        case h.Fail():
            return Moment(event.time, "trouble", f"attempt {event.attempt} did not happen: {event.reason}")
        case h.Settled():
            told = {"acknowledged": "acknowledged", "handed-over": "handed over", "gave-up": "given up"}
            return Moment(event.time, "message", f"its sender was told: {told[event.outcome]}")
        case h.Received():
            return Moment(event.time, "ok", f"received by {event.receiver}, server offset {event.server_offset}")
        case h.Bitten():
            seen = "bit it" if event.seen else "was not seen to bite it"
            return Moment(event.time, "fault", f"{event.fault} {seen}: {event.evidence}")
        case _:
            return None


def _story(fate: Fate, own: list[Moment], told: Told) -> Story:
    moments = sorted([*own, *_around(fate, told)], key=lambda moment: moment.time)
    cut = len(moments) > _FIRST_MOMENTS + _LAST_MOMENTS
    return Story(
        fate.message,
        fate.sender,
        fate.policy,
        fate.content,
        moments[:_FIRST_MOMENTS] if cut else moments,
        len(moments) - _FIRST_MOMENTS - _LAST_MOMENTS if cut else 0,
        moments[-_LAST_MOMENTS:] if cut else [],
        [_row(told.fates.rows[position], fate) for position in fate.rows],
        [_reception(receiver, fate.received.get(receiver, [])) for receiver in told.fates.receivers],
    )


def _row(row: h.Row, fate: Fate) -> StoredRow:
    return StoredRow(str(row.id), None if row.content == fate.content else row.content or "NULL")


def _reception(receiver: str, positions: Sequence[int]) -> str:
    if not positions:
        return f"{receiver} never"
    places = ", ".join(str(position + 1) for position in positions[:10]) + (", …" if len(positions) > 10 else "")
    count = {1: "once", 2: "twice"}.get(len(positions), times(len(positions), "time"))
    return f"{receiver} {count}, as its broadcast number {places}"


def _around(fate: Fate, told: Told) -> Iterable[Moment]:
    """Faults, the sender's connections and the server's comings and goings while the message was on its way."""
    for span in told.spans:
        if span.overlaps(fate.invoked, fate.settled_at):
            yield Moment(span.began, "fault", f"{span.fault} on {span.on} begins")
            if span.ended is not None:
                yield Moment(span.ended, "fault", f"{span.fault} on {span.on} ends")
    for event in told.surroundings:
        if fate.invoked <= event.time and (fate.settled_at is None or event.time <= fate.settled_at):
            moment = _surrounding(event, fate.sender)
            if moment:
                yield moment


def _surrounding(event: _Surrounding, sender: str) -> Moment | None:
    match event:
        case h.Connected(client=client) if client == sender:
            return Moment(event.time, "message", f"{sender} has connection {event.connection}")
        case h.ConnectFailed(client=client) if client == sender:
            return Moment(event.time, "trouble", f"{sender} cannot connect ({event.connection}): {event.reason}")
        case h.Disconnected(client=client) if client == sender:
            return Moment(event.time, "trouble", f"{sender} loses connection {event.connection}: {event.reason}")
        case h.ServerExited():
            return Moment(event.time, "server", f"the server ends, status {event.status}: {event.reason}")
        case h.ServerStarted():
            return Moment(event.time, "server", f"the server is ready, process {event.pid}")
        case _:
            return None
