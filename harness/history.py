"""What happened in one run: frozen events, recorded in order as they happen, one JSON line each on disk.

Every `time` is in seconds since the run's first event, by the harness's own monotonic clock. The checker and the
report need nothing but these lines.
"""

import bisect
import functools
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

from harness.errors import HarnessError, reason

MARKER = "marker"
"""The sender of the message that ends a run for its receivers: judged like any other, but no part of the schedule."""

Role = Literal["claim", "control", "null"]
Guarantee = Literal["at-most-once", "at-least-once", "exactly-once"]
Order = Literal["total", "sender", "sequential", "none"]
Receivers = Literal["exactly-once", "at-least-once", "none"]
Policy = Literal[
    "persistent",
    "pipelined",
    "retries=3",
    "resend",
    "fire-and-forget",
    "once",
    "new-offset",
    "tutorial",
    "tutorial-untimed",
]
FaultKind = Literal["link", "server", "store", "client"]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=str.lower):
    """Something that happened at `time`."""

    time: float


class Started(Event, frozen=True, kw_only=True):
    """The run begins; everything that the checker has to know beforehand.

    `run` is the token that begins the identity of each of its messages. `control` and `expected` (the anomaly that
    the control must show) are set in controls and in their nulls, `exactly` where it must show these kinds and no
    others;
    `recovery_seconds` is the limit that is claimed.
    """

    schema: int = 1
    run: str
    scenario: str
    role: Role
    control: str | None
    expected: str | None
    exactly: tuple[str, ...] | None = None
    client: str
    transport: str
    seed: int
    target: str
    guarantee: Guarantee
    order: Order
    receivers: Receivers
    recovery_seconds: float | None = None


class Connected(Event, frozen=True, kw_only=True):
    """A client's connection number `connection` is usable; `recovered` where the server restored its session."""

    client: str
    connection: int
    recovered: bool = False


class ConnectFailed(Event, frozen=True, kw_only=True):
    """A try to connect failed; the number is used up."""

    client: str
    connection: int
    reason: str


class Disconnected(Event, frozen=True, kw_only=True):
    """A client's connection ended."""

    client: str
    connection: int
    reason: str


class Invoke(Event, frozen=True, kw_only=True):
    """A message was handed to its sender."""

    message: str
    sender: str
    sequence: int
    content: str
    policy: Policy


class Attempt(Event, frozen=True, kw_only=True):
    """An emission of a message begins, on the sender's connection number `connection`."""

    message: str
    attempt: int
    offset: str
    connection: int


class Ok(Event, frozen=True, kw_only=True):
    """An attempt was acknowledged; `late` when the attempt had ended before."""

    message: str
    attempt: int
    late: bool


class Fail(Event, frozen=True, kw_only=True):
    """An attempt definitely did not happen: it ended before anything was sent."""

    message: str
    attempt: int
    reason: str


class Info(Event, frozen=True, kw_only=True):
    """An attempt ended without an answer: its outcome is unknown.

    `timed_out` tells the ack timeout from the end of the connection.
    """

    message: str
    attempt: int
    reason: str
    timed_out: bool = False


class Settled(Event, frozen=True, kw_only=True):
    """The sender was told what became of its message."""

    message: str
    outcome: Literal["acknowledged", "handed-over", "gave-up"]


class Receiving(Event, frozen=True, kw_only=True):
    """A receiver is connected: it should get every message from now on."""

    receiver: str


class Received(Event, frozen=True, kw_only=True):
    """A receiver got a broadcast."""

    receiver: str
    server_offset: int | float | str | None
    content: str | None


class FaultBegan(Event, frozen=True, kw_only=True):
    """A fault is about to act. `number` is its place in the run, `on` what it disturbs.

    In a sweep `case` is that of the fault, and `place` what stands at its position.
    """

    number: int
    fault: str
    kind: FaultKind
    on: str
    case: str | None = None
    place: str | None = None


class Healing(Event, frozen=True, kw_only=True):
    """A fault begins to heal: the server is started again, the link opened."""

    number: int


class FaultEnded(Event, frozen=True, kw_only=True):
    """A fault has healed."""

    number: int


class Bitten(Event, frozen=True, kw_only=True):
    """Whether a fault took effect on a message, and what shows it."""

    number: int
    fault: str
    message: str
    seen: bool
    evidence: str


class Traced(Event, frozen=True, kw_only=True):
    """The server's calls that change state while it handled a message, up to where it was hit or had nothing to do.

    Only of a first attempt: before a later one the message may have been written already. `calls` are their
    fingerprints (see `harness.trace`), in their order; `acknowledged` is whether the sender had an acknowledgement
    then.
    """

    message: str
    calls: tuple[str, ...]
    acknowledged: bool


