"""A pair that fails is reduced: to one of its faults, and to earlier positions, in a bounded number of tries."""

import asyncio

import pytest

from harness.shrink import smaller, smallest


def shrunk(case: str, fails: set[str]) -> tuple[str, list[str]]:
    """What remains of a case where these fail, and what was tried."""
    tried = []

    async def attempt(candidate: str) -> bool:
        tried.append(candidate)
        return candidate in fails

    return asyncio.run(smallest(case, attempt)), tried


@pytest.mark.parametrize(
    ("case", "candidates"),
    [
        ("12+9", ["12+", "+9", "0+9", "6+9", "11+9", "12+0", "12+4", "12+8"]),
        ("0+0", ["0+", "+0"]),
        ("2+", ["0+", "1+"]),
        ("+1", ["+0"]),
        ("0+", []),
    ],
)
def test_smaller_cases_have_one_fault_or_an_earlier_position(case: str, candidates: list[str]) -> None:
    """One fault alone comes first."""
    assert list(smaller(case)) == candidates


@pytest.mark.parametrize(
    ("fails", "remains"),
    [
        (set(), "12+9"),
        ({"12+"}, "12+"),
        ({"+9"}, "+9"),
        ({"12+", "6+", "3+", "+9"}, "3+"),
        ({"6+9", "6+4"}, "6+4"),
    ],
)
def test_smallest_is_what_fails_and_has_nothing_smaller_that_does(fails: set[str], remains: str) -> None:
    """A pair of which no part fails stays as it is."""
    found, tried = shrunk("12+9", fails)
    assert found == remains
    assert len(tried) == len(set(tried)) <= 12


def test_tries_are_bounded() -> None:
    """Where everything fails a dozen tries are enough."""

    class Everything(set[str]):
        def __contains__(self, _: object) -> bool:
            return True

    found, tried = shrunk("1000000+1000000", Everything())
    assert len(tried) <= 12
    assert found == "0+"
