"""`python -m harness soak`: runs the whole set of scenarios many times in a row, and tables what was not always kept.

Each run is a pytest of its own, so each has a new seed and new processes. What is tabled is read from the run folders.
"""

import argparse
import contextlib
import datetime
import os
import random
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from harness import pytests, reaper, repeat
from harness.checker import VerdictWord
from harness.errors import HarnessError, ending
from harness.interrupt import INTERRUPTED
from harness.report.run import Plan
from harness.report.summary import EXIT_STATUS, WEIGHT, Summary
from harness.report.text import one_line, times

RUNS: Final = 20
# Three workers on two cores: a good part of a scenario is waiting. What the user adds comes later, and wins.
_PYTEST: Final = ("scenarios", "-n", "3", "--dist", "worksteal")
# How long an interrupted run has for its report.
_PATIENCE_SECONDS: Final = 60.0
_SEEDS: Final = 2**32

Word = Literal["error", "broken", "unproven", "not offered", "missing", "not planned", "kept"]
_COLUMNS: Final[tuple[Word, ...]] = ("kept", "broken", "unproven", "error", "not offered", "missing", "not planned")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One finished run: pytest's exit status, and what it left; `output` is what it printed."""

    number: int
    status: int
    seconds: float
    load: float
    output: Path
    folder: Path | None = None
    summary: Summary | None = None
    trouble: str = ""

    @property
    def is_explained(self) -> bool:
        """Whether pytest ended as the gate says, and not in a way of its own."""
        return self.summary is not None and self.status == self.summary.exit_status

    @property
    def word(self) -> VerdictWord:
        """What it counts as: where pytest ended in a way of its own, as an error."""
        return self.summary.gate if self.summary is not None and self.is_explained else "error"

    @property
    def verdict(self) -> str:
        """What came of it, in a few words."""
        if self.summary is None:
            return f"no verdict: pytest {ending(self.status)}, {self.trouble}"
        return self.summary.gate if self.is_explained else f"{self.summary.gate}, but pytest {ending(self.status)}"


class Occurrence(msgspec.Struct, frozen=True):
    """A scenario in one run: its verdict, and the command that replays it, where it ran."""

    word: Word
    run: Run
    replay: str | None


class Flake(msgspec.Struct, frozen=True):
    """A scenario that was not kept in each run: how often which verdict, and each run in which it was not kept."""

    scenario: str
    verdicts: dict[Word, int]
    occurrences: list[Occurrence]


# -- the command -------------------------------------------------------------------------------------------------


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    what = "run all scenarios many times, each time with a new seed, and print those that were not always kept"
    parser = commands.add_parser(
        "soak", help=what, description=what, usage="%(prog)s [-h] [--runs N] [--reports FOLDER] [-- pytest arguments]"
    )
    parser.add_argument("--runs", type=repeat.count, default=RUNS, metavar="N", help=f"how many runs (default: {RUNS})")
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), metavar="FOLDER", help="where they go (default: reports)"
    )
    parser.add_argument(
        "arguments", nargs="*", type=_argument, metavar="ARGUMENT", help="for pytest, after --, such as -k lock"
    )
    parser.set_defaults(act=lambda options: soak(options.runs, options.reports.absolute(), options.arguments))


def _argument(text: str) -> str:
    """An argument for pytest, but for the one that soak itself has to know."""
    if text.partition("=")[0] == "--reports":
        raise argparse.ArgumentTypeError("--reports has to stand before the --")
    return text


def soak(runs: int, reports: Path, arguments: Sequence[str]) -> int:
    """Run all scenarios `runs` times, print a line for each run and at the end the table; the exit status.

    Raises:
        HarnessError: the reports folder cannot be written.
    """
    outputs = _outputs(reports)
    finished: list[Run] = []
    interrupted = False
    try:
        for number in range(1, runs + 1):
            finished.append(_run(number, reports, outputs, arguments))
            _say(progress(finished[-1], runs))
    except KeyboardInterrupt:
        interrupted = True
    for line in table(finished, runs):
        _say(line)
    return INTERRUPTED if interrupted else exit_status(finished)


def _outputs(reports: Path) -> Path:
    """Make a folder for what the runs print."""
    folder = reports / f"soak-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise HarnessError(f"cannot make {folder}: {error.strerror}; name another folder with --reports") from error
    return folder


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# -- one run -----------------------------------------------------------------------------------------------------


def _run(number: int, reports: Path, outputs: Path, arguments: Sequence[str]) -> Run:
    """Run all scenarios once.

    Raises:
        KeyboardInterrupt: the user has had enough; the run has ended, too.
    """
    # Drawn here, so that this run's command line, which its plan repeats, is no other run's.
    seed = random.SystemRandom().randrange(_SEEDS)
    command = [*_PYTEST, f"--reports={reports}", "--seed", str(seed), *arguments]
    output = outputs / f"run-{number:02}.txt"
    before = set(reports.iterdir())
    began = time.monotonic()
    status = _pytest(command, output)
    seconds = time.monotonic() - began
    ended = Run(number=number, status=status, seconds=seconds, load=os.getloadavg()[0], output=output)
    return _read(ended, _folder_of(command, [path for path in reports.iterdir() if path not in before]))


