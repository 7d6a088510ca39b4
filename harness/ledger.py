"""`python -m harness ledger`: who judges the judge.

Each entry of the ledger, a server or client that is broken on purpose, has to be caught with its own anomaly. By
default it meets the one scenario case that has to catch it; with `--full` all scenarios, and after the entries correct
servers, which must never be accused. Each run is a pytest of its own, in a folder of its own, from which its outcome is
read.
"""

import argparse
import contextlib
import datetime
import os
import platform
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO, Final, TypeVar

import msgspec

from harness import pytests, reaper, repeat
from harness.checker import VerdictWord
from harness.errors import HarnessError, ending, reason
from harness.interrupt import INTERRUPTED
from harness.report import ledger as told
from harness.report.ledger import Ledger, Round, RoundWord, Shown, Tried, Word
from harness.report.summary import EXIT_STATUS, ScenarioSummary, Summary
from harness.report.text import one_line, times
from harness.targets.ledger import ENTRIES, Entry

ROUNDS: Final = 20
# Everything that there is, with the sweeps for which `make scenarios` does not wait.
_ALL: Final = ("-n", "3", "--dist", "worksteal")
CORRECT: Final[dict[str, tuple[str, ...]]] = {
    "reference": (),
    "hardened-node": ("--client", "node"),
    **{f"correct/{name}": () for name in ("ack_payload", "gaps", "no_echo", "on_conflict")},
}
"""The servers that are right, and the options for each."""

BREAKS_NOTHING: Final = frozenset({"false_failure"})
"""The anomalies that break no claim whatever is claimed: a case shows them by reporting them."""

# More than there are cores: an entry on its own is mostly waiting, for timeouts, restarts and locks. A fourth at once
# changes nothing (measured on two cores), and leaves less room for those that are not.
_AT_ONCE: Final = 3
# All scenarios on one target, on two cores with nothing else to do.
_RUN_MINUTES: Final = 4.0
# How long interrupted runs have for their reports.
_PATIENCE_SECONDS: Final = 60.0
_T = TypeVar("_T")
_R = TypeVar("_R")


# -- the command -------------------------------------------------------------------------------------------------


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    what = "try every broken server and client of the ledger: each has to be caught with its own anomaly"
    parser = commands.add_parser(
        "ledger",
        help=what,
        description=what,
        usage="%(prog)s [-h] [--full] [--rounds N] [--entry NAME] [--reports FOLDER] [-- pytest arguments]",
    )
    parser.add_argument(
        "--full", action="store_true", help="all scenarios on each entry, then on correct servers; takes hours"
    )
    parser.add_argument(
        "--rounds",
        type=repeat.count,
        metavar="N",
        help=f"with --full: how often all scenarios run on each correct server (default: {ROUNDS})",
    )
    parser.add_argument(
        "--entry",
        action="append",
        default=[],
        metavar="NAME",
        help="this one only, or several; with --full it may be a correct server: " + ", ".join(CORRECT),
    )
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), metavar="FOLDER", help="where it goes (default: reports)"
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT", help="for pytest, after --; with --full also -k, to select"
    )
    parser.set_defaults(act=_act)


def _act(options: argparse.Namespace) -> int:
    """Do what the command line says.

    Raises:
        HarnessError: it makes no sense, or the reports folder cannot be written.
    """
    if options.rounds is not None and not options.full:
        raise HarnessError("ledger: --rounds is how often correct servers are tried, which only --full does")
    names = [entry.name for entry in ENTRIES]
    correct = list(CORRECT) if options.full else []
    if not Path("scenarios").is_dir():
        raise HarnessError("ledger: there is no folder `scenarios` here: run it in the project that holds them")
    for entry in options.entry:
        if entry not in (*names, *correct):
            raise HarnessError(f"ledger: there is no entry {entry!r}; there are {', '.join((*names, *correct))}")
    chosen = options.entry or [*names, *correct]
    entries = [entry for entry in ENTRIES if entry.name in chosen]
    rounds = options.rounds or ROUNDS
    servers = [(name, number) for name in correct if name in chosen for number in range(1, rounds + 1)]
    return Trial(entries, servers, options.reports.absolute(), options.arguments, full=options.full).run()


