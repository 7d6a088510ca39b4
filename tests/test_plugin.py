"""The pytest plugin, seen from outside: what is selected, what is printed and written, how it exits, what it leaves."""

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from harness import engine
from harness import history as h
from harness.__main__ import main
from harness.defects import DEFECTS
from harness.history import History
from harness.plugin import _decides
from harness.repeat import seeds
from harness.report.run import HISTORY
from harness.report.summary import Summary
from harness.runtimes import Images
from tests import engines
from tests.runs import KEPT, Ran, Running, project, run, running, wait_until
from tests.standins import image_target

CUT = "cut-middle-python-websocket"
CUT_NODE = f"scenarios/test_cut.py::test_message_cut_inside_its_frame_is_stored_once[{CUT}]"
SEED = "20"

UNPROVEN = '''
@scenario(family="unproven")
async def test_unproven(system):
    """Nothing was acknowledged before the fault, so nothing is proven."""
    alice = await system.sender("alice")
    async with system.inject(alice.link.cut()):
        pass
    await alice.send()
'''
RAISES = '''
@scenario(family="raises")
async def test_raises(system):
    """A schedule with a mistake."""
    alice = await system.sender("alice")
    raise LookupError("no such friend")
'''
UNLUCKY = '''
@scenario(family="unlucky")
async def test_unlucky(system):
    """A message is lost where the seed says so."""
    await (await system.sender("alice")).send_many(2)
    if int(system._token, 16) % 4 == 0:
        database = sqlite3.connect(system.store.path)
        database.execute("DELETE FROM messages WHERE id = 1")
        database.commit()
        database.close()
'''
DIES_LATER = '''
@scenario(family="dies-later")
async def test_dies_later(system):
    """The process that runs the schedule is killed in the second repetition."""
    await (await system.sender("alice")).send()
    if "repeat-02" in system._folder.parts:
        os.kill(os.getpid(), signal.SIGKILL)
'''
WEARS_OUT = '''
@scenario(family="wears-out")
async def test_wears_out(system):
    """After the second repetition the server does not start any more."""
    await (await system.sender("alice")).send()
    if "repeat-02" in system._folder.parts:
        pathlib.Path("worn-out").touch()
'''
WEARING_OUT = """
schema = 1
name = "wearing-out"
[server]
command = ["sh", "-c", "test ! -e worn-out && exec \\"$@\\"", "sh", "{python}", "-m", "harness.targets.reference",
           "--port", "{port}", "--database", "{database}"]
[protocol]
event = "chat message"
[store]
kind = "sqlite"
location = "{database}"
rows = "SELECT id, client_offset, content FROM messages ORDER BY id"
"""
HANGS = '''
@scenario(family="hangs", variants={"one": {}, "two": {}})
async def test_hangs(system):
    """A schedule that is in the middle of a fault until somebody ends it."""
    alice = await system.sender("alice")
    await alice.send()
    async with system.inject(alice.link.lose_acknowledgement()) as fault:
        await fault.bitten(alice.post())
        pathlib.Path(f"hangs-{os.getpid()}").touch()
        await asyncio.Event().wait()
'''
PASSES = "def test_passes(): pass\n"
FAILS = "def test_fails(): assert not 'as usual'\n"


