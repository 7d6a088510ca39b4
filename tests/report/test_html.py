"""index.html: complete, safe, small and without requests."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import history as h
from harness import repeat, report
from harness.checker import Anomaly
from harness.outcome import Outcome
from harness.report import html, ledger, text
from harness.report.ledger import Ledger, Tried
from tests.report import samples
from tests.report.samples import RunBuilder, Script, declared

TEMPLATES = Path(html.__file__).parent / "templates"
_VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})
_HOSTILE = "</script><img src=x onerror=alert(1)>]]>\0\x1b\u202e\u2066 \U0001f469\u200d\U0001f467 '\"{{ 7*7 }}<!--"


class Page(HTMLParser):
    """A parsed page: its elements, its text, its styles and scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.inner: dict[str, str] = {"style": "", "script": ""}
        self.source = source
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Every element is closed in its turn."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text, and what is not shown apart."""
        if self.open and self.open[-1] in self.inner:
            self.inner[self.open[-1]] += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of the elements of one name."""
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path) -> Page:
    """The page of a run folder."""
    report.write(folder)
    return Page((folder / "index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def showcase(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a run with one of everything."""
    folder = tmp_path_factory.mktemp("reports") / "showcase"
    samples.write_showcase(folder)
    return page_of(folder)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a run in which every text of others is hostile."""
    folder = tmp_path_factory.mktemp("reports") / "hostile"
    built = RunBuilder(folder, command=_HOSTILE, claims={_HOSTILE: _HOSTILE}, environment={_HOSTILE: _HOSTILE})
    scenario = _HOSTILE.replace("/", "").replace("\0", "") + "-python-polling"
    case = declared(scenario, family=_HOSTILE, title=_HOSTILE, replay=_HOSTILE, nodeid=_HOSTILE)
    built.run(case, {"claim": samples.broken_claim("lost", body=_HOSTILE + "x" * 10_000)})
    built.omit("missing", _HOSTILE, _HOSTILE)
    built.omit("not_offered", _HOSTILE, _HOSTILE)
    built.preflight(_HOSTILE)
    return page_of(folder)


def test_the_page_makes_no_request(showcase: Page) -> None:
    """Nothing on the page loads anything: no image, no external style or script, and links only into the run folder."""
    assert not {tag for tag, _ in showcase.elements} & {"img", "link", "iframe", "object", "embed", "form"}
    assert all("src" not in attributes and "style" not in attributes for _, attributes in showcase.elements)
    links = [attributes["href"] or "" for attributes in showcase.all("a")]
    assert not any(re.match(r"[a-z]+:|/", link) for link in links)
    assert "url(" not in showcase.inner["style"]


@pytest.mark.parametrize("tag", ["style", "script"])
def test_the_policy_allows_exactly_what_the_page_holds(showcase: Page, tag: str) -> None:
    """The Content-Security-Policy names the hash of the one style and the one script, and allows nothing else."""
    digest = base64.b64encode(hashlib.sha256(showcase.inner[tag].encode()).digest()).decode()
    policy = next(meta["content"] or "" for meta in showcase.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; ")
    assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_every_link_leads_somewhere(showcase: Page, tmp_path: Path) -> None:
    """Fragments name an element of the page, each id once, and raw files exist."""
    built = samples.write_showcase(tmp_path)
    ids = [attributes["id"] for _, attributes in showcase.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for link in (attributes["href"] or "" for attributes in showcase.all("a")):
        assert link[1:] in ids if link.startswith("#") else (built.folder / link).is_file()


def test_every_scenario_with_a_history_has_a_timeline(showcase: Page) -> None:
    """Kept, broken, unproven or interrupted: each claim's run is drawn, with a text alternative."""
    pictures = [attributes for attributes in showcase.all("svg") if attributes.get("role") == "group"]
    assert len(pictures) == 11
    assert all(attributes["aria-label"] for attributes in pictures)


