"""The judge is judged: broken servers are caught with their own anomaly, correct and modest ones are not accused.

That every entry is caught is what `make ledger` is for; here are the table, the command and what it concludes. Where a
test runs a target, it is a whole run of `pytest scenarios`.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from harness import checker, ledger, scenario, target
from harness import history as h
from harness.__main__ import main
from harness.ledger import Left
from harness.report import ledger as told
from harness.report.ledger import Ledger, Round, Tried
from harness.report.summary import EXIT_STATUS, WEIGHT, Summary
from harness.targets.ledger import ENTRIES, Entry, Hop
from tests.report.test_html import Page
from tests.runs import PROJECT, TIMEOUT_SECONDS, Ran, run, wait_until

TARGETS = PROJECT / "harness" / "targets"
# What the correct servers are tried with: quick, one of each family that asks something different of a server.
TRIED = (
    "baseline-five-python-websocket",
    "cut-middle-python-polling",
    "cut-middle-python-websocket",
    "ack-lost-one-python-websocket",
    "kill-mid-emit-python-websocket",
    "crash-after-commit-python-websocket",
)


# -- the table ---------------------------------------------------------------------------------------------------


def schedules() -> Iterator[scenario.Scenario]:
    """Every scenario that is declared."""
    for path in sorted((PROJECT / "scenarios").glob("test_*.py")):
        names: dict[str, object] = {}
        exec(compile(path.read_text(), str(path), "exec"), names)  # noqa: S102 - our own, and no module of a package
        declared = (getattr(schedule, scenario.ATTRIBUTE, None) for schedule in names.values())
        yield from (each for each in declared if isinstance(each, scenario.Scenario))


def test_every_entry_names_a_case_that_asks_something_of_it() -> None:
    """The case that has to catch an entry exists, and is offered by its target."""
    declared = [each for each in schedules() if each.target is None]
    for entry in ENTRIES:
        on = target.load(str(entry.target))
        cases = {case.id: case for each in declared for case in scenario.cases(each, ["python"], [on])}
        assert entry.case in cases, entry.name
        assert scenario.not_offered(cases[entry.case]) is None, entry.name


def test_every_anomaly_has_an_entry() -> None:
    """There is no anomaly that the harness could be blind for."""
    assert {entry.anomaly for entry in ENTRIES} == set(get_args(checker.Kind))


def test_every_hop_has_an_entry() -> None:
    """Messages go wrong everywhere on their way."""
    assert {entry.hop for entry in ENTRIES} == set(get_args(Hop))


def test_mistakes_are_sentences_of_their_own() -> None:
    """What is wrong is one sentence of an entry, and no other's."""
    assert all(re.fullmatch(r"[A-Z`][^|\n]*\.", entry.mistake) for entry in ENTRIES)
    assert len({entry.mistake for entry in ENTRIES}) == len({entry.name for entry in ENTRIES}) == len(ENTRIES)


def test_table_of_the_readme_is_that_of_a_ledger_of_these_entries() -> None:
    """Each entry as it is today, and caught; the times, which are all that is measured, with their day and machine."""
    readme = (PROJECT / "README.md").read_text()
    found = re.search("<!-- ledger -->\n(.*?)<!-- /ledger -->", readme, re.DOTALL)
    assert found is not None
    seconds = [float(each) for each in re.findall(r"\| ([0-9.]+) \|$", found[1], re.MULTILINE)]
    head = re.match(r"Times to catch of (\d{4}-\d\d-\d\d), on (\d+ cores?, .*):\n", found[1])
    assert head is not None
    caught = [
        result(entry=e.name, hop=e.hop, mistake=e.mistake, anomaly=e.anomaly, case=e.case, by=e.case, seconds=taken)
        for e, taken in zip(ENTRIES, seconds, strict=True)
    ]
    made = msgspec.structs.replace(ended(*caught), started=f"{head[1]}T12:00:00+00:00", machine=head[2])
    assert found[1] == told.table(made)


