"""The gate: which word outweighs which, and what the summary holds."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness.report import run
from harness.report.summary import Summary, summarize
from tests.report.samples import RunBuilder, declared


def summary_of(folder: Path, *fill: Callable[[RunBuilder], object]) -> Summary:
    """The summary of a run that is filled so."""
    built = RunBuilder(folder)
    for step in fill:
        step(built)
    return summarize(run.load(folder))


def kept(built: RunBuilder) -> None:
    """A scenario that is kept."""
    built.kept()


def broken(built: RunBuilder) -> None:
    """A scenario that is broken."""
    built.broken("lock-broken-python-polling", "lost")


def unproven(built: RunBuilder) -> None:
    """A scenario that proves nothing."""
    built.unproven()


def error(built: RunBuilder) -> None:
    """A scenario in which the harness fails."""
    built.error()


def unfinished(built: RunBuilder) -> None:
    """A scenario that does not run."""
    built.plan(declared("lock-late-python-polling"))


def missing(built: RunBuilder) -> None:
    """A scenario that this machine lacks something for."""
    built.omit("missing", "kill-docker-python-polling", "there is no Docker")


def not_offered(built: RunBuilder) -> None:
    """A scenario that the target offers nothing for."""
    built.omit("not_offered", "crash-python-polling", "no crash point")


def resisting(built: RunBuilder) -> None:
    """A scenario whose target resists its control."""
    built.not_offered()


def preflight(built: RunBuilder) -> None:
    """A first message that fails."""
    built.preflight("the rows cannot be read")


@pytest.mark.parametrize(
    ("fill", "gate", "status"),
    [
        ([kept], "kept", 0),
        ([kept, not_offered], "kept", 0),
        ([kept, resisting], "kept", 0),
        ([kept, unproven], "unproven", 10),
        ([kept, missing], "unproven", 10),
        ([missing], "unproven", 10),
        ([not_offered], "unproven", 10),
        ([resisting], "unproven", 10),
        ([kept, broken, unproven, missing], "broken", 1),
        ([kept, broken, unproven, error], "error", 3),
        ([kept, unfinished], "error", 3),
        ([broken, unfinished], "error", 3),
        ([unfinished], "error", 3),
        ([unfinished, preflight], "error", 3),
        ([preflight], "error", 3),
        ([], "error", 3),
    ],
)
def test_error_outweighs_broken_outweighs_unproven(
    tmp_path: Path, fill: list[Callable[[RunBuilder], object]], gate: str, status: int
) -> None:
    """The gate is green only when something was planned and every planned scenario ran and was kept."""
    summary = summary_of(tmp_path, *fill)
    assert (summary.gate, summary.exit_status) == (gate, status)
    assert summary.why.endswith(".") or summary.gate == "error"


def test_what_is_not_offered_is_not_planned(tmp_path: Path) -> None:
    """A scenario whose target resists its controls moves from the planned ones to those not offered."""
    summary = summary_of(tmp_path, kept, resisting, not_offered)
    assert (summary.planned, summary.ran, len(summary.scenarios)) == (1, 1, 1)
    assert [omitted.id for omitted in summary.not_offered] == ["crash-python-polling", "ack-lost-python-polling"]
    assert "resists every control" in summary.not_offered[1].reason


def test_fewer_ran_than_planned_shows_in_the_counts(tmp_path: Path) -> None:
    """An unfinished scenario is planned, has not run, and is an error in the list."""
    summary = summary_of(tmp_path, kept, unfinished)
    assert (summary.planned, summary.ran) == (2, 1)
    assert [scenario.verdict for scenario in summary.scenarios] == ["kept", "error"]
    assert "1 of 2 planned scenarios did not finish" in summary.why


def test_an_error_still_tells_what_is_broken(tmp_path: Path) -> None:
    """An error does not hide that something is broken."""
    assert "Also broken: 1." in summary_of(tmp_path, broken, error).why


def test_the_preflight_error_is_the_reason_of_the_gate(tmp_path: Path) -> None:
    """When the first message failed, the gate says so rather than counting scenarios that did not run."""
    assert "the rows cannot be read" in summary_of(tmp_path, unfinished, preflight).why


def test_the_summary_has_the_promised_shape(tmp_path: Path) -> None:
    """summary.json holds the keys that programs rely on."""
    summary = msgspec.to_builtins(summary_of(tmp_path, broken, not_offered, missing))
    top = "schema gate planned ran target claims seed not_offered missing scenarios"
    assert set(top.split()) <= set(summary)
    (scenario,) = summary["scenarios"]
    own = "id family client transport verdict why counts anomalies bites controls recovery_seconds"
    own += " worst_delay_seconds seconds replay"
    assert set(own.split()) <= set(scenario)
    assert {"sent", "acknowledged", "stored", "foreign"} <= set(scenario["counts"])
    assert {"kind", "message"} <= set(scenario["anomalies"][0])
    assert set(scenario["bites"][0]) == {"fault", "message", "seen", "evidence"}
    assert {"name", "expected", "shown", "verdict", "null"} <= set(scenario["controls"][0])
    assert set(summary["not_offered"][0]) == set(summary["missing"][0]) == {"id", "reason"}


def test_a_variant_is_what_stands_between_family_and_client(tmp_path: Path) -> None:
    """The variant is read from the id; a family without variants has none."""
    built = RunBuilder(tmp_path)
    built.kept("lock-long-hold-python-polling")
    built.kept("lock-python-polling")
    assert [scenario.variant for scenario in summarize(run.load(tmp_path)).scenarios] == ["long-hold", ""]
