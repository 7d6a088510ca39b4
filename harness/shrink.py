"""The smallest that still fails: of a pair of faults one of them alone, or both earlier; of a schedule some steps."""

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

_TRIES, _TRIES_ALONE = 12, 2
_T = TypeVar("_T")


def smaller(case: str) -> Iterator[str]:
    """Simpler cases than a pair `12+9`, the simplest first: one fault alone (`12+`, `+9`), then earlier positions."""
    first, _, second = case.partition("+")
    if _is_pair(case):
        yield f"{first}+"
        yield f"+{second}"
    for earlier in _earlier(first):
        yield f"{earlier}+{second}"
    for earlier in _earlier(second):
        yield f"{first}+{earlier}"


def _earlier(position: str) -> Iterator[int]:
    if position:
        number = int(position)
        yield from dict.fromkeys(earlier for earlier in (0, number // 2, number - 1) if 0 <= earlier < number)


async def smallest(case: str, fails: Callable[[str], Awaitable[bool]]) -> str:
    """The smallest case that fails, as far as a dozen tries find it.

    One fault of a pair is tried alone twice before both are believed to be needed: what races need not fail each time.

    Args:
        case: a pair that fails.
        fails: tries a case.
    """
    tried: Counter[str] = Counter()
    while tried.total() < _TRIES:
        for candidate in smaller(case):
            tries = _TRIES_ALONE if _is_pair(case) and not _is_pair(candidate) else 1
            while tried[candidate] < tries and tried.total() < _TRIES:
                tried[candidate] += 1
                if await fails(candidate):
                    break
            else:
                continue
            case = candidate
            break
        else:
            break
    return case


def _is_pair(case: str) -> bool:
    first, _, second = case.partition("+")
    return bool(first and second)


async def smallest_part(
    steps: Sequence[_T], fails: Callable[[tuple[_T, ...]], Awaitable[bool]], tries: int
) -> tuple[_T, ...]:
    """As few steps of a schedule that fails as still fail, in their order, as far as so many tries find it.

    Halves of it first, the later one before the earlier, since what was last is what most likely did it; then ever
    smaller pieces, and what is left without each (delta debugging, Zeller and Hildebrandt 2002).

    Args:
        steps: which fail.
        fails: tries some of them.
        tries: how many at most.
    """
    left, pieces = tuple(steps), 2
    while len(left) > 1:
        for pieces_then, candidate in _parts(left, pieces):
            if tries == 0:
                return left
            tries -= 1
            if await fails(candidate):
                left, pieces = candidate, pieces_then
                break
        else:
            if pieces == len(left):
                break
            pieces *= 2
        pieces = min(max(2, pieces), len(left))
    return left


def _parts(steps: tuple[_T, ...], pieces: int) -> Iterator[tuple[int, tuple[_T, ...]]]:
    """Each piece alone, and what is left without each, with the number of pieces that it is to be cut into next."""
    edges = [round(place * len(steps) / pieces) for place in range(pieces + 1)]
    spans = list(itertools.pairwise(edges))[::-1]
    yield from ((2, steps[begin:end]) for begin, end in spans)
    if pieces > 2:
        yield from ((pieces - 1, steps[:begin] + steps[end:]) for begin, end in spans)
