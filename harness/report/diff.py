"""Expected and stored messages of each sender, compared like a unified diff. Pure: fates and anomalies in, lines out.

A sender's order is the only one that is known beforehand (how senders interleave is the store's choice), so each
sender has a diff of its own. A message counts as in its place exactly where the checker does not call it reordered.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Final, Literal

import msgspec

from harness.checker import Anomaly, Fate, Fates
from harness.report.text import middle, one_line, ranges, times

Sign = Literal[" ", "-", "+"]
CONTEXT: Final = 3
BODY_CHARACTERS: Final = 96
# A run of this many lines that differ in nothing but the message's number becomes one line.
_RUN = 4
_HUNK = 24  # lines; what changed beyond them is folded
_LEAD = 16  # characters before the place where a corrupted content parts


class Line(msgspec.Struct, frozen=True):
    """One line, or a run of `count` alike: `-` expected and not stored here, `+` stored and not expected here.

    `text` is a content (cut, with what is said in `cut`), or None where there is none to show: NULL, or a run.
    """

    sign: Sign
    messages: str
    count: int
    rows: str
    text: str | None
    note: str


class Folded(msgspec.Struct, frozen=True):
    """Changed lines that are alike but for their messages, which are listed as ranges: none is left out."""

    sign: Sign
    note: str
    count: int
    messages: str


class Hunk(msgspec.Struct, frozen=True):
    """Changed lines with their context; `folded` holds the changed lines beyond the first ones."""

    lines: list[Line]
    folded: list[Folded]


class Diff(msgspec.Struct, frozen=True):
    """What differs between the expected and the stored messages of one sender."""

    sender: str
    hunks: list[Hunk]


class _Entry(msgspec.Struct, frozen=True):
    """One line before runs are compressed."""

    sign: Sign
    message: str
    number: int
    row: str
    text: str | None
    note: str


def diffs(fates: Fates, anomalies: Iterable[Anomaly], lines: int = 80) -> list[Diff]:
    """The diffs of the senders that have one, at most about so many lines in all; what is beyond is folded.

    Args:
        fates: the folded history.
        anomalies: those of the run; one that names a receiver is none of the store.
        lines: after so many, changed lines become ranges.
    """
    notes: dict[str, list[str]] = defaultdict(list)
    for anomaly in anomalies:
        if anomaly.message is not None and anomaly.receiver is None:
            notes[anomaly.message].append(anomaly.kind)
    if not notes:
        return []
    noted = {message: ", ".join(dict.fromkeys(kinds)) for message, kinds in notes.items()}
    found = []
    for sender, messages in _by_sender(fates).items():
        entries = list(_compare(sender, messages, fates, noted))
        hunks = list(_hunks(entries, f"{fates.started.run}-{sender}-", lines))
        lines -= sum(len(hunk.lines) for hunk in hunks)
        if hunks:
            found.append(Diff(sender, hunks))
    return found


# -- the comparison ----------------------------------------------------------------------------------------------


def _by_sender(fates: Fates) -> dict[str, list[int]]:
    """The positions of each sender's rows. A message that was never posted still names a sender."""
    positions: dict[str, list[int]] = {fate.sender: [] for fate in fates.messages.values()}
    for position, message in enumerate(fates.row_messages):
        if message is not None:
            fate = fates.messages.get(message)
            sender = fate.sender if fate else _named(message, fates.started.run)[0]
            positions.setdefault(sender, []).append(position)
    return positions


def _named(message: str, run: str) -> tuple[str, int]:
    sender, _, number = message.removeprefix(f"{run}-").rpartition("-")
    return sender, int(number) if number.isdecimal() else 0


def _compare(sender: str, positions: Sequence[int], fates: Fates, notes: dict[str, str]) -> Iterator[_Entry]:
    """Walk the stored rows; between two that are in their place, first what is missing there, then what is too much."""
    posted = sorted((f for f in fates.messages.values() if f.sender == sender), key=lambda fate: fate.sequence)
    missing = [fate for fate in posted if _is_expected(fate, notes)]
    in_place = _in_place(positions, fates, {fate.message for fate in missing})
    extra: list[_Entry] = []
    for position in positions:
        if position not in in_place:
            extra.append(_stored(position, fates, notes))
            continue
        fate = fates.messages[fates.row_messages[position] or ""]
        while missing[0].message != fate.message:
            yield _expected(missing.pop(0), notes)
        yield from extra
        extra = []
        yield from _match(missing.pop(0), position, fates, notes)
    yield from (_expected(fate, notes) for fate in missing)
    yield from extra


def _is_expected(fate: Fate, notes: dict[str, str]) -> bool:
    """Whether a row belongs there: it was acknowledged, or its outcome left it open and it was stored."""
    if fate.outcome == "ok" or fate.settled in ("acknowledged", "handed-over"):
        return True
    if fate.outcome == "fail" or fate.settled == "gave-up":
        return False
    return bool(fate.rows) or fate.message in notes


def _in_place(positions: Sequence[int], fates: Fates, expected: set[str]) -> set[int]:
    """The rows that stand where they belong: the first of their message, and not behind a later one."""
    highest, found, seen = -1, set(), set()
    for position in positions:
        message = fates.row_messages[position]
        fate = fates.messages.get(message or "")
        if fate is None or message in seen:
            continue
        seen.add(message)
        if fate.sequence > highest:
            highest = fate.sequence
            if message in expected:
                found.add(position)
    return found