def test_every_anomaly_on_a_card_and_its_mark_lead_to_each_other(showcase: Page) -> None:
    """The card links to the mark in the timeline, the mark back to the card, both with a name of their own."""
    links = {attributes["href"]: attributes for attributes in showcase.all("a") if "." in (attributes["href"] or "")}
    marks = {f"#{a['id']}": a for a in showcase.all("a") if a.get("id") and a.get("aria-label")}
    cards = {href: a for href, a in links.items() if href in marks}
    assert len(cards) == len(marks) == 9
    for href in cards:
        assert marks[href]["href"] == (href or "").replace(".t", ".")
        assert links[marks[href]["href"]]["aria-label"]


def test_a_difference_in_the_store_is_shown_as_one(showcase: Page) -> None:
    """Scenarios with an anomaly of the store show expected and stored messages, the others do not."""
    assert showcase.text.count("Expected and stored") == 3
    flat = re.sub(r"\s+", " ", showcase.text)
    assert "1 message not stored where expected, 0 rows too many or elsewhere" in flat


def test_a_hundred_kept_scenarios_stay_small(tmp_path: Path) -> None:
    """With a timeline for each, a run of a hundred kept scenarios takes less than 12 kB for one."""
    built = RunBuilder(tmp_path)
    for number in range(100):
        built.kept(f"lock-{number}-python-polling")
    report.write(tmp_path)
    assert (tmp_path / "index.html").stat().st_size < 100 * 12_000


def test_what_is_not_kept_is_open_and_first(showcase: Page) -> None:
    """Kept scenarios are collapsed, the others open and in front."""
    is_open = ["open" in attributes for attributes in showcase.all("details")]
    assert is_open == [True] * 7 + [False] * 4


def test_the_top_says_the_verdict_and_why(showcase: Page) -> None:
    """The page begins with the gate's word, its reason and the counts."""
    top = re.sub(r"\s+", " ", showcase.text.split("Scenarios")[0])
    assert "!error 2 of 11 planned scenarios ended in an error" in top
    assert "11 planned 10 ran ✓4 kept ?2 unproven ✗3 broken !2 error 2 not offered 1 missing" in top


@pytest.mark.parametrize(
    "text",
    [
        "exactly-once in total order does not hold: lost",
        "What a killed server had is not lost.",
        "acknowledged, not stored",
        "attempt 1 has an unknown outcome: transport close",
        "bob never",
        "the server ended by itself: exit status 1",
        "sent 20 characters, found 17",
        "its row is readable while none of its attempts is answered",
        "null dirty",
        "raise protocol.ack_timeout_seconds",
        "no message was acknowledged",
        "toxiproxy: the control plane answers 503",
        "the run ended during its claim",
        "pytest 'scenarios/test_kill.py::test_it[kill-mid-emit-python-websocket]' --seed 7",
        "the target has no crash point 'after_commit'",
        "there is no Docker on this machine",
        "2.12.0 (go install)",
        "harness/targets/reference/target.toml",
    ],
)
def test_the_page_tells_everything(showcase: Page, text: str) -> None:
    """Verdicts, fates, bites, controls, commands, the run and what did not run are all on the page."""
    assert text in showcase.text


def test_hostile_text_stays_text(hostile: Page) -> None:
    """No text of others becomes an element, an attribute or part of the script."""
    assert not hostile.all("img")
    assert len(hostile.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in hostile.elements for name in attributes)
    assert "{{ 7*7 }}" in hostile.text
    assert "onerror" not in hostile.inner["script"]