def sent(ran: Ran, scenario: str) -> dict[str, list[tuple[str, str]]]:
    """The contents and offsets that were sent in each run of a scenario, in the order of the messages."""
    found = {}
    for name, history in ran.histories(scenario).items():
        contents = {event.message: event.content for event in history if isinstance(event, h.Invoke)}
        attempts = [event for event in history if isinstance(event, h.Attempt) and event.attempt == 1]
        found[name] = sorted((contents[attempt.message], attempt.offset) for attempt in attempts)
    return found


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One scenario of the harness, run on the reference server."""
    return run(tmp_path_factory.mktemp("kept"), "scenarios", "-k", "cut-middle and websocket", "--seed", SEED)


# -- ids and selection -------------------------------------------------------------------------------------------


def test_ids_are_family_variant_client_transport(tmp_path: Path) -> None:
    """Every scenario is there over WebSocket, seven families over polling; a known defect has its number, each once."""
    ran = run(tmp_path, "scenarios", "--collect-only", "-q")
    ids = [line.rpartition("[")[2].rstrip("]") for line in ran.output.splitlines() if "::" in line]
    assert len(set(ids)) == len(ids)
    assert [name for name in ids if name in DEFECTS] == list(DEFECTS)
    ids = [name for name in ids if name not in DEFECTS]
    ids.remove("recovery-node-websocket")  # which only this client can
    assert all(name.endswith(("-python-websocket", "-python-polling", "-python-upgrade")) for name in ids)
    upgraded = {name.split("-")[0] for name in ids if name.endswith("-upgrade")}
    assert upgraded == {"baseline", "ack", "kill", "upgrade", "wire"}
    both = {name.removesuffix("-python-polling") for name in ids if name.endswith("-polling")}
    assert {f"{name}-python-websocket" for name in both} <= set(ids)
    families = ("baseline", "cut", "ack-lost", "kill", "restart", "lock", "wire")
    assert {next((family for family in families if name.startswith(family)), name) for name in both} == set(families)
    assert {"stream-flaps-20-python-websocket", "pair-lock-cut-python-websocket"} <= set(ids)


def test_collecting_writes_nothing(tmp_path: Path) -> None:
    """`--collect-only` leaves no folder behind."""
    ran = run(tmp_path, "scenarios", "--collect-only", "-k", "lock-long")
    assert ran.status == 0
    assert ran.output.count("<ScenarioItem ") == 2
    assert not ran.reports.exists()


def test_sweep_can_be_long_with_one_client_and_not_with_another(tmp_path: Path) -> None:
    """Then `-m 'not long'` leaves it out with that one only."""
    clients = ("--client", "python", "--client", "node")
    ran = run(tmp_path, "scenarios/test_sweep.py", "--collect-only", "-m", "not long", "-k", "wire-stream-up", *clients)
    assert "wire-stream-up-python-websocket" in ran.output
    assert "wire-stream-up-node-websocket" not in ran.output


def test_keyword_selects_what_is_planned(kept: Ran) -> None:
    """What `-k` leaves out is not planned."""
    assert (kept.verdicts, kept.status) == ({CUT: "kept"}, 0), kept.output
    assert (kept.summary["planned"], kept.summary["ran"]) == (1, 1)


def test_replay_runs_that_scenario_again_with_the_same_contents(kept: Ran, tmp_path: Path) -> None:
    """The replay command, as it stands, selects its scenario and nothing else, and sends what was sent."""
    program, *arguments = shlex.split(kept.scenarios[CUT]["replay"])
    assert (program, arguments[0]) == ("pytest", CUT_NODE)
    again = run(tmp_path, *arguments)
    assert (again.verdicts, again.status) == ({CUT: "kept"}, 0), again.output
    assert again.summary["seed"] == int(SEED)
    assert sent(again, CUT) == sent(kept, CUT)
    assert set(sent(kept, CUT)) == {"claim", "control-once", "null-once"}


def test_workers_send_what_one_process_sends(kept: Ran, tmp_path: Path) -> None:
    """A whole id selects one scenario under pytest-xdist, too, and the seed repeats its contents there."""
    ran = run(tmp_path, CUT_NODE, "-n", "2", "--seed", SEED)
    assert (ran.verdicts, ran.status) == ({CUT: "kept"}, 0), ran.output
    assert sent(ran, CUT) == sent(kept, CUT)


def test_replay_starts_where_the_user_is(tmp_path: Path) -> None:
    """The replay command names the file as it is found from the working directory."""
    place = project(tmp_path / "project", KEPT)
    (place / "below").mkdir()
    ran = run(tmp_path, "..", "-k", "one and polling", cwd=place / "below")
    assert shlex.split(ran.scenarios["kept-one-python-polling"]["replay"])[1] == (
        "../test_0.py::test_kept[kept-one-python-polling]"
    )


# -- clients and targets -----------------------------------------------------------------------------------------

ONE = """
@scenario(family="one", transports=["websocket"])
async def test_one(system):
    \"""One message.\"""
    await (await system.sender("alice")).send()
"""


def test_clients_are_tried_one_beside_the_other(tmp_path: Path) -> None:
    """Each `--client` makes a case of its own, once, and the replay command names it."""
    place = project(tmp_path / "project", ONE)
    ran = run(tmp_path, ".", "--client", "node", "--client", "python", "--client", "node", cwd=place)
    assert ran.verdicts == {"one-node-websocket": "kept", "one-python-websocket": "kept"}, ran.output
    assert {name: scenario["client"] for name, scenario in ran.scenarios.items()} == {
        "one-node-websocket": "node",
        "one-python-websocket": "python",
    }
    replay = shlex.split(ran.scenarios["one-node-websocket"]["replay"])
    assert replay[1] == "test_0.py::test_one[one-node-websocket]"
    assert " ".join(replay[-6:-2]) == "--client node --client python"
    again = run(tmp_path, *replay[1:], cwd=place)
    assert (again.verdicts, again.status) == ({"one-node-websocket": "kept"}, 0), again.output
    assert sent(again, "one-node-websocket") == sent(ran, "one-node-websocket")


def test_targets_are_tried_one_beside_the_other(tmp_path: Path) -> None:
    """Several `--target`s make a case each, with its name; the plan and the replay command have all of them."""
    place = project(tmp_path / "project", ONE)
    ran = run(tmp_path, ".", "--target", "reference", "--target", "correct/gaps", cwd=place)
    ids = {"one-python-websocket-reference", "one-python-websocket-gaps"}
    assert ran.verdicts == dict.fromkeys(ids, "kept"), ran.output
    assert ran.summary["target"] == "reference, gaps"
    replay = shlex.split(ran.scenarios["one-python-websocket-gaps"]["replay"])
    assert " ".join(replay[-4:]) == "--target reference --target correct/gaps"
    again = run(tmp_path, *replay[1:], cwd=place)
    assert (again.verdicts, again.status) == ({"one-python-websocket-gaps": "kept"}, 0), again.output
    targets = {name: ran.histories(name)["claim"].started.target for name in ids}
    assert targets == {"one-python-websocket-reference": "reference", "one-python-websocket-gaps": "gaps"}


def test_one_case_of_a_sweep_is_run_by_its_id(tmp_path: Path) -> None:
    """Nothing else runs, its outcome is told, and the replay command names it."""
    ran = run(tmp_path, "scenarios", "--case", "wire/up/37")
    assert (ran.verdicts, ran.status) == ({"wire-up-python-websocket": "kept"}, 0), ran.output
    assert "wire/up/37: cut, sent again, stored once" in ran.output
    scenario = ran.scenarios["wire-up-python-websocket"]
    assert [outcome["case"] for outcome in scenario["outcomes"]] == ["wire/up/37"]
    assert scenario["replay"].endswith(" --case wire/up/37")
    assert ran.controls("wire-up-python-websocket") == {"once": "bites"}