# -- what is concluded -------------------------------------------------------------------------------------------

CASE, OTHER = "cut-middle-python-websocket", "lock-long-python-websocket"
MADE_UP = Entry("forgets", "lost", "server", CASE, "It forgets.", "Because.")
HARMLESS = Entry("lies", "false_failure", "server", CASE, "It lies.", "Because.")


def anomaly(kind: str) -> dict[str, Any]:
    """An anomaly as a summary has it."""
    return {"kind": kind, "message": None, "detail": ""}


def case(name: str, verdict: str, *kinds: str, reported: str | None = None) -> dict[str, Any]:
    """What a summary says of a scenario."""
    words = {"id": name, "family": "x", "client": "python", "transport": "polling", "title": "", "why": "It was so."}
    none: dict[str, Any] = {"counts": {}, "bites": [], "controls": [], "recovery_seconds": None}
    found = {"anomalies": [anomaly(kind) for kind in kinds], "reported": [anomaly(reported)] if reported else []}
    return {**words, **none, **found, "worst_delay_seconds": None, "seconds": 0.0, "replay": "", "verdict": verdict}


def left(*cases: dict[str, Any], status: int | None = None, missing: str | None = None) -> Left:
    """What a pytest left that ran these cases, the last of them first."""
    words = [each["verdict"] for each in cases]
    head = {"gate": next((word for word in WEIGHT if word in words), "unproven"), "why": "Because.", "target": ""}
    tail = {"planned": len(cases), "ran": len(cases), "claims": {}, "seed": 1, "not_offered": [], "scenarios": cases}
    lacks = [{"id": missing, "reason": "it needs Linux"}] if missing else []
    summary = msgspec.convert({**head, **tail, "missing": lacks}, Summary)
    ended = {each["id"]: 5.0 - number for number, each in enumerate(cases)}
    code = EXIT_STATUS[summary.gate] if status is None else status
    return Left(status=code, seconds=9.0, output=Path("/o/output.txt"), summary=summary, report="x", ended=ended)


@pytest.mark.parametrize(
    ("found", "word", "why"),
    [
        (left(case(CASE, "broken", "lost", "lost")), "caught", f"{CASE} showed lost"),
        (left(case(CASE, "kept")), "survived", f"{CASE} is kept: It was so."),
        (left(case(CASE, "unproven", reported="lost")), "survived", f"{CASE} is unproven: It was so."),
        (left(case(CASE, "broken", "duplicate")), "mistaken", f"{CASE} showed duplicate, not lost alone"),
        (
            left(case(CASE, "broken", "lost", "stuck")),
            "mistaken",
            f"{CASE} showed lost and stuck, not lost alone",
        ),
        (left(case(CASE, "error")), "error", f"{CASE}: It was so."),
        (left(missing=CASE), "error", f"{CASE} could not run: it needs Linux"),
        (left(), "error", f"there is no case {CASE}"),
        (
            left(case(CASE, "broken", "lost"), status=-9),
            "error",
            "broken, but pytest was ended by SIGKILL; it printed /o/output.txt",
        ),
        (
            Left(status=4, seconds=1.0, output=Path("/o/output.txt"), trouble="it left no run folder"),
            "error",
            "no verdict: pytest exited with status 4, it left no run folder; it printed /o/output.txt",
        ),
    ],
)
def test_an_entry_is_caught_with_its_own_anomaly_only(found: Left, word: str, why: str) -> None:
    """Its case has to be broken by its anomaly and no other; everything else is red, and says why."""
    tried = ledger.judge(MADE_UP, found, full=False)
    assert (tried.word, tried.why) == (word, why)
    assert (tried.by, tried.seconds) == ((CASE, 5.0) if word == "caught" else (None, round(found.seconds, 1)))


