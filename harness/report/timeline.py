"""A run over time, as coordinates for an SVG. Pure: a folded history and its anomalies in, frozen shapes out.

The template only draws. What is alike is merged into one path for each lane, however many operations there were;
every anomaly that has a number keeps a mark of its own. The time axis spans the traffic and the faults, not the start
and the end of the server around them. Sources are never compared with each other: each lane is drawn by its own times.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from harness import history as h
from harness.checker import Anomaly, Attempted, Fate
from harness.report.lanes import Client, between, choose, gather, window
from harness.report.story import Span, Told
from harness.report.strokes import (
    LEFT,
    PIN,
    RIGHT,
    SEGMENTS,
    WIDTH,
    Axis,
    along,
    bars,
    beside,
    box,
    crosses,
    diamond,
    merged,
    packed,
    tick_times,
    ticks,
    wide,
)
from harness.report.text import middle, one_line, times

_LANE = 32
_FAULT = 28
_MARGIN = 0.03  # of the time shown, before the first event and after the last
# Bounds that keep a page small whatever the run was.
_FAULT_ROWS = 4
_SINGLE = 12
_LETTERED_ROWS = 24
_NAME, _TITLE = 13, 120
_LETTERS = ", with their sender's initial and their message's number"

_Tried = tuple[Fate, Attempted]


class Mark(msgspec.Struct, frozen=True):
    """An anomaly to draw; with a number it gets a pin of its own, without one it is drawn with the others."""

    anomaly: Anomaly
    number: int | None
    breaks: bool


class Shape(msgspec.Struct, frozen=True):
    """A path: `kind` is its class, `title` what it says when it is pointed at."""

    kind: str
    path: str
    title: str = ""


class Text(msgspec.Struct, frozen=True):
    """A label; `anchor` as in SVG."""

    x: int
    y: int
    text: str
    kind: str = ""
    anchor: str = "start"


class Pin(msgspec.Struct, frozen=True):
    """The mark of one anomaly; `lead` is the path from it to the place, empty where the place is not drawn."""

    number: int
    x: int
    y: int
    breaks: bool
    text: str
    lead: str


class Timeline(msgspec.Struct, frozen=True):
    """Everything there is to draw. `keys` are the kinds of shapes in it, `notes` say what is merged or left out."""

    width: int
    height: int
    shapes: list[Shape]
    texts: list[Text]
    pins: list[Pin]
    keys: list[str]
    summary: str
    notes: list[str]

    @property
    def few(self) -> bool:
        """Whether the lines from the pins to their places can all be shown at once."""
        return len(self.pins) <= _SINGLE


class _Lane(msgspec.Struct):
    """One lane while it is drawn, and its middle."""

    y: int


def draw(told: Told, marks: Sequence[Mark] = ()) -> Timeline:
    """The timeline of a run."""
    return _Drawing(told, marks).timeline()


def _name(name: str, limit: int = _NAME) -> str:
    return middle(one_line(name), limit)


def _title(text: str) -> str:
    return middle(one_line(text), _TITLE)


class Key(msgspec.Struct, frozen=True):
    """One entry of the legend, drawn as in the picture."""

    text: str
    path: str


_BAR, _TICK = "M2 7h16", ticks([10], 7, 12)
# In the order of the legend.
KEYS: Final = {
    "fault": Key("fault", _BAR),
    "bite": Key("bit", diamond(10, 7)),
    "no-bite": Key("not seen to bite", diamond(10, 7)),
    "up": Key("server up", _BAR),
    "exit": Key("server ends", ticks([10], 7, 12, 3)),
    "link": Key("connected", _BAR),
    "connect-failed": Key("failed connect", ticks([10], 7, 8)),
    "waiting": Key("handed over, not settled", _BAR),
    "acknowledged": Key("acknowledged attempt", _BAR),
    "emitted": Key("attempt that expects no answer", _TICK),
    "unknown": Key("attempt without an answer", box(2, 7, 16, 8)),
    "failed": Key("attempt that did not happen", crosses([10], 7, 4)),
    "late": Key("late acknowledgement", _TICK),
    "received": Key("received", _TICK),
    "row": Key("row", box(4, 7, 12, 10)),
    "row-bad": Key("row of an anomaly", box(4, 7, 12, 10)),
    "row-foreign": Key("row without an identity of this run", box(4, 7, 12, 10)),
    "place": Key("anomaly", crosses([10], 7, 4)),
    "places": Key("anomalies", box(2, 7, 16, 6)),
}


def _axis(told: Told, marks: Sequence[Mark]) -> Axis:
    begin, end = window(told, (mark.anomaly.time for mark in marks if mark.anomaly.time is not None))
    margin = max(0.01, (end - begin) * _MARGIN)
    return Axis(max(0.0, begin - margin), end + margin)


# -- the drawing -------------------------------------------------------------------------------------------------


class _Drawing:
    """Lane below lane, from the axis down to the rows."""

    def __init__(self, told: Told, marks: Sequence[Mark]) -> None:
        self._told, self._marks = told, marks
        self._axis = _axis(told, marks)
        self._known = gather(told, self._axis.begin, self._axis.end)
        self._shapes: list[Shape] = []
        self._texts: list[Text] = []
        self._pins: list[Pin] = []
        self._notes: list[str] = []
        self._lanes: dict[str, _Lane] = {}  # of clients, by name
        self._server: _Lane | None = None
        self._strip: _Lane | None = None
        self._singles = 2 * _SINGLE
        total = len(told.fates.rows)
        self._row_width = min(34 if total <= _LETTERED_ROWS else 14, (RIGHT - LEFT) / max(1, total))
        self._first_row = {m: position for position, m in reversed(list(enumerate(told.fates.row_messages)))}
        self._y = 0

    def timeline(self) -> Timeline:
        numbered = [mark for mark in self._marks if mark.number is not None]
        wanted = [self._wanted_x(mark) for mark in numbered]
        pinned = packed(wanted)
        rows = max((row for row, _ in pinned), default=-1) + 1
        if numbered:
            self._label("anomalies", 20)
        top = 8 + rows * PIN
        self._y = top + 18
        self._faults()
        self._servers()
        self._clients()
        self._time_axis(top, self._y)
        self._rows()
        self._places()
        if further := len(self._marks) - len(numbered):
            self._notes.append(f"{times(further, 'further anomaly', 'further anomalies')} marked without a number")
        self._pins = [self._pin(mark, row, x) for mark, (row, x) in zip(numbered, pinned, strict=True)]
        return Timeline(
            WIDTH,
            self._y + 4,
            [shape for shape in self._shapes if shape.path],
            self._texts,
            self._pins,
            [kind for kind in KEYS if any(shape.kind == kind and shape.path for shape in self._shapes)],
            _summary(self._told, self._axis),
            self._notes,
        )

    def _add(self, kind: str, path: str, title: str = "") -> None:
        self._shapes.append(Shape(kind, path, title))

    def _label(self, text: str, y: int) -> None:
        self._texts.append(Text(LEFT - 12, y + 4, text, "lane", "end"))

    def _lane(self, text: str) -> _Lane:
        """The next lane, divided from the one above."""
        self._add("rule", f"M0 {self._y}h{WIDTH}")
        lane = _Lane(self._y + _LANE // 2)
        self._label(text, lane.y)
        self._y += _LANE
        return lane

    def _time_axis(self, top: int, bottom: int) -> None:
        at, decimals = tick_times(self._axis)
        self._shapes.insert(0, Shape("grid", "".join(f"M{self._axis.x(t)} {top + 14}V{bottom}" for t in at)))
        for number, time in enumerate(at):
            unit = " s" if number == 0 else ""
            self._texts.append(Text(self._axis.x(time), top + 10, f"{time:.{decimals}f}{unit}", "tick", "middle"))

    # -- faults and the server

    def _faults(self) -> None:
        spans = self._told.spans
        if not spans:
            return
        top = self._y
        self._rule_at(top)
        self._label("faults", top + 18)
        ends: list[int] = []  # of what is drawn in each row
        where = {span.number: y for span in spans if (y := self._fault(span, ends, top)) is not None}
        self._y += len(ends) * _FAULT + 5
        if rest := [span for span in spans if span.number not in where]:
            self._add("fault", bars([self._bar(span) for span in rest], self._y + 2))
            self._notes.append(f"{times(len(rest), 'further fault')} drawn without a name")
            where |= {span.number: self._y + 2 for span in rest}
            self._y += 10
        self._bites(where)

    def _fault(self, span: Span, ends: list[int], top: int) -> int | None:
        """Draw a fault with its name in the first row that has room for both; where its bar is, None without room."""
        name = _name(f"{span.fault} on {span.on}", 56) + ("" if span.ended is not None else " (never healed)")
        begin, end = self._bar(span)
        x, anchor = beside(begin, end, name)
        left = x if anchor == "start" else x - wide(name)
        row = next((row for row, used in enumerate(ends) if used + 8 <= min(begin, left)), len(ends))
        if row >= _FAULT_ROWS:
            return None
        ends[row : row + 1] = [max(end, left + wide(name))]
        y = top + row * _FAULT + 22
        self._texts.append(Text(x, y - 8, name, "fault-name", anchor))
        self._add("fault", along([(begin, max(2, end - begin))], y), _title(span.text))
        return y

    def _bar(self, span: Span) -> tuple[int, int]:
        return self._axis.x(span.began), self._axis.x(self._axis.end if span.ended is None else span.ended)

    def _rule_at(self, y: int) -> None:
        self._add("rule", f"M0 {y}h{WIDTH}")

    def _bites(self, where: dict[int, int]) -> None:
        """Diamonds on the bar of their fault: filled where it was seen to bite."""
        bites = [bite for bite in self._told.fates.bites if bite.number in where]
        for bite in bites[:_SINGLE]:
            did = "bit" if bite.seen else "was not seen to bite"
            title = _title(f"{bite.fault} {did} {bite.message}: {bite.evidence}")
            path = diamond(self._axis.x(bite.time), where[bite.number])
            self._add("bite" if bite.seen else "no-bite", path, title)
        for seen, kind in ((True, "bite"), (False, "no-bite")):
            places = dict.fromkeys((self._axis.x(b.time), where[b.number]) for b in bites[_SINGLE:] if b.seen is seen)
            self._add(kind, "".join(diamond(x, y) for x, y in list(places)[:SEGMENTS]))

    def _servers(self) -> None:
        comings = [e for e in self._told.surroundings if isinstance(e, h.ServerStarted | h.ServerExited)]
        if not comings:
            return
        lane = self._server = self._lane("server")
        up = between([(e.time, isinstance(e, h.ServerStarted)) for e in comings], self._axis.begin, self._axis.end)
        self._add("up", bars(self._axis.spans(up), lane.y))
        exits = [e for e in comings if isinstance(e, h.ServerExited) and self._axis.shows(e.time)]
        for event in exits[:_SINGLE]:
            title = _title(f"the server ends, status {event.status}: {event.reason}")
            self._add("exit", ticks([self._axis.x(event.time)], lane.y, 18, 3), title)
        self._add("exit", ticks([self._axis.x(event.time) for event in exits[_SINGLE:]], lane.y, 18, 3))

    # -- clients

    def _clients(self) -> None:
        chosen = choose(self._known, self._told, {self._lane_of(mark.anomaly) for mark in self._marks})
        self._notes += chosen.notes
        for client in chosen.clients:
            self._client(client)

    def _client(self, client: Client) -> None:
        single = len(client.names) == 1
        lane = self._lane(_name(client.names[0]) if single else f"{len(client.names)} others")
        if single:
            self._lanes[client.names[0]] = lane
        link, lane.y = lane.y - 8, lane.y + 5
        axis = self._axis
        self._add("link", bars(axis.spans(client.connected), link))
        self._add("connect-failed", ticks([axis.x(t) for t in client.failed if axis.shows(t)], link, 8))
        self._add("received", ticks([axis.x(t) for t in client.receptions if axis.shows(t)], lane.y, 10))
        self._add("waiting", bars(axis.spans(client.waits(axis.end)), lane.y))
        self._attempts(client.fates, lane.y)
        self._add("late", ticks([axis.x(t) for t in client.late], lane.y, 14))

    def _attempts(self, fates: Sequence[Fate], y: int) -> None:
        """Acknowledged attempts as one path; those without an answer one by one, as far as there are not too many."""
        pairs = [(fate, attempt) for fate in fates for attempt in fate.attempts]
        answered = [(a.began, a.began if a.ended is None else a.ended) for _, a in pairs if a.outcome == "ok"]
        self._add("acknowledged", bars(self._axis.spans(answered), y))
        emitted = [a.began for fate, a in pairs if a.outcome is None and fate.settled is not None]
        self._add("emitted", ticks([self._axis.x(time) for time in emitted], y, 10))
        unknown = [(f, a) for f, a in pairs if a.outcome == "info" or (a.outcome is None and f.settled is None)]
        single, rest = self._single(unknown)
        for fate, attempt in single:
            x, end = self._open(attempt)
            self._add("unknown", box(x, y, max(3, end - x), 8), _told_of(fate, attempt))
        pieces = merged([self._open(attempt) for _, attempt in rest], 3)
        self._add("unknown", "".join(box(x, y, width, 8) for x, width in pieces))
        single, rest = self._single([(f, a) for f, a in pairs if a.outcome == "fail"])
        for fate, attempt in single:
            self._add("failed", crosses([self._axis.x(attempt.began)], y, 4), _told_of(fate, attempt))
        self._add("failed", ticks([self._axis.x(attempt.began) for _, attempt in rest], y, 8))

    def _single(self, pairs: Sequence[_Tried]) -> tuple[Sequence[_Tried], Sequence[_Tried]]:
        """What is drawn one by one, as far as there is room for it, and what is drawn together."""
        room = min(self._singles, _SINGLE)
        self._singles -= min(room, len(pairs))
        return pairs[:room], pairs[room:]

    def _open(self, attempt: Attempted) -> tuple[int, int]:
        return self._axis.x(attempt.began), self._axis.x(self._axis.end if attempt.ended is None else attempt.ended)

    # -- the final read

    def _rows(self) -> None:
        """Rows have no time of their own, so they stand below the axis, in the order of the rows query."""
        fates = self._told.fates
        self._y += 12
        lane = self._strip = self._lane("final read")
        total = len(fates.rows)
        if not total:
            text = "no row" if fates.finished else "the run ended before the final read"
            self._texts.append(Text(LEFT, lane.y + 4, text, "note"))
            return
        lettered = total <= _LETTERED_ROWS
        noted = {m.anomaly.message for m in self._marks if m.anomaly.receiver is None and m.anomaly.message}
        kinds: dict[str, list[tuple[int, int]]] = {"row": [], "row-bad": [], "row-foreign": []}
        for position, message in enumerate(fates.row_messages):
            kind = "row-foreign" if message is None else "row-bad" if message in noted else "row"
            begin, end = (round(LEFT + edge * self._row_width) for edge in (position, position + 1))
            if lettered:
                self._add(kind, box(begin, lane.y, end - begin - 4, 18))
                self._texts.append(
                    Text((begin + end) // 2 - 2, lane.y + 4, self._row_name(message), "row-name", "middle")
                )
            else:
                kinds[kind].append((begin, end - 3 if self._row_width >= 8 else end))
        self._notes.append("Rows stand in the order of the rows query" + _LETTERS * lettered)
        for kind, spans in kinds.items():
            self._add(kind, "".join(box(x, lane.y, width, 16) for x, width in merged(spans, 1)))
        if not lettered:
            self._y += 6
            ends = ((LEFT, "row 1", "start"), (round(LEFT + total * self._row_width), f"row {total}", "end"))
            self._texts += [Text(x, lane.y + 21, text, "tick", anchor) for x, text, anchor in ends]

    def _row_name(self, message: str | None) -> str:
        """The sender's initial and the number of its message."""
        fate = self._fate(message)
        if fate is None:
            return "?"
        initial = fate.sender[:1]
        return f"{initial if initial.isalnum() else '?'}{fate.sequence}"[:5]

    # -- anomalies

    def _fate(self, message: str | None) -> Fate | None:
        return self._told.fates.messages.get(message or "")

    def _lane_of(self, anomaly: Anomaly) -> str | None:
        fate = self._fate(anomaly.message)
        return anomaly.receiver or (fate.sender if fate else None)

    def _time_of(self, anomaly: Anomaly) -> float | None:
        """When to show it: when a receiver got it last; else at the anomaly's own time, else at its message's."""
        receiver = self._known.get(anomaly.receiver or "")
        if receiver and (received := receiver.received.get(anomaly.message)):
            return received[-1]
        fate = self._fate(anomaly.message)
        return anomaly.time if anomaly.time is not None else fate.invoked if fate else None

    def _wanted_x(self, mark: Mark) -> int:
        time = self._time_of(mark.anomaly)
        return self._row_x(mark.anomaly) if time is None else self._axis.x(time)

    def _row_x(self, anomaly: Anomaly) -> int:
        """The middle of the first row of its message, the right end without one."""
        position = self._first_row.get(anomaly.message) if anomaly.message else None
        return RIGHT if position is None else round(LEFT + (position + 0.5) * self._row_width)

    def _place(self, anomaly: Anomaly) -> tuple[_Lane, int] | None:
        """The lane it concerns and where on it; None where that lane is not drawn."""
        name, time = self._lane_of(anomaly), self._time_of(anomaly)
        if name is not None:
            lane = self._lanes.get(name)
            return None if lane is None or time is None else (lane, self._axis.x(time))
        if anomaly.message is None:
            return None if self._server is None or time is None else (self._server, self._axis.x(time))
        if self._strip is None or anomaly.message not in self._first_row:
            return None
        return self._strip, self._row_x(anomaly)

    def _places(self) -> None:
        """One path for each lane: crosses, or where they would be a hedge, a band below the bars."""
        lanes: dict[int, tuple[_Lane, set[int]]] = {}
        for mark in self._marks:
            if found := self._place(mark.anomaly):
                lanes.setdefault(id(found[0]), (found[0], set()))[1].add(found[1])
        for lane, places in lanes.values():
            if lane is self._strip:
                continue  # the row itself is marked
            if len(places) > 2 * _SINGLE:
                self._add("places", ticks(sorted(places), lane.y + 8, 6))
                continue
            path = crosses(sorted(places), lane.y, 4)
            self._add("halo", path)  # red on green or blue would be hard to tell
            self._add("place", path)

    def _pin(self, mark: Mark, row: int, x: int) -> Pin:
        anomaly, y = mark.anomaly, 20 + row * PIN
        of = f" {anomaly.message}" if anomaly.message else ""
        at = "" if anomaly.time is None else f", at {anomaly.time:.3f} s"
        found = self._place(anomaly)
        lead = f"M{x} {y + 11}L{found[1]} {found[0].y - 5}" if found else ""
        text = _title(f"Anomaly {mark.number}: {anomaly.kind}{of}{at}")
        return Pin(mark.number or 0, x, y, mark.breaks, text, lead)