def test_case_that_threatens_nothing_is_kept_when_it_is_asked_for(tmp_path: Path) -> None:
    """Its controls show elsewhere in the sweep what a cut can do."""
    ran = run(tmp_path, "scenarios", "--case", "wire/down/20..22")
    assert (ran.verdicts, ran.status) == ({"wire-down-python-websocket": "kept"}, 0), ran.output
    told = [line.strip() for line in ran.output.splitlines() if line.strip().startswith("wire/down/2")]
    # An answer that has come can be lost to its client with the connection that ends behind it.
    assert all(line.endswith((": acknowledged, then cut", ": cut, sent again, stored once")) for line in told), told
    assert told[0].startswith("wire/down/20")


def test_pair_that_breaks_is_reduced_and_says_how(tmp_path: Path) -> None:
    """To the cut of the answer alone; each try has its line."""
    options = ["--sweep-budget", "1s", "--target", "ledger/no_unique_constraint"]
    ran = run(tmp_path, "scenarios/test_sweep.py", "-k", "pairs-down-lock-python", *options)
    assert ran.verdicts == {"pairs-down-lock-python-websocket": "broken"}, ran.output
    lines = [line for line in ran.output.splitlines() if line.startswith("pairs/down-lock/")]
    assert lines[0].endswith(": it broke; now looking for less that does")
    assert lines[1] == lines[0].partition("+")[0] + "+: yes"
    assert lines[-1] == "pairs/down-lock/0+: yes"
    assert ran.scenarios["pairs-down-lock-python-websocket"]["smallest"].endswith(" --case pairs/down-lock/0+")


def test_shares_of_a_sweep_are_scenarios_of_their_own(tmp_path: Path) -> None:
    """Together they have every case once; the replay command of one runs only that."""
    ran = run(tmp_path, "scenarios/test_sweep.py", "-k", "wire-up and websocket", "--shares", "2")
    names = ["wire-up-1of2-python-websocket", "wire-up-2of2-python-websocket"]
    assert (ran.verdicts, ran.status) == (dict.fromkeys(names, "kept"), 0), ran.output
    cases = [outcome["case"] for name in names for outcome in ran.scenarios[name]["outcomes"]]
    assert cases == [f"wire/up/{position}" for position in range(len(cases))]
    again = run(tmp_path, *shlex.split(ran.scenarios[names[1]]["replay"])[1:])
    assert again.verdicts == {names[1]: "kept"}, again.output


def test_second_case_is_refused(tmp_path: Path) -> None:
    """The first would be forgotten."""
    ran = run(tmp_path, "scenarios", "--case", "wire/up/37", "--case", "wire/down/3")
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "argument --case: give one; cases in a row are wire/up/0..71" in ran.output


def test_case_that_breaks_is_replayed_on_its_own_target(tmp_path: Path) -> None:
    """Of several targets the command has the one that broke, and the messages are the same again."""
    broken = "wire-down-python-websocket-no_unique_constraint"
    targets = ["--target", "ledger/no_unique_constraint", "--target", "reference"]
    ran = run(tmp_path, "scenarios", *targets, "--case", "wire/down/3")
    assert ran.verdicts == {broken: "broken", "wire-down-python-websocket-reference": "kept"}, ran.output
    (command,) = [line.partition("case: duplicate: ")[2] for line in ran.output.splitlines() if " case: " in line]
    assert command.endswith("--target ledger/no_unique_constraint --case wire/down/3")
    again = run(tmp_path, *shlex.split(command)[1:])
    assert again.verdicts == {"wire-down-python-websocket": "broken"}, again.output
    messages = [
        [anomaly["message"] for anomaly in it.scenarios[name]["anomalies"]]
        for it, name in ((ran, broken), (again, "wire-down-python-websocket"))
    ]
    assert messages[0] == messages[1]


def test_failure_is_told_once_on_a_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, pytest's last lines would have the whole of it again."""
    monkeypatch.setenv("CI", "true")
    ran = run(tmp_path, "scenarios", "--target", "ledger/no_unique_constraint", "-k", "ack-lost-one-python-websocket")
    assert ran.output.count(" replay: ") == 1, ran.output


def test_shares_of_one_case_are_refused(tmp_path: Path) -> None:
    """What is one case has no parts."""
    ran = run(tmp_path, "scenarios", "--shares", "2", "--case", "wire/up/37")
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert "--shares is for whole sweeps" in ran.output


@pytest.mark.parametrize(("sweep", "example"), [("wire/up", "wire/up/0"), ("pairs/up-kill", "pairs/up-kill/0+0")])
def test_case_without_a_number_is_refused_with_one_that_has_it(sweep: str, example: str, tmp_path: Path) -> None:
    """The sweep is there, and what is missing is which of its cases."""
    ran = run(tmp_path, "scenarios/test_sweep.py", "--case", sweep)
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: --case {sweep}: that is a whole sweep; a case of it has a number: {example}" in ran.output


@pytest.mark.parametrize("selected", [("-k", "wire-up"), ("--case", "pairs/up-wire/3+3"), ("-k", "wire-up", "-n", "1")])
def test_budget_of_nothing_is_refused(selected: tuple[str, ...], tmp_path: Path) -> None:
    """Whoever gives one thinks that something is limited by it."""
    ran = run(tmp_path, "scenarios/test_sweep.py", "--sweep-budget", "5s", *selected)
    assert ran.status != pytest.ExitCode.OK
    assert "--sweep-budget is for whole sweeps of pairs, and none is selected" in ran.output


@pytest.mark.parametrize("case", ["wire/sideways/3", "nonsense"])
def test_case_that_no_sweep_has_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    """A misspelt id is a usage error, and no run that finds nothing."""
    ran = run(tmp_path, "scenarios/test_sweep.py", "--case", case)
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    there = "the cases here begin with: lock/cut, lock/sweep, pairs/"
    assert f"ERROR: --case {case}: no sweep here has it; {there}" in ran.output