class Swept(Event, frozen=True, kw_only=True):
    """A part of a space of pairs was tried: of its `size` cases, in their order, from `begun` to before `done`."""

    space: str
    size: int
    begun: int
    done: int


class Soaked(Event, frozen=True, kw_only=True):
    """Parts of a soak lie before this history: they were read, judged and forgotten.

    `seconds` is how long they took, `counts` are those of the judge and `faults` how often which acted, `sequences`
    each sender's last message in them, and `unproven` why the first of them that was not kept was not.
    """

    parts: int
    seconds: float
    counts: dict[str, int]
    faults: dict[str, int]
    sequences: dict[str, int]
    unproven: str = ""


class Reread(Event, frozen=True, kw_only=True):
    """The rows that the parts of a soak have read, read again at its end: of `before` there are `rows`, or more.

    `same` is whether they are still what they were.
    """

    before: int
    rows: int
    same: bool


class ServerStarted(Event, frozen=True, kw_only=True):
    """The server is ready."""

    pid: int


class ServerExited(Event, frozen=True, kw_only=True):
    """The server's process ended; `expected` when the harness ended it or armed what ended it.

    `status` is the exit status, negative for a signal.
    """

    status: int
    expected: bool
    reason: str


class Drained(Event, frozen=True, kw_only=True):
    """The wait for every message to settle ended; `complete` when all had settled."""

    complete: bool


class Row(Event, frozen=True, kw_only=True):
    """One row of the final read, in the order of the target's `rows` query."""

    id: int | float | str | None
    client_offset: str | None
    content: str | None


class Failed(Event, frozen=True, kw_only=True):
    """Something around the traffic failed: the run says nothing about the target."""

    where: str
    reason: str


class Finished(Event, frozen=True, kw_only=True):
    """The final read is complete: nothing is missing from this history."""


AnyEvent = (
    Started
    | Connected
    | ConnectFailed
    | Disconnected
    | Invoke
    | Attempt
    | Ok
    | Fail
    | Info
    | Settled
    | Receiving
    | Received
    | FaultBegan
    | Healing
    | FaultEnded
    | Bitten
    | Traced
    | Swept
    | Soaked
    | Reread
    | ServerStarted
    | ServerExited
    | Drained
    | Row
    | Failed
    | Finished
)

_encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(AnyEvent)
_BLOCK_BYTES: Final = 1 << 16


def message_id(run: str, sender: str, sequence: int) -> str:
    """A message's identity: letters, digits and hyphens only, so that it survives escaping and trimming."""
    return f"{run}-{sender}-{sequence:04d}"


def identities(run: str) -> re.Pattern[str]:
    """What finds the identity of a message of this run in a text."""
    return re.compile(rf"{re.escape(run)}-[a-z]+-[0-9]{{4,}}(?![0-9])")


def identity_in(run: str, *texts: str | None) -> str | None:
    """The first identity of a message of this run in `texts`, looked at in their order."""
    pattern = identities(run)
    for text in texts:
        if text and (found := pattern.search(text)):
            return found.group()
    return None


def is_among(message: str | None, sequences: Mapping[str, int]) -> bool:
    """Whether a message is one of the first that a sender has sent, given how many of each there are."""
    _, sender, sequence = (message or "--").rsplit("-", 2)
    return bool(sequence) and int(sequence) <= sequences.get(sender, 0)