class Trial:
    """One run of the command: `entries`, and each correct server with the number of its run.

    Raises:
        HarnessError: the folder for what is found cannot be made.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        servers: Sequence[tuple[str, int]],
        reports: Path,
        arguments: Sequence[str],
        *,
        full: bool,
    ) -> None:
        self.folder = reports / f"ledger-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise HarnessError(f"cannot make {self.folder}: {reason(error)}; name another with --reports") from error
        self._entries, self._servers = entries, servers
        self._full = full
        self._at_once = 1 if full else _AT_ONCE
        self._began = time.monotonic()
        self._started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._tried: list[Tried] = []
        self._rounds: list[Round] = []
        self._pytests = Pytests(self.folder, arguments)

    def run(self) -> int:
        """Try everything, say what comes of it, and leave a report; the exit status.

        Raises:
            HarnessError: the report cannot be written.
        """
        _say(self._plan())
        interrupted = False
        try:
            self._each(self._try, self._entries, self._took)
            self._each(self._try_correct, self._servers, self._took_round)
        except KeyboardInterrupt:
            interrupted = True
        ledger = self._ledger()
        told.save(self.folder, ledger)
        for line in closing(ledger):
            _say(line)
        _say(f"report: {self.folder / 'index.html'}; for the README: {told.TABLE}")
        if interrupted:
            return INTERRUPTED
        return 0 if ledger.is_green else EXIT_STATUS["broken"]

    def _plan(self) -> str:
        entries = times(len(self._entries), "entry", "entries")
        if not self._full:
            return f"{entries}, each against the case that has to catch it; {self.folder}"
        runs = len(self._entries) + len(self._servers)
        servers = len({name for name, _ in self._servers})
        what = [entries] if self._entries else []
        what += [f"{times(servers, 'correct server')} in {times(len(self._servers), 'run')}"] if servers else []
        minutes = runs * _RUN_MINUTES
        long = f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{minutes:.0f} minutes"
        return f"all scenarios on {' and '.join(what)}: about {long} on two cores, longer beside other work"

    def _ledger(self) -> Ledger:
        order = {entry.name: number for number, entry in enumerate(self._entries)}
        return Ledger(
            run=self.folder.name,
            started=self._started,
            command=shlex.join(["python", "-m", "harness", *sys.argv[1:]]),
            full=self._full,
            seconds=round(time.monotonic() - self._began, 1),
            entries_planned=len(self._entries),
            rounds_planned=len(self._servers),
            entries=sorted(self._tried, key=lambda tried: order[tried.entry]),
            rounds=self._rounds,
            machine=_machine(self._at_once),
        )

    def _each(self, do: Callable[[_T], _R], things: Sequence[_T], take: Callable[[_R], None]) -> None:
        """Do it with each, and take over what comes of it, in the order in which they end.

        Raises:
            KeyboardInterrupt: the user has had enough; what was under way has ended, too.
        """
        with ThreadPoolExecutor(self._at_once) as pool:
            try:
                for future in as_completed([pool.submit(do, thing) for thing in things]):
                    take(future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._pytests.end()
                raise

    def _took(self, tried: Tried) -> None:
        self._tried.append(tried)
        _say(progress(tried))

    def _took_round(self, ended: Round) -> None:
        self._rounds.append(ended)
        _say(progress_of_round(ended))

    def _try(self, entry: Entry) -> Tried:
        selected = _ALL if self._full else ("-k", entry.case)
        left = self._pytests.run(entry.name, f"ledger/{entry.name}", selected)
        return judge(entry, left, full=self._full)

    def _try_correct(self, server: tuple[str, int]) -> Round:
        name, number = server
        left = self._pytests.run(f"{name.replace('/', '-')}-{number:02}", name, (*_ALL, *CORRECT[name]))
        return judge_correct(name, number, left)


# -- what a pytest leaves ----------------------------------------------------------------------------------------


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What a pytest left: its exit status, what it printed, its summary, and when which case had its verdict.

    Times are in seconds since its start. `report` is its run folder, from that of the ledger.
    """

    status: int
    seconds: float
    output: Path
    summary: Summary | None = None
    trouble: str = ""
    report: str | None = None
    ended: dict[str, float] = {}

    @property
    def problem(self) -> str | None:
        """Why nothing can be concluded from it, or None."""
        if self.summary is None:
            return f"no verdict: pytest {ending(self.status)}, {self.trouble}; it printed {self.output}"
        if self.status != self.summary.exit_status:
            return f"{self.summary.gate}, but pytest {ending(self.status)}; it printed {self.output}"
        return None


