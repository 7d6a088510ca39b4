"""What came of the ledger, `ledger.json` in a folder of its own, its page and table: pure functions of that file."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from harness.checker import VerdictWord
from harness.errors import HarnessError
from harness.report import html
from harness.report.run import read, write_atomically
from harness.report.text import times

FILE = "ledger.json"
TABLE = "table.md"
Word = Literal["caught", "survived", "mistaken", "error"]
RoundWord = Literal["kept", "accused", "unproven", "error"]
# The verdict that has the same colour and sign.
_LIKE: Final[dict[Word | RoundWord, VerdictWord]] = {
    "caught": "kept",
    "survived": "broken",
    "mistaken": "broken",
    "error": "error",
    "kept": "kept",
    "accused": "broken",
    "unproven": "unproven",
}


class Shown(msgspec.Struct, frozen=True):
    """A case in which an entry showed anomalies: which, and when it ended, from the start of its pytest."""

    case: str
    anomalies: list[str]
    seconds: float


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one entry. `case` has to catch it; `by` is the first that did, after so many `seconds`.

    `report` is the page of its run, from the folder of the ledger; `shown` are all cases in which it showed anomalies,
    the first of them first, and `unjudged` those that ended in an error: a broken server may let a control hang.
    """

    entry: str
    hop: str
    mistake: str
    anomaly: str
    case: str
    word: Word
    why: str
    seconds: float
    by: str | None = None
    report: str | None = None
    shown: list[Shown] = []
    unjudged: list[str] = []

    @property
    def like(self) -> VerdictWord:
        """The verdict that has the same colour and sign."""
        return _LIKE[self.word]


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one run of all scenarios on a correct server."""

    target: str
    number: int
    word: RoundWord
    why: str
    seconds: float
    report: str | None = None

    @property
    def like(self) -> VerdictWord:
        """The verdict that has the same colour and sign."""
        return _LIKE[self.word]


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """`ledger.json`: what was planned, and what came of it as far as it came. Its times are those of one `machine`."""

    schema: int = 1
    run: str
    started: str
    command: str
    full: bool
    seconds: float
    entries_planned: int
    rounds_planned: int
    entries: list[Tried]
    rounds: list[Round]
    machine: str = ""

    @property
    def date(self) -> str:
        """The day on which it was started."""
        return self.started.partition("T")[0]

    @property
    def is_finished(self) -> bool:
        """Whether all that was planned has ended."""
        return (len(self.entries), len(self.rounds)) == (self.entries_planned, self.rounds_planned)

    @property
    def is_green(self) -> bool:
        """Whether every entry is caught, and every correct server kept its claim each time."""
        return self.is_finished and not self.uncaught and not self.accused

    @property
    def uncaught(self) -> list[Tried]:
        """The entries that are not caught as they have to be."""
        return [tried for tried in self.entries if tried.word != "caught"]

    @property
    def accused(self) -> list[Round]:
        """The runs in which a correct server did not keep its claim."""
        return [each for each in self.rounds if each.word != "kept"]

    @property
    def word(self) -> Literal["green", "red", "stopped"]:
        """All of it in a word or two."""
        if self.uncaught or self.accused:
            return "red"
        return "green" if self.is_finished else "stopped"

    @property
    def sentence(self) -> str:
        """What came of it, in a sentence."""
        told = _told(len(self.entries), self.entries_planned, self.uncaught)
        if self.rounds_planned:
            told = [*told, _told_of_rounds(self.rounds, self.rounds_planned, self.accused)]
        return "; ".join(told) + f"; {self.seconds:.0f} s."


def _told(tried: int, planned: int, uncaught: Sequence[Tried]) -> list[str]:
    if not planned:
        return []
    of = times(planned, "entry", "entries")
    if uncaught:
        return [f"{len(uncaught)} of {of} not caught: {', '.join(each.entry for each in uncaught)}"]
    if tried < planned:
        return [f"stopped when {tried} of {of} {'was' if tried == 1 else 'were'} tried and caught"]
    return [f"{tried} of {of} caught"]


def _told_of_rounds(rounds: Sequence[Round], planned: int, accused: Sequence[Round]) -> str:
    of = f"{len(rounds)} of {times(planned, 'run')}" if len(rounds) < planned else times(planned, "run")
    if not accused:
        return f"no correct server accused in {of}"
    names = dict.fromkeys(each.target for each in accused)
    return f"{len(accused)} of {of} of correct servers not kept: {', '.join(names)}"


def load(folder: Path) -> Ledger:
    """Read what came of a ledger.

    Raises:
        HarnessError: it cannot be read.
    """
    return read(folder / FILE, Ledger)


def newest(reports: Path) -> Ledger | None:
    """The newest ledger in a folder of reports that came to its end, if there is one; a single entry is none."""
    for path in sorted(reports.glob(f"ledger-*/{FILE}"), reverse=True):
        with contextlib.suppress(HarnessError):
            ledger = load(path.parent)
            if ledger.is_finished and len(ledger.entries) > 1:
                return msgspec.structs.replace(ledger, run=path.parent.name)
    return None


def save(folder: Path, ledger: Ledger) -> None:
    """Write what came of a ledger, its page, and its table as the README has it.

    Raises:
        HarnessError: one of them cannot be written.
    """
    encoded = msgspec.json.format(msgspec.json.encode(ledger), indent=2)
    write_atomically(folder / FILE, encoded + b"\n")
    write_atomically(folder / TABLE, table(ledger).encode())
    write(folder)


def write(folder: Path) -> None:
    """Write the page of a ledger.

    Raises:
        HarnessError: `ledger.json` cannot be read, or the page cannot be written.
    """
    write_atomically(folder / "index.html", render(load(folder)))


def render(ledger: Ledger) -> bytes:
    """The content of index.html."""
    return html.page("ledger.html", ledger=ledger, servers=by_server(ledger.rounds))


def by_server(rounds: Sequence[Round]) -> dict[str, list[Round]]:
    """The runs of each correct server."""
    found: dict[str, list[Round]] = {}
    for each in rounds:
        found.setdefault(each.target, []).append(each)
    return found


def table(ledger: Ledger) -> str:
    """The entries in Markdown, below a line on whose times they are."""
    lines = [
        f"Times to catch of {ledger.date}, on {ledger.machine}:",
        "",
        "| entry | what is wrong | where | anomaly | caught by | seconds |",
        "|---|---|---|---|---|--:|",
    ]
    for each in ledger.entries:
        by, seconds = (f"`{each.by}`", f"{each.seconds:.1f}") if each.by else (each.word, "")
        cells = (f"`{each.entry}`", each.mistake, each.hop, f"`{each.anomaly}`", by, seconds)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