def test_hostile_names_stay_text_in_the_timeline_and_the_diff(tmp_path: Path) -> None:
    """Names of clients and faults, reasons, ids of rows and contents cannot leave the SVG or the list they stand in."""
    evil = '</title></svg></li><img src=x onerror=alert(1)>" onload=alert(1) {{ 7*7 }}'
    script = Script()
    message = script.send(evil)
    script.add(h.FaultBegan, number=1, fault=evil, kind="link", on=evil)
    script.add(h.Bitten, number=1, fault=evil, message=message, seen=True, evidence=evil)
    script.add(h.Receiving, receiver=evil)
    script.add(h.ServerExited, status=1, expected=False, reason=evil)
    script.unanswered(script.post(evil))
    for number in (evil, evil):
        script.add(h.Row, id=number, client_offset=message, content=evil + "!")
    script.add(h.Finished)
    RunBuilder(tmp_path).run(declared("lock-python-polling"), {"claim": script.history()})
    page = page_of(tmp_path)
    assert not page.all("img")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count("{{ 7*7 }}") > 10
    assert {"svg", "figure", "title", "path"} <= {tag for tag, _ in page.elements}


def test_what_cannot_be_seen_is_shown(hostile: Page) -> None:
    """Control characters and bidirectional overrides are nowhere on the page but as escapes."""
    assert not re.search("[\0-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", hostile.source)
    assert "\\u202e" in hostile.text
    assert "<span class='hidden-character'>\\u202e</span>" in hostile.source


def test_a_body_is_cut(hostile: Page) -> None:
    """A body of 10 kB shows its beginning and its length."""
    assert "x" * (text.BODY_CHARACTERS + 1) not in hostile.source
    assert re.search("of 10,0[0-9]{2} characters", hostile.text)


def test_ten_thousand_messages_are_all_listed_in_two_megabytes(tmp_path: Path) -> None:
    """No anomaly is cut, though two receivers miss every message, and the page stays small."""
    script = Script()
    messages = [script.post(f"body {number}") for number in range(10_000)]
    missed = [
        Anomaly("missed", message, f"stored as row {number}, never received by {receiver}", receiver, 1.0)
        for receiver in ("undisturbed", "disturbed")
        for number, message in enumerate(messages)
    ]
    built = RunBuilder(tmp_path)
    result = built.broken("lock-python-polling", "lost")
    (tmp_path / result.id / "claim" / "history.jsonl").write_bytes(samples.encoded(script.finish([])))
    verdict = msgspec.structs.replace(result, anomalies=missed)
    (tmp_path / result.id / "verdict.json").write_bytes(msgspec.json.encode(verdict))
    page = page_of(tmp_path)
    assert (tmp_path / "index.html").stat().st_size < 2_000_000
    for receiver in ("undisturbed", "disturbed"):
        assert page.text.count(f", never received by {receiver}") == 10_000
    assert all(message in page.text for message in messages)


def test_anomalies_that_are_alike_share_a_line(tmp_path: Path) -> None:
    """Thousands of lost messages are a few fates, and one range for all the others."""
    built = RunBuilder(tmp_path)
    built.run(declared("lock-python-polling"), {"claim": samples.lost_everything(1000)})
    assert "r7-alice-0201..1000: acknowledged, not stored" in page_of(tmp_path).text


def test_without_a_history_the_anomalies_are_still_shown(tmp_path: Path) -> None:
    """A history that is gone takes the fates with it, not the anomalies, and the page says so."""
    built = RunBuilder(tmp_path)
    result = built.broken("lock-broken-python-polling", "lost")
    (tmp_path / result.id / "claim" / "history.jsonl").unlink()
    page = page_of(tmp_path)
    assert "acknowledged, not stored" in page.text
    assert "The fates of these messages cannot be shown: cannot read the history" in page.text
    assert not any("in the timeline" in (a.get("aria-label") or "") for a in page.all("a"))


def test_a_run_without_scenarios_has_a_page(tmp_path: Path) -> None:
    """A run in which nothing was planned says so on its page."""
    RunBuilder(tmp_path)
    assert "No scenario was planned" in page_of(tmp_path).text


def test_the_logs_of_the_run_are_reached_from_its_page(tmp_path: Path) -> None:
    """What Toxiproxy printed; a log in which nothing is would be no help."""
    RunBuilder(tmp_path)
    (tmp_path / "toxiproxy-42.log").write_text("listening\n")
    (tmp_path / "fork-42-0.log").touch()
    logs = [link["href"] for link in page_of(tmp_path).all("a") if str(link["href"]).endswith(".log")]
    assert logs == ["toxiproxy-42.log"]