class Pytests:
    """Runs pytest, several at once, each in a folder of its own in `folder`."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self._folder, self._arguments = folder, arguments
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._is_ending = False

    def run(self, name: str, target: str, selected: Sequence[str]) -> Left:
        """Run what is selected on a target, to its end."""
        place = self._folder / name
        place.mkdir()
        output = place / "output.txt"
        command = ["scenarios", f"--reports={place}", "--target", target, *selected, *self._arguments]
        began, began_at = time.monotonic(), time.time()
        with output.open("wb") as printed:
            process = self._start(command, printed)
            try:
                status = process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
                    reaper.release("group", process.pid)
        return self._read(Left(status=status, seconds=time.monotonic() - began, output=output), place, began_at)

    def _start(self, command: Sequence[str], printed: IO[bytes]) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._is_ending:
                raise CancelledError
            process = pytests.started(command, printed)
            self._running.add(process)
        return process

    def end(self) -> None:
        """Hand Ctrl-C on once, as a terminal does, and wait; what is deaf to it, or when it comes again, is killed."""
        with self._lock:
            self._is_ending = True
            running = list(self._running)
        try:
            _signal(running, signal.SIGINT)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            pass
        finally:
            _signal(running, signal.SIGKILL)

    def _read(self, left: Left, place: Path, began_at: float) -> Left:
        """Add what a run has left in its folder."""
        folder = next((plan.parent for plan in place.glob("*/plan.json") if not plan.parent.is_symlink()), None)
        if folder is None:
            return msgspec.structs.replace(left, trouble="it left no run folder")
        path = folder / "summary.json"
        try:
            summary = msgspec.json.decode(path.read_bytes(), type=Summary)
        except OSError as error:
            return msgspec.structs.replace(left, trouble=f"it left no {path}: {reason(error)}")
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return msgspec.structs.replace(left, trouble=f"{path} is damaged: {error}")
        verdicts = {scenario.id: folder / scenario.id / "verdict.json" for scenario in summary.scenarios}
        ended = {name: path.stat().st_mtime - began_at for name, path in verdicts.items() if path.exists()}
        report = f"{place.name}/{folder.name}/index.html"
        return msgspec.structs.replace(left, summary=summary, report=report, ended=ended)


def _machine(at_once: int) -> str:
    """Whose times they are, and what else it did: a load far above the entries at once makes them longer."""
    cores, load = times(os.cpu_count() or 1, "core"), os.getloadavg()[1]
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{cores}, {system}, {at_once} at once, load {load:.1f}"


def _signal(processes: Sequence["subprocess.Popen[bytes]"], number: signal.Signals) -> None:
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


# -- what is concluded from it -----------------------------------------------------------------------------------


def judge(entry: Entry, left: Left, *, full: bool) -> Tried:
    """What came of an entry: the case that has to catch it must show its anomaly and no other."""
    word: Word = "error"
    why = left.problem or ""
    shown: list[Shown] = []
    unjudged: list[str] = []
    caught: Shown | None = None
    if left.summary is not None and not why:
        unjudged = [scenario.id for scenario in left.summary.scenarios if scenario.verdict == "error"]
        shown = [
            Shown(scenario.id, kinds, round(left.ended.get(scenario.id, left.seconds), 1))
            for scenario in left.summary.scenarios
            if (kinds := _kinds(scenario, entry.anomaly))
        ]
        shown.sort(key=lambda each: each.seconds)
        word, why = _judged(entry, left.summary, shown, full=full)
        caught = next((each for each in shown if entry.anomaly in each.anomalies), None) if word == "caught" else None
    return Tried(
        entry=entry.name,
        hop=entry.hop,
        mistake=entry.mistake,
        anomaly=entry.anomaly,
        case=entry.case,
        word=word,
        why=why,
        seconds=round(caught.seconds if caught else left.seconds, 1),
        by=caught.case if caught else None,
        report=left.report,
        shown=shown,
        unjudged=unjudged,
    )


def _judged(entry: Entry, summary: Summary, shown: Sequence[Shown], *, full: bool) -> tuple[Word, str]:
    expected = next((each for each in summary.scenarios if each.id == entry.case), None)
    if expected is not None and expected.verdict == "error":
        return "error", f"{expected.id}: {expected.why}"
    if expected is None:
        omitted = next((each for each in (*summary.not_offered, *summary.missing) if each.id == entry.case), None)
        if omitted is not None:
            return "error", f"{entry.case} could not run: {omitted.reason}"
        if not full:
            return "error", f"there is no case {entry.case}"
        if any(entry.anomaly in each.anomalies for each in shown):
            return "caught", f"{entry.anomaly} in a case that is not {entry.case}"
        return "survived", f"none of {times(len(summary.scenarios), 'case')} showed {entry.anomaly}"
    kinds = next((each.anomalies for each in shown if each.case == entry.case), [])
    if not kinds:
        return "survived", f"{entry.case} is {expected.verdict}: {expected.why}"
    if kinds != [entry.anomaly]:
        return "mistaken", f"{entry.case} showed {' and '.join(kinds)}, not {entry.anomaly} alone"
    return "caught", f"{entry.case} showed {entry.anomaly}"


def _kinds(scenario: ScenarioSummary, own: str) -> list[str]:
    """The kinds of anomalies that break what is claimed, and the own one where that breaks nothing."""
    breaking = [anomaly.kind for anomaly in scenario.anomalies]
    reported = [anomaly.kind for anomaly in scenario.reported if anomaly.kind == own and own in BREAKS_NOTHING]
    return list(dict.fromkeys([*breaking, *reported]))


def judge_correct(name: str, number: int, left: Left) -> Round:
    """What came of one run of all scenarios on a correct server: nothing of it may be red."""
    word: RoundWord = "error"
    why = left.problem or ""
    if left.summary is not None and not why:
        words: dict[VerdictWord, RoundWord] = {"broken": "accused", "kept": "kept", "unproven": "unproven"}
        word, why = words.get(left.summary.gate, "error"), left.summary.why
    return Round(target=name, number=number, word=word, why=why, seconds=round(left.seconds, 1), report=left.report)


# -- what is said of it ------------------------------------------------------------------------------------------


def progress(tried: Tried) -> str:
    """One line on an entry that was tried."""
    what = f"{tried.anomaly}, by {tried.by}" if tried.by else tried.why
    if len(tried.shown) > 1:
        what += f", the first of {len(tried.shown)} cases"
    if tried.unjudged and tried.word == "caught":
        what += f", {times(len(tried.unjudged), 'other case')} in error"
    return one_line(f"{tried.word:<8}  {tried.entry}  ({what}, {tried.seconds:.1f} s)")


def progress_of_round(ended: Round) -> str:
    """One line on a run of a correct server."""
    what = "" if ended.word == "kept" else f"{ended.why} "
    return one_line(f"{ended.word:<8}  {ended.target}, run {ended.number}  ({what}{ended.seconds:.1f} s)")


def closing(ledger: Ledger) -> list[str]:
    """The table, a line for each entry or server that is not as it should be, and what came of it all."""
    wrong = [
        *(f"{each.word}: {each.entry}: {each.why}" for each in ledger.uncaught),
        *(f"{each.word}: {each.target}, run {each.number}: {each.why}" for each in ledger.accused),
    ]
    return [*_rows(ledger.entries), *map(one_line, wrong), one_line(ledger.sentence)]


def _rows(entries: Sequence[Tried]) -> list[str]:
    cells = [("entry", "anomaly", "caught by", "seconds", "what is wrong")] if entries else []
    cells += [
        (each.entry, each.anomaly, each.by or f"({each.word})", f"{each.seconds:.1f}", each.mistake) for each in entries
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(4)] if cells else []
    return [
        one_line(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}  {e}")
        for a, b, c, d, e in cells
    ]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
