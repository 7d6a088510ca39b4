"""What became of each message of a run: a history, folded in one pass. Pure, like the checker.

Nearly every message of a long run goes the plain way: posted, attempted once, acknowledged, its sender told, stored as
it was sent. Of these a few numbers are kept in columns, and no object: a million have to be judged in 300 MB. A message
that leaves this way anywhere is set apart, with a fate of its own that has everything. What the judge quotes of a
few messages, contents and rows, stays in the history and is read there again.
"""

import functools
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, overload

import msgspec

from harness import history as h
from harness.errors import HarnessError

AttemptOutcome = Literal["ok", "info", "fail"]

# How far a message has come on the plain way, or that it has left it.
_NOBODY, _POSTED, _ATTEMPTED, _ACKNOWLEDGED, _TOLD, _STORED, _APART = range(7)
# Of a row without an identity of this run. What was never posted has the numbers below.
_FOREIGN = -1
# For how many messages more the columns are made longer at a time.
_ROOM = 1 << 12


class Attempted(msgspec.Struct):
    """One emission of a message and how it ended."""

    number: int
    began: float
    outcome: AttemptOutcome | None = None
    late: bool = False
    timed_out: bool = False
    ended: float | None = None
    reason: str = ""


class Fate(msgspec.Struct):
    """What became of one message. `rows` and `received` hold positions in the final read and in each receiver.

    `rows_otherwise` holds those of the rows that have other content than was sent, `received_otherwise` the receivers
    that got other content, with that. `content` is read again from the history, where it is event number `event`.
    """

    history: h.History
    event: int
    message: str
    sender: str
    sequence: int
    policy: h.Policy
    invoked: float
    attempts: list[Attempted] = []
    settled: Literal["acknowledged", "handed-over", "gave-up"] | None = None
    settled_at: float | None = None
    rows: list[int] = []
    rows_otherwise: list[int] = []
    received: dict[str, list[int]] = {}
    received_otherwise: list[tuple[str, str | None]] = []

    @property
    def content(self) -> str:
        """What was sent."""
        event = self.history.at(self.event)
        assert isinstance(event, h.Invoke)
        return event.content

    @property
    def outcome(self) -> AttemptOutcome | None:
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


class Arrivals:
    """Messages in the order of the final read, or of what a receiver got, by their places.

    `order` has the place of each, `first` for each place where in `order` it first stands, or -1.
    """

    def __init__(self, room: int) -> None:
        self.order = array("i")
        self.first = array("i", [-1]) * room

    def add(self, place: int) -> int:
        """Append a message; where it stands now."""
        position = len(self.order)
        self.order.append(place)
        if place >= 0 and self.first[place] < 0:
            self.first[place] = position
        return position

    def each(self) -> Iterator[int]:
        """Every message once, in its order; those that were never posted too."""
        first, strangers = self.first, {_FOREIGN}
        for position, place in enumerate(self.order):
            if place >= 0:
                if first[place] == position:
                    yield place
            elif place not in strangers:
                strangers.add(place)
                yield place