def test_the_page_is_a_function_of_the_folder(tmp_path: Path) -> None:
    """And of the ledger beside it: writing the report twice gives the same bytes."""
    samples.write_showcase(tmp_path)
    names = ("summary.json", "junit.xml", "index.html")
    report.write(tmp_path)
    first = [(tmp_path / name).read_bytes() for name in names]
    report.write(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == first


def test_a_repeated_scenario_shows_its_worst_repetition(tmp_path: Path) -> None:
    """The section says how often and which; stories and raw files are those of the worst repetition, and exist."""
    claims = [samples.claim(), samples.broken_claim("lost", body="the one that got lost"), samples.claim()]
    RunBuilder(tmp_path, repeat=3).repeat(declared("lock-often-python-polling"), *claims)
    page = page_of(tmp_path)
    sentence = f"broken in 1 of 3 runs, kept in 2; this is run 2 of 3, with seed {repeat.seeds(7, 3)[1]}"
    assert page.text.count(f"Repeated: {sentence}.") == 1
    assert "the one that got lost" in page.text
    raw = [link for attributes in page.all("a") if (link := attributes["href"] or "").endswith((".jsonl", ".log"))]
    place = "lock-often-python-polling/repeat-02"
    assert raw[:2] == [f"{place}/claim/{name}" for name in ("history.jsonl", "server.log")]
    assert all(name.startswith(f"{place}/") for name in raw)
    assert all((tmp_path / link).is_file() for link in raw)


def test_a_sweep_is_a_strip_with_a_mark_for_each_case(tmp_path: Path) -> None:
    """Each mark has its case, place and outcome; below, neighbours with one outcome are one line."""
    RunBuilder(tmp_path).swept("wire-up-python-websocket", samples.cases(range(3)))
    page = page_of(tmp_path)
    titles = [each["title"] for each in page.all("li") if each.get("class") == "resent"]
    assert titles == [f"wire/up/{at}: sent again (byte {at + 1} of 90)" for at in range(3)]
    assert "wire/up/0..2" in page.text


def test_each_case_of_a_sweep_is_told_without_a_script(tmp_path: Path) -> None:
    """In a list: id, place, outcome, evidence and message; below the strip the first bad one, with its command."""
    RunBuilder(tmp_path).swept("wire-up-python-websocket", samples.cases(range(3), broken={2}))
    flat = re.sub(r"\s+", " ", page_of(tmp_path).text)
    first, listed = flat.split("Each case with its evidence ")
    for at in range(2):
        told = f"wire/up/{at} byte {at + 1} of 90: sent again cut after {at} (r7-bob-000{at})"
        assert (told in listed, told in first) == (True, False)
    assert (
        "wire/up/2 byte 3 of 90: duplicate cut after 2 (r7-alice-0002) pytest test_wire.py --seed 7 --case wire/up/2"
        in (first)
    )
    assert "wire/up/2 byte 3 of 90: duplicate cut after 2 (r7-alice-0002)" in listed


def test_evidence_of_a_case_is_told_once_and_that_of_other_faults_beside_it(tmp_path: Path) -> None:
    """A bite that belongs to no case, as the first of a pair, stays in a list of its own."""
    built = RunBuilder(tmp_path)
    (bite,) = built.swept("wire-up-python-websocket", samples.cases(range(1))).bites
    text = page_of(tmp_path).text
    assert "Evidence of bite of 1 further fault" in text
    own = Outcome("wire/up/0", "byte 1 of 1", "resent", "sent again", bite.evidence, bite.message)
    again = RunBuilder(tmp_path / "again")
    again.swept("wire-up-python-websocket", [own])
    assert "Evidence of bite" not in page_of(tmp_path / "again").text


def test_shares_of_a_sweep_are_one_strip_under_one_heading(tmp_path: Path) -> None:
    """In the order of the positions, above the shares in theirs; a share without outcomes is named."""
    built = RunBuilder(tmp_path)
    built.swept("wire-up-2of3-python-websocket", samples.cases(range(30, 60), broken={40}), (2, 3))
    built.swept("wire-up-1of3-python-websocket", samples.cases(range(30)), (1, 3))
    built.plan(samples.declared("wire-up-3of3-python-websocket", family="wire", share=(3, 3)))
    built.swept("lock-sweep-python-websocket", samples.cases(range(90, 95)))
    page = page_of(tmp_path)
    titles = [(each["title"] or "").partition(":")[0] for each in page.all("li") if each.get("title")]
    assert titles == [f"wire/up/{at}" for at in (*range(60), *range(90, 95))]
    flat = re.sub(r"\s+", " ", page.text)
    assert "wire-up-python-websocket, in 3 shares 60 cases " in flat
    assert "Without any outcome: wire-up-3of3-python-websocket" in flat
    sections = [attributes["id"] for attributes in page.all("details") if "id" in attributes]
    assert sections == [
        f"scenario-{name}-python-websocket" for name in ("wire-up-1of3", "wire-up-2of3", "wire-up-3of3", "lock-sweep")
    ]
    assert not page.open


def test_thousands_of_cases_stay_small(tmp_path: Path) -> None:
    """A case takes less than 320 bytes: its mark, and a line of what it came to."""
    RunBuilder(tmp_path / "few").swept("wire-up-python-websocket", samples.cases(range(1)))
    RunBuilder(tmp_path / "many").swept("wire-up-python-websocket", samples.cases(range(5001)))
    for name in ("few", "many"):
        report.write(tmp_path / name)
    few, many = ((tmp_path / name / "index.html").stat().st_size for name in ("few", "many"))
    assert many - few < 5000 * 320


@pytest.mark.parametrize("template", ["index.html", "ledger.html", "entries.html"])
def test_what_scrolls_can_be_reached_by_a_key(template: str) -> None:
    """Each part of a page that can be wider than it has a name and a place among what is focused."""
    source = (TEMPLATES / template).read_text(encoding="utf-8")
    scrolling = re.findall('<div class="scroll"[^>]*>', source)
    assert scrolling
    assert all('role="region"' in tag and "aria-label=" in tag and 'tabindex="0"' in tag for tag in scrolling)


def test_the_newest_ledger_beside_the_run_is_on_its_page(tmp_path: Path) -> None:
    """With its day, what came of it and its table; each link of it leads from the folder of the run into its own."""
    RunBuilder(tmp_path / "run").kept()
    page = page_of(tmp_path / "run")
    assert "There is no ledger in this folder of reports: python -m harness ledger tries" in page.text
    caught: dict[str, Any] = {
        "hop": "server",
        "mistake": "It forgets.",
        "anomaly": "lost",
        "case": "cut",
        "why": "",
        "seconds": 7.0,
    }
    entries = [Tried(entry=name, word="caught", by="cut", report=f"{name}/r/index.html", **caught) for name in "ab"]
    counts: dict[str, Any] = {"seconds": 9.0, "entries_planned": 2, "rounds_planned": 0}
    own = Ledger(run="", started="2026-01-31T12:00", command="", full=False, entries=entries, rounds=[], **counts)
    (tmp_path / "ledger-1").mkdir()
    ledger.save(tmp_path / "ledger-1", own)
    page = page_of(tmp_path / "run")
    links = [link for a in page.all("a") if (link := a["href"] or "").startswith("../")]
    assert links == [f"../ledger-1/{place}index.html" for place in ("", "a/r/", "b/r/")]
    assert "the ledger of 2026-01-31. 2 of 2 entries caught; 9 s." in page.text
    assert "It forgets." in page.text
    assert not page.open


def test_a_scenario_that_ran_once_says_nothing_of_repeating(showcase: Page) -> None:
    """Without repetitions there is no word about them."""
    assert "Repeated:" not in showcase.text
