"""Repetitions of one scenario within one run: how many, with which seeds, in which folders, and which is the worst."""

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

Word = Literal["error", "broken", "unproven", "not offered", "kept"]
MAXIMUM: Final = 1000
# What outweighs what; the first word that any repetition has is the scenario's.
_WEIGHT: Final[tuple[Word, ...]] = ("error", "broken", "unproven", "not offered", "kept")
_SEEDS: Final = 2**32

Count = Annotated[int, msgspec.Meta(ge=1, le=MAXIMUM)]


def count(text: str) -> int:
    """How often to repeat, as a user writes it.

    Raises:
        argparse.ArgumentTypeError: it is no such number; said while the command line is read.
    """
    if text.isascii() and text.isdecimal() and len(text) <= len(str(MAXIMUM)) and 1 <= int(text) <= MAXIMUM:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MAXIMUM}")


def seeds(seed: int, planned: int) -> list[int]:
    """The seeds of the repetitions: the first is the run's own; more repetitions change none of those before."""
    numbers = random.Random(f"{seed}/repeat")
    drawn = [seed]
    while len(drawn) < planned:
        another = numbers.randrange(_SEEDS)
        if another not in drawn:
            drawn.append(another)
    return drawn


def folder(number: int, planned: int) -> str:
    """The name of a repetition's folder in its scenario's; by name they are in their order."""
    return f"repeat-{number:0{max(2, len(str(planned)))}}"


def worst(verdicts: Sequence[Word]) -> int:
    """The position of the first of the worst verdicts."""
    return min(range(len(verdicts)), key=lambda position: _WEIGHT.index(verdicts[position]))


def tally(verdicts: Sequence[Word]) -> dict[Word, int]:
    """How many repetitions had which verdict, the worst first."""
    found = Counter(verdicts)
    return {word: found[word] for word in _WEIGHT if found[word]}


class Repeated(msgspec.Struct, frozen=True):
    """What came of a scenario's repetitions; everything else that its verdict says is of the one numbered `worst`.

    `seed` is that repetition's, `verdicts` is how many had which verdict, the worst first.
    """

    planned: Count
    worst: Count
    seed: int
    verdicts: dict[Word, Count]

    @property
    def ran(self) -> int:
        """How many repetitions have a verdict."""
        return sum(self.verdicts.values())

    @property
    def folder(self) -> str:
        """The folder of the worst repetition, in that of its scenario."""
        return folder(self.worst, self.planned)

    @property
    def in_short(self) -> str:
        """`broken in 1 of 20 runs`."""
        word = next(iter(self.verdicts))
        return f"{word} in {self.verdicts[word]} of {self.planned} runs"

    @property
    def sentence(self) -> str:
        """All there is to say of the repetitions, as one sentence without its full stop."""
        _, *others = self.verdicts.items()
        left = self.planned - self.ran
        parts = [
            self.in_short,
            *(f"{word} in {number}" for word, number in others),
            *([f"{left} did not run"] if left else []),
        ]
        return f"{', '.join(parts)}; this is run {self.worst} of {self.planned}, with seed {self.seed}"
