"""A run folder on disk: what was planned, what came of it, and why the rest did not finish."""

import contextlib
import itertools
import os
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness import coverage
from harness.errors import HarnessError, reason
from harness.history import History, SavedHistory, Soaked
from harness.repeat import Count, tally, worst
from harness.repeat import folder as repetition
from harness.scenario import CONTROLS, PAIRS, Declared, Result

HISTORY = "history.jsonl"
DEATH = "death.txt"
LATEST = "latest"
_T = TypeVar("_T")


class Omitted(msgspec.Struct, frozen=True):
    """A scenario that was not planned, and why."""

    id: str
    reason: str


class TestedTarget(msgspec.Struct, frozen=True):
    """The target of a run: its name and the path of its description."""

    __test__ = False  # pytest: this is no test class

    name: str
    path: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run set out to do; `plan.json`, written before the first scenario.

    `planned` is what is selected; `not_offered` is what the target offers nothing for, `missing` what this machine
    lacks something for. `started` is an ISO 8601 time, `command` the whole command line. Each scenario runs `repeat`
    times.
    """

    schema: int = 1
    run: str
    started: str
    target: TestedTarget
    claims: dict[str, Any]
    seed: int
    planned: list[Declared]
    not_offered: list[Omitted] = []
    missing: list[Omitted] = []
    command: str
    environment: dict[str, str]
    repeat: Count = 1


class Preflight(msgspec.Struct, frozen=True):
    """What came of the one message that is sent and read back first; `preflight.json`."""

    error: str | None


class RunFolder(msgspec.Struct, frozen=True):
    """A loaded run folder: every planned scenario is either in `results` or, with the reason, in `unfinished`."""

    path: Path
    plan: Plan
    preflight_error: str | None
    results: dict[str, Result]
    unfinished: dict[str, str]


# -- reading -----------------------------------------------------------------------------------------------------


def load(folder: Path) -> RunFolder:
    """Read a run folder.

    A scenario whose own files are missing or damaged is unfinished, and its reason names the file.

    Raises:
        HarnessError: the folder, its plan or its preflight cannot be read; the text names the file.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise HarnessError(f"there is no run folder {folder}")
    plan = read(folder / "plan.json", Plan)
    _check(folder / "plan.json", plan)
    preflight = folder / "preflight.json"
    error = read(preflight, Preflight).error if preflight.exists() else None
    results, unfinished = {}, {}
    for declared in plan.planned:
        try:
            results[declared.id] = _result(folder / declared.id, declared, plan, error)
        except HarnessError as reason:
            unfinished[declared.id] = str(reason)
    return RunFolder(folder, plan, error, results, unfinished)


def load_histories(folder: Path) -> dict[str, History]:
    """The histories of one scenario's folder, as far as there are any, by the name of their run's folder.

    They stay in their files: a line that is no event is told of when it is reached.

    Raises:
        HarnessError: one cannot be read.
    """
    return {path.parent.name: SavedHistory(path) for path in sorted(folder.glob(f"*/{HISTORY}"))}


def load_declared(folder: Path) -> Declared:
    """What is known of the scenario, or of the repetition, whose folder this is.

    Raises:
        HarnessError: it cannot be read.
    """
    return read(folder / "scenario.json", Declared)


def saved_seconds(folder: Path) -> float:
    """How long the scenario, or the repetition, whose folder this is took; 0 where it has no verdict.

    Raises:
        HarnessError: its verdict cannot be read.
    """
    path = folder / "verdict.json"
    return read(path, Result).seconds if path.exists() else 0.0


def saved_smallest(folder: Path) -> str:
    """What the pair of faults that broke a scenario was reduced to, where its verdict says so."""
    path = folder / "verdict.json"
    return read(path, Result).smallest if path.exists() else ""


