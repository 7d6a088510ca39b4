"""What fails is reduced, within bounds: a pair to one fault or earlier positions, a schedule to fewer steps."""

import asyncio

import pytest

from harness.shrink import smaller, smallest, smallest_part


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
    assert len(tried) <= 12
    assert {case for case in tried if tried.count(case) > 1} <= {"12+", "+9", "6+", "+4"}


@pytest.mark.parametrize(("failing", "remains"), [(1, "0+"), (2, "0+"), (3, "0+0")])
def test_each_fault_alone_is_tried_twice(failing: int, remains: str) -> None:
    """What races may fail only then; what has not failed twice is given up."""
    tried = []

    async def attempt(candidate: str) -> bool:
        tried.append(candidate)
        return candidate == "0+" and tried.count("0+") == failing

    assert asyncio.run(smallest("0+0", attempt)) == remains
    assert tried == ["0+", "0+", "+0", "+0"][: min(failing, 2) if failing < 3 else 4]


def test_tries_are_bounded() -> None:
    """Where everything fails a dozen tries are enough."""

    class Everything(set[str]):
        def __contains__(self, _: object) -> bool:
            return True

    found, tried = shrunk("1000000+1000000", Everything())
    assert len(tried) <= 12
    assert found == "0+"


# -- schedules ---------------------------------------------------------------------------------------------------


def shortened(count: int, fails: set[int], tries: int = 100) -> tuple[tuple[int, ...], int]:
    """What remains of so many steps where all of `fails` have to be there, and how many tries it took."""
    tried = []

    async def attempt(candidate: tuple[int, ...]) -> bool:
        tried.append(candidate)
        return fails <= set(candidate)

    return asyncio.run(smallest_part(range(count), attempt, tries)), len(tried)


@pytest.mark.parametrize("fails", [{0}, {19}, {7}, {18, 19}, {0, 19}, {3, 9, 15}, {1, 2, 3, 4}])
def test_schedule_is_reduced_to_the_steps_that_fail_together(fails: set[int]) -> None:
    """In their order, wherever they are."""
    found, _ = shortened(20, fails)
    assert found == tuple(sorted(fails))


@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_schedule_of_which_nothing_can_be_left_out_stays(count: int) -> None:
    """Whole."""
    found, _ = shortened(count, set(range(count)))
    assert found == tuple(range(count))


def test_last_step_is_found_by_halving() -> None:
    """It is the likeliest, and takes the fewest tries."""
    assert shortened(16, {15}) == ((15,), 4)
    assert shortened(16, {0}) == ((0,), 8)


def test_tries_of_a_schedule_are_bounded() -> None:
    """What was found by then remains."""
    found, tried = shortened(64, {3, 40}, tries=9)
    assert tried == 9
    assert {3, 40} <= set(found)
