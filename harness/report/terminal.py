"""The run on a terminal: plain text, quiet when all is kept."""

import os
from collections.abc import Iterable
from pathlib import Path

from harness.checker import Anomaly
from harness.errors import HarnessError
from harness.outcome import folded
from harness.report import story
from harness.report.run import HISTORY, RunFolder
from harness.report.summary import WEIGHT, ScenarioSummary, Summary, judged
from harness.report.text import anchor, one_line, ranges, times, visible
from harness.scenario import Result, shown_by_pair

_INDENT = " " * 10
_SHOWN_COUNTS = ("sent", "acknowledged", "stored")
_LISTED = 10


def line(scenario: ScenarioSummary | Result) -> str:
    """One line on one scenario: its verdict, id, how often it has that verdict if it ran often, counts and time.

    Below it those of a sweep's cases, neighbours with the same outcome in one line.
    """
    repeated = [one_line(scenario.repeated.in_short)] if scenario.repeated else []
    counts = [f"{scenario.counts[name]} {name}" for name in _SHOWN_COUNTS if name in scenario.counts]
    pair = shown_by_pair(scenario.controls)
    told = ", ".join([*([pair] if pair else []), *repeated, *counts, f"{scenario.seconds:.1f} s"])
    told_of = [f"{cases}: {outcome.words}" for cases, outcome in folded(scenario.outcomes)]
    told_of += [scenario.coverage] if scenario.coverage else []
    cases = [f"\n{_INDENT}{one_line(words)}" for words in _some(told_of)]
    return f"{scenario.verdict:<9} {one_line(scenario.id)}  ({told})" + "".join(cases)


def trouble(folder: Path, scenario: ScenarioSummary | Result) -> list[str]:
    """What there is to say on a scenario that is not kept; nothing on one that is, or that is not offered.

    Args:
        folder: the run folder.
        scenario: the scenario, with or without its verdict on disk.
    """
    if scenario.verdict in ("kept", "not offered"):
        return []
    return [
        f"{scenario.verdict:<9} {one_line(scenario.id)}",
        *(_wrapped("repeated", scenario.repeated.sentence) if scenario.repeated else []),
        *_wrapped("why", scenario.why),
        *_anomalies(judged(folder, scenario) / "claim" / HISTORY, scenario.anomalies),
        *_wrapped("report", f"{shown(folder / 'index.html')}#{anchor(scenario.id)}"),
        *_wrapped("replay", scenario.replay),
        *(_wrapped("smallest", scenario.smallest) if scenario.smallest else []),
        *(f"{_INDENT}{one_line(told)}" for told in _some(_replayed(scenario))),
    ]


def _replayed(scenario: ScenarioSummary | Result) -> list[str]:
    """Each bad case with the command that replays it, neighbours with the same outcome as one."""
    bad = [outcome for outcome in scenario.outcomes if not outcome.good]
    pairs = [(outcome.case, outcome) for outcome in bad]
    told = pairs if any("+" in case for case, _ in pairs) else folded(bad)
    return [f"case: {outcome.words}: {scenario.replay_case} {cases}" for cases, outcome in told]


def closing(run: RunFolder, summary: Summary) -> list[str]:
    """The last lines of a run: the gate's verdict, counts, what was not offered or is missing, the report's path."""
    verdicts = summary.verdicts
    counts = [f"{verdicts[word]} {word}" for word in reversed(WEIGHT) if verdicts[word]]
    return [
        f"{summary.gate}: {visible(summary.why)}",
        f"{times(summary.planned, 'scenario')} planned, {summary.ran} ran" + "".join(f", {count}" for count in counts),
        *_omitted("not offered", ((omitted.id, omitted.reason) for omitted in summary.not_offered)),
        *_omitted("missing", ((omitted.id, omitted.reason) for omitted in summary.missing)),
        f"report: {shown(run.path / 'index.html')}",
    ]


def lines(run: RunFolder, summary: Summary) -> list[str]:
    """Everything at the end of a run: each scenario that is not kept, then the closing lines."""
    told = [text for scenario in summary.scenarios for text in trouble(run.path, scenario)]
    return [*told, *closing(run, summary)]


def _wrapped(label: str, text: str) -> list[str]:
    first, *rest = visible(text).splitlines() or [""]
    return [f"{_INDENT}{label}: {first}", *(f"{_INDENT}  {line}" for line in rest)]


def _anomalies(history: Path, anomalies: list[Anomaly]) -> list[str]:
    if not anomalies:
        return []
    first, rest = anomalies[0], anomalies[1:]
    told = [*_wrapped("first anomaly", _sentence(first)), *_near(history, first)]
    for kind in dict.fromkeys(anomaly.kind for anomaly in rest):
        messages = [anomaly.message or "the server" for anomaly in rest if anomaly.kind == kind]
        told += _wrapped("also", f"{kind} x {len(messages)}: {', '.join(_some(ranges(messages)))}")
    return told


def _sentence(anomaly: Anomaly) -> str:
    of = f" {anomaly.message}" if anomaly.message else ""
    at = "" if anomaly.time is None else f" (at {anomaly.time:.3f} s)"
    return one_line(f"{anomaly.kind}{of}: {anomaly.detail}{at}")


def _near(history: Path, anomaly: Anomaly) -> list[str]:
    try:
        fault = story.near(anomaly, story.read(history))
    except HarnessError:
        return []
    return [] if fault is None else _wrapped("fault", one_line(fault))


def _some(texts: list[str]) -> list[str]:
    return texts if len(texts) <= _LISTED else [*texts[:_LISTED], f"and {len(texts) - _LISTED} more, in the report"]


def _omitted(word: str, omitted: Iterable[tuple[str, str]]) -> list[str]:
    return [one_line(f"{word}: {scenario}: {reason}") for scenario, reason in omitted]


def shown(path: Path) -> str:
    """A path as short as it can be typed here."""
    path = path.absolute()
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else str(path)
