"""junit.xml."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from harness import repeat, report
from tests.report import samples
from tests.report.samples import RunBuilder, declared


def junit_of(folder: Path) -> ET.Element:
    """The junit.xml of a run folder."""
    report.write(folder)
    return ET.fromstring((folder / "junit.xml").read_bytes())  # noqa: S314 - our own file


def outcomes(root: ET.Element) -> dict[str | None, list[tuple[str, str | None]]]:
    """Name of a test case -> its outcomes."""
    return {
        case.get("name"): [(child.tag, child.get("type")) for child in case if child.tag != "properties"]
        for case in root.iter("testcase")
    }


def test_each_verdict_has_its_outcome(tmp_path: Path) -> None:
    """Kept passes; broken and unproven fail by type; errors are errors; what is not offered is skipped."""
    built = RunBuilder(tmp_path)
    built.kept("lock-kept-python-polling")
    built.broken("lock-broken-python-polling", "lost")
    built.unproven("lock-unproven-python-polling")
    built.error("lock-error-python-polling")
    built.plan(declared("lock-late-python-polling"))
    built.not_offered("ack-lost-python-polling")
    built.omit("missing", "kill-docker-python-polling", "there is no Docker")
    assert outcomes(junit_of(tmp_path)) == {
        "lock-kept-python-polling": [],
        "lock-broken-python-polling": [("failure", "broken")],
        "lock-unproven-python-polling": [("failure", "unproven")],
        "lock-error-python-polling": [("error", "error")],
        "lock-late-python-polling": [("error", "error")],
        "kill-docker-python-polling": [("failure", "unproven")],
        "ack-lost-python-polling": [("skipped", None)],
    }


def test_the_tallies_count_the_cases(tmp_path: Path) -> None:
    """The totals of suite and suites are those of their cases."""
    samples.write_showcase(tmp_path)
    root = junit_of(tmp_path)
    suite = root[0]
    for tag, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert suite.get(name) == str(len(list(root.iter(tag))))
    assert root.get("tests") == suite.get("tests") == str(len(list(root.iter("testcase"))))


def test_a_case_begins_with_its_properties(tmp_path: Path) -> None:
    """Verdict, seed, replay command and counts are properties of the case, before its outcome."""
    RunBuilder(tmp_path).broken("lock-broken-python-polling", "lost")
    case = next(junit_of(tmp_path).iter("testcase"))
    assert (case.get("classname"), case.get("name")) == ("lock", "lock-broken-python-polling")
    assert [child.tag for child in case] == ["properties", "failure"]
    properties = {item.get("name"): item.get("value") for item in case.iter("property")}
    assert properties["verdict"] == "broken"
    assert properties["seed"] == "7"
    assert properties["replay"] == "pytest 'scenarios/test_lock.py::test_it[lock-broken-python-polling]' --seed 7"
    assert (properties["sent"], properties["stored"]) == ("3", "2")
    failure = case.find("failure")
    assert failure is not None
    assert "lost r7-alice-0002: acknowledged, not stored" in (failure.text or "")


@pytest.mark.parametrize(("offered", "outcome"), [(True, ("error", "error")), (False, ("failure", "unproven"))])
def test_a_gate_that_no_case_explains_is_a_case_of_its_own(
    tmp_path: Path, offered: bool, outcome: tuple[str, str]
) -> None:
    """A run of nothing, or of nothing but what is not offered, does not look green."""
    built = RunBuilder(tmp_path)
    if not offered:
        built.not_offered()
    assert outcomes(junit_of(tmp_path))["gate"] == [outcome]


def test_hostile_text_is_carried_as_well_as_xml_can(tmp_path: Path) -> None:
    """Markup, the end of a CDATA section, NUL and overrides leave well-formed XML that shows them."""
    hostile = "</failure>]]><script>\0\x1b\ufffe\u202e'\""
    built = RunBuilder(tmp_path, command=hostile)
    built.plan(declared("lock-late-python-polling", family=hostile, replay=hostile))
    case = next(junit_of(tmp_path).iter("testcase"))
    shown = "</failure>]]><script>\\x00\\x1b\ufffd\\u202e'\""
    assert {item.get("value") for item in case.iter("property")} >= {shown}


def test_a_repeated_case_has_the_seed_of_its_worst_repetition(tmp_path: Path) -> None:
    """How often it was broken, and the seed that replays it, are properties."""
    claims = [samples.claim(), samples.claim(), samples.broken_claim("lost")]
    RunBuilder(tmp_path, repeat=3).repeat(declared("lock-often-python-polling"), *claims)
    case = next(junit_of(tmp_path).iter("testcase"))
    properties = {item.get("name"): item.get("value") for item in case.iter("property")}
    seed = str(repeat.seeds(7, 3)[2])
    assert properties["seed"] == seed
    assert (properties["replay"] or "").endswith(f"--seed {seed}")
    assert properties["repeated"] == (f"broken in 1 of 3 runs, kept in 2; this is run 3 of 3, with seed {seed}")
