"""How much of a space of pairs was covered: in one run, and by the runs before it, from which the next one goes on."""

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

from harness import history as h
from harness.history import History


class _Progress(msgspec.Struct, frozen=True):
    size: int
    done: int


def order(space: str, size: int) -> list[int]:
    """The numbers of a space's cases in the order in which they are tried: any, and always the same."""
    numbers = list(range(size))
    random.Random(f"{space}/{size}").shuffle(numbers)
    return numbers


def load(path: Path | None, size: int) -> int:
    """How many cases of that order the runs before have tried; 0 when they tried all, or another space."""
    if path is None:
        return 0
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        progress = msgspec.json.decode(path.read_bytes(), type=_Progress)
        if progress.size == size and 0 <= progress.done < size:
            return progress.done
    return 0


def save(path: Path | None, size: int, done: int) -> None:
    """Keep how many cases have been tried, where that can be written."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_bytes(msgspec.json.encode(_Progress(size, done)))
            draft.replace(path)


def said(history: History) -> str:
    """What share of a space a run has covered, in words; nothing where it was no space of pairs."""
    return "; ".join(_sentences(history))


def _sentences(history: History) -> Iterator[str]:
    for event in history:
        if isinstance(event, h.Swept):
            tried = event.done - event.begun
            share = f"{event.space}: {tried:,} of {event.size:,} pairs ({tried / event.size:.1%})"
            yield share + (f", {event.done:,} with those of the runs before" if event.begun else "")
