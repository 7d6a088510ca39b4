"""A run folder in, the gate's verdict and `summary.json` out."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from harness.checker import Anomaly, VerdictWord
from harness.history import Bitten
from harness.outcome import Outcome
from harness.repeat import Repeated
from harness.report.run import Omitted, RunFolder
from harness.report.text import times
from harness.scenario import ControlResult, Declared, Result

EXIT_STATUS: Final[dict[VerdictWord, int]] = {"kept": 0, "broken": 1, "error": 3, "unproven": 10}
# What outweighs what; the first word that applies is the gate's.
WEIGHT: Final[tuple[VerdictWord, ...]] = ("error", "broken", "unproven", "kept")


class Bite(msgspec.Struct, frozen=True):
    """Whether a fault took effect on a message, and what shows it."""

    fault: str
    message: str
    seen: bool
    evidence: str


class ScenarioSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One planned scenario. `anomalies` break what the target claims, `reported` do not.

    Of one that ran several times it is the worst repetition, with the `seconds` of all.
    """

    id: str
    family: str
    client: str
    transport: str
    title: str
    verdict: VerdictWord
    why: str
    counts: dict[str, int]
    anomalies: list[Anomaly]
    reported: list[Anomaly]
    bites: list[Bite]
    controls: list[ControlResult]
    recovery_seconds: float | None
    worst_delay_seconds: float | None
    seconds: float
    replay: str
    repeated: Repeated | None = None
    target: str = ""
    outcomes: list[Outcome] = []
    coverage: str = ""
    smallest: str = ""
    replay_case: str = ""
    share: tuple[int, int] = (1, 1)

    @property
    def whole(self) -> str:
        """The id of what it is a share of: the same for all shares of a sweep, and its own where there are none."""
        number, shares = self.share
        return self.id.replace(f"-{number}of{shares}-{self.client}-", f"-{self.client}-") if shares > 1 else self.id

    @property
    def variant(self) -> str:
        """The part of the id between the family and the client, or all of another id."""
        own = self.id.removesuffix(f"-{self.target}") if self.target else self.id
        return own.removeprefix(self.family).removesuffix(f"-{self.client}-{self.transport}").strip("-")


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """`summary.json`: the gate's verdict and what it rests on."""

    schema: int = 1
    gate: VerdictWord
    why: str
    planned: int
    ran: int
    target: str
    claims: dict[str, Any]
    seed: int
    not_offered: list[Omitted]
    missing: list[Omitted]
    scenarios: list[ScenarioSummary]

    @property
    def exit_status(self) -> int:
        """The exit status of the gate."""
        return EXIT_STATUS[self.gate]

    @property
    def verdicts(self) -> Counter[VerdictWord]:
        """How many scenarios have which verdict."""
        return Counter(scenario.verdict for scenario in self.scenarios)


def summarize(run: RunFolder) -> Summary:
    """Pass the gate's verdict on a run."""
    plan = run.plan
    resisting = {name: result for name, result in run.results.items() if result.verdict == "not offered"}
    planned = [declared for declared in plan.planned if declared.id not in resisting]
    scenarios = [
        of_result(run.results[declared.id])
        if declared.id in run.results
        else of_unfinished(declared, run.unfinished[declared.id])
        for declared in planned
    ]
    not_offered = [*plan.not_offered, *(Omitted(name, result.why) for name, result in resisting.items())]
    gate, why = _gate(run, scenarios, not_offered)
    return Summary(
        gate=gate,
        why=why,
        planned=len(planned),
        ran=sum(declared.id in run.results for declared in planned),
        target=plan.target.name,
        claims=plan.claims,
        seed=plan.seed,
        not_offered=not_offered,
        missing=plan.missing,
        scenarios=scenarios,
    )


def of_result(result: Result) -> ScenarioSummary:
    """What the summary says of a scenario that has a verdict; one that is not offered counts as unproven."""
    return ScenarioSummary(
        id=result.id,
        family=result.family,
        client=result.client,
        transport=result.transport,
        title=result.title,
        verdict="unproven" if result.verdict == "not offered" else result.verdict,
        why=result.why,
        counts=result.counts,
        anomalies=result.anomalies,
        reported=result.reported,
        bites=[_bite(bitten) for bitten in result.bites],
        controls=result.controls,
        recovery_seconds=result.recovery_seconds,
        worst_delay_seconds=result.worst_delay_seconds,
        seconds=result.seconds,
        replay=result.replay,
        replay_case=result.replay_case,
        share=result.share,
        repeated=result.repeated,
        target=result.target,
        outcomes=result.outcomes,
        coverage=result.coverage,
        smallest=result.smallest,
    )


