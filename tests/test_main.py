"""`python -m harness recheck` and `render`."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness.__main__ import main
from harness.report import publish
from tests.report import samples
from tests.report.samples import RunBuilder, Script, declared


@pytest.fixture
def built(tmp_path: Path) -> RunBuilder:
    """A run folder to fill."""
    return RunBuilder(tmp_path / "reports" / "one")


def files(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("kinds", "gate", "status"), [([], "kept", 0), (["broken"], "broken", 1), (["unproven"], "unproven", 10)]
)
def test_recheck_exits_like_the_gate(
    built: RunBuilder, capsys: pytest.CaptureFixture[str], kinds: list[str], gate: str, status: int
) -> None:
    """Judging again prints a line per scenario and the gate, exits like the gate, and writes nothing."""
    built.kept()
    if "broken" in kinds:
        built.broken("lock-broken-python-polling", "lost")
    if "unproven" in kinds:
        built.unproven()
    before = files(built.folder)
    assert main(["recheck", str(built.folder)]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("kept      lock-long-python-polling")
    assert lines[-1].startswith(f"{gate}: ")
    assert len(lines) == len(kinds) + 2
    assert files(built.folder) == before


def test_recheck_says_where_a_verdict_differs(built: RunBuilder, capsys: pytest.CaptureFixture[str]) -> None:
    """A saved verdict that its histories do not bear out is named, and the histories decide the exit status."""
    broken = built.broken("lock-broken-python-polling", "lost")
    saved = msgspec.structs.replace(broken, verdict="kept", why="held", anomalies=[])
    (built.folder / broken.id / "verdict.json").write_bytes(msgspec.json.encode(saved))
    assert main(["recheck", str(built.folder)]) == 1
    assert "differs: verdict.json says kept: held" in capsys.readouterr().out


def test_recheck_says_what_else_differs(built: RunBuilder, capsys: pytest.CaptureFixture[str]) -> None:
    """The same verdict on other grounds differs too."""
    kept = built.kept()
    saved = msgspec.structs.replace(kept, counts={"sent": 99})
    (built.folder / kept.id / "verdict.json").write_bytes(msgspec.json.encode(saved))
    assert main(["recheck", str(built.folder)]) == 0
    assert "differs from verdict.json in counts" in capsys.readouterr().out


def test_recheck_does_not_turn_an_interrupted_run_green(built: RunBuilder, capsys: pytest.CaptureFixture[str]) -> None:
    """A scenario that did not finish, or never ran, is an error again."""
    built.kept()
    built.begin(declared("lock-cut-python-polling"), {"claim": samples.interrupted()})
    built.plan(declared("lock-late-python-polling"))
    assert main(["recheck", str(built.folder)]) == 3
    out = capsys.readouterr().out
    assert "error     lock-cut-python-polling" in out
    assert "it did not run: the run ended before it" in out


@pytest.mark.parametrize("content", [b"", b"not json\n", b'{"event":"finished","time":1}\n'])
def test_recheck_names_a_damaged_history(built: RunBuilder, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    """A history that cannot be read makes its scenario an error that names the file; the others are judged."""
    broken = built.broken("lock-broken-python-polling", "lost")
    built.kept()
    (built.folder / broken.id / "claim" / "history.jsonl").write_bytes(content)
    assert main(["recheck", str(built.folder)]) == 3
    out = capsys.readouterr().out
    assert "claim/history.jsonl" in out
    assert "kept      lock-long-python-polling" in out


def test_recheck_survives_a_history_that_contradicts_itself(
    built: RunBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer to an attempt that never began is an error, not a traceback."""
    script = Script()
    script.acknowledge("r7-alice-0009")
    built.begin(declared("lock-odd-python-polling"), {"claim": script.history()})
    assert main(["recheck", str(built.folder)]) == 3
    assert "lock-odd-python-polling: event 5 of the history" in capsys.readouterr().out


def test_render_writes_the_report_again(built: RunBuilder, capsys: pytest.CaptureFixture[str]) -> None:
    """Rendering writes the three files and says where the page is."""
    built.broken("lock-broken-python-polling", "lost")
    assert main(["render", str(built.folder)]) == 0
    assert capsys.readouterr().out.strip() == str(built.folder / "index.html")
    assert {"summary.json", "junit.xml", "index.html"} <= {path.name for path in built.folder.iterdir()}