class History:
    """The events of one run, in order.

    Args:
        events: begins with `Started`.

    Raises:
        HarnessError: it does not.
    """

    started: Started

    def __init__(self, events: Iterable[AnyEvent]) -> None:
        self._events = tuple(events)
        self.started = _beginning(next(iter(self._events), None))

    def __iter__(self) -> Iterator[AnyEvent]:
        return iter(self._events)

    def at(self, number: int) -> AnyEvent:
        """The event of that number, from 0."""
        return self._events[number]

    @property
    def events(self) -> tuple[AnyEvent, ...]:
        """All of them at once."""
        return self._events

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read a history from its file into memory.

        Raises:
            HarnessError: the file cannot be read, or a line is not an event.
        """
        return History(SavedHistory(path))


class SavedHistory(History):
    """A history that stays in its file and is read anew each time, a block at a time: it may be longer than memory.

    A last line that a killed run left half-written is dropped.

    Raises:
        HarnessError: the file cannot be read or does not begin with `Started`; another line that is no event is told of
            when it is reached.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        first = next(iter(self), None)
        if first is None:
            raise HarnessError(f"the history {path} is empty" + (" but for half a line" if path.stat().st_size else ""))
        try:
            self.started = _beginning(first)
        except HarnessError as error:
            raise HarnessError(f"{path}: {error}") from None

    def __iter__(self) -> Iterator[AnyEvent]:
        return itertools.chain.from_iterable(itertools.starmap(self._decoded, self._blocks()))

    def at(self, number: int) -> AnyEvent:
        """The event of that number, from 0: the file is read again from a beginning of a block shortly before it."""
        before = self._beginnings[bisect.bisect(self._beginnings, number, key=lambda block: block[0]) - 1]
        for first, count, _, block in self._blocks(*before):
            if number < first + count:
                return self._event(number + 1, block.split(b"\n")[number - first])
        raise IndexError(number)

    @property
    def events(self) -> tuple[AnyEvent, ...]:
        """All of them at once."""
        return tuple(self)

    @functools.cached_property
    def _beginnings(self) -> list[tuple[int, int]]:
        return [(number, offset) for number, _, offset, _ in self._blocks()]

    def _blocks(self, number: int = 0, offset: int = 0) -> Iterator[tuple[int, int, int, bytes]]:
        """Whole lines, many at a time, from the beginning of a block: the first's number, their count and offset."""
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                unfinished = b""
                while read := file.read(_BLOCK_BYTES):
                    read = unfinished + read
                    end = read.rfind(b"\n") + 1
                    block, unfinished = read[:end], read[end:]
                    if block:
                        count = block.count(b"\n")
                        yield number, count, offset, block
                        number, offset = number + count, offset + end
        except OSError as error:
            raise HarnessError(f"cannot read the history {self._path}: {reason(error)}") from error

    def _decoded(self, number: int, count: int, _: int, block: bytes) -> list[AnyEvent]:
        try:
            events: list[AnyEvent] = _decoder.decode_lines(block)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            events = []
        if len(events) == count:
            return events
        # A line is no event, or is none by itself: an empty one, say.
        return [self._event(place, line) for place, line in enumerate(block.split(b"\n")[:-1], start=number + 1)]

    def _event(self, number: int, line: bytes) -> AnyEvent:
        try:
            event: AnyEvent = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise HarnessError(f"{self._path}, line {number}: not an event of a history: {error}") from error
        return event


def _beginning(event: AnyEvent | None) -> Started:
    if not isinstance(event, Started):
        raise HarnessError("a history begins with a `started` event, and this one does not")
    return event


class Recorder:
    """Appends events to memory and, whole line by whole line, to a file. Give its events `time=recorder.now()`.

    Half a surrogate pair (from a server that cuts an emoji in two, say) has no place in UTF-8. It is recorded as the
    text of its escape (a backslash and `ud83d`), in memory as on disk, so that every reader judges the same events.

    Where an event cannot be written (a full disk, say) the history ends: one with a gap would accuse somebody. What is
    under way is not disturbed by that, and `close` says it.

    Raises:
        HarnessError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.events: list[AnyEvent] = []
        self.path = path
        self._start = time.monotonic()
        self._failure: str | None = None
        try:
            self._file: IO[bytes] = path.open("wb", buffering=0)
        except OSError as error:
            raise HarnessError(f"cannot write the history {path}: {reason(error)}") from error

    def now(self) -> float:
        """Seconds since the recorder was made, to the microsecond."""
        return round(time.monotonic() - self._start, 6)

    def record(self, event: AnyEvent) -> None:
        """Append an event."""
        try:
            line = _encode(event) + b"\n"
        except UnicodeEncodeError:
            event = _without_surrogates(event)
            line = _encode(event) + b"\n"
        self.events.append(event)
        if self._failure is None:
            self._failure = self._write(line)

    def _write(self, line: bytes) -> str | None:
        """Write a whole line or nothing; why it is nothing."""
        try:
            written = os.write(self._file.fileno(), line)
        except OSError as error:
            return reason(error)
        if written != len(line):
            os.ftruncate(self._file.fileno(), self._file.seek(-written, os.SEEK_CUR))
            return "no space left"
        return None

    def begin_anew(self, *events: AnyEvent) -> None:
        """Forget everything, in memory and on disk, and begin with these events: the next part of a soak."""
        self.events.clear()
        if self._failure is None:
            os.ftruncate(self._file.fileno(), 0)
            self._file.seek(0)
        for event in events:
            self.record(event)

    def close(self) -> None:
        """Close the file; the events stay.

        Raises:
            HarnessError: the file lacks events, because it could not be written.
        """
        self._file.close()
        if self._failure is not None:
            raise HarnessError(f"cannot write the history {self._file.name}: {self._failure}")


def _without_surrogates(event: AnyEvent) -> AnyEvent:
    texts = {name: value for name, value in msgspec.structs.asdict(event).items() if isinstance(value, str)}
    return msgspec.structs.replace(
        event, **{name: text.encode(errors="backslashreplace").decode() for name, text in texts.items()}
    )
