"""`python -m harness soak`: the table of made-up runs, and real runs of a very small project."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import soak
from harness.__main__ import main
from harness.report.summary import EXIT_STATUS, WEIGHT, Summary
from harness.soak import Run
from tests.runs import KEPT, TIMEOUT_SECONDS, project, wait_until
from tests.test_plugin import HANGS

LOCK, KILL = "lock-long-python-polling", "kill-mid-emit-python-websocket"


def scenario(name: str, verdict: str, number: int) -> dict[str, Any]:
    """What a summary says of a scenario."""
    words = {"id": name, "family": "x", "client": "python", "transport": "polling", "title": "", "why": ""}
    empty: dict[str, Any] = {"counts": {}, "anomalies": [], "reported": [], "bites": [], "controls": []}
    took = {"recovery_seconds": None, "worst_delay_seconds": None, "seconds": 0.0}
    return {**words, **empty, **took, "replay": f"pytest {name} --seed {number}", "verdict": verdict}


def ran(number: int, status: int | None = None, gate: str | None = None, /, **verdicts: str) -> Run:
    """A run with a summary: the verdicts of `lock` and `kill`; by default pytest ends as the gate says."""
    names = {"lock": LOCK, "kill": KILL}
    planned = [scenario(names[name], word, number) for name, word in verdicts.items() if word in WEIGHT]
    omitted = [{"id": names[name], "reason": "resists"} for name, word in verdicts.items() if word not in WEIGHT]
    found = [entry["verdict"] for entry in planned]
    gate = gate or next((word for word in WEIGHT if word in found), "unproven")
    head = {"gate": gate, "why": "Because.", "planned": len(planned), "ran": len(planned), "target": "", "claims": {}}
    tail = {"seed": number, "not_offered": omitted, "missing": [], "scenarios": planned}
    summary = msgspec.convert({**head, **tail}, Summary)
    return msgspec.structs.replace(
        died(number, EXIT_STATUS[summary.gate] if status is None else status),
        folder=Path(f"/reports/run-{number}"),
        summary=summary,
        trouble="",
    )


def died(number: int, status: int) -> Run:
    """A run without a summary."""
    output = Path(f"/reports/soak/run-{number:02}.txt")
    return Run(number=number, status=status, seconds=61.04, load=1.5, output=output, trouble="it left no run folder")


# -- the table ---------------------------------------------------------------------------------------------------


def test_no_flake_is_one_line() -> None:
    """When every run kept everything there is no table."""
    runs = [ran(number, lock="kept", kill="kept") for number in (1, 2, 3)]
    assert soak.table(runs, 3) == ["no flakes in 3 runs: 2 scenarios kept in each"]
    assert soak.exit_status(runs) == 0


def test_a_flake_is_counted_per_verdict_with_its_runs_and_replays() -> None:
    """A scenario that was not always kept has its counts, and for each run that it was not kept in, where and how."""
    runs = [
        ran(1, lock="kept", kill="kept"),
        ran(2, lock="kept", kill="broken"),
        ran(3, lock="kept", kill="kept"),
        ran(4, lock="kept", kill="unproven"),
    ]
    assert soak.table(runs, 4) == [
        "1 flake in 4 runs:",
        "scenario                        kept  broken  unproven",
        "kill-mid-emit-python-websocket     2       1         1",
        "    run 2: broken: /reports/run-2",
        f"      replay: pytest {KILL} --seed 2",
        "    run 4: unproven: /reports/run-4",
        f"      replay: pytest {KILL} --seed 4",
    ]


def test_a_scenario_that_is_never_kept_is_in_the_table() -> None:
    """What is broken each time is not hidden by being no surprise."""
    table = soak.table([ran(1, lock="error", kill="kept"), ran(2, lock="error", kill="kept")], 2)
    assert table[1].split() == ["scenario", "kept", "error"]
    assert table[2].split() == [LOCK, "0", "2"]


@pytest.mark.parametrize(("second", "word"), [({"lock": "not offered"}, "not offered"), ({}, "not planned")])
def test_a_scenario_that_is_not_in_every_run_is_a_flake(second: dict[str, str], word: str) -> None:
    """A run that plans other scenarios than the first proves less, or more, than it; neither is green."""
    for runs in (
        [ran(1, lock="kept", kill="kept"), ran(2, kill="kept", **second)],
        [ran(1, kill="kept", **second), ran(2, lock="kept", kill="kept")],
    ):
        table = soak.table(runs, 2)
        assert table[1] == f"scenario{' ' * (len(LOCK) - len('scenario'))}  kept  {word}"
        assert table[2].split() == [LOCK, "1", "1"]
        assert soak.exit_status(runs) == EXIT_STATUS["error"]


def test_a_scenario_that_is_never_offered_is_no_flake() -> None:
    """What the target offers nothing for was planned in no run."""
    runs = [ran(number, lock="not offered", kill="kept") for number in (1, 2)]
    assert soak.table(runs, 2) == ["no flakes in 2 runs: 1 scenario kept in each"]
    assert soak.exit_status(runs) == 0


def test_a_run_without_a_verdict_is_told_as_what_it_was() -> None:
    """A run that pytest ended in a way of its own is in the table with its status and what it printed."""
    runs = [ran(1, lock="kept"), died(2, 4), died(3, -9), ran(4, 2, lock="kept")]
    assert soak.table(runs, 4) == [
        "run 2: no verdict: pytest exited with status 4, it left no run folder; it printed /reports/soak/run-02.txt",
        "run 3: no verdict: pytest was ended by SIGKILL, it left no run folder; it printed /reports/soak/run-03.txt",
        "run 4: kept, but pytest exited with status 2; it printed /reports/soak/run-04.txt, its folder is "
        "/reports/run-4",
    ]
    assert soak.exit_status(runs) == EXIT_STATUS["error"]


def test_a_gate_that_no_scenario_explains_is_told() -> None:
    """A run that is red though its scenarios are kept says why."""
    assert soak.table([ran(1, 10, "unproven", lock="kept")], 1) == [
        "run 1: unproven: Because. It printed /reports/soak/run-01.txt, its folder is /reports/run-1"
    ]


def test_an_interrupted_soak_says_how_far_it_came() -> None:
    """The table so far does not claim runs that were not."""
    assert soak.table([ran(1, lock="kept")], 20) == ["no flakes in 1 of 20 runs: 1 scenario kept in each"]
    assert soak.table([ran(1, lock="broken")], 20)[0] == "1 flake in 1 of 20 runs:"
    assert soak.table([], 20) == ["stopped before the first of 20 runs ended"]


def test_a_terminal_gets_no_escape_sequence() -> None:
    """Names of others cannot move the cursor."""
    run = ran(1, lock="broken")
    assert run.summary is not None
    hostile = msgspec.structs.replace(run.summary.scenarios[0], id="\x1b[2J", replay="\x1b[2J\nkept")
    told = msgspec.structs.replace(run, summary=msgspec.structs.replace(run.summary, scenarios=[hostile]))
    assert all(line.isprintable() for line in soak.table([told], 1))


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["kept", "kept"], 0),
        (["kept", "unproven"], 10),
        (["unproven", "broken", "kept"], 1),
        (["broken", "error"], 3),
    ],
)
def test_the_exit_status_is_that_of_the_worst_run(words: list[str], status: int) -> None:
    """One red run of many is red."""
    assert soak.exit_status([ran(number, lock=word) for number, word in enumerate(words, start=1)]) == status


def test_no_run_is_not_green() -> None:
    """Where nothing ended, nothing is kept."""
    assert soak.exit_status([]) == EXIT_STATUS["error"]


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (ran(3, lock="kept"), "run  3 of 20: kept, 61.0 s, load average 1.50"),
        (
            ran(3, lock="broken", kill="kept"),
            "run  3 of 20: broken (1 of 2 scenarios not kept), 61.0 s, load average 1.50",
        ),
        (
            died(3, 4),
            "run  3 of 20: no verdict: pytest exited with status 4, it left no run folder, 61.0 s, load average 1.50",
        ),
    ],
    ids=["kept", "broken", "died"],
)
def test_progress_is_one_line_for_each_run(run: Run, line: str) -> None:
    """Its verdict, how long it took and how busy the machine was."""
    assert soak.progress(run, 20) == line


# -- the command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--runs", "0"], "argument --runs: '0' is not a whole number from 1 to 1000"),
        (["--runs", "many"], "argument --runs: 'many' is not a whole number from 1 to 1000"),
        (["--", "--reports=x"], "--reports has to stand before the --"),
        (["--", "--reports", "x"], "--reports has to stand before the --"),
        (["-k", "lock"], "unrecognized arguments: -k"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong is said before anything runs."""
    with pytest.raises(SystemExit) as exit_:
        main(["soak", *arguments])
    assert exit_.value.code == 2
    assert error in capsys.readouterr().err