@pytest.mark.parametrize("command", ["recheck", "render"])
@pytest.mark.parametrize("run", ["absent", "empty", "a-file", "damaged"])
def test_bad_input_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, run: str
) -> None:
    """A run that is not there, or is none, is one line on standard error and exit status 3."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-file").write_text("x", encoding="utf-8")
    RunBuilder(tmp_path / "damaged")
    (tmp_path / "damaged" / "plan.json").write_text("{", encoding="utf-8")
    assert main([command, str(tmp_path / run)]) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert run in error


def test_a_wrong_command_line_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command, the usage is printed and the exit status is 2."""
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "usage: python -m harness" in capsys.readouterr().err


def test_latest_is_found_from_any_directory_below(built: RunBuilder) -> None:
    """`python -m harness recheck latest` works as a program, from a folder below the one that holds the reports."""
    built.kept()
    publish(built.folder)
    below = built.folder.parent.parent / "below"
    below.mkdir()
    command = [sys.executable, "-m", "harness", "recheck", "latest"]
    done = subprocess.run(command, cwd=below, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("kept      lock-long-python-polling")


# -- repetitions -------------------------------------------------------------------------------------------------

OFTEN = "lock-often-python-polling"


def test_recheck_judges_every_repetition_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The worst repetition decides again, nothing is written, and nothing differs."""
    built = RunBuilder(tmp_path / "one", repeat=3)
    built.repeat(declared(OFTEN), samples.claim(), samples.broken_claim("lost"), samples.claim())
    before = files(built.folder)
    assert main(["recheck", str(built.folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"broken    {OFTEN}  (broken in 1 of 3 runs, ")
    assert lines[1].startswith("broken: ")
    assert files(built.folder) == before


def test_recheck_finds_what_a_repetition_hid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Saved verdicts count for nothing: the history of any repetition can turn the scenario broken."""
    built = RunBuilder(tmp_path / "one", repeat=3)
    built.repeat(declared(OFTEN), *[samples.claim()] * 3)
    history = built.folder / OFTEN / "repeat-03" / "claim" / "history.jsonl"
    history.write_bytes(samples.encoded(samples.broken_claim("lost")))
    assert main(["recheck", str(built.folder)]) == 1
    out = capsys.readouterr().out
    assert f"broken    {OFTEN}  (broken in 1 of 3 runs, " in out
    assert "differs: verdict.json says kept" in out


def test_recheck_does_not_forget_a_repetition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scenario with fewer repetitions than planned is an error, though those that are there are kept."""
    built = RunBuilder(tmp_path / "one", repeat=3)
    built.repeat(declared(OFTEN), samples.claim(), samples.claim())
    assert main(["recheck", str(built.folder)]) == 3
    assert "it did not finish: 2 of 3 repetitions have a verdict" in capsys.readouterr().out
    built = RunBuilder(tmp_path / "two", repeat=3)
    built.repeat(declared(OFTEN), *[samples.claim()] * 3)
    (built.folder / OFTEN / "repeat-02").rename(built.folder / OFTEN / "elsewhere")
    assert main(["recheck", str(built.folder)]) == 3
    assert "holds 1 of 3 repetitions" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["scenario.json", "verdict.json", "claim/history.jsonl"])
def test_recheck_names_a_damaged_file_of_a_repetition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A file that cannot be read makes its scenario an error that names it."""
    built = RunBuilder(tmp_path / "one", repeat=2)
    built.repeat(declared(OFTEN), samples.claim(), samples.claim())
    (built.folder / OFTEN / "repeat-02" / name).write_bytes(b"{\n")
    assert main(["recheck", str(built.folder)]) == 3
    assert f"repeat-02/{name}" in capsys.readouterr().out


def test_render_shows_the_worst_repetition(tmp_path: Path) -> None:
    """Rendering again says how often, and carries the seed."""
    built = RunBuilder(tmp_path / "one", repeat=2)
    worst = built.repeat(declared(OFTEN), samples.claim(), samples.broken_claim("lost"))
    assert main(["render", str(built.folder)]) == 0
    summary = msgspec.json.decode((built.folder / "summary.json").read_bytes())
    assert summary["scenarios"][0]["repeated"] == msgspec.to_builtins(worst.repeated)
    assert "broken in 1 of 2 runs" in (built.folder / "index.html").read_text(encoding="utf-8")
