"""Loading run folders, and the files that name the newest one."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import history as h
from harness.errors import HarnessError
from harness.history import History
from harness.repeat import Repeated, Word, seeds
from harness.report import run
from harness.scenario import Result
from tests.report import samples
from tests.report.samples import RunBuilder, declared


def test_every_planned_scenario_is_in_the_results_or_has_a_reason(tmp_path: Path) -> None:
    """A loaded folder accounts for each planned scenario, finished or not."""
    samples.write_showcase(tmp_path / "run")
    loaded = run.load(tmp_path / "run")
    assert set(loaded.results) | set(loaded.unfinished) == {case.id for case in loaded.plan.planned}
    assert not set(loaded.results) & set(loaded.unfinished)


def test_what_did_not_finish_says_how_far_it_came(tmp_path: Path) -> None:
    """A scenario without a verdict tells whether it was reached and which of its runs was the last."""
    built = RunBuilder(tmp_path)
    built.plan(declared("lock-a-python-polling"))
    built.begin(declared("lock-b-python-polling"), {})
    built.begin(declared("lock-c-python-polling"), {"claim": samples.interrupted()})
    assert list(run.load(tmp_path).unfinished.values()) == [
        "it did not run: the run ended before it",
        "it did not finish: the run ended before its first message",
        "it did not finish: the run ended during its claim",
    ]


@pytest.mark.parametrize(
    ("judged", "told"),
    [
        ({"parts": 0}, ""),
        ({"parts": 1}, "; interrupted after 1 part: 500 messages in 20 s (25 a second), 3 faults: no anomalies"),
        (
            {"parts": 2, "unproven": "it was so"},
            "; interrupted after 2 parts: 500 messages in 20 s (25 a second), 3 faults: unproven: it was so",
        ),
    ],
)
def test_a_soak_that_did_not_finish_says_what_was_judged(judged: dict[str, Any], told: str, tmp_path: Path) -> None:
    """The parts before the one that was interrupted have kept the claim, and that is no verdict on the whole."""
    counts: dict[str, Any] = {"seconds": 20.0, "counts": {"sent": 500}, "faults": {"flap": 3}, "sequences": {}}
    begun = h.Soaked(time=20.0, **counts, **judged)
    claim = History([*samples.interrupted(), begun])
    RunBuilder(tmp_path).begin(declared("soak-python-websocket"), {"claim": claim})
    loaded = run.load(tmp_path)
    assert loaded.unfinished == {"soak-python-websocket": f"it did not finish: the run ended during its claim{told}"}


def test_a_failed_preflight_is_why_nothing_ran(tmp_path: Path) -> None:
    """With an error in preflight.json, scenarios that did not run give that error as their reason."""
    built = RunBuilder(tmp_path)
    built.plan(declared("lock-a-python-polling"))
    built.preflight("no acknowledgement within 1 s")
    loaded = run.load(tmp_path)
    assert loaded.preflight_error == "no acknowledgement within 1 s"
    assert "no acknowledgement within 1 s" in loaded.unfinished["lock-a-python-polling"]


def test_a_run_without_a_preflight_yet_can_be_read(tmp_path: Path) -> None:
    """A run that was interrupted before its first message has no preflight.json, and that is no damage."""
    RunBuilder(tmp_path)
    (tmp_path / "preflight.json").unlink()
    assert run.load(tmp_path).preflight_error is None


@pytest.mark.parametrize("name", ["plan.json", "preflight.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1}', b"\xff\xfe", b'{"error": 3}'])
def test_a_damaged_file_of_the_run_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    """A plan or preflight that is no such thing is one error that names the file."""
    RunBuilder(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HarnessError, match=name):
        run.load(tmp_path)


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    """A folder without a plan is no run folder, and the error says which file is missing."""
    with pytest.raises(HarnessError, match=r"plan\.json: No such file"):
        run.load(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A run folder that is not there is one error."""
    with pytest.raises(HarnessError, match="there is no run folder"):
        run.load(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", b"{", b"{}"])
def test_a_damaged_verdict_makes_its_scenario_unfinished(tmp_path: Path, content: bytes) -> None:
    """A verdict.json cut short by a full disk leaves the rest of the report alone."""
    built = RunBuilder(tmp_path)
    kept = built.kept()
    (tmp_path / kept.id / "verdict.json").write_bytes(content)
    assert "verdict.json is damaged" in run.load(tmp_path).unfinished[kept.id]


def test_a_verdict_of_another_scenario_is_not_taken(tmp_path: Path) -> None:
    """A verdict counts only in the folder of the scenario that it is of."""
    built = RunBuilder(tmp_path)
    kept = built.kept()
    path = tmp_path / kept.id / "verdict.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(kept, id="another")))
    assert "it is the verdict of 'another'" in run.load(tmp_path).unfinished[kept.id]


@pytest.mark.parametrize("scenario", ["", ".", "..", "../elsewhere", "/etc", "a\\b", "a\0b"])
def test_an_id_cannot_lead_out_of_the_run_folder(tmp_path: Path, scenario: str) -> None:
    """An id that is not the name of one folder is damage of the plan."""
    RunBuilder(tmp_path).plan(declared(scenario))
    with pytest.raises(HarnessError, match="cannot be the id"):
        run.load(tmp_path)


def test_a_scenario_planned_twice_is_refused(tmp_path: Path) -> None:
    """Two scenarios with one id would share a folder, and one of them its verdict."""
    built = RunBuilder(tmp_path)
    built.plan(declared("lock-a-python-polling"))
    built.plan(declared("lock-a-python-polling"))
    with pytest.raises(HarnessError, match="planned twice"):
        run.load(tmp_path)


def test_a_control_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A plan can only name controls that can be judged."""
    RunBuilder(tmp_path).plan(declared("lock-a-python-polling", controls=["prayer"]))
    with pytest.raises(HarnessError, match=r"plan\.json is damaged: there is no control 'prayer'"):
        run.load(tmp_path)


def test_latest_is_a_relative_link_that_is_swapped(tmp_path: Path) -> None:
    """Publishing a second run moves `latest` to it, by a link that survives moving the reports, and leaves no draft."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run.publish(tmp_path / name)
    assert (tmp_path / "latest").readlink() == Path("two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one", "two"]


def test_publishing_latest_itself_keeps_it(tmp_path: Path) -> None:
    """`latest` never comes to point at itself."""
    (tmp_path / "one").mkdir()
    run.publish(tmp_path / "one")
    run.publish(tmp_path / "latest")
    assert (tmp_path / "latest").readlink() == Path("one")


def test_without_symlinks_latest_is_a_text_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where links cannot be made, `latest` holds the name of the run, and is found by it."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no symlinks here")

    folder = tmp_path / "reports" / "one"
    folder.mkdir(parents=True)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    run.publish(folder)
    assert (tmp_path / "reports" / "latest").read_text(encoding="utf-8") == "one\n"
    assert run.find("latest", tmp_path, Path("/nowhere")) == folder


def test_a_folder_in_the_way_of_latest_is_left_alone(tmp_path: Path) -> None:
    """A real folder named `latest` is somebody's data: publishing says so and keeps it."""
    (tmp_path / "one").mkdir()
    (tmp_path / "latest").mkdir()
    with pytest.raises(HarnessError, match=r"cannot write .*latest"):
        run.publish(tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one"]


def test_a_run_is_found_by_path_name_and_from_below(tmp_path: Path) -> None:
    """A run is meant by its path, or by its name from any folder below the one that holds `reports`."""
    folder = tmp_path / "reports" / "one"
    folder.mkdir(parents=True)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    run.publish(folder)
    nowhere = Path("/nowhere")
    assert run.find("reports/one", tmp_path, nowhere) == folder
    assert run.find(str(folder), below, nowhere) == folder
    assert run.find("one", below, nowhere) == folder
    assert run.find("latest", below, nowhere) == folder
    assert run.find("latest", nowhere, tmp_path) == folder
    with pytest.raises(HarnessError, match="there is no run 'two'"):
        run.find("two", below, nowhere)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A report file is replaced as a whole or not at all, and no draft stays behind."""
    (tmp_path / "index.html").mkdir()
    with pytest.raises(HarnessError, match=r"cannot write .*index\.html"):
        run.write_atomically(tmp_path / "index.html", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


# -- repetitions -------------------------------------------------------------------------------------------------


@pytest.fixture
def repeated(tmp_path: Path) -> Path:
    """The folder of a scenario that was broken in the second of three repetitions."""
    claims = [samples.claim(), samples.broken_claim("lost"), samples.claim()]
    built = RunBuilder(tmp_path, repeat=3)
    return tmp_path / built.repeat(declared("lock-often-python-polling"), *claims).id


def unfinished(scenario: Path) -> str:
    """Why a scenario did not finish."""
    return run.load(scenario.parent).unfinished[scenario.name]


def test_a_repeated_scenario_has_the_verdict_of_the_worst(repeated: Path) -> None:
    """One broken repetition of three is broken, and which one it was is known."""
    result = run.load(repeated.parent).results[repeated.name]
    assert result.verdict == "broken"
    assert result.repeated == Repeated(3, 2, seeds(7, 3)[1], {"broken": 1, "kept": 2})


def test_a_killed_repetition_leaves_the_scenario_unfinished(repeated: Path) -> None:
    """Without its own verdict a scenario is unfinished, and a repetition that was broken by then is not lost."""
    (repeated / "verdict.json").unlink()
    (repeated / "repeat-03" / "verdict.json").unlink()
    assert unfinished(repeated) == (
        "it did not finish: the run ended when 2 of 3 repetitions had a verdict (broken 1, kept 1); broken: "
        f"pytest 'scenarios/test_lock.py::test_it[lock-often-python-polling]' --seed {seeds(7, 3)[1]}"
    )


def test_a_scenario_killed_in_its_first_repetition_says_so(repeated: Path) -> None:
    """With no repetition finished there is nothing else to say."""
    for path in repeated.rglob("verdict.json"):
        path.unlink()
    assert unfinished(repeated) == "it did not finish: the run ended during the first of 3 repetitions"


@pytest.mark.parametrize("word", ["kept", "unproven", "broken"])
def test_fewer_repetitions_than_planned_are_no_verdict(repeated: Path, word: Word) -> None:
    """Whatever a verdict of two of three repetitions says, the scenario is unfinished."""
    change(repeated, word, Repeated(3, 1, 7, {word: 2}))
    assert unfinished(repeated) == "it did not finish: 2 of 3 repetitions have a verdict"


def test_an_error_may_have_ended_the_repetitions(repeated: Path) -> None:
    """Where nothing could run any more, the error is the verdict."""
    change(repeated, "error", Repeated(3, 1, 7, {"error": 1}))
    assert run.load(repeated.parent).results[repeated.name].verdict == "error"


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        (None, "it is of 1 repetitions, and 3 were planned"),
        (Repeated(2, 1, 7, {"broken": 2}), "it is of 2 repetitions, and 3 were planned"),
        (Repeated(3, 1, 7, {"broken": 4}), "its repetitions do not add up to its verdict"),
        (Repeated(3, 4, 7, {"broken": 3}), "its repetitions do not add up to its verdict"),
        (Repeated(3, 1, 7, {"kept": 3}), "its repetitions do not add up to its verdict"),
        (Repeated(3, 1, 7, {}), "its repetitions do not add up to its verdict"),
        (Repeated(3, 1, 7, {"broken": -1}), "damaged"),
    ],
)
def test_a_verdict_that_does_not_fit_its_repetitions_is_damaged(
    repeated: Path, told: Repeated | None, problem: str
) -> None:
    """A verdict.json of another number of repetitions, or that contradicts itself, is no verdict."""
    change(repeated, "broken", told)
    assert "verdict.json is damaged: " in unfinished(repeated)
    assert problem in unfinished(repeated)


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_a_plan_with_an_impossible_number_of_repetitions_is_damaged(tmp_path: Path, count: int) -> None:
    """A plan that no command line can have made is named."""
    RunBuilder(tmp_path, repeat=count)
    with pytest.raises(HarnessError, match=r"plan\.json is damaged"):
        run.load(tmp_path)


def change(scenario: Path, verdict: Word, told: Repeated | None) -> None:
    """Write another verdict."""
    path = scenario / "verdict.json"
    saved = msgspec.json.decode(path.read_bytes(), type=Result)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(saved, verdict=verdict, repeated=told)))
