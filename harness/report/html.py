"""The run as one self-contained page: no request to anywhere, readable without JavaScript."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.checker import Anomaly
from harness.errors import HarnessError
from harness.history import Bitten
from harness.outcome import Outcome, folded, joined
from harness.report import diff, story, timeline
from harness.report.diff import Diff
from harness.report.run import HISTORY, RunFolder
from harness.report.story import Story, Told
from harness.report.summary import WEIGHT, Bite, ScenarioSummary, Summary, judged
from harness.report.text import anchor, body, in_code, one_line, ranges, times, visible
from harness.report.timeline import Mark, Timeline
from harness.scenario import PAIRS, ControlResult, shown_by_pair

if TYPE_CHECKING:
    from harness.report.ledger import Ledger

# A verdict is never told by colour alone.
SYMBOLS: Final = {"kept": "✓", "broken": "✗", "unproven": "?", "error": "!"}
# So many messages of a page are told moment by moment; every further anomaly is still listed.
_STORIES = 200
# So many lines the diffs of a page have before what differs is told in ranges.
_DIFF_LINES = 1600


class File(msgspec.Struct, frozen=True):
    """A raw file of a run, to link to."""

    name: str
    href: str


class RawRun(msgspec.Struct, frozen=True):
    """The raw files of one run of a scenario."""

    name: str
    files: list[File]


class Finding(msgspec.Struct, frozen=True):
    """One anomaly, its number in the scenario, whether it breaks the claim, and the fault near it."""

    anomaly: Anomaly
    number: int
    breaks: bool
    near: str | None


class Card(msgspec.Struct, frozen=True):
    """All anomalies of one message (or of none), with its fate where there is one."""

    message: str | None
    findings: list[Finding]
    story: Story | None


class Listed(msgspec.Struct, frozen=True):
    """All further anomalies of one kind, a line for those that are alike, their messages compressed to ranges."""

    kind: str
    breaks: bool
    count: int
    text: str


class ControlView(msgspec.Struct, frozen=True):
    """A control, and whether its own fault was seen to bite."""

    result: ControlResult
    bites: list[Bitten]


class Sweep(msgspec.Struct, frozen=True):
    """What came of the cases of a sweep, in order; `shown` is the position of the one that is told at first.

    `replay_case` replays one: its id is what the command lacks.
    """

    outcomes: list[Outcome]
    shown: int
    replay_case: str


class View(msgspec.Struct, frozen=True):
    """One scenario as the page shows it. `note` says why fates and timeline cannot be shown, if so.

    `bites` are those that are not told with the cases of a sweep.
    """

    scenario: ScenarioSummary
    anchor: str
    bites: list[Bite]
    cards: list[Card]
    listed: list[Listed]
    controls: list[ControlView]
    raw: list[RawRun]
    note: str | None
    timeline: Timeline | None
    diffs: list[Diff]

    @property
    def heading(self) -> str:
        """What stands above the cards."""
        match len(self.scenario.anomalies):
            case 0:
                return "Reported, not breaking the claim"
            case 1:
                return "1 anomaly that breaks the claim"
            case number:
                return f"{number:,} anomalies that break the claim"


class Whole(msgspec.Struct, frozen=True):
    """A scenario, or all shares of a sweep in their order; `sweep` is what came of its cases, if it is one."""

    id: str
    views: list[View]
    sweep: Sweep | None

    @property
    def without_outcomes(self) -> list[str]:
        """The shares of which no case is among those of the sweep."""
        return [view.scenario.id for view in self.views if not view.scenario.outcomes]


def render(run: RunFolder, summary: Summary, ledger: "Ledger | None") -> bytes:
    """The content of index.html; `ledger` is one whose folder is beside that of the run."""
    wholes = _wholes(_views(run.path, summary))
    words = tuple(reversed(WEIGHT))
    logs = sorted(log.name for log in run.path.glob("*.log") if log.stat().st_size)
    return page("index.html", plan=run.plan, summary=summary, wholes=wholes, words=words, ledger=ledger, logs=logs)


def page(template: str, **values: object) -> bytes:
    """A page of our style, and without requests, from one of the templates."""
    style, script = _asset("style.css"), _asset("script.js")
    hashes = {"style_hash": _hash(style), "script_hash": _hash(script)}
    return _environment.get_template(template).render(style=style, script=script, **hashes, **values).encode()


def _finalize(value: object) -> object:
    """Control characters and bidirectional overrides are spelled out, wherever a template prints text."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _controls_in_short(controls: Sequence[ControlResult]) -> str:
    """`2 of 2 bite`, and what is wrong with a null; of another pair of client and server what it shows."""
    if not controls:
        return "none"
    if (pair := shown_by_pair(controls)) is not None:
        return pair
    biting = sum(control.verdict == "bites" for control in controls)
    nulls = sorted({control.null for control in controls} - {"clean", "none"})
    return f"{biting} of {len(controls)} bite" + "".join(f", a null {word}" for word in nulls)


def _make_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        body=body, in_code=in_code, in_words=diff.summary, times=times, controls_in_short=_controls_in_short
    )
    environment.globals.update(symbols=SYMBOLS, keys=timeline.KEYS, pairs=PAIRS, folded=folded)
    return environment


_environment: Final = _make_environment()