def _match(fate: Fate, position: int, fates: Fates, notes: dict[str, str]) -> Iterator[_Entry]:
    row = fates.rows[position]
    if row.content == fate.content:
        yield _Entry(" ", fate.message, fate.sequence, _row_id(row.id), middle(fate.content, BODY_CHARACTERS), "")
        return
    sent, stored = _around_the_parting(fate.content, row.content)
    note = notes.get(fate.message, "")
    yield _Entry("-", fate.message, fate.sequence, "", sent, note)
    yield _Entry("+", fate.message, fate.sequence, _row_id(row.id), stored, note)


def _expected(fate: Fate, notes: dict[str, str]) -> _Entry:
    text = middle(fate.content, BODY_CHARACTERS)
    return _Entry("-", fate.message, fate.sequence, "", text, notes.get(fate.message, ""))


def _stored(position: int, fates: Fates, notes: dict[str, str]) -> _Entry:
    row, message = fates.rows[position], fates.row_messages[position] or ""
    fate = fates.messages.get(message)
    text = row.content
    if fate is not None and text != fate.content:
        text = _around_the_parting(fate.content, text)[1]
    elif text is not None:
        text = middle(text, BODY_CHARACTERS)
    number = fate.sequence if fate else _named(message, fates.started.run)[1]
    return _Entry("+", message, number, _row_id(row.id), text, notes.get(message, ""))


def _row_id(value: object) -> str:
    return middle(one_line(str(value)), 16)


def _around_the_parting(sent: str, stored: str | None) -> tuple[str, str | None]:
    """Both contents, cut so that the place where they part is in what is left."""
    if stored is None:
        return middle(sent, BODY_CHARACTERS), None
    shorter = min(len(sent), len(stored))
    at = next((i for i in range(shorter) if sent[i] != stored[i]), shorter)
    begin = max(0, at - _LEAD)

    def window(text: str) -> str:
        end = begin + BODY_CHARACTERS - 2
        return ("…" if begin else "") + text[begin:end] + ("…" if end < len(text) else "")

    return window(sent), window(stored)


# -- hunks -------------------------------------------------------------------------------------------------------


def _hunks(entries: Sequence[_Entry], prefix: str, lines: int) -> Iterator[Hunk]:
    """Runs of lines around what changed; when the lines are used up, all further changes are folded into one hunk."""
    runs = list(_runs(entries))
    for first, last in _stretches([i for i, run in enumerate(runs) if run[0].sign != " "], len(runs)):
        if lines < 1:
            yield Hunk([], list(_fold(runs[first:], prefix)))
            return
        room = min(lines, _HUNK)
        shown, rest = runs[first:last][:room], runs[first:last][room:]
        lines -= len(shown)
        yield Hunk([_line(run, prefix) for run in shown], list(_fold(rest, prefix)))


def _runs(entries: Sequence[_Entry]) -> Iterator[list[_Entry]]:
    """Changed lines that differ in nothing but consecutive numbers, together where there are enough of them."""
    group: list[_Entry] = []
    for entry in entries:
        if group and not _continues(group[-1], entry):
            yield from _together(group)
            group = []
        group.append(entry)
    yield from _together(group)


def _continues(before: _Entry, entry: _Entry) -> bool:
    alike = (entry.sign, entry.note) == (before.sign, before.note) and entry.sign != " "
    return alike and entry.number == before.number + 1


def _together(group: list[_Entry]) -> Iterator[list[_Entry]]:
    if len(group) >= _RUN:
        yield group
    else:
        yield from ([entry] for entry in group)


def _stretches(changed: Sequence[int], count: int) -> Iterator[tuple[int, int]]:
    """From and to where there is something to show: each change with its context, those that touch in one."""
    if not changed:
        return
    begin = changed[0]
    for before, after in pairwise([*changed, count + 3 * CONTEXT]):
        if after - before > 2 * CONTEXT + 1:
            yield max(0, begin - CONTEXT), min(count, before + CONTEXT + 1)
            begin = after


def _line(run: Sequence[_Entry], prefix: str) -> Line:
    first, last = run[0], run[-1]
    if len(run) == 1:
        return Line(first.sign, first.message.removeprefix(prefix), 1, first.row, first.text, first.note)
    rows = f"{first.row} … {last.row}" if first.row else ""
    return Line(first.sign, _compressed(run, prefix), len(run), rows, None, first.note)


def _fold(runs: Iterable[Sequence[_Entry]], prefix: str) -> Iterator[Folded]:
    alike: dict[tuple[Sign, str], list[_Entry]] = defaultdict(list)
    for entry in chain.from_iterable(runs):
        if entry.sign != " ":
            alike[entry.sign, entry.note].append(entry)
    for (sign, note), found in alike.items():
        yield Folded(sign, note, len(found), _compressed(found, prefix))


def _compressed(entries: Iterable[_Entry], prefix: str) -> str:
    return ", ".join(text.removeprefix(prefix) for text in ranges(entry.message for entry in entries))


def summary(found: Sequence[Diff]) -> str:
    """How many lines differ, for those who cannot see signs and colours."""
    missing, extra = (sum(_counts(found, sign)) for sign in ("-", "+"))
    return f"{times(missing, 'message')} not stored where expected, {times(extra, 'row')} too many or elsewhere"


def _counts(found: Sequence[Diff], sign: str) -> Iterator[int]:
    for diff in found:
        for hunk in diff.hunks:
            yield from (line.count for line in hunk.lines if line.sign == sign)
            yield from (folded.count for folded in hunk.folded if folded.sign == sign)