def test_unknown_client_is_refused_in_one_line(tmp_path: Path) -> None:
    """The error names those that there are, and nothing runs."""
    ran = run(tmp_path, "scenarios", "--client", "pigeon")
    assert ran.status == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in ran.output.splitlines() if "pigeon" in line]
    assert "argument --client: invalid choice: 'pigeon'" in line
    assert "python" in line
    assert not ran.reports.exists()


def test_known_defects_are_not_offered_to_a_target_of_the_users(tmp_path: Path) -> None:
    """They have targets of their own: with `--target` they are listed, with what helps."""
    ran = run(tmp_path, "scenarios/test_known_defects.py", "--target", "reference", "-k", "A1 or P5")
    assert ran.verdicts == {}
    assert ran.not_offered["A1"] == "it has a target of its own (hardened-node): leave out --target"
    assert ran.not_offered["P5"].endswith("leave out --target")


def test_known_defect_is_run_by_its_own_command(tmp_path: Path) -> None:
    """Its item has its number, its replay command no target, and it is shown by its own pair and kept by the other."""
    ran = run(tmp_path, *shlex.split(DEFECTS["A6"].command)[1:])
    assert (ran.verdicts, ran.status) == ({"A6": "kept"}, 0), ran.output
    assert ran.controls("A6") == {"tutorial": "bites"}
    assert {name: history.started.target for name, history in ran.histories("A6").items()} == {
        "claim": "hardened-node",
        "control-tutorial": "tutorial-node",
        "null-tutorial": "tutorial-node",
    }
    assert "--target" not in ran.scenarios["A6"]["replay"]
    assert "test_known_defect[A6]" in ran.scenarios["A6"]["replay"]


def test_without_node_what_needs_it_is_missing_and_the_gate_unproven(tmp_path: Path) -> None:
    """Scenarios that need Node are listed with what installs it; the others run, and the gate is not green."""
    path = tmp_path / "path"
    path.mkdir()
    for name in ("sh", "toxiproxy-server", "go"):
        if (found := shutil.which(name)) is not None:
            (path / name).symlink_to(found)
    place = project(tmp_path / "project", ONE)
    clients = ("--client", "node", "--client", "python")
    ran = run(tmp_path, ".", *clients, cwd=place, environment={"PATH": str(path)})
    assert ran.verdicts == {"one-python-websocket": "kept"}, ran.output
    (missing,) = ran.summary["missing"]
    assert missing["id"] == "one-node-websocket"
    assert missing["reason"].startswith("there is no `node` on PATH: install Node 20 or newer (https://nodejs.org")
    assert (ran.summary["gate"], ran.status) == ("unproven", 10)
    assert "apt install nodejs npm" in ran.output


# -- what is written ---------------------------------------------------------------------------------------------


def test_summary_has_the_promised_shape(kept: Ran) -> None:
    """`summary.json` has the keys and types that programs rely on."""
    summary = kept.summary
    types = {
        "schema": int,
        "gate": str,
        "planned": int,
        "ran": int,
        "target": str,
        "claims": dict,
        "seed": int,
        "not_offered": list,
        "missing": list,
        "scenarios": list,
    }
    assert {key: type(summary[key]) for key in types} == types
    assert (summary["schema"], summary["gate"], summary["target"]) == (1, "kept", "reference")
    assert summary["claims"]["guarantee"] == "exactly-once"
    (scenario,) = summary["scenarios"]
    types = {
        **dict.fromkeys(("id", "family", "client", "transport", "verdict", "why", "replay"), str),
        "counts": dict,
        "anomalies": list,
        "bites": list,
        "controls": list,
        "recovery_seconds": float,
        "seconds": float,
    }
    assert {key: type(scenario[key]) for key in types} == types
    assert {"sent", "acknowledged", "stored", "foreign"} <= set(scenario["counts"])
    (bite,) = scenario["bites"]
    assert {key: type(value) for key, value in bite.items()} == {
        "fault": str,
        "message": str,
        "seen": bool,
        "evidence": str,
    }
    (control,) = scenario["controls"]
    assert {key: control[key] for key in ("name", "expected", "shown", "verdict", "null")} == {
        "name": "once",
        "expected": "lost",
        "shown": ["lost"],
        "verdict": "bites",
        "null": "clean",
    }


def test_junit_report_counts_like_the_gate(kept: Ran) -> None:
    """`junit.xml` has one test case for each scenario, with the replay command among its properties."""
    suites = ET.parse(kept.folder / "junit.xml").getroot()  # noqa: S314 - our own file
    assert [suites.get(key) for key in ("tests", "failures", "errors")] == ["1", "0", "0"]
    (case,) = suites.iter("testcase")
    assert (case.get("classname"), case.get("name")) == ("cut", CUT)
    properties = {found.get("name"): found.get("value") for found in case.iter("property")}
    assert properties["replay"] == kept.scenarios[CUT]["replay"]


def test_page_shows_the_scenario_and_its_replay(kept: Ran) -> None:
    """`index.html` shows the gate's verdict and each scenario."""
    page = (kept.folder / "index.html").read_text()
    assert CUT in page
    assert "--seed 20" in page
    assert kept.summary["why"].rstrip(".") in page


def test_kept_scenario_is_one_line_on_the_terminal(kept: Ran) -> None:
    """What is kept says so in one line; the closing lines name the verdict and the report, and nothing is repeated."""
    lines = kept.output.splitlines()
    assert [line for line in lines if CUT in line] == [line for line in lines if line.startswith(f"kept      {CUT}  (")]
    assert kept.output.count("kept: The one planned scenario kept what the target claims") == 1
    assert f"report: {kept.folder / 'index.html'}" in lines
    assert "FAILURES" not in kept.output