def _asset(name: str) -> Markup:
    source, _, _ = PackageLoader("harness.report").get_source(_environment, name)
    return Markup(source.strip())  # noqa: S704 - our own files, and nothing is put into them


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


# -- what the page shows of each scenario ------------------------------------------------------------------------


def _views(folder: Path, summary: Summary) -> list[View]:
    scenarios = sorted(summary.scenarios, key=lambda scenario: WEIGHT.index(scenario.verdict))
    troubled = sum(bool(scenario.anomalies or scenario.reported) for scenario in scenarios)
    share = max(1, _STORIES // max(1, troubled))
    return [_view(folder, judged(folder, scenario), scenario, share) for scenario in scenarios]


def _wholes(views: Iterable[View]) -> list[Whole]:
    """Shares of one sweep together, at the place of the first of them."""
    shares: dict[str, list[View]] = {}
    for view in views:
        shares.setdefault(view.scenario.whole, []).append(view)
    return [
        Whole(name, sorted(found, key=lambda view: view.scenario.share), _sweep([view.scenario for view in found]))
        for name, found in shares.items()
    ]


def _sweep(shares: Sequence[ScenarioSummary]) -> Sweep | None:
    found = joined(share.outcomes for share in shares)
    if not found:
        return None
    shown = next((at for at, outcome in enumerate(found) if not outcome.good), 0)
    return Sweep(found, shown, shares[0].replay_case)


def _further_bites(scenario: ScenarioSummary) -> list[Bite]:
    told = {(outcome.message, outcome.evidence) for outcome in scenario.outcomes}
    return [bite for bite in scenario.bites if (bite.message, bite.evidence) not in told]


def _view(run_folder: Path, folder: Path, scenario: ScenarioSummary, share: int) -> View:
    told, note = None, None
    try:
        told = story.read(folder / "claim" / HISTORY)
    except HarnessError as error:
        what = "The fates of these messages" if scenario.anomalies or scenario.reported else "The timeline"
        note = f"{what} cannot be shown: {error}"
    cards, listed = _cards(scenario, told, share)
    return View(
        scenario,
        anchor(scenario.id),
        _further_bites(scenario),
        cards,
        listed,
        [ControlView(control, _bites(folder / f"control-{control.name}" / HISTORY)) for control in scenario.controls],
        list(_raw(run_folder, folder)),
        note,
        timeline.draw(told, _marks(scenario, cards)) if told else None,
        diff.diffs(told.fates, [*scenario.anomalies, *scenario.reported], share * _DIFF_LINES // _STORIES)
        if told
        else [],
    )


def _marks(scenario: ScenarioSummary, cards: Sequence[Card]) -> list[Mark]:
    """Every anomaly for the timeline; those on cards have numbers."""
    numbers = {id(finding.anomaly): finding.number for card in cards for finding in card.findings}
    return [
        Mark(anomaly, numbers.get(id(anomaly)), breaks)
        for anomalies, breaks in ((scenario.anomalies, True), (scenario.reported, False))
        for anomaly in anomalies
    ]


def _cards(scenario: ScenarioSummary, told: Told | None, share: int) -> tuple[list[Card], list[Listed]]:
    """Cards for the first messages with an anomaly, and a list of every anomaly of the others."""
    marked = [(a, True) for a in scenario.anomalies] + [(a, False) for a in scenario.reported]
    by_message: dict[str | None, list[tuple[Anomaly, bool]]] = {}
    for anomaly, breaks in marked:
        by_message.setdefault(anomaly.message, []).append((anomaly, breaks))
    shown = list(by_message)[:share]
    fates = story.stories([message for message in shown if message is not None], told) if told else {}
    number = count(1)
    cards = [
        Card(
            message,
            [
                Finding(a, next(number), breaks, story.near(a, told) if told else None)
                for a, breaks in by_message[message]
            ],
            fates.get(message or ""),
        )
        for message in shown
    ]
    return cards, _listed((a, breaks) for message in list(by_message)[share:] for a, breaks in by_message[message])


def _listed(anomalies: Iterable[tuple[Anomaly, bool]]) -> list[Listed]:
    alike: dict[tuple[str, bool], dict[str, list[str]]] = {}
    for anomaly, breaks in anomalies:
        details = alike.setdefault((anomaly.kind, breaks), {})
        details.setdefault(anomaly.detail, []).append(anomaly.message or "the server")
    return [
        Listed(
            kind,
            breaks,
            sum(map(len, details.values())),
            "\n".join(one_line(f"{', '.join(ranges(messages))}: {detail}") for detail, messages in details.items()),
        )
        for (kind, breaks), details in alike.items()
    ]


def _bites(history: Path) -> list[Bitten]:
    try:
        return story.read(history).fates.bites
    except HarnessError:
        return []  # the control's own verdict says that it left no history


def _raw(run_folder: Path, folder: Path) -> Iterable[RawRun]:
    runs = (path for path in folder.glob("*/") if path.is_dir())
    for run in sorted(runs, key=lambda path: (path.name != "claim", path.name)):
        files = [
            File(path.name, "/".join(quote(part, safe="") for part in path.relative_to(run_folder).parts))
            for path in sorted(run.iterdir())
            if path.is_file()
        ]
        if files:
            yield RawRun(run.name, files)
