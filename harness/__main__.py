"""`python -m harness`: `doctor`, `setup`, `clean`, `recheck`, `render`, `soak`, `ledger`, `conformance`, `export`."""

import io
import sys

from harness import doctor

if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.argv[1:] == ["doctor"]:
        sys.exit(doctor.run())  # it says which of the packages below are not there

import argparse
import asyncio
import contextlib
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import msgspec

from harness import export, install, ledger, node, reaper, repeat, report, soak
from harness.clients import conformance
from harness.clients.kinds import KINDS
from harness.errors import HarnessError
from harness.history import Policy
from harness.interrupt import INTERRUPTED
from harness.report import ledger as ledger_report
from harness.report import run, summary, terminal
from harness.report.run import RunFolder
from harness.report.text import one_line
from harness.scenario import Declared, Result, decide, worst_of
from harness.target import fill

_PROJECT = Path(__file__).resolve().parent.parent
_RUN_HELP = "a run folder, or the name of a run in reports/ ('latest' for the newest)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.act(options)
    except HarnessError as error:
        sys.stderr.write(f"error: {one_line(str(error))}\n")
        return summary.EXIT_STATUS["error"]
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness", description="What there is beside `pytest scenarios`.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser("doctor", help=doctor.WHAT, description=doctor.WHAT)
    sub.set_defaults(act=lambda _: doctor.run())
    what = "get what scenarios need into the cache: Toxiproxy, and the Node packages where there is Node"
    commands.add_parser("setup", help=what, description=what).set_defaults(act=lambda _: setup())
    what = "remove the containers and networks of runs that were killed, and nothing that is not the harness's own"
    commands.add_parser("clean", help=what, description=what).set_defaults(act=lambda _: clean())
    for name, command, what in (
        ("recheck", recheck, "judge the saved histories again; nothing is written; exits like the gate"),
        ("render", render, "write summary.json, junit.xml and index.html again from what is saved"),
    ):
        sub = commands.add_parser(name, help=what, description=what)
        sub.add_argument("run", metavar="RUN", help=_RUN_HELP)
        sub.set_defaults(act=_on_saved(command))
    soak.add_parser(commands)
    ledger.add_parser(commands)
    what = "write a folder that reproduces a known defect without this harness, fit for a report to its project"
    sub = commands.add_parser("export", help=what, description=what)
    sub.add_argument("defect", metavar="DEFECT", help=f"one of {', '.join(export.known())}")
    sub.add_argument("--to", metavar="FOLDER", type=Path, help="empty, or not there yet (default: ./midemit-DEFECT)")
    sub.set_defaults(act=lambda options: export_defect(options.defect, options.to))
    what = "try a driver against each rule of harness/clients/PROTOCOL.md; exits with 1 when one does not hold"
    sub = commands.add_parser("conformance", help=what, description=what)
    sub.add_argument(
        "--policy",
        choices=get_args(Policy),
        default="persistent",
        help="its way of sending in the rules that are about none: for a driver without `persistent` (default)",
    )
    sub.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="COMMAND…",
        help="the driver and its arguments, or `node` or `python-stock`",
    )
    sub.set_defaults(act=lambda options: check_conformance(options.command, options.policy))
    return parser


def _on_saved(command: Callable[[Path], int]) -> Callable[[argparse.Namespace], int]:
    return lambda options: command(run.find(options.run, Path.cwd(), _PROJECT))


def setup() -> int:
    """Find or install what scenarios need, and say where it is; without Node only what needs it is missing.

    Raises:
        HarnessError: something cannot be had.
    """
    say = functools.partial(print, file=sys.stdout, flush=True)
    say("Toxiproxy: looking for it; building it takes a minute or two, once")
    found = install.locate()
    say(f"Toxiproxy: {found.path} (from {found.source})")
    if (problem := node.lack()) is not None:
        say(f"Node packages: left out, and scenarios that need them are listed as missing: {problem}")
        return 0
    say("Node packages: looking for them; compiling sqlite3 takes a minute or two, once")
    say(f"Node packages: {node.modules()}")
    return 0


def clean() -> int:
    """Remove what runs that are gone have left on the Docker engine, and say what that was.

    Raises:
        HarnessError: there is no engine of this machine, or it refuses.
    """
    from harness import engine  # takes as long as all else together to import

    with contextlib.closing(engine.connect()) as client:
        removed = engine.clean(client)
    sys.stdout.write("".join(f"removed {what}\n" for what in removed) or "nothing is left of runs that are gone\n")
    return 0