class Messages(Mapping[str, Fate]):
    """The messages of a history in the order in which they were posted: identity -> fate.

    A message's number in this order is its place, and its index in every column.
    """

    def __init__(self, history: h.History) -> None:
        self._history = history
        pattern = h.identities(history.started.run)
        self._is_identity, self._find = pattern.fullmatch, pattern.search
        self._places: dict[str, int] = {}
        self._names: list[str] = []
        self._strangers: dict[str, int] = {}
        self._stranger_names: list[str] = []
        self._apart: dict[int, Fate] = {}
        self._attempts: dict[tuple[int, int], Attempted] = {}
        self._tracks: dict[tuple[str, h.Policy], int] = {}
        self._judged_before: dict[str, int] = {}
        self.soaked: h.Soaked | None = None
        self.row_events = array("I")
        self.receivers: dict[str, Arrivals] = {}
        # The columns. They grow by many places at a time, because that is quicker than to append to each of them.
        self._states: list[int] = []
        self._events = array("I")
        self._digests = array("q")
        self._invoked = array("d")
        self._began = array("d")
        self._acknowledged = array("d")
        self._settled = array("d")
        self._track = array("i")
        self._sequences = array("q")
        self.stored = Arrivals(0)

    def _grow(self) -> None:
        self._states += [_NOBODY] * _ROOM
        for times in (self._invoked, self._began, self._acknowledged, self._settled):
            times.frombytes(bytes(_ROOM * times.itemsize))
        for numbers in (self._events, self._digests, self._track, self._sequences):
            numbers.frombytes(bytes(_ROOM * numbers.itemsize))
        for arrivals in (self.stored, *self.receivers.values()):
            arrivals.first.extend(array("i", [-1]) * _ROOM)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, message: object) -> bool:
        return message in self._places

    def __getitem__(self, message: str) -> Fate:
        return self.at(self._places[message])

    def at(self, place: int) -> Fate:
        """The fate of the message in a place."""
        return self._apart[place] if place in self._apart else self._plain(place)

    def name(self, place: int) -> str | None:
        """The identity of the message in a place; None for that of a foreign row."""
        if place >= 0:
            return self._names[place]
        return None if place == _FOREIGN else self._stranger_names[_FOREIGN - 1 - place]

    @functools.cached_property
    def apart(self) -> list[Fate]:
        """Once everything is folded, the fates that are not as plain as can be: all in which there can be an anomaly.

        Those that stopped on the way or did not get to each receiver are among them.
        """
        posted = range(len(self))
        left = {place for place, state in zip(posted, self._states, strict=False) if state < _STORED}
        for receiver in self.receivers.values():
            left.update(place for place, first in zip(posted, receiver.first, strict=False) if first < 0)
        for place in left:
            self._set_apart(place)
        return [self._apart[place] for place in sorted(self._apart)]

    # -- over all messages, without making a fate of each --------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How many messages of the schedule there are, how many of them came how far, and all their attempts."""
        plain = [self._states.count(state) for state in range(_POSTED, _APART)]
        own = [fate for fate in self._apart.values() if fate.sender != h.MARKER]
        return {
            "sent": sum(plain) + len(own),
            "acknowledged": sum(plain[_ACKNOWLEDGED - _POSTED :]) + sum(fate.outcome == "ok" for fate in own),
            "stored": plain[_STORED - _POSTED] + sum(bool(fate.rows) for fate in own),
            "attempts": sum(plain[_ATTEMPTED - _POSTED :]) + sum(len(fate.attempts) for fate in own),
        }

    def acknowledgements(self) -> Iterator[tuple[int, float, float | None]]:
        """Of each message of the schedule its place, when it was posted, and when first acknowledged, if it was."""
        columns = zip(range(len(self)), self._states, self._invoked, self._acknowledged, strict=False)
        for place, state, invoked, at in columns:
            if state != _APART:
                yield place, invoked, at if state >= _ACKNOWLEDGED else None
            elif (fate := self._apart[place]).sender != h.MARKER:
                yield place, invoked, fate.acknowledged_at

    def arrivals(self) -> Iterator[tuple[float, float]]:
        """Of each message of the schedule that arrived, when it was posted and when it arrived."""
        for place, invoked, at in self.acknowledgements():
            arrived = at if at is not None or self._states[place] != _APART else self._apart[place].arrived_at
            if arrived is not None:
                yield invoked, arrived

    def latest_settled(self) -> dict[str, int]:
        """Of each sender the highest number among its messages that were attempted and settled."""
        senders = [sender for sender, _ in self._tracks]
        latest = dict.fromkeys(senders, -1)
        columns = zip(range(len(self)), self._states, self._track, self._sequences, strict=False)
        for place, state, track, sequence in columns:
            if state == _APART:
                fate = self._apart[place]
                counts = bool(fate.attempts) and fate.settled is not None
            else:
                counts = state >= _TOLD
            if counts and sequence > latest[senders[track]]:
                latest[senders[track]] = sequence
        return latest

    def overtaken(self, order: Iterable[int]) -> Iterator[tuple[Fate, Fate]]:
        """Messages that stand in an order of places behind a later one of their sender, each with that later one."""
        senders = [sender for sender, _ in self._tracks]
        tracks, sequences = self._track, self._sequences
        latest: dict[str, int] = {}
        for place in order:
            if place < 0:
                continue
            sender = senders[tracks[place]]
            before = latest.get(sender)
            if before is not None and sequences[place] < sequences[before]:
                yield self.at(place), self.at(before)
            else:
                latest[sender] = place

    def is_judged_before(self, message: str | None) -> bool:
        """Whether a message that is not posted here is one of a part of a soak that was judged before."""
        return h.is_among(message, self._judged_before)

    def unposted(self, order: Iterable[int]) -> Iterator[tuple[int, str]]:
        """The positions in an order of places at which an identity of this run stands that is not posted here."""
        if not self._strangers:
            return
        for position, place in enumerate(order):
            if place < _FOREIGN:
                yield position, self._stranger_names[_FOREIGN - 1 - place]

    # -- events --------------------------------------------------------------------------------------------------

    def take(self, events: Iterable[h.AnyEvent], other: Callable[[h.AnyEvent, int], None]) -> None:
        """Fold events: on the plain way here, the rest each by a method of its own, or by `other`.

        Five million events are no place for calls and attributes, therefore this is one loop over local names.

        Raises:
            HarnessError: an event does not fit those before it.
        """
        others: dict[type[h.AnyEvent], Callable[[Any, int], None]] = dict.fromkeys(get_args(h.AnyEvent), other)
        others |= {
            h.Attempt: self._attempt,
            h.Ok: self._ok,
            h.Info: self._info,
            h.Fail: self._fail,
            h.Settled: self._settle,
            h.Row: self._row,
            h.Receiving: self._receiving,
            h.Received: self._receive,
            h.Soaked: self._soaked,
        }
        places, names, states, digests = self._places, self._names, self._states, self._digests
        began, acknowledged, settled = self._began, self._acknowledged, self._settled
        row_events, row_places, first_rows = self.row_events, self.stored.order, self.stored.first
        posted, invoked, track, sequences = self._events, self._invoked, self._track, self._sequences
        find, is_identity, tracks, strangers = self._find, self._is_identity, self._tracks, self._strangers
        message, place = "", _FOREIGN  # those of the event before: mostly the same
        try:
            for number, event in enumerate(events):
                if type(event) is h.Invoke:
                    place, message = len(names), event.message
                    # An identity that could not be told in a row would make every message look lost.
                    if message in strangers or not is_identity(message):
                        raise KeyError(message)
                    if places.setdefault(message, place) != place:
                        raise KeyError(message)
                    names.append(message)
                    if place == len(states):
                        self._grow()
                    states[place] = _POSTED
                    posted[place] = number
                    digests[place] = hash(event.content)
                    invoked[place] = event.time
                    track[place] = tracks.setdefault((event.sender, event.policy), len(tracks))
                    sequences[place] = event.sequence
                    if event.sender == h.MARKER:  # no part of the schedule, not to be counted with those that are
                        self._set_apart(place)
                    continue
                if type(event) is h.Attempt:
                    if message != event.message:
                        place, message = places[event.message], event.message
                    if states[place] == _POSTED and event.attempt == 1:
                        states[place] = _ATTEMPTED
                        began[place] = event.time
                        continue
                elif type(event) is h.Ok:
                    if message != event.message:
                        place, message = places[event.message], event.message
                    if states[place] == _ATTEMPTED and event.attempt == 1 and not event.late:
                        states[place] = _ACKNOWLEDGED
                        acknowledged[place] = event.time
                        continue
                elif type(event) is h.Settled:
                    if message != event.message:
                        place, message = places[event.message], event.message
                    if states[place] == _ACKNOWLEDGED and event.outcome == "acknowledged":
                        states[place] = _TOLD
                        settled[place] = event.time
                        continue
                elif type(event) is h.Row and event.content and (found := find(event.content)):
                    message, place = found.group(), place + 1  # rows mostly stand in the order of posting
                    if place >= len(names) or names[place] != message:
                        place = places.get(message, _FOREIGN)
                    if place >= 0 and states[place] == _TOLD and hash(event.content) == digests[place]:
                        states[place] = _STORED
                        first_rows[place] = len(row_places)
                        row_places.append(place)
                        row_events.append(number)
                        continue
                    message = ""
                others[type(event)](event, number)
        except (KeyError, OverflowError):
            text = f"event {number + 1} of the history does not fit what came before it: {event}"
            raise HarnessError(text[:400]) from None

    def _attempt(self, event: h.Attempt, _: int) -> None:
        place = self._places[event.message]
        fate = self._set_apart(place)
        if (place, event.attempt) in self._attempts:
            raise KeyError(event.attempt)
        attempt = self._attempts[place, event.attempt] = Attempted(event.attempt, event.time)
        fate.attempts.append(attempt)

    def _ok(self, event: h.Ok, _: int) -> None:
        if event.late:
            self._attempt_of(event).late = True
        else:
            self._answer(event, "ok")

    def _info(self, event: h.Info, _: int) -> None:
        attempt = self._answer(event, "info")
        attempt.timed_out, attempt.reason = event.timed_out, event.reason

    def _fail(self, event: h.Fail, _: int) -> None:
        self._answer(event, "fail").reason = event.reason

    def _settle(self, event: h.Settled, _: int) -> None:
        fate = self._set_apart(self._places[event.message])
        fate.settled, fate.settled_at = event.outcome, event.time

    def _row(self, event: h.Row, number: int) -> None:
        place = self._place_in(event.content)
        if place == _FOREIGN:
            place = self._place_in(event.client_offset)
        self.row_events.append(number)
        fate = self._set_apart(place) if place >= 0 else None
        position = self.stored.add(place)
        if fate is not None:
            fate.rows.append(position)
            if hash(event.content) != self._digests[place]:
                fate.rows_otherwise.append(position)

    def _soaked(self, event: h.Soaked, _: int) -> None:
        self.soaked, self._judged_before = event, event.sequences

    def _receiving(self, event: h.Receiving, _: int) -> None:
        if event.receiver not in self.receivers:
            self.receivers[event.receiver] = Arrivals(len(self._states))

    def _receive(self, event: h.Received, _: int) -> None:
        receiver = self.receivers[event.receiver]
        place = self._place_in(event.content)
        if place == _FOREIGN:
            return
        if place < 0:
            receiver.add(place)
            return
        same = hash(event.content) == self._digests[place]
        if same and self._states[place] != _APART and receiver.first[place] < 0:
            receiver.add(place)
            return
        fate = self._set_apart(place)
        fate.received.setdefault(event.receiver, []).append(receiver.add(place))
        if not same:
            fate.received_otherwise.append((event.receiver, event.content))

    def _place_in(self, text: str | None) -> int:
        """The place of the message whose identity is the first in a text."""
        if not text or not (found := self._find(text)):
            return _FOREIGN
        message = found.group()
        place = self._places.get(message)
        return self._stranger(message) if place is None else place

    def _stranger(self, message: str) -> int:
        """The number of a message that was never posted."""
        if message not in self._strangers:
            self._strangers[message] = _FOREIGN - 1 - len(self._strangers)
            self._stranger_names.append(message)
        return self._strangers[message]

    def _answer(self, event: h.Ok | h.Info | h.Fail, outcome: AttemptOutcome) -> Attempted:
        attempt = self._attempt_of(event)
        if attempt.outcome is None:
            attempt.outcome, attempt.ended = outcome, event.time
        elif attempt.outcome != outcome:
            raise KeyError(event.attempt)
        return attempt

    def _attempt_of(self, event: h.Ok | h.Info | h.Fail) -> Attempted:
        place = self._places[event.message]
        self._set_apart(place)
        return self._attempts[place, event.attempt]

    # -- fates ---------------------------------------------------------------------------------------------------

    def _set_apart(self, place: int) -> Fate:
        """The message leaves the plain way, if it has not yet."""
        fate = self._apart.get(place)
        if fate is None:
            fate = self._apart[place] = self._plain(place)
            self._attempts.update(((place, attempt.number), attempt) for attempt in fate.attempts)
            self._states[place] = _APART
        return fate

    def _plain(self, place: int) -> Fate:
        """The fate of a message that is on the plain way."""
        state = self._states[place]
        sender, policy = list(self._tracks)[self._track[place]]
        fate = Fate(
            self._history,
            self._events[place],
            self._names[place],
            sender,
            self._sequences[place],
            policy,
            self._invoked[place],
        )
        if state >= _ATTEMPTED:
            fate.attempts.append(Attempted(1, self._began[place]))
        if state >= _ACKNOWLEDGED:
            fate.attempts[0].outcome, fate.attempts[0].ended = "ok", self._acknowledged[place]
        if state >= _TOLD:
            fate.settled, fate.settled_at = "acknowledged", self._settled[place]
        if state == _STORED:
            fate.rows.append(self.stored.first[place])
        for name, receiver in self.receivers.items():
            if receiver.first[place] >= 0:
                fate.received[name] = [receiver.first[place]]
        return fate