def test_an_anomaly_that_breaks_no_claim_is_caught_where_it_is_reported() -> None:
    """A failure that is none is all that such an entry has to show."""
    assert ledger.judge(HARMLESS, left(case(CASE, "kept", reported="false_failure")), full=False).word == "caught"
    assert ledger.judge(HARMLESS, left(case(CASE, "kept")), full=False).word == "survived"
    other = left(case(CASE, "broken", "stuck", reported="false_failure"))
    assert ledger.judge(HARMLESS, other, full=False).word == "mistaken"


def test_full_names_the_first_case_that_caught() -> None:
    """Of all scenarios the one whose verdict came first is told, and all that showed something are kept."""
    found = left(case(CASE, "broken", "lost"), case(OTHER, "broken", "lost", "stuck"), case("x", "error"))
    tried = ledger.judge(MADE_UP, msgspec.structs.replace(found, status=EXIT_STATUS["error"]), full=True)
    assert (tried.word, tried.by, tried.seconds) == ("caught", OTHER, 4.0)
    assert [each.case for each in tried.shown] == [OTHER, CASE]
    assert tried.unjudged == ["x"]
    line = ledger.progress(tried)
    assert line == f"caught    forgets  (lost, by {OTHER}, the first of 2 cases, 1 other case in error, 4.0 s)"


def test_full_is_red_where_the_case_that_has_to_catch_does_not() -> None:
    """That another case catches it does not excuse the one that has to."""
    assert ledger.judge(MADE_UP, left(case(CASE, "kept"), case(OTHER, "broken", "lost")), full=True).word == "survived"
    assert ledger.judge(MADE_UP, left(case(OTHER, "broken", "lost")), full=True).word == "caught"
    assert ledger.judge(MADE_UP, left(case(OTHER, "broken", "stuck")), full=True).word == "survived"


@pytest.mark.parametrize(
    ("verdict", "word"), [("kept", "kept"), ("broken", "accused"), ("unproven", "unproven"), ("error", "error")]
)
def test_a_correct_server_has_to_be_kept_each_time(verdict: str, word: str) -> None:
    """Broken is an accusation; what is unproven or an error is not green either."""
    assert ledger.judge_correct("reference", 3, left(case(CASE, verdict))).word == word


def result(word: Any = "caught", entry: str = "forgets", **fields: Any) -> Tried:
    """What came of an entry."""
    by = CASE if word == "caught" else None
    about = {"hop": "server", "mistake": "It `forgets`.", "anomaly": "lost", "case": CASE, "why": "It was so."}
    return Tried(**{"entry": entry, "word": word, "seconds": 7.04, "by": by, **about, **fields})


def ended(*entries: Tried, planned: int | None = None, rounds: tuple[Round, ...] = ()) -> Ledger:
    """What came of a ledger."""
    return Ledger(
        run="ledger-1",
        started="2026-01-31T12:00:00+00:00",
        command="python -m harness ledger",
        full=bool(rounds),
        seconds=61.2,
        entries_planned=len(entries) if planned is None else planned,
        rounds_planned=len(rounds),
        entries=list(entries),
        rounds=list(rounds),
        machine="2 cores",
    )


def test_closing_is_a_table_and_a_sentence() -> None:
    """All caught: entry, anomaly, case, time, and what is wrong, a line for each."""
    assert ledger.closing(ended(result(), result(entry="no", seconds=12.0))) == [
        "entry    anomaly  caught by                    seconds  what is wrong",
        "forgets  lost     cut-middle-python-websocket      7.0  It `forgets`.",
        "no       lost     cut-middle-python-websocket     12.0  It `forgets`.",
        "2 of 2 entries caught; 61 s.",
    ]


def test_closing_names_what_is_not_caught() -> None:
    """Below the table each entry that survived has a line with the reason."""
    lines = ledger.closing(ended(result(), result("survived", entry="no")))
    assert lines[2] == "no       lost     (survived)                       7.0  It `forgets`."
    assert lines[3:] == ["survived: no: It was so.", "1 of 2 entries not caught: no; 61 s."]


