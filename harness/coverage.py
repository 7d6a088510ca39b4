"""How much was covered: of a space of pairs, in one run and by the runs before it; of a soak, so far."""

import contextlib
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from harness import history as h
from harness.checker import Judgement
from harness.errors import HarnessError
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


def said(history: History, judgement: Judgement) -> str:
    """What share of a space a run has covered, or what a soak has gone through, in words; nothing of other runs."""
    return "; ".join(_sentences(history, judgement))


def _sentences(history: History, judgement: Judgement) -> Iterator[str]:
    for event in history:
        if isinstance(event, h.Swept):
            tried = event.done - event.begun
            share = f"{event.space}: {tried:,} of {event.size:,} pairs ({tried / event.size:.1%})"
            yield share + (f", {event.done:,} with those of the runs before" if event.begun else "")
        if isinstance(event, h.Soaked):
            so_far = soaked(history, judgement)
            kinds = sorted(so_far.faults.items(), key=lambda each: (-each[1], each[0]))
            yield soaked_in_words(so_far) + (": " if kinds else "") + ", ".join(f"{name} {n}" for name, n in kinds)


def soaked(history: History, judgement: Judgement) -> h.Soaked:
    """What a soak has gone through, with the part of it that this history is.

    Raises:
        HarnessError: it is no part of a soak.
    """
    before = next((event for event in history if isinstance(event, h.Soaked)), None)
    if before is None:
        raise HarnessError("this is no history of a soak")
    sequences, faults, last = dict(before.sequences), Counter(before.faults), before.time
    for event in history:
        last = event.time
        match event:
            case h.Invoke():
                sequences[event.sender] = event.sequence
            case h.FaultBegan():
                faults[_fault(event)] += 1
            case _:
                pass
    return h.Soaked(
        time=last,
        parts=before.parts + 1,
        seconds=last,
        counts=judgement.counts,
        faults=dict(faults),
        sequences=sequences,
        unproven=before.unproven or (judgement.why if judgement.verdict == "unproven" else ""),
    )


def is_soak_without_faults(history: History, judgement: Judgement) -> bool:
    """Whether it is one that ended before anything was done."""
    return any(isinstance(event, h.Soaked) for event in history) and not soaked(history, judgement).faults


def _fault(event: h.FaultBegan) -> str:
    """The kind of a fault: its name without arguments; that of a client says so."""
    name = event.fault.partition(" (")[0]
    return f"client {name}" if event.kind == "client" else name


def parts_in_words(judged: h.Soaked) -> str:
    """What the parts of a soak that were judged and kept came to, in a sentence."""
    found = f"unproven: {judged.unproven}" if judged.unproven else "no anomalies"
    return f"{judged.parts} {'part' if judged.parts == 1 else 'parts'}: {soaked_in_words(judged)}: {found}"


def soaked_in_words(so_far: h.Soaked) -> str:
    """What a soak has gone through, in a sentence."""
    sent, faults = so_far.counts["sent"], sum(so_far.faults.values())
    a_second = sent / so_far.seconds if so_far.seconds else 0
    hit = "1 fault" if faults == 1 else f"{faults:,} faults"
    return f"{sent:,} messages in {so_far.seconds:.0f} s ({a_second:.0f} a second), {hit}"