# -- verdicts, exit status and what the terminal says of them ----------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a file for everything that can come of a test."""
    return project(tmp_path_factory.mktemp("mixed"), KEPT, UNPROVEN, RAISES, PASSES, FAILS)


@pytest.mark.parametrize(
    ("selected", "status", "gate"),
    [
        ("kept-two-python-websocket or passes", 0, "kept"),
        ("kept-two-python-websocket or fails", 1, "kept"),
        ("kept-two-python-websocket or unproven-python-websocket", 10, "unproven"),
        ("unproven-python-websocket or fails", 1, "unproven"),
        ("unproven-python-websocket or raises-python-polling or fails", 3, "error"),
    ],
)
def test_exit_status_is_that_of_the_worst(mixed: Path, tmp_path: Path, selected: str, status: int, gate: str) -> None:
    """Error outweighs broken, broken outweighs unproven; another test that fails is as bad as a broken scenario."""
    ran = run(tmp_path, "-k", selected, cwd=mixed)
    assert (ran.status, ran.summary["gate"]) == (status, gate), ran.output
    assert ("FAILED test_4.py::test_fails" in ran.output) == ("fails" in selected)


def test_nothing_selected_is_status_5(tmp_path: Path) -> None:
    """A run that selects nothing has pytest's own status, and leaves nothing."""
    ran = run(tmp_path, "scenarios", "-k", "nonsense")
    assert ran.status == 5
    assert not ran.reports.exists()


def test_nothing_offered_is_unproven(tmp_path: Path) -> None:
    """A run in which the target offers nothing that was selected is unproven, and its report says why."""
    ran = run(tmp_path, "scenarios", "-k", "pipelined and polling", "--target", "ledger/truncates_content")
    assert (ran.status, ran.summary["gate"], ran.summary["planned"]) == (10, "unproven", 0)
    assert list(ran.not_offered) == ["baseline-pipelined-python-polling"]
    assert "not offered: baseline-pipelined-python-polling: the target claims the order 'sequential'" in ran.output


def test_unknown_option_is_status_4(tmp_path: Path) -> None:
    """A mistyped option is pytest's usage error."""
    ran = run(tmp_path, "scenarios", "--sead", "1")
    assert ran.status == 4
    assert "unrecognized arguments: --sead" in ran.output


@pytest.mark.parametrize(
    ("exitstatus", "gate", "failures", "decides"),
    [
        (pytest.ExitCode.OK, "kept", 0, True),
        (pytest.ExitCode.OK, "error", 0, True),
        (pytest.ExitCode.TESTS_FAILED, "kept", 1, False),
        (pytest.ExitCode.TESTS_FAILED, "unproven", 1, True),
        (pytest.ExitCode.TESTS_FAILED, "unproven", 2, False),
        (pytest.ExitCode.TESTS_FAILED, "broken", 2, True),
        (pytest.ExitCode.TESTS_FAILED, "error", 2, True),
        (pytest.ExitCode.NO_TESTS_COLLECTED, "unproven", 0, True),
        (pytest.ExitCode.INTERRUPTED, "error", 1, False),
        (pytest.ExitCode.INTERNAL_ERROR, "kept", 0, False),
        (pytest.ExitCode.USAGE_ERROR, "kept", 0, False),
    ],
)
def test_gate_decides_unless_pytest_says_more(
    exitstatus: pytest.ExitCode, gate: str, failures: int, decides: bool
) -> None:
    """The exit status is the gate's, but for pytest's own and for a run in which another test failed."""
    why = {"id": "x", "family": "x", "client": "python", "transport": "polling", "title": "", "why": "", "replay": ""}
    empty: dict[str, object] = {"counts": {}, "anomalies": [], "reported": [], "bites": [], "controls": []}
    scenario = {**why, **empty, "verdict": gate, "recovery_seconds": None, "worst_delay_seconds": None, "seconds": 0.0}
    head = {"gate": gate, "why": "", "planned": 1, "ran": 1, "target": "", "claims": {}, "seed": 0}
    verdict = msgspec.convert({**head, "not_offered": [], "missing": [], "scenarios": [scenario]}, Summary)
    assert _decides(verdict, exitstatus, failures) is decides


def test_mistake_in_a_schedule_is_an_error_that_names_its_place(mixed: Path, tmp_path: Path) -> None:
    """A schedule that raises is no verdict on the target: status 3, what was raised, and where to read on."""
    ran = run(tmp_path, "-k", "raises-python-websocket", cwd=mixed)
    assert (ran.verdicts, ran.status) == ({"raises-python-websocket": "error"}, 3), ran.output
    traceback = ran.folder / "raises-python-websocket" / "claim" / "traceback.txt"
    assert f"why: the schedule: LookupError: no such friend (see {traceback})" in ran.output
    assert "test_2.py" in traceback.read_text()
    assert f"report: {ran.folder / 'index.html'}#scenario-raises-python-websocket" in ran.output
    assert f"replay: {ran.scenarios['raises-python-websocket']['replay']}" in ran.output
    assert "ERROR test_2.py::test_raises[raises-python-websocket]" in ran.output
    assert "Traceback" not in ran.output


def test_two_scenarios_with_one_id_are_refused(tmp_path: Path) -> None:
    """Two scenarios that would write to one folder are an error, said once, before anything runs."""
    ran = run(tmp_path, "-n", "2", cwd=project(tmp_path / "project", UNPROVEN, UNPROVEN))
    assert ran.status == 3
    assert ran.output.count("error: two scenarios have the id unproven-python-") == 1
    assert "INTERNALERROR" not in ran.output
    assert not ran.reports.exists()


# -- repetitions -------------------------------------------------------------------------------------------------

UNLUCKY_CASE = "unlucky-python-websocket"
UNLUCKY_SEED = 16  # of its first four repetitions only the third is unlucky