def test_closing_counts_the_runs_of_correct_servers() -> None:
    """An accused server is named with its run; where none is, that is said."""
    good = Round(target="reference", number=1, word="kept", why="", seconds=1.0)
    bad = Round(target="reference", number=2, word="accused", why="It broke.", seconds=1.0)
    assert ledger.closing(ended(rounds=(good,))) == ["no correct server accused in 1 run; 61 s."]
    assert ledger.closing(ended(rounds=(good, bad))) == [
        "accused: reference, run 2: It broke.",
        "1 of 2 runs of correct servers not kept: reference; 61 s.",
    ]


def test_what_was_stopped_is_not_green() -> None:
    """Entries that were not tried are not caught."""
    stopped = ended(result(), planned=3)
    assert (stopped.is_green, stopped.word) == (False, "stopped")
    assert stopped.sentence == "stopped when 1 of 3 entries was tried and caught; 61 s."
    assert ended(result()).is_green
    assert not ended(result("mistaken")).is_green


# -- the page ----------------------------------------------------------------------------------------------------


def test_page_holds_the_table(tmp_path: Path) -> None:
    """Each entry has its row with a link to its run, each correct server its counts, and no request goes anywhere."""
    bad = Round(target="reference", number=2, word="accused", why="It <broke>.", seconds=1.0, report="r/index.html")
    told.save(tmp_path, ended(result(report="a/b/index.html"), result("survived", entry="no"), rounds=(bad,)))
    page = Page((tmp_path / "index.html").read_text())
    assert {a["href"] for a in page.all("a")} == {"#main", "a/b/index.html", "r/index.html", "ledger.json"}
    for text in ("1 of 2 entries not caught: no", "forgets", "It was so.", "It <broke>.", CASE, "7.0"):
        assert text in page.text
    assert not page.open
    assert "default-src 'none'" in page.source
    assert "<code>forgets</code>" in page.source


def test_folder_has_the_table_for_the_readme(tmp_path: Path) -> None:
    """Whose times they are, then a line for each entry; one that was not caught has no time to catch."""
    told.save(tmp_path, ended(result(), result("survived", entry="no")))
    assert (tmp_path / told.TABLE).read_text().splitlines() == [
        "Times to catch of 2026-01-31, on 2 cores:",
        "",
        "| entry | what is wrong | where | anomaly | caught by | seconds |",
        "|---|---|---|---|---|--:|",
        f"| `forgets` | It `forgets`. | server | `lost` | `{CASE}` | 7.0 |",
        "| `no` | It `forgets`. | server | `lost` | survived |  |",
    ]


def test_newest_is_one_of_all_entries_that_came_to_its_end(tmp_path: Path) -> None:
    """What was stopped, a single entry, correct servers alone and what is damaged say too little."""
    kept = Round(target="reference", number=1, word="kept", why="", seconds=1.0)
    whole = ended(result(), result(entry="no"))
    ledgers = (whole, msgspec.structs.replace(whole, seconds=9.0), ended(result(), planned=2), ended(result()))
    assert told.newest(tmp_path) is None
    for number, ledger_then in enumerate((*ledgers, ended(rounds=(kept,)), whole), start=1):
        (tmp_path / f"ledger-{number}").mkdir()
        told.save(tmp_path / f"ledger-{number}", ledger_then)
    (tmp_path / "ledger-6" / told.FILE).write_text("{")
    assert told.newest(tmp_path) == msgspec.structs.replace(whole, run="ledger-2", seconds=9.0)


