"""The known defects: each has its schedule, its place in the README's table, and what it shows."""

import re
from typing import get_args

import pytest

from harness import checker, defects, scenario
from harness.defects import DEFECTS
from tests.runs import PROJECT

SCENARIOS = PROJECT / "scenarios" / "test_known_defects.py"


def declared() -> dict[str, scenario.Scenario]:
    """The known defects that have a schedule, by their numbers."""
    names: dict[str, object] = {}
    exec(compile(SCENARIOS.read_text(), str(SCENARIOS), "exec"), names)  # noqa: S102 - our own, and no module of a package
    found = [getattr(schedule, scenario.ATTRIBUTE, None) for schedule in names.values()]
    return {of.label or "": of for of in found if isinstance(of, scenario.Scenario)}


def test_every_defect_has_its_schedule_and_the_other_way_round() -> None:
    """No entry without a schedule, and no schedule without an entry."""
    assert set(declared()) == set(DEFECTS)
    assert list(declared()) == list(DEFECTS)


@pytest.mark.parametrize("number", DEFECTS)
def test_defect_is_one_control_that_has_to_show_exactly_its_anomalies(number: str) -> None:
    """Its scenario is one item of its own name, on a hardened pair, with the weak pair as its only control."""
    of, defect = declared()[number], DEFECTS[number]
    (control,) = of.controls
    (case,) = scenario.cases(of, ["python"], [])
    assert (case.id, of.item, defect.id) == (number, defects.ITEM, number)
    assert control.exactly == defect.shows
    assert control.name in scenario.PAIRS
    assert case.target.name != control.target
    assert scenario.not_offered(case) is None
    assert set(defect.shows) <= set(get_args(checker.Kind))
    assert defect.command == f"pytest scenarios -k 'defect[{number}]'"


def test_table_of_the_readme_is_that_of_the_code() -> None:
    """What the README says of the known defects is made of what is known of them."""
    readme = (PROJECT / "README.md").read_text()
    found = re.search("<!-- defects -->\n(.*?)\n<!-- /defects -->", readme, re.DOTALL)
    assert found is not None
    assert found[1].strip() == defects.table().strip()