def read(path: Path, kind: type[_T]) -> _T:
    """Read one of the JSON files of a run.

    Raises:
        HarnessError: it cannot be read, or is something else; the text names it.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise HarnessError(f"cannot read {path}: {reason(error)}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path} is damaged: {error}") from error


def _check(path: Path, plan: Plan) -> None:
    """Controls have to be known; ids name folders: none leads out of the run folder, no two lead to the same."""
    for declared in plan.planned:
        if unknown := [name for name in declared.controls if name not in (*CONTROLS, *PAIRS)]:
            raise HarnessError(f"{path} is damaged: there is no control {unknown[0]!r}")
    for scenario, count in Counter(declared.id for declared in plan.planned).items():
        if scenario in ("", ".", "..") or "/" in scenario or "\\" in scenario or "\0" in scenario:
            raise HarnessError(f"{path} is damaged: {scenario!r} cannot be the id of a scenario")
        if count > 1:
            raise HarnessError(f"{path} is damaged: the scenario {scenario!r} is planned twice")


def _result(folder: Path, declared: Declared, plan: Plan, preflight_error: str | None) -> Result:
    path = folder / "verdict.json"
    if path.exists():
        result = read(path, Result)
        if result.id != declared.id:
            raise HarnessError(f"{path} is damaged: it is the verdict of {result.id!r}")
        _check_repeated(path, result, plan.repeat)
        return result
    if preflight_error is not None:
        first = next(iter(preflight_error.splitlines()), "")
        raise HarnessError(f"it did not run: no scenario could: {first}")
    death = folder / DEATH
    ended = death.read_text() if death.exists() else "the run ended"
    if plan.repeat > 1 and (repetitions := repetitions_in(folder, plan.repeat)):
        raise HarnessError(_unfinished(repetitions, plan.repeat, ended))
    begun = [name for name in _runs(declared) if (folder / name / HISTORY).exists()]
    if begun:
        raise HarnessError(f"it did not finish: {ended} during its {begun[-1]}{_judged_before(folder / begun[-1])}")
    if (folder / "scenario.json").exists():
        raise HarnessError(f"it did not finish: {ended} before its first message")
    raise HarnessError(f"it did not run: {ended} before it")


def _judged_before(run: Path) -> str:
    """Which parts of a soak were judged before its end came, none of which breaks the claim; nothing of other runs."""
    with contextlib.suppress(HarnessError):
        for event in SavedHistory(run / HISTORY):
            if isinstance(event, Soaked) and event.parts:
                return f"; interrupted after {coverage.parts_in_words(event)}"
    return ""


def _check_repeated(path: Path, result: Result, planned: int) -> None:
    """The verdict has to be of as many repetitions as were planned; fewer can only be an error."""
    repeated = result.repeated
    if (repeated.planned if repeated else 1) != planned:
        told = f"it is of {repeated.planned if repeated else 1} repetitions, and {planned} were planned"
        raise HarnessError(f"{path} is damaged: {told}")
    if repeated is None:
        return
    if repeated.ran > planned or repeated.worst > planned or next(iter(repeated.verdicts), "") != result.verdict:
        raise HarnessError(f"{path} is damaged: its repetitions do not add up to its verdict")
    if repeated.ran < planned and result.verdict != "error":
        raise HarnessError(f"it did not finish: {repeated.ran} of {planned} repetitions have a verdict")


def repetitions_in(folder: Path, planned: int) -> list[Path]:
    """The folders of the repetitions in a scenario's folder, in their order, as far as they have begun."""
    places = (folder / repetition(number, planned) for number in range(1, planned + 1))
    return list(itertools.takewhile(Path.is_dir, places))


def _unfinished(repetitions: Sequence[Path], planned: int, ended: str) -> str:
    """How far a repeated scenario came; a broken repetition before the end is not lost sight of."""
    finished = [read(path, Result) for folder in repetitions if (path := folder / "verdict.json").exists()]
    if not finished:
        return f"it did not finish: {ended} during the first of {planned} repetitions"
    verdicts = [result.verdict for result in finished]
    counts = ", ".join(f"{word} {count}" for word, count in tally(verdicts).items())
    told = f"it did not finish: {ended} when {len(finished)} of {planned} repetitions had a verdict ({counts})"
    first = finished[worst(verdicts)]
    return told if first.verdict == "kept" else f"{told}; {first.verdict}: {first.replay}"


def _runs(declared: Declared) -> list[str]:
    """The folders of a scenario's runs, in their order."""
    folders = [f"{role}-{name}" for name in declared.controls for role in ("null", "control")]
    return [*(folder for folder in folders if folder.removeprefix("null-") not in declared.without_null), "claim"]


# -- writing -----------------------------------------------------------------------------------------------------


def make(folder: Path, *, may_exist: bool = False) -> None:
    """Make a run folder, or a folder in one.

    Raises:
        HarnessError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=may_exist)
    except OSError as error:
        raise HarnessError(f"cannot make the run folder {folder}: {reason(error)}") from error


def note_death(folder: Path, nodeid: str, worker: str) -> None:
    """Write down, for its scenario, that a worker died.

    Args:
        folder: the run folder.
        nodeid: what pytest calls the scenario that the worker ran.
        worker: its name.

    Raises:
        HarnessError: it cannot be written.
    """
    for declared in load(folder).plan.planned:
        if declared.nodeid == nodeid:
            make(folder / declared.id, may_exist=True)
            write_atomically(folder / declared.id / DEATH, f"its worker {worker} died".encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of the old one or all of the new one.

    Raises:
        HarnessError: it cannot be written.
    """
    draft = _draft(path)
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # on a read-only disk even what is not there cannot be removed
            draft.unlink(missing_ok=True)
        raise HarnessError(f"cannot write {path}: {reason(error)}") from error


def publish(folder: Path) -> None:
    """Let `latest`, beside the run folder, name it: a relative symlink, or a text file where there are no symlinks.

    Raises:
        HarnessError: neither can be made.
    """
    folder = folder.resolve()
    latest = folder.parent / LATEST
    draft = _draft(latest)
    try:
        draft.symlink_to(folder.name, target_is_directory=True)
    except OSError:
        write_atomically(latest, f"{folder.name}\n".encode())
        return
    try:
        draft.replace(latest)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise HarnessError(f"cannot write {latest}: {reason(error)}") from error


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def find(name: str, start: Path, project: Path) -> Path:
    """The run folder that a user means: a path, or the name of a run (or `latest`) in a folder `reports`.

    Args:
        name: what the user wrote.
        start: paths are relative to it; its `reports`, and that of each folder above it, is looked in.
        project: the last folder whose `reports` is looked in.

    Raises:
        HarnessError: there is none.
    """
    places = [start / name, *(above / "reports" / name for above in (start, *start.parents, project))]
    for place in places:
        if place.name == LATEST and place.is_file():
            place = place.with_name(place.read_text(encoding="utf-8", errors="replace").strip() or LATEST)
        if place.is_dir():
            return place.resolve()
        if place.exists():
            raise HarnessError(f"{place} is not a run folder")
    raise HarnessError(f"there is no run {name!r}: neither such a folder nor one in {project / 'reports'}")
