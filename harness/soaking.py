"""What `--soak` asks for: how long a stream goes on, what is said of it meanwhile, and what to do when it breaks."""

import argparse
import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence, Set
from pathlib import Path
from typing import Final

import msgspec

from harness import checker, coverage, shrink, steps
from harness import history as h
from harness.errors import HarnessError
from harness.steps import Schedule, Step
from harness.system import names

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|)", re.ASCII)
_UNIT_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
SENDERS: Final = 10
# What a replay of a schedule may take for each of its steps.
_STEP_SECONDS: Final = 30.0
# How often a schedule that broke is tried again, to find a smaller one, and with how many senders.
_TRIES: Final = 40
# Where the last part alone does not do it, so many steps are tried: minutes, and not the hours of a long soak.
_MOST_STEPS: Final = 100
_FEW_SENDERS: Final = (1, 2, 5, 20)

Breaks = Callable[[Schedule], Awaitable[bool]]


class Wish(msgspec.Struct, frozen=True):
    """What the user asks for: so many senders, for so long, and the steps where they are not to be drawn."""

    seconds: float
    senders: int
    steps: tuple[Step, ...] | None = None


def option(text: str) -> str:
    """A duration, `90s`, `10m` or `2h`, or the file of a schedule; said while pytest reads its options."""
    if _seconds(text) == 0 or (_seconds(text) is None and not Path(text).is_file()):
        raise argparse.ArgumentTypeError(f"{text} is neither a duration, such as 90s, 10m or 2h, nor a schedule's file")
    return text


def _seconds(text: str) -> float | None:
    """How long a duration is, or None for what is none."""
    duration = _DURATION.fullmatch(text)
    return float(duration[1]) * _UNIT_SECONDS[duration[2]] if duration is not None else None


def wish(soak: str, senders: int | None) -> Wish:
    """What `--soak` and `--senders` ask for.

    Raises:
        HarnessError: it is no schedule, or has other senders.
    """
    if (seconds := _seconds(soak)) is not None:
        return Wish(seconds, senders or SENDERS)
    schedule = steps.load(Path(soak))
    if senders not in (None, schedule.senders):
        raise HarnessError(f"--senders {senders}: the schedule {soak} has {schedule.senders}")
    known = names(schedule.senders)
    for step in schedule.steps:
        if step.sender not in known:
            raise HarnessError(f"{soak}: a step has the sender {step.sender!r}, and there are {', '.join(known)}")
    return Wish(_STEP_SECONDS * len(schedule.steps), schedule.senders, schedule.steps)


# -- while it runs -----------------------------------------------------------------------------------------------


async def judged(history: Path, tell: Callable[[str], None]) -> h.Soaked | None:
    """Judge a part of a soak and tell what has come so far; None when that breaks the claim, and the soak ends.

    Raises:
        HarnessError: the history is damaged.
    """
    saved = h.SavedHistory(history)
    judgement = await asyncio.to_thread(checker.judge, saved)
    so_far = coverage.soaked(saved, judgement)
    kinds = Counter(anomaly.kind for anomaly in judgement.broken_by)
    found = ", ".join(f"{kind} x {count}" for kind, count in kinds.items()) or "no anomalies"
    if judgement.verdict == "error":
        found = judgement.why
    elif so_far.unproven:
        found += f"; unproven: {so_far.unproven}"
    minutes, seconds = divmod(round(so_far.seconds), 60)
    tell(f"soak {minutes:02}:{seconds:02}  {coverage.soaked_in_words(so_far)}: {found}")
    return None if judgement.verdict in ("broken", "error") else so_far


# -- when it has broken ------------------------------------------------------------------------------------------


async def smallest(schedule: Schedule, part: int, breaks: Breaks) -> Schedule | None:
    """The smallest schedule that still breaks the claim in the same way, on a new system; None if none does.

    What breaks by chance need not break the next time: what is found is tried once more, and of all that broke the
    smallest that does so twice is taken, if there is one.

    Args:
        schedule: that broke it.
        part: how many of its last steps make the part that did.
        breaks: tries one.
    """
    broke: list[Schedule] = []

    async def also(candidate: Schedule) -> bool:
        if not await breaks(candidate):
            return False
        broke.append(candidate)
        return True

    await _reduce(schedule, part, also)
    for candidate in reversed(broke):
        if await breaks(candidate):
            return candidate
    return broke[-1] if broke else None


async def _reduce(schedule: Schedule, part: int, breaks: Breaks) -> None:
    """Try ever smaller schedules than what broke: fewer steps, then fewer senders, then nothing before the faults."""

    async def still(few: tuple[Step, ...]) -> bool:
        return await breaks(Schedule(schedule.senders, few))

    fewest = await _fewest(schedule.steps, part, still)
    if fewest is None:
        return
    found = Schedule(schedule.senders, fewest)
    for senders in _FEW_SENDERS:
        fewer = _with(senders, found.steps)
        if senders < found.senders and fewer is not None and await breaks(fewer):
            found = fewer
            break
    sooner = Schedule(found.senders, tuple(msgspec.structs.replace(step, after=0) for step in found.steps))
    if sooner != found:
        await breaks(sooner)


async def _fewest(
    taken: tuple[Step, ...], part: int, still: Callable[[tuple[Step, ...]], Awaitable[bool]]
) -> tuple[Step, ...] | None:
    """As few of the steps as still do it: none, if that is enough, or some of the last."""
    if await still(()):
        return ()
    left = taken[-part:]
    if not await still(left):
        left = taken[-_MOST_STEPS:]
        if len(left) <= part or not await still(left):
            return None
    return await shrink.smallest_part(left, still, _TRIES)


def _with(senders: int, taken: Sequence[Step]) -> Schedule | None:
    """The same steps among so few senders, if that many are enough."""
    if senders == 1 and any(step.fault.startswith("client.") for step in taken):
        return None
    return Schedule(senders, steps.among(taken, names(senders)))


def shows(folder: Path, kinds: Set[checker.Kind], schedule: Schedule) -> bool:
    """Whether the run of a schedule that was left in a folder breaks the claim by one of these kinds of anomalies.

    Without any fault not where an answer was late: then it is the machine that disturbs.

    Raises:
        HarnessError: its history cannot be read.
    """
    history = h.SavedHistory(folder / "history.jsonl")
    if not schedule.steps and any(isinstance(event, h.Ok) and event.late for event in history):
        return False
    return not kinds.isdisjoint(anomaly.kind for anomaly in checker.judge(history).broken_by)


def write_scenario(path: Path, schedule: Schedule, *, kinds: Sequence[str], found_by: str, transport: str) -> None:
    """Write a schedule as a scenario file that can be run.

    Raises:
        HarnessError: it cannot be written.
    """
    text = steps.as_scenario(
        schedule,
        names(schedule.senders),
        title=f"The smallest schedule of a soak that still showed {' and '.join(kinds)}.",
        found=found_by,
        transport=transport,
    )
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HarnessError(f"cannot write {path}: {error.strerror}") from error
