"""Where things are in the drawing of a timeline, and the SVG paths they become. Pure: numbers in, paths out."""

import math
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Final

import msgspec

WIDTH: Final = 960
LEFT, RIGHT = 112, 944  # where time begins and ends
PIN: Final = 26  # from one pin to the next: a target of at least 24 pixels for a finger
SEGMENTS: Final = 60  # what a path has at most, whatever the run was

Interval = tuple[float, float]


class Axis(msgspec.Struct, frozen=True):
    """The times shown, and where."""

    begin: float
    end: float

    def x(self, time: float) -> int:
        """Where a time is; what lies outside is at the edge."""
        share = (time - self.begin) / (self.end - self.begin)
        return round(LEFT + min(1.0, max(0.0, share)) * (RIGHT - LEFT))

    def spans(self, intervals: Iterable[Interval]) -> list[tuple[int, int]]:
        """What is to be seen of some intervals."""
        seen = ((a, b) for a, b in intervals if b >= self.begin and a <= self.end and a <= b)
        return [(self.x(a), self.x(b)) for a, b in seen]

    def shows(self, time: float) -> bool:
        """Whether a time is on the axis."""
        return self.begin <= time <= self.end


def tick_times(axis: Axis) -> tuple[list[float], int]:
    """At most eleven round times, and how many decimals tell them apart."""
    span = axis.end - axis.begin
    steps = (base * 10.0**power for power in range(-4, 9) for base in (1, 2, 5))
    step = next(step for step in steps if span / step <= 10)
    first, last = math.ceil(axis.begin / step), math.floor(axis.end / step)
    found, decimals = [number * step for number in range(first, last + 1)], max(0, -math.floor(math.log10(step) + 1e-9))
    return found, decimals


# -- paths -------------------------------------------------------------------------------------------------------


def merged(spans: Iterable[tuple[int, int]], least: int = 2) -> list[tuple[int, int]]:
    """Begin and width of what spans cover; gaps are closed, the small ones first, until there are few enough."""
    ordered = sorted(spans)
    for gap in (2**power for power in count()):
        found: list[tuple[int, int]] = []
        for begin, end in ordered:
            if found and begin - found[-1][1] <= gap:
                found[-1] = (found[-1][0], max(end, found[-1][1]))
            else:
                found.append((begin, max(end, begin + least)))
        if len(found) <= SEGMENTS:
            break
    return [(begin, end - begin) for begin, end in found]


def bars(spans: Iterable[tuple[int, int]], y: int) -> str:
    """One path along all spans; its thickness is the style's."""
    return along(merged(spans), y)


def along(pieces: Iterable[tuple[int, int]], y: int) -> str:
    """One path along pieces, each its begin and its width, in their order."""
    path, at = "", None
    for x, width in pieces:
        path += f"M{x} {y}h{width}" if at is None else f"m{x - at} 0h{width}"
        at = x + width
    return path


def ticks(places: Iterable[int], y: int, height: int, width: int = 2) -> str:
    """One filled path of upright ticks around `y`; those that touch become a block."""
    half = width // 2
    pieces = merged(((x - half, x - half + width) for x in places), width)
    return "".join(box(x, y, wide, height) for x, wide in pieces)


def crosses(places: Iterable[int], y: int, size: int) -> str:
    """One path of crosses."""
    return "".join(f"M{x - size} {y - size}l{2 * size} {2 * size}m0 {-2 * size}l{-2 * size} {2 * size}" for x in places)


def box(x: int, y: int, width: int, height: int) -> str:
    """A box from `x` on, its middle at `y`."""
    return f"M{x} {y - height // 2}h{width}v{height}h{-width}z"


def diamond(x: int, y: int) -> str:
    """A diamond around a point."""
    return f"M{x} {y - 6}l6 6l-6 6l-6-6z"


# -- places ------------------------------------------------------------------------------------------------------


def wide(text: str) -> int:
    """About how wide a label is; letters of some scripts are wider."""
    return sum(7 if character.isascii() else 12 for character in text)


def beside(begin: int, end: int, name: str) -> tuple[int, str]:
    """Where a name stands above its bar, so that it does not leave the drawing."""
    if begin + wide(name) <= WIDTH:
        return begin, "start"
    return max(end, min(WIDTH - 4, LEFT + wide(name))), "end"


def packed(wanted: Sequence[int]) -> list[tuple[int, int]]:
    """A row and an x for each pin, near where it should be and none upon another."""
    first, last = LEFT, RIGHT - PIN // 2 + 12
    room = (last - first) // PIN
    rows: list[list[int]] = [[] for _ in range(max(3, -(-len(wanted) // room) + 1))]
    placed: dict[int, tuple[int, int]] = {}
    for pin in sorted(range(len(wanted)), key=lambda pin: (wanted[pin], pin)):
        at = [max(wanted[pin], row[-1] + PIN if row else first) for row in rows]
        row = min(
            (r for r in range(len(rows)) if len(rows[r]) < room), key=lambda r: (max(0, at[r] - wanted[pin] - PIN), r)
        )
        placed[pin] = (row, len(rows[row]))
        rows[row].append(at[row])
    for row_places in rows:
        edge = last
        for place in range(len(row_places) - 1, -1, -1):
            row_places[place] = min(row_places[place], edge)
            edge = row_places[place] - PIN
    return [(row, rows[row][place]) for row, place in (placed[pin] for pin in range(len(wanted)))]
