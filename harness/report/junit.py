"""The run as JUnit XML, for the programs that continuous integration reads it with."""

from collections.abc import Iterable
from xml.etree import ElementTree as ET

from harness.report.run import Omitted, RunFolder
from harness.report.summary import ScenarioSummary, Summary
from harness.report.text import one_line, visible, xml

_PREFIX = "midemit"


def render(run: RunFolder, summary: Summary) -> bytes:
    """The content of junit.xml."""
    cases = [_scenario(scenario, summary.seed) for scenario in summary.scenarios]
    cases += [_missing(omitted) for omitted in summary.missing]
    cases += [_not_offered(omitted) for omitted in summary.not_offered]
    if summary.gate != "kept" and not any(_is_red(case) for case in cases):
        cases.append(_gate(summary))
    suite = _element("testsuite", name=f"{_PREFIX} {summary.target}", timestamp=run.plan.started)
    _tally(suite, cases)
    _properties(suite, [("run", run.plan.run), ("gate", summary.gate), ("command", run.plan.command)])
    suite.extend(cases)
    suites = _element("testsuites", name=_PREFIX)
    _tally(suites, cases)
    suites.append(suite)
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'.encode()


def _scenario(scenario: ScenarioSummary, seed: int) -> ET.Element:
    case = _case(scenario.family, scenario.id, scenario.seconds)
    counts = [(name, str(count)) for name, count in scenario.counts.items()]
    repeated = scenario.repeated
    own = [
        ("verdict", scenario.verdict),
        ("seed", str(repeated.seed if repeated else seed)),
        ("replay", scenario.replay),
        *([("repeated", repeated.sentence)] if repeated else []),
    ]
    _properties(case, [*own, *counts])
    if scenario.verdict in ("broken", "unproven"):
        _outcome(case, "failure", scenario.verdict, scenario.why, _details(scenario))
    elif scenario.verdict != "kept":
        _outcome(case, "error", "error", scenario.why, _details(scenario))
    return case


def _details(scenario: ScenarioSummary) -> str:
    anomalies = [one_line(f"{found.kind} {found.message or ''}: {found.detail}") for found in scenario.anomalies]
    return "\n".join([scenario.why, *anomalies, f"replay: {scenario.replay}"])


def _missing(omitted: Omitted) -> ET.Element:
    case = _case("missing", omitted.id)
    _outcome(case, "failure", "unproven", f"missing on this machine: {omitted.reason}", omitted.reason)
    return case


def _not_offered(omitted: Omitted) -> ET.Element:
    case = _case("not offered", omitted.id)
    _outcome(case, "skipped", None, f"not offered: {omitted.reason}", None)
    return case


def _gate(summary: Summary) -> ET.Element:
    """A gate that is not green for a reason that no scenario shows must not look green."""
    case = _case("gate", "gate")
    if summary.gate == "error":
        _outcome(case, "error", "error", summary.why, summary.why)
    else:
        _outcome(case, "failure", summary.gate, summary.why, summary.why)
    return case


def _case(family: str, name: str, seconds: float = 0.0) -> ET.Element:
    return _element("testcase", classname=family, name=name, time=f"{seconds:.3f}")


def _outcome(case: ET.Element, tag: str, kind: str | None, message: str, text: str | None) -> None:
    outcome = _element(tag, **({"type": kind} if kind else {}), message=one_line(message))
    outcome.text = xml(visible(text)) if text else None
    case.append(outcome)


def _properties(parent: ET.Element, properties: Iterable[tuple[str, str]]) -> None:
    holder = _element("properties")
    holder.extend(_element("property", name=name, value=visible(value)) for name, value in properties)
    parent.append(holder)


def _is_red(case: ET.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


def _tally(suite: ET.Element, cases: list[ET.Element]) -> None:
    counts = {tag: sum(case.find(tag) is not None for case in cases) for tag in ("failure", "error", "skipped")}
    seconds = sum(float(case.get("time", "0")) for case in cases)
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(counts["failure"]))
    suite.set("errors", str(counts["error"]))
    if suite.tag == "testsuite":
        suite.set("skipped", str(counts["skipped"]))
    suite.set("time", f"{seconds:.3f}")


def _element(tag: str, **attributes: str) -> ET.Element:
    return ET.Element(tag, {name: xml(value) for name, value in attributes.items()})