def test_page_is_written_again_from_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m harness render` makes the page of what is saved; damage is one line."""
    told.save(tmp_path, ended(result()))
    (tmp_path / "index.html").unlink()
    assert main(["render", str(tmp_path)]) == 0
    assert (tmp_path / "index.html").exists()
    (tmp_path / "ledger.json").write_text("{")
    assert main(["render", str(tmp_path)]) == 3
    assert re.fullmatch(r"error: \S*/ledger.json is damaged: .*\n", capsys.readouterr().err)


# -- the command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--entry", "no_such"], "ledger: there is no entry 'no_such'; there are acknowledges_before_commit, "),
        (["--entry", "truncates_content", "--entry", "such"], "ledger: there is no entry 'such'; there are "),
        (["--entry", "reference"], "ledger: there is no entry 'reference'; there are "),
        (["--rounds", "2"], "ledger: --rounds is how often correct servers are tried, which only --full does"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong is said before anything runs."""
    monkeypatch.chdir(PROJECT)
    assert main(["ledger", *arguments]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {error}")
    assert said.err.count("\n") == 1


def test_where_there_are_no_scenarios_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another folder there is nothing to judge with; and a file is no folder for reports."""
    monkeypatch.chdir(tmp_path)
    assert main(["ledger"]) == 3
    assert capsys.readouterr().err.startswith("error: ledger: there is no folder `scenarios` here")
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "a-file").write_text("x")
    assert main(["ledger", "--reports", "a-file"]) == 3
    assert re.fullmatch(r"error: cannot make .*/a-file/ledger-.*: Not a directory; .*\n", capsys.readouterr().err)


def test_one_entry_is_caught_and_one_survives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for each as it ends, the table, the line of the survivor, a report that links to the runs; status 1."""
    truncates, doubles = (
        next(entry for entry in ENTRIES if entry.name == name) for name in ("truncates_content", "no_unique_constraint")
    )
    survivor = doubles._replace(case="baseline-one-python-websocket")
    monkeypatch.setattr(ledger, "ENTRIES", (truncates, survivor))
    monkeypatch.chdir(PROJECT)
    assert main(["ledger", "--reports", str(tmp_path)]) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert said.err == ""
    assert lines[0].startswith("2 entries, each against the case that has to catch it; ")
    assert sorted(line.split()[0] for line in lines[1:3]) == ["caught", "survived"]
    assert lines[3].split() == ["entry", "anomaly", "caught", "by", "seconds", "what", "is", "wrong"]
    assert lines[6].startswith("survived: no_unique_constraint: baseline-one-python-websocket is kept: ")
    assert lines[7].startswith("1 of 2 entries not caught: no_unique_constraint; ")
    page = Path(lines[8].removeprefix("report: "))
    found = told.load(page.parent)
    assert [(tried.entry, tried.word, tried.by) for tried in found.entries] == [
        ("truncates_content", "caught", truncates.case),
        ("no_unique_constraint", "survived", None),
    ]
    assert all((page.parent / str(tried.report)).exists() for tried in found.entries)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("truncates_content", r"caught    truncates_content  \(corrupted, by baseline-one-python-websocket, .* s\)"),
        ("reference", r"kept      reference, run 1  \(.* s\)"),
    ],
)
def test_full_says_how_long_it_takes(
    name: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it starts; then every run has a line. What stands behind -- narrows the selection."""
    monkeypatch.chdir(PROJECT)
    narrow = ["--", "-n", "0", "-k", "baseline-one-python-websocket"]
    assert main(["ledger", "--full", "--rounds", "1", "--entry", name, "--reports", str(tmp_path), *narrow]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"all scenarios on 1 (entry|correct server in 1 run): about \d minutes on two cores.*", lines[0]
    )
    assert re.fullmatch(line, lines[1])


def test_ctrl_c_ends_every_run_and_says_how_far_it_came(tmp_path: Path) -> None:
    """An interrupt ends the runs under way, no further begins, and what came of the others is told; status 2."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "ledger", "--reports", str(tmp_path)],
        cwd=PROJECT,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: list(tmp_path.glob("*/*/*/plan.json")) or process.poll() is not None, "a run to begin")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (2, "")
    lines = out.splitlines()
    assert re.fullmatch(r"stopped when \d+ of \d+ entries (was|were) tried and caught; \d+ s\.", lines[-2])
    assert not told.load(Path(lines[-1].removeprefix("report: ")).parent).is_finished
    assert len(list(tmp_path.glob("*/*/output.txt"))) <= 4


# -- targets that are correct ------------------------------------------------------------------------------------


def on(folder: Path, target: Path | str, *cases: str) -> Ran:
    """Run these cases on a target."""
    return run(folder, "scenarios", "--target", str(target), "-k", " or ".join(cases))


@pytest.mark.parametrize("name", ["on_conflict", "no_echo", "ack_payload", "gaps"])
def test_correct_server_is_never_accused(name: str, tmp_path: Path) -> None:
    """A server that is right in another way than the reference server keeps every scenario, controls and nulls too."""
    ran = on(tmp_path, f"correct/{name}", *TRIED)
    assert (ran.verdicts, ran.status) == (dict.fromkeys(TRIED, "kept"), 0), ran.output
    assert {c["verdict"] for s in ran.scenarios.values() for c in s["controls"]} == {"bites"}
    assert {c["null"] for s in ran.scenarios.values() for c in s["controls"]} == {"clean"}


# -- targets that claim less, or resist more ---------------------------------------------------------------------

BASELINE, PIPELINED = "baseline-one-python-websocket", "baseline-pipelined-python-websocket"
ACK_LOST, CUT, KILL = (
    "ack-lost-one-python-websocket",
    "cut-middle-python-websocket",
    "kill-mid-emit-python-websocket",
)
# A server with a way of its own to store a message.
VARIANT = """
import html, sqlite3, sys
from ledger.common import SCHEMA, Chat, insert

def escapes(database, content, client_offset):
    insert(database, html.escape(content.strip()), client_offset)

def by_content(database, content, client_offset):
    if not database.execute("SELECT 1 FROM messages WHERE content = ?", (content,)).fetchone():
        insert(database, content, client_offset)

def forgets(database, content, client_offset):
    if not database.execute("DELETE FROM messages WHERE content = ?", (content,)).rowcount:
        insert(database, content, client_offset)

store = globals()[sys.argv.pop(1)]
chat = Chat(schema=SCHEMA)

async def chat_message(_sid, content, client_offset):
    try:
        await chat.run(store, content, client_offset)
    except sqlite3.IntegrityError:
        pass
    except sqlite3.Error:
        return chat.sio.not_handled
    await chat.publish()

chat.serve(chat_message)
"""
UNPROTECTED = '["{python}", "-m", "ledger.no_unique_constraint.server", "--port", "{port}", "--database", "{database}"]'
REFERENCE = '["{python}", "-m", "harness.targets.reference", "--port", "{port}", "--database", "{database}"]'


def variant(folder: Path, way: str) -> str:
    """The command of a server that stores messages in its own way."""
    path = folder / "variant.py"
    path.write_text(VARIANT)
    return f'["{{python}}", "{path}", "{way}", "--port", "{{port}}", "--database", "{{database}}"]'


def described(folder: Path, command: str, *claims: str, without_unique: str | None = None) -> Path:
    """Describe a target."""
    path = folder / "target.toml"
    lines = (
        "schema = 1",
        'name = "modest"',
        "[server]",
        f"command = {command}",
        f'cwd = "{TARGETS}"',
        f'env = {{ PYTHONPATH = "{TARGETS}" }}',
        "[protocol]",
        'event = "chat message"',
        'broadcast = "chat message"',
        "[store]",
        'kind = "sqlite"',
        'location = "{database}"',
        'rows = "SELECT id, client_offset, content FROM messages ORDER BY id"',
        "[claims]",
        *claims,
        "[controls]",
        *([f"without_unique = {without_unique}"] if without_unique else []),
    )
    path.write_text("\n".join(lines))
    return path


def test_at_least_once_target_may_store_twice(tmp_path: Path) -> None:
    """A server that only promises at-least-once, in no order, keeps cuts and kills, and is not asked for the rest."""
    target = described(tmp_path, UNPROTECTED, 'guarantee = "at-least-once"', 'order = "none"')
    ran = on(tmp_path, target, PIPELINED, ACK_LOST, CUT, KILL)
    assert (ran.verdicts, ran.status) == ({CUT: "kept", KILL: "kept"}, 0), ran.output
    assert "'duplicate' does not break 'at-least-once'" in ran.not_offered[ACK_LOST].replace("a message that is ", "")
    assert "'none'" in ran.not_offered[PIPELINED]


def test_at_most_once_target_may_lose(tmp_path: Path) -> None:
    """The senders of an at-most-once target emit once; it is asked for what can store twice, and for nothing else."""
    target = described(tmp_path, REFERENCE, 'guarantee = "at-most-once"', 'order = "sequential"')
    ran = on(tmp_path, target, PIPELINED, BASELINE, ACK_LOST, CUT)
    assert (ran.verdicts, ran.status) == ({BASELINE: "kept", ACK_LOST: "kept"}, 0), ran.output
    assert set(ran.not_offered) == {PIPELINED, CUT}
    policies = {
        name: {event.policy for event in history if isinstance(event, h.Invoke)}
        for name, history in ran.histories(ACK_LOST).items()
    }
    assert policies == {"claim": {"once"}, "control-new-offset": {"new-offset"}, "null-new-offset": {"new-offset"}}


def test_target_that_escapes_is_sent_plain_contents(tmp_path: Path) -> None:
    """A server that trims and escapes what it stores is not accused of it where it claims plain contents only."""
    ran = on(tmp_path, described(tmp_path, variant(tmp_path, "escapes"), 'content = "plain"'), BASELINE)
    assert (ran.verdicts, ran.status) == ({BASELINE: "kept"}, 0), ran.output
    contents = [e.content for e in ran.histories(BASELINE)["claim"] if isinstance(e, h.Invoke)]
    assert contents
    assert all(re.fullmatch(r"[\w -]{1,100}", content, re.ASCII) for content in contents)


def test_target_that_escapes_corrupts_any_other_contents(tmp_path: Path) -> None:
    """The same server without that word in its claims is broken: corrupted."""
    ran = on(tmp_path, described(tmp_path, variant(tmp_path, "escapes")), BASELINE)
    assert (ran.verdicts, ran.anomalies(BASELINE), ran.status) == ({BASELINE: "broken"}, {"corrupted"}, 1), ran.output


def test_target_that_resists_a_control_is_not_accused(tmp_path: Path) -> None:
    """A server that knows a resend by its content resists `new-offset`: not offered, and the gate rests on the rest."""
    ran = on(tmp_path, described(tmp_path, variant(tmp_path, "by_content")), BASELINE, ACK_LOST)
    assert (ran.verdicts, ran.status) == ({BASELINE: "kept"}, 0), ran.output
    assert "resists every control" in ran.not_offered[ACK_LOST]
    assert ran.summary["planned"] == ran.summary["ran"] == 1


def test_item_with_a_silent_control_only_is_unproven(tmp_path: Path) -> None:
    """A control that shows something else than it must is silent; with no other that bites, nothing is proven."""
    command, silent = variant(tmp_path, "by_content"), variant(tmp_path, "forgets")
    ran = on(tmp_path, described(tmp_path, command, without_unique=silent), ACK_LOST)
    assert (ran.verdicts, ran.status) == ({ACK_LOST: "unproven"}, 10), ran.output
    assert ran.controls(ACK_LOST) == {"new-offset": "not offered", "without_unique": "silent"}
    assert "no control bites: without_unique" in ran.output


def test_item_with_one_control_that_bites_is_kept(tmp_path: Path) -> None:
    """One control that bites is enough; the silent one beside it is in the report."""
    ran = on(tmp_path, described(tmp_path, REFERENCE, without_unique=variant(tmp_path, "forgets")), ACK_LOST)
    assert (ran.verdicts, ran.status) == ({ACK_LOST: "kept"}, 0), ran.output
    assert ran.controls(ACK_LOST) == {"new-offset": "bites", "without_unique": "silent"}
