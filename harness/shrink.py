"""The smallest case that still fails, of a pair of faults: one of them alone, or both earlier."""

from collections.abc import Awaitable, Callable, Iterator

_TRIES = 12


def smaller(case: str) -> Iterator[str]:
    """Simpler cases than a pair `12+9`, the simplest first: one fault alone (`12+`, `+9`), then earlier positions."""
    first, _, second = case.partition("+")
    if first and second:
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

    Args:
        case: a pair that fails.
        fails: tries a case.
    """
    tried: set[str] = set()
    while len(tried) < _TRIES:
        for candidate in smaller(case):
            if candidate not in tried and len(tried) < _TRIES:
                tried.add(candidate)
                if await fails(candidate):
                    case = candidate
                    break
        else:
            break
    return case