class Rows(Sequence[h.Row]):
    """The final read: each row is read again from the history when it is asked for."""

    def __init__(self, history: h.History, events: Sequence[int]) -> None:
        self._history = history
        self._events = events

    def __len__(self) -> int:
        return len(self._events)

    @overload
    def __getitem__(self, position: int) -> h.Row: ...
    @overload
    def __getitem__(self, position: slice) -> "Rows": ...
    def __getitem__(self, position: int | slice) -> "h.Row | Rows":
        if isinstance(position, slice):
            return Rows(self._history, self._events[position])
        event = self._history.at(self._events[position])
        assert isinstance(event, h.Row)
        return event


class Fates(msgspec.Struct, dict=True):
    """A folded history.

    `first_fault` and `last_heal` are the times between which the faults of the run lie, None without a fault;
    `last_heal` is None also when a fault did not heal, and `heal_began` is when the last of them began to.
    """

    started: h.Started
    messages: Messages
    rows: Rows
    exits: list[h.ServerExited] = []
    faults: dict[int, str] = {}
    kinds: dict[int, h.FaultKind] = {}
    bites: list[h.Bitten] = []
    traces: list[h.Traced] = []
    rereads: list[h.Reread] = []
    failures: list[h.Failed] = []
    first_fault: float | None = None
    heal_began: float | None = None
    last_heal: float | None = None
    finished: bool = False

    @property
    def apart(self) -> list[Fate]:
        """The fates in which there can be an anomaly."""
        return self.messages.apart

    @functools.cached_property
    def row_messages(self) -> list[str | None]:
        """The message of each row; None of a foreign one."""
        return [self.messages.name(place) for place in self.messages.stored.order]

    @property
    def receivers(self) -> dict[str, Arrivals]:
        """What each receiver got."""
        return self.messages.receivers

    @property
    def foreign(self) -> int:
        """How many rows have no identity of this run."""
        return self.messages.stored.order.count(_FOREIGN)


def fold(history: h.History) -> Fates:
    """Fold a history into the fates of its messages, in one pass.

    Raises:
        HarnessError: an event speaks of a message, an attempt, a receiver or a fault that no earlier event names, or
            contradicts one: the history is damaged, and says nothing.
    """
    messages = Messages(history)
    fates = Fates(history.started, messages, Rows(history, messages.row_events))
    acting: set[int] = set()
    healing: set[int] = set()

    def take(event: h.AnyEvent, _: int) -> None:
        match event:
            case h.ServerExited():
                fates.exits.append(event)
            case h.Bitten():
                if event.message not in messages:
                    raise KeyError(event.message)
                fates.bites.append(event)
            case h.Traced():
                fates.traces.append(event)
            case h.Reread():
                fates.rereads.append(event)
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

    messages.take(history, take)
    return fates