@pytest.fixture(scope="module")
def unlucky(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A scenario that is broken in one of four repetitions."""
    place = project(tmp_path_factory.mktemp("unlucky") / "project", UNLUCKY)
    return run(place.parent, "-k", UNLUCKY_CASE, "--seed", str(UNLUCKY_SEED), "--repeat", "4", cwd=place)


def verdicts_of_repetitions(ran: Ran, scenario: str) -> list[str]:
    """The verdict of each repetition that has one, in their order."""
    paths = sorted((ran.folder / scenario).glob("repeat-*/verdict.json"))
    return [msgspec.json.decode(path.read_bytes())["verdict"] for path in paths]


def test_one_broken_repetition_is_broken(unlucky: Ran) -> None:
    """Every repetition runs, one is broken, and so the scenario and the gate are."""
    assert verdicts_of_repetitions(unlucky, UNLUCKY_CASE) == ["kept", "kept", "broken", "kept"], unlucky.output
    assert (unlucky.verdicts, unlucky.status) == ({UNLUCKY_CASE: "broken"}, 1)
    assert unlucky.anomalies(UNLUCKY_CASE) == {"lost", "phantom"}
    assert unlucky.scenarios[UNLUCKY_CASE]["repeated"] == {
        "planned": 4,
        "worst": 3,
        "seed": seeds(UNLUCKY_SEED, 4)[2],
        "verdicts": {"broken": 1, "kept": 3},
    }


def test_repeated_scenario_is_one_line_that_says_how_often(unlucky: Ran) -> None:
    """The terminal has one line for the scenario, and its trouble says how often, which, and how to replay it."""
    lines = unlucky.output.splitlines()
    assert [line for line in lines if line.startswith(f"broken    {UNLUCKY_CASE}  (broken in 1 of 4 runs, ")]
    seed = seeds(UNLUCKY_SEED, 4)[2]
    said = f"          repeated: broken in 1 of 4 runs, kept in 3; this is run 3 of 4, with seed {seed}"
    # Where CI is set pytest repeats what it said of a failure in its summary.
    assert said in lines
    assert f"          replay: {unlucky.scenarios[UNLUCKY_CASE]['replay']}" in lines


def test_replay_runs_the_broken_repetition_again(unlucky: Ran, tmp_path: Path) -> None:
    """The replay command needs no --repeat: its seed is that of the repetition, contents and all."""
    program, *arguments = shlex.split(unlucky.scenarios[UNLUCKY_CASE]["replay"])
    assert (program, "--repeat" in arguments) == ("pytest", False)
    again = run(tmp_path, *arguments, cwd=unlucky.reports.parent.parent / "project")
    assert (again.verdicts, again.status) == ({UNLUCKY_CASE: "broken"}, 1), again.output
    assert sent(again, UNLUCKY_CASE) == sent(unlucky, f"{UNLUCKY_CASE}/repeat-03")
    assert sent(again, UNLUCKY_CASE) != sent(unlucky, f"{UNLUCKY_CASE}/repeat-01")


def test_first_repetition_has_the_seed_of_the_run(unlucky: Ran, tmp_path: Path) -> None:
    """Without --repeat, and with --repeat 1, a seed does what it does in the first repetition, in the old layout."""
    place = unlucky.reports.parent.parent / "project"
    for repeated in ([], ["--repeat", "1"]):
        once = run(tmp_path, "-k", UNLUCKY_CASE, "--seed", str(UNLUCKY_SEED), *repeated, cwd=place)
        assert (once.verdicts, once.status) == ({UNLUCKY_CASE: "kept"}, 0), once.output
        assert sent(once, UNLUCKY_CASE) == sent(unlucky, f"{UNLUCKY_CASE}/repeat-01")
        names = {path.name for path in (once.folder / UNLUCKY_CASE).iterdir()}
        assert names == {"claim", "scenario.json", "verdict.json"}
        assert "repeated" not in once.scenarios[UNLUCKY_CASE]
        assert " runs" not in once.output


def test_plan_says_how_many_repetitions_there_are(unlucky: Ran) -> None:
    """The plan, written before anything ran, has their number; its replay command runs all of them."""
    plan = msgspec.json.decode((unlucky.folder / "plan.json").read_bytes())
    assert plan["repeat"] == 4
    assert f"--seed {UNLUCKY_SEED} --repeat 4" in plan["planned"][0]["replay"]


def test_saved_repetitions_are_judged_and_rendered_again(unlucky: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    """A real run of repetitions is rechecked without a difference, and rendered."""
    assert main(["recheck", str(unlucky.folder)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"broken    {UNLUCKY_CASE}  (broken in 1 of 4 runs, ")
    assert second.startswith("broken: ")
    before = (unlucky.folder / "index.html").read_bytes()
    assert main(["render", str(unlucky.folder)]) == 0
    assert (unlucky.folder / "index.html").read_bytes() == before
    assert f"{UNLUCKY_CASE}/repeat-03/claim/history.jsonl" in before.decode()


@pytest.mark.parametrize("text", ["0", "1001", "-1", "two", "1.5", ""])
def test_impossible_number_of_repetitions_is_a_usage_error(text: str, tmp_path: Path) -> None:
    """What is no number from 1 to 1000 is refused before anything runs."""
    ran = run(tmp_path, "scenarios", f"--repeat={text}")
    assert ran.status == 4
    assert f"argument --repeat: {text!r} is not a whole number from 1 to 1000" in ran.output
    assert "Traceback" not in ran.output
    assert not ran.reports.exists()


def test_killed_repetition_leaves_its_scenario_unfinished(tmp_path: Path) -> None:
    """A worker that is killed in the second of three repetitions leaves no verdict, though the first was kept."""
    case = "dies-later-python-polling"
    ran = run(tmp_path, "-n", "1", "-k", case, "--repeat", "3", cwd=project(tmp_path / "project", DIES_LATER))
    assert (ran.status, ran.summary["ran"], ran.verdicts) == (3, 0, {case: "error"}), ran.output
    assert ran.scenarios[case]["why"] == (
        "it did not finish: its worker gw0 died when 1 of 3 repetitions had a verdict (kept 1)"
    )
    assert ran.scenarios[case]["replay"].count("--repeat 3") == 1


def test_mistake_in_a_schedule_does_not_end_the_repetitions(tmp_path: Path) -> None:
    """As long as the target can be used, every repetition runs, whatever came of those before."""
    case = "raises-python-websocket"
    ran = run(tmp_path, "-k", case, "--repeat", "3", cwd=project(tmp_path / "project", RAISES))
    assert (ran.status, verdicts_of_repetitions(ran, case)) == (3, ["error"] * 3), ran.output
    assert f"error     {case}  (error in 3 of 3 runs, " in ran.output


def test_unusable_target_ends_the_repetitions(tmp_path: Path) -> None:
    """When no server starts any more, the error is the verdict, and what did not run is counted."""
    case, place = "wears-out-python-websocket", project(tmp_path / "project", WEARS_OUT)
    (place / "target.toml").write_text(WEARING_OUT)
    ran = run(tmp_path, "-k", case, "--repeat", "5", "--target", "target.toml", cwd=place)
    assert (ran.status, verdicts_of_repetitions(ran, case)) == (3, ["kept", "kept", "error"]), ran.output
    assert f"error     {case}  (error in 1 of 5 runs, " in ran.output
    assert "repeated: error in 1 of 5 runs, kept in 2, 2 did not run; this is run 3 of 5" in ran.output


# -- runs beside each other, and runs that end before their time -------------------------------------------------


def test_two_runs_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Two runs in one checkout both keep everything, each in its own folder; `latest` names one of them."""
    place = project(tmp_path / "project", KEPT)
    with (
        running(tmp_path, "-k", "websocket", cwd=place, own_reports=False) as one,
        running(tmp_path, "-k", "websocket", cwd=place, own_reports=False) as two,
    ):
        both = [one.wait(), two.wait()]
    assert [(ran.status, set(ran.verdicts.values())) for ran in both] == [(0, {"kept"})] * 2, [r.output for r in both]
    latest, *folders = sorted((place / "reports").iterdir(), key=lambda path: not path.is_symlink())
    assert latest.name == "latest"
    assert len(folders) == 2
    assert all((folder / "index.html").exists() for folder in folders)
    assert latest.resolve() in folders


def test_tests_leave_the_reports_alone(tmp_path: Path) -> None:
    """A run without scenarios, as `make test` is one, makes no folder and no `latest`."""
    place = project(tmp_path / "project", PASSES)
    ran = run(tmp_path, cwd=place, own_reports=False)
    assert ran.status == 0
    assert "midemit ==" not in ran.output
    assert not (place / "reports").exists()


@dataclass(frozen=True)
class Hanging:
    """A run in which each of its processes is in the middle of a fault."""

    run: Running
    processes: int

    def wait(self) -> tuple[Ran, list[History]]:
        """Wait until it has ended; what it has left, and the histories among it."""
        ran = self.run.wait()
        (folder,) = (path for path in ran.reports.iterdir() if not path.is_symlink())
        return ran, [History.load(path) for path in folder.glob(f"hangs-*/*/{HISTORY}")]


@contextmanager
def hanging(folder: Path, processes: int) -> Iterator[Hanging]:
    """Start a run and wait until each of its processes is in the middle of a fault."""
    place = project(folder / "project", HANGS)
    workers = ["-n", str(processes)] if processes > 1 else []
    with running(folder, "-k", "websocket", *workers, cwd=place) as started:
        wait_until(
            lambda: len(list(place.glob("hangs-*"))) == processes or started.process.poll() is not None,
            "the schedules to hang",
            lambda: started.output,
        )
        # For each process a server and its directory, a Toxiproxy and a reaper.
        assert len(started.left()) >= 1 + 4 * processes, started.output
        yield Hanging(started, processes)


def bitten(history: History) -> bool:
    """Whether a history reaches to the bite of the fault in which the run hung."""
    return any(isinstance(event, h.Bitten) and event.seen for event in history)


@pytest.mark.parametrize("processes", [1, 2], ids=["alone", "workers"])
def test_interrupted_run_reports_what_it_has(processes: int, tmp_path: Path) -> None:
    """Ctrl-C ends everything that was started, keeps the histories, writes the report and has pytest's status 2."""
    with hanging(tmp_path, processes) as started:
        started.run.interrupt()
        ran, histories = started.wait()
    assert (ran.status, ran.summary["gate"], ran.summary["ran"]) == (2, "error", 0), ran.output
    assert "Traceback" not in ran.output
    assert [bitten(history) for history in histories] == [True] * processes


# -- in containers -----------------------------------------------------------------------------------------------

IMAGE = image_target("image", engines.IMAGES.server)
MOVES = '''
@scenario(family="moves", controls=["once"], transports=["websocket"])
async def test_moves(system):
    """The server moves while a message is on its way."""
    alice = await system.sender("alice")
    await alice.send()
    async with system.inject(system.server.move(alice.link)) as fault:
        await fault.bitten(alice.post())
    await alice.send()
'''
GOES_ON = '''
@scenario(family="goes-on", controls=["once"], variants={"kill": {"kills": True}, "send": {"kills": False}})
async def test_goes_on(system, kills):
    """Waits until it is told to go on."""
    alice = await system.sender("alice")
    await alice.send()
    pathlib.Path("hangs-here").touch()
    while not pathlib.Path("go-on").exists():
        await asyncio.sleep(0.02)
    if kills:
        async with system.inject(system.server.kill_now()) as fault:
            await fault.bitten(alice.post())
    await alice.send()
'''


def test_run_in_docker_without_an_engine_is_an_error(tmp_path: Path) -> None:
    """That is said once, before anything starts, with what helps."""
    place = project(tmp_path / "project", KEPT)
    ran = run(tmp_path, "--runtime", "docker", cwd=place, environment={"DOCKER_HOST": "unix:///nowhere"})
    assert (ran.status, ran.summary["gate"], ran.summary["planned"]) == (3, "error", 0), ran.output
    assert ran.output.count("no Docker engine answers at unix:///nowhere: install one (") == 1
    assert "Traceback" not in ran.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--runtime", "docker", "--toxiproxy-url", "http://127.0.0.1:8474"],
            "--toxiproxy-url and --runtime docker: its Toxiproxy is a container; leave one out",
        ),
        (["--target", "target.toml"], "the target target.toml is an image and has no command: add --runtime docker"),
    ],
)
def test_options_that_do_not_fit_the_runtime_are_an_error(tmp_path: Path, options: list[str], said: str) -> None:
    """They are told with what to do; nothing runs."""
    place = project(tmp_path / "project", KEPT)
    (place / "target.toml").write_text(IMAGE)
    ran = run(tmp_path, *options, cwd=place)
    assert (ran.status, ran.summary["gate"], ran.summary["planned"]) == (3, "error", 0), ran.output
    assert said in ran.output