def test_a_reports_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file where the reports should go is named, and what to do."""
    (tmp_path / "a-file").write_text("x")
    assert main(["soak", "--reports", str(tmp_path / "a-file")]) == 3
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: cannot make .*/a-file/soak-.*: Not a directory; name another .*\n", said)


def soaking(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a soak in a project."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "soak", *arguments],
        cwd=place,
        env=inherited,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def place_with(folder: Path, part: str) -> Path:
    """A project whose scenarios are where soak looks for them."""
    place = project(folder / "project", "")
    (place / "test_0.py").unlink()
    project(place / "scenarios", part)
    return place


def folders(reports: Path) -> list[Path]:
    """The run folders in a reports folder."""
    return sorted(path.parent for path in reports.glob("2*/plan.json"))


def test_two_runs_have_a_folder_and_a_seed_each(tmp_path: Path) -> None:
    """A soak runs pytest twice, with the arguments after --, and leaves both run folders with different seeds."""
    place = place_with(tmp_path, KEPT)
    process = soaking(place, "--runs", "2", "--", "-n", "1", "-k", "one and websocket", "--target", "reference")
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (0, "")
    first, second, last = out.splitlines()
    assert re.fullmatch(r"run 1 of 2: kept, \d+\.\d s, load average \d+\.\d\d", first)
    assert re.fullmatch(r"run 2 of 2: kept, \d+\.\d s, load average \d+\.\d\d", second)
    assert last == "no flakes in 2 runs: 1 scenario kept in each"
    plans = [msgspec.json.decode((folder / "plan.json").read_bytes()) for folder in folders(place / "reports")]
    assert [[planned["id"] for planned in plan["planned"]] for plan in plans] == [["kept-one-python-websocket"]] * 2
    assert plans[0]["seed"] != plans[1]["seed"]
    assert shlex.split(plans[0]["command"])[:6] == ["pytest", "scenarios", "-n", "3", "--dist", "worksteal"]


def test_a_run_that_pytest_refuses_is_in_the_table(tmp_path: Path) -> None:
    """A usage error of pytest is no traceback and no green, and what pytest printed can be read."""
    process = soaking(place_with(tmp_path, KEPT), "--runs", "1", "--", "--sead", "1")
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (3, "")
    line = out.splitlines()[-1]
    assert line.startswith("run 1: no verdict: pytest exited with status 4, it left no run folder; it printed ")
    assert "unrecognized arguments: --sead" in Path(line.rpartition(" ")[2]).read_text()


def test_ctrl_c_ends_the_run_and_prints_the_table_so_far(tmp_path: Path) -> None:
    """An interrupt ends the run under way with its report, no further run begins, and the status is pytest's 2."""
    place = place_with(tmp_path, HANGS)
    process = soaking(place, "--runs", "5", "--", "-n", "1", "-k", "one and websocket")
    wait_until(lambda: list(place.glob("hangs-*")) or process.poll() is not None, "the schedule to hang")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (2, "")
    assert out == "stopped before the first of 5 runs ended\n"
    (folder,) = folders(place / "reports")
    assert (folder / "index.html").exists()