# -- parts of the drawing ----------------------------------------------------------------------------------------


def _told_of(fate: Fate, attempt: Attempted) -> str:
    what = {"info": "unknown outcome", "fail": "did not happen"}.get(attempt.outcome or "", "no answer")
    why = f": {attempt.reason}" if attempt.reason else ""
    return _title(f"attempt {attempt.number} of {fate.message}, {what}{why}")


def _summary(told: Told, axis: Axis) -> str:
    """The picture in words."""
    fates = told.fates
    own = [fate for fate in fates.messages.values() if fate.sender != h.MARKER]
    attempts = [attempt for fate in own for attempt in fate.attempts]
    unanswered = sum(a.outcome != "ok" for fate in own for a in fate.attempts if a.outcome or fate.settled is None)
    senders = len({fate.sender for fate in own})
    names = [f"{_title(span.text)}" for span in told.spans[:3]]
    if len(told.spans) > len(names):
        names.append(f"{len(told.spans) - len(names)} more")
    exits = sum(axis.shows(event.time) for event in fates.exits)
    failed = sum(isinstance(event, h.ConnectFailed) for event in told.surroundings)
    parts = [
        f"Faults: {'; '.join(names)}" if names else "No fault",
        f"{times(senders, 'sender')}, {times(len(own), 'message')}, {times(len(attempts), 'attempt')}"
        + (f", {unanswered:,} of them without an acknowledgement" if unanswered else ""),
        f"{times(failed, 'failed connect')}" if failed else "",
        f"the server ended {'once' if exits == 1 else times(exits, 'time')}" if exits else "",
        f"{times(len(fates.rows), 'row')} read" if fates.finished else "no complete final read",
    ]
    return ". ".join(part[:1].upper() + part[1:] for part in parts if part) + "."
