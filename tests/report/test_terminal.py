"""What a run says on the terminal."""

from pathlib import Path

import pytest

from harness import repeat
from harness.outcome import Outcome
from harness.report import run, terminal
from harness.report.summary import summarize
from tests.report import samples
from tests.report.samples import RunBuilder, declared


def lines_of(folder: Path) -> list[str]:
    """The lines at the end of a run."""
    loaded = run.load(folder)
    return terminal.lines(loaded, summarize(loaded))


def test_a_scenario_is_one_line(tmp_path: Path) -> None:
    """While the run goes, a scenario is its verdict, its id, its counts and its time."""
    assert terminal.line(RunBuilder(tmp_path).kept()) == (
        "kept      lock-long-python-polling  (3 sent, 3 acknowledged, 3 stored, 3.2 s)"
    )


def test_a_green_run_is_quiet(tmp_path: Path) -> None:
    """When all is kept there is the gate, the counts and the path of the report."""
    RunBuilder(tmp_path).kept()
    assert lines_of(tmp_path) == [
        "kept: The one planned scenario kept what the target claims: exactly-once, in total order.",
        "1 scenario planned, 1 ran, 1 kept",
        f"report: {tmp_path / 'index.html'}",
    ]


def test_what_is_not_kept_says_why_where_and_how_to_replay(tmp_path: Path) -> None:
    """A broken scenario tells its first anomaly with time and fault, the others in short, its report and its replay."""
    RunBuilder(tmp_path).broken("lock-broken-python-polling", "duplicate", "missed")
    assert lines_of(tmp_path)[:7] == [
        "broken    lock-broken-python-polling",
        "          why: exactly-once in total order does not hold: duplicate, missed",
        "          first anomaly: duplicate r7-alice-0002: stored 2 times: rows 2, 3 (at 0.900 s)",
        "          fault: lose_acknowledgement on alice, 1.100 s to 1.500 s: it bit this message",
        "          also: missed x 1: r7-alice-0002",
        f"          report: {tmp_path / 'index.html'}#scenario-lock-broken-python-polling",
        "          replay: pytest 'scenarios/test_lock.py::test_it[lock-broken-python-polling]' --seed 7",
    ]


def test_many_anomalies_are_a_few_lines(tmp_path: Path) -> None:
    """Five hundred lost messages are one anomaly in full and one range."""
    built = RunBuilder(tmp_path)
    lost = built.run(declared("lock-python-polling"), {"claim": samples.lost_everything(500)})
    told = terminal.trouble(tmp_path, lost)
    assert "          also: lost x 499: r7-alice-0002..0500" in told
    assert len(told) < 8


def test_what_is_kept_or_not_offered_is_no_trouble(tmp_path: Path) -> None:
    """Only what makes the gate red is told at length."""
    built = RunBuilder(tmp_path)
    assert terminal.trouble(tmp_path, built.kept()) == []
    assert terminal.trouble(tmp_path, built.not_offered()) == []


def test_what_did_not_run_is_listed(tmp_path: Path) -> None:
    """What is not offered and what is missing is named with its reason."""
    samples.write_showcase(tmp_path)
    lines = lines_of(tmp_path)
    assert "not offered: crash-after-commit-python-polling: the target has no crash point 'after_commit'" in lines
    assert "missing: kill-docker-python-polling: there is no Docker on this machine" in lines


def test_a_terminal_gets_no_escape_sequence(tmp_path: Path) -> None:
    """Names and errors of others cannot move the cursor, and their lines stay indented."""
    RunBuilder(tmp_path).plan(declared("lock-\x1b[2J\u202e", replay="pytest\nkept: forged\x1b[2J"))
    lines = lines_of(tmp_path)
    assert not any("\x1b" in line or "\u202e" in line for line in lines)
    assert "            kept: forged\\x1b[2J" in lines


def test_a_report_here_has_a_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report below the working directory is named as one would type it."""
    RunBuilder(tmp_path / "reports" / "one").kept()
    monkeypatch.chdir(tmp_path)
    assert lines_of(tmp_path / "reports" / "one")[-1] == "report: reports/one/index.html"


def test_a_sweep_tells_its_cases_folded_and_how_to_replay_one(tmp_path: Path) -> None:
    """Neighbours with the same outcome are one line; each bad one is told with the command that replays it."""
    swept = [("0", "resent", "cut, sent again"), ("1", "resent", "cut, sent again"), ("2", "broken", "lost")]
    broken = RunBuilder(tmp_path).broken("lock-broken-python-polling", "duplicate")
    broken.outcomes = [Outcome(f"wire/up/{at}", "", kind, words, "") for at, kind, words in swept]  # type: ignore[arg-type]  # literals
    assert terminal.line(broken).splitlines()[1:] == [
        "          wire/up/0..1: cut, sent again",
        "          wire/up/2: lost",
    ]
    assert terminal.trouble(tmp_path, broken)[-1] == f"          case: lost: {broken.replay_case} wire/up/2"


def test_a_repeated_scenario_is_one_line_and_says_how_often(tmp_path: Path) -> None:
    """The line has the verdict's frequency and the time of all repetitions; the trouble names run, seed and anomaly."""
    case = declared("lock-often-python-polling")
    claims = [samples.claim(), samples.broken_claim("duplicate"), samples.claim()]
    worst = RunBuilder(tmp_path, repeat=3).repeat(case, *claims)
    seed = repeat.seeds(7, 3)[1]
    assert terminal.line(worst) == (
        "broken    lock-often-python-polling  (broken in 1 of 3 runs, 3 sent, 3 acknowledged, 3 stored, 9.6 s)"
    )
    assert lines_of(tmp_path)[:7] == [
        "broken    lock-often-python-polling",
        f"          repeated: broken in 1 of 3 runs, kept in 2; this is run 2 of 3, with seed {seed}",
        "          why: exactly-once in total order does not hold: duplicate",
        "          first anomaly: duplicate r7-alice-0002: stored 2 times: rows 2, 3 (at 0.900 s)",
        "          fault: lose_acknowledgement on alice, 1.100 s to 1.500 s: it bit this message",
        f"          report: {tmp_path / 'index.html'}#scenario-lock-often-python-polling",
        f"          replay: pytest 'scenarios/test_lock.py::test_it[lock-often-python-polling]' --seed {seed}",
    ]