def on_engine(started: Running) -> list[str]:
    """What a run has on the engine."""
    (folder,) = (path for path in started.reports.iterdir() if not path.is_symlink())
    with engines.connected() as client:
        return engines.labelled(client, f"{engine.RUN}={folder.name}")


@engines.needed
def test_scenario_in_docker_is_replayed_there(tmp_path: Path) -> None:
    """A server from an image of its own; the replay command has the runtime and the images that are not the default."""
    place = project(tmp_path / "project", MOVES)
    (place / "target.toml").write_text(IMAGE)
    with running(tmp_path, *engines.OPTIONS, "--target", "target.toml", cwd=place) as started:
        ran = started.wait()
        assert (ran.verdicts, ran.status) == ({"moves-python-websocket": "kept"}, 0), ran.output
        assert on_engine(started) == []
    program, node, seed, *replay = shlex.split(ran.scenarios["moves-python-websocket"]["replay"])
    assert (program, node, seed) == ("pytest", "test_0.py::test_moves[moves-python-websocket]", "--seed")
    images = [word for word in engines.OPTIONS[2:] if word not in Images()]
    named = images if len(images) == len(engines.OPTIONS[2:]) else []
    assert replay[1:] == ["--runtime", "docker", *named, "--target", "target.toml"]
    again = run(tmp_path, node, seed, *replay, cwd=place)
    assert (again.verdicts, again.status) == ({"moves-python-websocket": "kept"}, 0), again.output
    assert sent(again, "moves-python-websocket") == sent(ran, "moves-python-websocket")
    environment = msgspec.json.decode((ran.folder / "plan.json").read_bytes())["environment"]
    assert environment["image of toxiproxy"].startswith(f"{engines.IMAGES.toxiproxy} (sha256:")
    assert environment["runtime"].startswith("docker ")


