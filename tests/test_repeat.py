"""Repetitions of one scenario: how many, with which seeds, in which folders, and which is the worst."""

import argparse

import pytest

from harness import repeat
from harness.repeat import Repeated, Word


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("20", 20), ("007", 7), ("1000", 1000)])
def test_a_whole_number_from_1_to_1000_is_a_count(text: str, count: int) -> None:
    """The limits belong to it."""
    assert repeat.count(text) == count


@pytest.mark.parametrize(
    "text", ["0", "1001", "-1", "+1", "1.0", "1e2", "", " 1", "1_0", "\u0661", "\u00b2", "9" * 5000]
)
def test_anything_else_is_refused_in_words(text: str) -> None:
    """What is no such number is quoted, with what would be one."""
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number from 1 to 1000"):
        repeat.count(text)


def test_the_first_repetition_has_the_seed_of_the_run() -> None:
    """One repetition is the run as it would be without repeating."""
    assert repeat.seeds(20, 1) == [20]
    assert repeat.seeds(20, 3)[0] == 20


def test_every_repetition_has_another_seed() -> None:
    """No two repetitions are the same, and neighbouring runs do not repeat each other."""
    one, two = repeat.seeds(20, repeat.MAXIMUM), repeat.seeds(21, repeat.MAXIMUM)
    assert len(set(one)) == len(set(two)) == repeat.MAXIMUM
    assert not set(one[1:]) & set(two[1:10])


def test_the_seeds_are_the_same_again() -> None:
    """The seed of a run is enough to know those of its repetitions, however many there are."""
    assert repeat.seeds(20, 5) == repeat.seeds(20, 50)[:5]
    assert repeat.seeds(20, 5)[1:] != repeat.seeds(21, 5)[1:]


@pytest.mark.parametrize(
    ("number", "planned", "name"),
    [(7, 20, "repeat-07"), (1, 2, "repeat-01"), (7, 100, "repeat-007"), (1000, 1000, "repeat-1000")],
)
def test_folders_are_in_their_order_by_name(number: int, planned: int, name: str) -> None:
    """Numbers are as wide as the widest, two digits at least."""
    assert repeat.folder(number, planned) == name


ORDER: list[Word] = ["kept", "not offered", "unproven", "broken", "error"]


@pytest.mark.parametrize("position", range(1, len(ORDER)))
def test_one_worse_repetition_outweighs_all_others(position: int) -> None:
    """Error outweighs broken, broken unproven, unproven not offered, and that kept; the first of the worst counts."""
    better, bad = ORDER[position - 1], ORDER[position]
    assert repeat.worst([better, better, bad, better, bad]) == 2


def test_verdicts_are_counted_from_the_worst() -> None:
    """The tally has the words that were found, the worst first."""
    tally = repeat.tally(["kept", "broken", "kept", "unproven"])
    assert list(tally.items()) == [("broken", 1), ("unproven", 1), ("kept", 2)]


def test_a_sentence_says_how_often_and_which() -> None:
    """How many had which verdict, and which repetition is shown, with the seed that replays it."""
    repeated = Repeated(20, 7, 99, {"broken": 1, "unproven": 2, "kept": 17})
    assert repeated.in_short == "broken in 1 of 20 runs"
    assert repeated.folder == "repeat-07"
    assert repeated.sentence == ("broken in 1 of 20 runs, unproven in 2, kept in 17; this is run 7 of 20, with seed 99")


def test_a_sentence_says_what_did_not_run() -> None:
    """When nothing could run any more, the rest is told to be missing."""
    repeated = Repeated(20, 3, 99, {"error": 1, "kept": 2})
    assert repeated.sentence == ("error in 1 of 20 runs, kept in 2, 17 did not run; this is run 3 of 20, with seed 99")
