"""The pytest plugin, seen from outside: what is selected, what is printed and written, how it exits, what it leaves."""

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from harness import history as h
from harness.history import History
from harness.plugin import _decides
from harness.report.run import HISTORY
from harness.report.summary import Summary
from tests.runs import Ran, Running, run, running, wait_until

CUT = "cut-middle-python-websocket"
CUT_NODE = f"scenarios/test_cut.py::test_message_cut_inside_its_frame_is_stored_once[{CUT}]"
SEED = "20"

# A project of somebody else, with scenarios that are as quick as can be.
CONFIGURATION = """
[pytest]
addopts = -p harness.plugin --import-mode=importlib
"""
HEAD = """
import asyncio, os, pathlib, signal
from harness.scenario import scenario
"""
KEPT = '''
@scenario(family="kept", variants={"one": {}, "two": {}})
async def test_kept(system):
    """Every message arrives."""
    await (await system.sender("alice")).send_many(3)
'''
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
DIES = '''
@scenario(family="dies")
async def test_dies(system):
    """The process that runs the schedule is killed."""
    await (await system.sender("alice")).send()
    os.kill(os.getpid(), signal.SIGKILL)
'''
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


def project(folder: Path, *parts: str) -> Path:
    """Write a project with one file for each part."""
    folder.mkdir(exist_ok=True)
    (folder / "pytest.ini").write_text(CONFIGURATION)
    for number, part in enumerate(parts):
        (folder / f"test_{number}.py").write_text(HEAD + part)
    return folder


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
    """Every scenario is there over its transports, and its pytest id is its id in the report."""
    ran = run(tmp_path, "scenarios", "--collect-only", "-q")
    ids = [line.rpartition("[")[2].rstrip("]") for line in ran.output.splitlines() if "::" in line]
    over_both = {
        "baseline": ("one", "five", "pipelined"),
        "cut": ("first-byte", "middle", "last-byte"),
        "ack-lost": ("one", "five"),
        "kill": ("mid-emit",),
        "crash": ("after-commit", "point"),
        "restart": ("graceful",),
        "lock": ("long",),
    }
    over_websocket = {
        "cut": ("answer",),
        "flap": ("five",),
        "refuse": ("",),
        "reset": ("",),
        "handshake": ("request", "response"),
        "blackhole": ("upstream", "downstream"),
        "freeze": ("upstream", "downstream"),
        "latency": ("",),
        "slices": ("",),
        "pause": ("short", "long"),
        "restart": ("slow", "in-vain", "moved"),
        "lock": ("immediate", "exclusive"),
        "disk": ("full", "read-only"),
        "pair": (
            *("lock-cut", "lock-kill", "lock-restart", "cut-restart", "full-cut", "pause-cut"),
            *(f"{one}-{other}" for one in ("blackhole", "deafness") for other in ("cut", "kill", "restart")),
        ),
        "stream": (
            *(f"{fault}-{senders}" for fault in ("flaps", "kills") for senders in (1, 5, 20)),
            *("locks-5", "restart-20", "latency-5", "slices-1"),
        ),
        "at-most-once": ("cut", "kill", "lock"),
        "at-least-once": ("order", "unique"),
        "retries": ("order", "unanswered"),
        "buffered": ("",),
        "offset": ("counter", "random"),
    }
    expected = {
        "-".join(part for part in (family, variant, "python", transport) if part)
        for transport, families in (("websocket", over_both), ("polling", over_both), ("websocket", over_websocket))
        for family, names in families.items()
        for variant in names
    }
    assert set(ids) == expected
    assert len(ids) == len(expected)


def test_collecting_writes_nothing(tmp_path: Path) -> None:
    """`--collect-only` leaves no folder behind."""
    ran = run(tmp_path, "scenarios", "--collect-only", "-k", "lock-long")
    assert ran.status == 0
    assert ran.output.count("<ScenarioItem ") == 2
    assert not ran.reports.exists()


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
    scenario = {**why, **empty, "verdict": gate, "recovery_seconds": None, "seconds": 0.0}
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


def test_scenario_whose_worker_is_killed_is_an_error(tmp_path: Path) -> None:
    """A worker that is killed takes its scenario with it, and no other: fewer ran than planned, which is status 3."""
    place = project(tmp_path / "project", DIES, KEPT)
    ran = run(tmp_path, "-n", "2", "-k", "kept-one or dies-python-polling", cwd=place)
    assert ran.status == 3, ran.output
    assert {name for name, verdict in ran.verdicts.items() if verdict != "kept"} == {"dies-python-polling"}, ran.output
    assert ran.verdicts["dies-python-polling"] == "error"
    assert (ran.summary["planned"], ran.summary["ran"]) == (3, 2)
    assert ran.scenarios["dies-python-polling"]["why"] == "it did not finish: the run ended during its claim"
    assert any(isinstance(event, h.Ok) for event in ran.histories("dies-python-polling")["claim"])


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


@pytest.mark.parametrize(
    ("processes", "number"), [(1, signal.SIGKILL), (2, signal.SIGKILL), (1, signal.SIGTERM)], ids=str
)
def test_killed_run_leaves_nothing_but_its_histories(processes: int, number: signal.Signals, tmp_path: Path) -> None:
    """When pytest is killed the reaper ends everything that was started, and the histories can be read."""
    with hanging(tmp_path, processes) as started:
        started.run.process.send_signal(number)
        ran, histories = started.wait()
    assert ran.status == -number
    assert [bitten(history) for history in histories] == [True] * processes