@contextmanager
def hanging_in_docker(folder: Path, text: str, *arguments: str, **environment: str) -> Iterator[Running]:
    """Start a run there and wait until it is in the middle of a scenario."""
    place = project(folder / "project", text)
    with running(
        folder, *engines.OPTIONS, *(arguments or ["-k", "websocket"]), cwd=place, environment=environment
    ) as started:
        wait_until(
            lambda: list(place.glob("hangs-*")) or started.process.poll() is not None,
            "the scenario to hang",
            lambda: started.output,
        )
        # Toxiproxy, the pod, the server; their network; pytest, its reaper and the directory of the store.
        assert len(on_engine(started)) == 4, started.output
        assert len(started.left()) >= 3, started.output
        yield started


@engines.needed
def test_interrupted_run_in_docker_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C ends the containers, and keeps what was recorded."""
    with hanging_in_docker(tmp_path, HANGS) as started:
        started.interrupt()
        ran = started.wait()
        assert on_engine(started) == []
    assert (ran.status, ran.summary["gate"], ran.summary["ran"]) == (2, "error", 0), ran.output
    assert "Traceback" not in ran.output


@engines.needed
def test_killed_run_in_docker_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL leaves its reaper, which removes containers, network and directory, and ends."""
    with hanging_in_docker(tmp_path, HANGS) as started:
        started.process.kill()
        started.wait()
        assert on_engine(started) == []


@pytest.mark.parametrize("then", ["kill", "send"])
@engines.needed
def test_engine_that_goes_away_is_an_error(tmp_path: Path, then: str) -> None:
    """It is no verdict on the target; what is left is removed once the engine is back."""
    with (
        engines.forwarder(tmp_path) as (address, forwarder),
        hanging_in_docker(tmp_path, GOES_ON, "-k", f"websocket and {then}", DOCKER_HOST=address) as started,
    ):
        forwarder.kill()
        forwarder.wait()
        (tmp_path / "project" / "go-on").touch()
        ran = started.wait()
        with engines.connected() as client:
            engine.clean(client)
        assert on_engine(started) == []
    assert (ran.status, set(ran.verdicts.values())) == (3, {"error"}), ran.output
    assert "the Docker engine does not answer any more, asked to " in ran.output
    assert "not everything could be ended: the Docker engine does not " in ran.output
    assert "Traceback" not in ran.output