def check_conformance(command: Sequence[str], policy: Policy) -> int:
    """Try a driver against each rule, and print a line for each; 1 when one does not hold.

    The name of a client that is a driver stands for its command.

    Raises:
        HarnessError: it cannot be started, or there is nothing to try it with.
    """
    command = command[1:] if command[:1] == ["--"] else command
    if not command:
        raise HarnessError("conformance: expected the command of a driver, or the name of a client that has one")
    kind = KINDS.get(command[0]) if len(command) == 1 else None
    env: dict[str, str] = {}
    if kind is not None and kind.command is not None:
        if kind.needs_node:
            node.modules()
        command = [fill(text, port=0, database=Path()) for text in kind.command]
        env = {name: fill(text, port=0, database=Path()) for name, text in kind.env.items()}

    def report(finding: conformance.Finding) -> None:
        word = "lacks" if finding.lacks else "holds" if finding.held else "broken"
        lines = [f"{word:<7} {finding.rule:<18} {one_line(finding.detail)}"]
        if not finding.held:
            lines += [f"          {one_line(line)}" for line in finding.seen.splitlines()]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(prefix="midemit-") as folder:
        reaper.hold("directory", folder)
        work = conformance.check(command, Path(folder), env=env, policy=policy, cwd=Path.cwd(), report=report)
        try:
            findings = asyncio.run(work)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            return INTERRUPTED
        finally:
            reaper.release("directory", folder)
    broken, lacks = sum(not finding.held for finding in findings), sum(finding.lacks for finding in findings)
    sys.stdout.write(
        f"{len(findings)} rules: {len(findings) - broken - lacks} hold, {broken} broken, {lacks} lacking\n"
    )
    return 1 if broken else 0


def render(folder: Path) -> int:
    """Write the report of a run, or the page of a ledger, again."""
    if (folder / ledger_report.FILE).exists():
        ledger_report.write(folder)
    else:
        report.write(folder)
    sys.stdout.write(f"{folder / 'index.html'}\n")
    return 0


def export_defect(number: str, to: Path | None) -> int:
    """Write what reproduces a defect, and say how to run it."""
    folder = export.export(number, to or Path(f"midemit-{number}"))
    steps = "".join(f"    {command}\n" for command in export.commands(folder))
    sys.stdout.write(f"{folder}\nTo run it, in that folder:\n{steps}")
    return 0


def recheck(folder: Path) -> int:
    """Judge the histories of a run again and say where that differs from the saved verdicts; writes no file."""
    saved = run.load(folder)
    judged: dict[str, Result] = {}
    unfinished: dict[str, str] = {}
    for declared in saved.plan.planned:
        try:
            judged[declared.id] = _judge(saved, declared)
        except HarnessError as error:
            unfinished[declared.id] = str(error)
        _say(saved, declared, judged.get(declared.id), unfinished.get(declared.id))
    again = summary.summarize(RunFolder(saved.path, saved.plan, saved.preflight_error, judged, unfinished))
    sys.stdout.write(f"{again.gate}: {one_line(again.why)}\n")
    return again.exit_status


def _judge(saved: RunFolder, declared: Declared) -> Result:
    if saved.plan.repeat > 1:
        return _judge_repetitions(saved, declared)
    before = saved.results.get(declared.id)
    return _judge_once(saved, declared, saved.path / declared.id, before.seconds if before else 0.0)


def _judge_repetitions(saved: RunFolder, declared: Declared) -> Result:
    """Judge every repetition again; fewer than planned can only be an error."""
    planned = saved.plan.repeat
    results = []
    for folder in run.repetitions_in(saved.path / declared.id, planned):
        replay = run.load_declared(folder).replay
        own = msgspec.structs.replace(declared, replay=replay)
        results.append(_judge_once(saved, own, folder, run.saved_seconds(folder)))
    if len(results) < planned and all(result.verdict != "error" for result in results):
        missing = f"{saved.path / declared.id} holds {len(results)} of {planned} repetitions"
        raise HarnessError(saved.unfinished.get(declared.id, missing))
    return worst_of(results, repeat.seeds(saved.plan.seed, planned), planned)


def _judge_once(saved: RunFolder, declared: Declared, folder: Path, seconds: float) -> Result:
    histories = run.load_histories(folder)
    if not histories:
        raise HarnessError(saved.unfinished.get(declared.id, f"{folder} holds no history"))
    try:
        # What a pair was reduced to is found by running, and not by judging.
        again = decide(declared, histories, seconds)
        return msgspec.structs.replace(again, smallest=run.saved_smallest(folder))
    except HarnessError as error:
        raise HarnessError(f"{folder}: {error}") from error


def _say(saved: RunFolder, declared: Declared, judged: Result | None, unfinished: str | None) -> None:
    if judged is None:
        lines = [f"{'error':<9} {one_line(declared.id)}", f"          why: {one_line(unfinished or '')}"]
    else:
        lines = [terminal.line(judged), *_differences(saved, judged)]
    sys.stdout.write("\n".join(lines) + "\n")


def _differences(saved: RunFolder, judged: Result) -> list[str]:
    before = saved.results.get(judged.id)
    if before is None:
        return [f"          no saved verdict: {one_line(saved.unfinished[judged.id])}"]
    names = [name for name in Result.__struct_fields__ if getattr(before, name) != getattr(judged, name)]
    if not names:
        return []
    if "verdict" in names:
        return [f"          differs: verdict.json says {before.verdict}: {one_line(before.why)}"]
    return [f"          differs from verdict.json in {', '.join(names)}"]


if __name__ == "__main__":
    sys.exit(main())