def of_unfinished(declared: Declared, why: str) -> ScenarioSummary:
    """What the summary says of a scenario without a verdict."""
    return ScenarioSummary(
        id=declared.id,
        family=declared.family,
        client=declared.client,
        transport=declared.transport,
        title=declared.title,
        verdict="error",
        why=why,
        counts={},
        anomalies=[],
        reported=[],
        bites=[],
        controls=[],
        recovery_seconds=None,
        worst_delay_seconds=None,
        seconds=0.0,
        replay=declared.replay,
        target=declared.target,
        share=declared.share,
    )


def judged(run_folder: Path, scenario: ScenarioSummary | Result) -> Path:
    """The folder with the histories that a scenario's verdict is about: its own, or that of its worst repetition."""
    folder = run_folder / scenario.id
    return folder / scenario.repeated.folder if scenario.repeated else folder


def _bite(bitten: Bitten) -> Bite:
    return Bite(bitten.fault, bitten.message, bitten.seen, bitten.evidence)


# -- the gate ----------------------------------------------------------------------------------------------------


def _gate(
    run: RunFolder, scenarios: Sequence[ScenarioSummary], not_offered: Sequence[Omitted]
) -> tuple[VerdictWord, str]:
    if run.preflight_error is not None:
        return "error", f"No scenario could run: {run.preflight_error}"
    missing = run.plan.missing
    if not scenarios and not not_offered and not missing:
        return "error", "No scenario was planned, so nothing ran."
    found: dict[VerdictWord, list[ScenarioSummary]] = {
        word: [s for s in scenarios if s.verdict == word] for word in WEIGHT
    }
    gate: VerdictWord = next((word for word in WEIGHT if found[word]), "unproven")
    if gate == "kept" and missing:
        gate = "unproven"
    return gate, _sentence(gate, found, len(scenarios), run)


def _sentence(gate: VerdictWord, found: dict[VerdictWord, list[ScenarioSummary]], planned: int, run: RunFolder) -> str:
    of = f"of {times(planned, 'planned scenario')}"
    match gate:
        case "kept":
            if {scenario.target for scenario in found["kept"]} <= {"", run.plan.target.name}:
                return f"{_all(planned)} kept what the target claims: {_claim(run.plan.claims)}."
            return f"{_all(planned)} kept what is claimed by the target of each."
        case "broken":
            kinds = list(dict.fromkeys(anomaly.kind for scenario in found["broken"] for anomaly in scenario.anomalies))
            return f"{len(found['broken'])} {of} broke what the target claims: {', '.join(kinds)}."
        case "unproven":
            return _unproven(found["unproven"], planned, of, run)
        case "error":
            first = found["error"][0]
            count = len(found["error"])
            unfinished = sum(scenario.id in run.unfinished for scenario in found["error"])
            what = "did not finish" if unfinished == count else "ended in an error"
            also = f" Also broken: {len(found['broken'])}." if found["broken"] else ""
            return f"{count} {of} {what}; the first is {first.id}: {_first_line(first.why)}.{also}"


def _first_line(why: str) -> str:
    first = next(iter(why.splitlines()), "")
    return re.sub(r"[.;] its last lines:?$", "", first, flags=re.IGNORECASE).rstrip(".:;")


def _unproven(unproven: Sequence[ScenarioSummary], planned: int, of: str, run: RunFolder) -> str:
    if unproven:
        first = unproven[0]
        return f"{len(unproven)} {of} proved nothing; the first is {first.id}: {_first_line(first.why)}."
    if run.plan.missing:
        first_missing = run.plan.missing[0]
        could_not = f"{times(len(run.plan.missing), 'scenario')} could not run on this machine"
        return f"{could_not}; the first is {first_missing.id}: {first_missing.reason.rstrip('.')}."
    return "None of the selected scenarios is offered here, so nothing was proven; each says why."


def _all(planned: int) -> str:
    return "The one planned scenario" if planned == 1 else f"All {planned:,} planned scenarios"


def _claim(claims: dict[str, Any]) -> str:
    guarantee, order = claims.get("guarantee", "its claims"), claims.get("order", "none")
    return f"{guarantee}" + ("" if order == "none" else f", in {order} order")