def _read(ended: Run, folder: Path | None) -> Run:
    """Add what a run has left in its folder."""
    if folder is None:
        return msgspec.structs.replace(ended, trouble="it left no run folder")
    try:
        summary = msgspec.json.decode((folder / "summary.json").read_bytes(), type=Summary)
    except OSError as error:
        return msgspec.structs.replace(ended, folder=folder, trouble=f"it left no summary.json: {error.strerror}")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return msgspec.structs.replace(ended, folder=folder, trouble=f"its summary.json is damaged: {error}")
    return msgspec.structs.replace(ended, folder=folder, summary=summary)


def _pytest(arguments: Sequence[str], output: Path) -> int:
    """Run pytest; the exit status. Ctrl-C is handed on once, as a terminal does, and then waited for."""
    with output.open("wb") as printed:
        process = pytests.started(arguments, printed)
        try:
            return process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_SECONDS)
            raise
        finally:
            if process.poll() is None:  # interrupted again, or deaf to it
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            reaper.release("group", process.pid)


def _folder_of(command: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """The folder of the run with this command line: others may write their runs beside it at the same time."""
    wanted = shlex.join(["pytest", *command])
    for folder in folders:
        try:
            plan = msgspec.json.decode((folder / "plan.json").read_bytes(), type=Plan)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if plan.command == wanted and not folder.is_symlink():
            return folder
    return None


# -- what is said of the runs ------------------------------------------------------------------------------------


def progress(run: Run, runs: int) -> str:
    """One line on a run that has ended."""
    counts = ""
    if run.summary is not None:
        red = run.summary.planned - run.summary.verdicts["kept"]
        counts = f" ({red} of {times(run.summary.planned, 'scenario')} not kept)" if red else ""
    told = f"{one_line(run.verdict)}{counts}, {run.seconds:.1f} s, load average {run.load:.2f}"
    return f"run {run.number:>{len(str(runs))}} of {runs}: {told}"


def table(finished: Sequence[Run], runs: int) -> list[str]:
    """The table of flakes, with the runs that have no verdict or another than their scenarios explain."""
    of = f"{len(finished)} of {times(runs, 'run')}" if len(finished) < runs else times(runs, "run")
    if not finished:
        return [f"stopped before the first of {times(runs, 'run')} ended"]
    found, odd = flakes(finished), [line for run in finished for line in _odd(run)]
    if not found and not odd:
        return [f"no flakes in {of}: {times(len(_planned(finished)), 'scenario')} kept in each"]
    return [*_rows(found, of), *odd]


def flakes(finished: Sequence[Run]) -> list[Flake]:
    """Every scenario that was planned in one of the runs and not kept in each that has a verdict."""
    found = []
    for scenario in _planned(finished):
        told = [_occurrence(run.summary, run, scenario) for run in finished if run.summary is not None]
        if others := [occurrence for occurrence in told if occurrence.word != "kept"]:
            found.append(Flake(scenario, dict(Counter(occurrence.word for occurrence in told)), others))
    return found


def exit_status(finished: Sequence[Run]) -> int:
    """That of the worst run; one that planned other scenarios than the first did is an error."""
    plans = [{scenario.id for scenario in run.summary.scenarios} for run in finished if run.summary]
    words = {run.word for run in finished}
    if not finished or any(plan != plans[0] for plan in plans):
        words.add("error")
    return EXIT_STATUS[next(word for word in WEIGHT if word in words)]


def _planned(finished: Sequence[Run]) -> list[str]:
    """Every scenario that one of the runs planned, in the order in which they are first met."""
    return list(dict.fromkeys(s.id for run in finished if run.summary for s in run.summary.scenarios))


def _occurrence(summary: Summary, run: Run, scenario: str) -> Occurrence:
    """What came of a scenario in a run."""
    told = next((told for told in summary.scenarios if told.id == scenario), None)
    if told is not None:
        return Occurrence(told.verdict, run, told.replay)
    if any(omitted.id == scenario for omitted in summary.not_offered):
        return Occurrence("not offered", run, None)
    if any(omitted.id == scenario for omitted in summary.missing):
        return Occurrence("missing", run, None)
    return Occurrence("not planned", run, None)


def _odd(run: Run) -> Iterator[str]:
    """What came of a run that no scenario of it explains."""
    if run.summary is None or not run.is_explained:
        yield one_line(f"run {run.number}: {run.verdict}; it printed {run.output}{_in(run)}")
    elif run.word != "kept" and all(scenario.verdict == "kept" for scenario in run.summary.scenarios):
        yield one_line(f"run {run.number}: {run.word}: {run.summary.why} It printed {run.output}{_in(run)}")


def _in(run: Run) -> str:
    return f", its folder is {run.folder}" if run.folder else ""


def _rows(found: Sequence[Flake], of: str) -> list[str]:
    if not found:
        return []
    shown = [word for word in _COLUMNS if word == "kept" or any(word in flake.verdicts for flake in found)]
    width = max(len(one_line(flake.scenario)) for flake in found)
    lines = [f"{times(len(found), 'flake')} in {of}:", "  ".join([f"{'scenario':<{width}}", *shown])]
    for flake in found:
        counts = [f"{flake.verdicts.get(word, 0):>{len(word)}}" for word in shown]
        lines.append("  ".join([f"{one_line(flake.scenario):<{width}}", *counts]))
        for it in flake.occurrences:
            lines.append(one_line(f"    run {it.run.number}: {it.word}: {it.run.folder}"))
            lines += [one_line(f"      replay: {it.replay}")] if it.replay else []
    return lines
