"""A run over time: where everything is, that nothing is too much, and that it always can be drawn."""

import re
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest

from harness import checker
from harness import history as h
from harness.checker import Anomaly
from harness.history import History
from harness.report import story, strokes, timeline
from harness.report.timeline import Mark, Timeline
from tests.report import samples
from tests.report.samples import TOKEN, Script

SENDERS = [f"{name}{twin}" for name in ("alice", "carol", "dave", "erin", "frank") for twin in ("", "a", "b", "c")]


def drawn(history: History, anomalies: Sequence[Anomaly] | None = None, numbered: int = 200) -> Timeline:
    """The timeline of a history, with the anomalies that the checker finds in it."""
    found = checker.judge(history).anomalies if anomalies is None else anomalies
    marks = [Mark(it, number if number <= numbered else None, True) for number, it in enumerate(found, start=1)]
    return timeline.draw(story.tell(history), marks)


def paths(picture: Timeline, kind: str) -> list[str]:
    """The paths of one kind."""
    return [shape.path for shape in picture.shapes if shape.kind == kind]


def titles(picture: Timeline) -> list[str]:
    """What shapes say when they are pointed at."""
    return [shape.title for shape in picture.shapes if shape.title]


def lanes(picture: Timeline) -> list[str]:
    """The names of the lanes, from above."""
    return [text.text for text in sorted(picture.texts, key=lambda text: text.y) if text.kind == "lane"]


def size(picture: Timeline) -> int:
    """About how many bytes the picture takes on a page."""
    return sum(len(repr(part)) for part in (*picture.shapes, *picture.texts, *picture.pins))


def crowd(each: int, *, lost: Sequence[str] = (), receivers: Sequence[str] = ("bob-r", "eve-r")) -> History:
    """Twenty senders at once; every tenth attempt has no answer; the first messages of some are lost."""
    script = Script(order="sender")
    for receiver in receivers:
        script.add(h.Receiving, receiver=receiver)
        script.add(h.Connected, client=receiver, connection=1)
    messages = []
    for number in range(each):
        for sender in SENDERS:
            message = script.post(f"body {number}", sender)
            if number % 10 == 5:
                script.unanswered(message)
                script.attempt(message, 2)
                script.acknowledge(message, 2)
            else:
                script.acknowledge(message)
            for receiver in (*receivers, "bob"):
                script.add(h.Received, receiver=receiver, server_offset=1, content=script.sent(message))
            messages.append((message, script.sent(message)))
    script.add(h.Drained, complete=True)
    for number, (message, content) in enumerate(messages):
        if message not in {f"{TOKEN}-{name}-0001" for name in lost}:
            script.add(h.Row, id=number, client_offset=message, content=content)
    script.add(h.Finished)
    return script.history()


def test_the_lanes_follow_the_way_of_a_message() -> None:
    """Faults, server, senders, receivers, rows, from above; the message that ends a run has no lane."""
    script = Script()
    during = script.post("during")
    script.fault(during)
    marker = script.send("end", h.MARKER)
    assert lanes(drawn(script.finish([during, marker]), [])) == ["faults", "server", "alice", "bob", "final read"]


def test_the_marker_has_a_lane_when_an_anomaly_is_its_own() -> None:
    """An anomaly of the message that ends a run has a place like any other."""
    script = Script()
    script.send("before")
    marker = script.post("end", h.MARKER)
    script.acknowledge(marker)
    picture = drawn(script.finish([f"{TOKEN}-alice-0001"]))
    assert h.MARKER in lanes(picture)
    assert all(pin.lead for pin in picture.pins)


def test_time_goes_to_the_right_and_spans_the_traffic() -> None:
    """Ticks are round, in order and inside; the time before the first message is not shown."""
    script = Script()
    first = script.send("first")
    history = script.finish([first])
    ticks = [text for text in drawn(history).texts if text.kind == "tick"]
    times = [float(text.text.removesuffix(" s")) for text in ticks]
    assert times == sorted(times)
    assert times[0] >= 0.4
    assert [text.x for text in ticks] == sorted({text.x for text in ticks})
    assert all(strokes.LEFT <= text.x <= strokes.RIGHT for text in ticks)
    assert [text.text.endswith(" s") for text in ticks] == [True] + [False] * (len(ticks) - 1)


@pytest.mark.parametrize("end", [0.02, 0.34, 1.0, 7.7, 59.0, 3600.0, 1e6])
def test_there_are_some_ticks_and_not_too_many(end: float) -> None:
    """From hundredths of a second to days there are two to eleven ticks, and their labels differ."""
    times, decimals = strokes.tick_times(strokes.Axis(0.0, end))
    labels = [f"{time:.{decimals}f}" for time in times]
    assert 2 <= len(labels) <= 11
    assert len(set(labels)) == len(labels)
    assert [float(label) for label in labels] == pytest.approx(times)


def test_a_fault_is_a_bar_with_its_name_and_its_bite() -> None:
    """A fault spans its time; the bite says on which message and how that was seen."""
    picture = drawn(samples.claim())
    assert [text.text for text in picture.texts if text.kind == "fault-name"] == ["lose_acknowledgement on alice"]
    (bar,) = paths(picture, "fault")
    axis_second = re.search(r"h(\d+)", bar)
    assert axis_second is not None
    assert int(axis_second[1]) > 100
    assert any("bit r7-alice-0002: its row is readable" in title for title in titles(picture))


def test_a_fault_that_never_healed_lasts_to_the_edge() -> None:
    """A fault without an end is drawn to the end of the time shown, and says so."""
    script = Script()
    message = script.post()
    script.add(h.FaultBegan, number=1, fault="lock", kind="store", on="the store")
    script.acknowledge(message)
    picture = drawn(script.history())
    (bar,) = paths(picture, "fault")
    begin, width = (int(number) for number in re.findall(r"M(\d+) \d+h(\d+)", bar)[0])
    assert begin + width == strokes.RIGHT
    assert "lock on the store (never healed)" in [text.text for text in picture.texts]


def test_fifty_faults_are_all_drawn_and_few_are_named() -> None:
    """Faults without room for a name share a path, and the picture says how many they are."""
    script = Script()
    message = script.post()
    for number in range(50):
        script.add(h.FaultBegan, number=number, fault="cut", kind="link", on="the link of alice")
        script.add(h.FaultEnded, number=number)
    script.acknowledge(message)
    picture = drawn(script.finish([message]))
    named = [text for text in picture.texts if text.kind == "fault-name"]
    bars = "".join(paths(picture, "fault"))
    assert f"{50 - len(named)} further faults drawn without a name" in picture.notes
    assert bars.count("h") == 50


def test_the_server_is_up_from_start_to_exit_and_again() -> None:
    """A killed server leaves a gap; its end within the traffic is a mark that says why."""
    script = Script()
    first = script.send("first")
    script.add(h.ServerExited, status=-9, expected=True, reason="SIGKILL")
    script.add(h.ServerStarted, pid=2)
    second = script.send("second")
    picture = drawn(script.finish([first, second]))
    (up,) = paths(picture, "up")
    assert up.count("h") == 2
    assert titles(picture) == ["the server ends, status -9: SIGKILL"]


def test_a_connection_has_gaps_and_failed_connects() -> None:
    """A client's line is interrupted where it has no connection, and ticks say how often it tried in vain."""
    script = Script()
    first = script.send("first")
    script.add(h.Disconnected, client="alice", connection=1, reason="transport close")
    for number in (2, 3):
        script.add(h.ConnectFailed, client="alice", connection=number, reason="refused")
    script.add(h.Connected, client="alice", connection=4)
    picture = drawn(script.finish([first, script.send("second")]))
    assert paths(picture, "link")[0].count("h") == 2
    assert paths(picture, "connect-failed")[0].count("z") == 2


def test_acknowledged_attempts_are_one_path_and_the_others_are_single() -> None:
    """However many attempts were acknowledged, they are one path; each without an answer says its reason."""
    script = Script()
    messages = [script.send() for _ in range(30)]
    open_one = script.post()
    script.unanswered(open_one)
    script.attempt(open_one, 2)
    script.add(h.Fail, message=open_one, attempt=2, reason="not connected")
    script.attempt(open_one, 3)
    script.acknowledge(open_one, 3)
    script.add(h.Ok, message=open_one, attempt=1, late=True)
    picture = drawn(script.finish([*messages, open_one]))
    assert [path.count("h") for path in paths(picture, "acknowledged")] == [31]
    assert [title for title in titles(picture) if "r7-alice-0031" in title] == [
        "attempt 1 of r7-alice-0031, unknown outcome: transport close",
        "attempt 2 of r7-alice-0031, did not happen: not connected",
    ]
    assert len(paths(picture, "late")) == 1


def test_attempts_that_expect_no_answer_are_ticks() -> None:
    """A message that was only handed over has no interval, and is no trouble."""
    script = Script()
    message = script.post(policy="once")
    script.add(h.Settled, message=message, outcome="handed-over")
    picture = drawn(script.finish([message]), [])
    assert len(paths(picture, "emitted")) == 1
    assert not paths(picture, "unknown")


def test_an_attempt_that_is_open_at_the_end_lasts_to_the_edge() -> None:
    """A run that was interrupted mid-emit shows the open attempt, and that there was no final read."""
    script = Script()
    script.post()
    picture = drawn(script.history())
    (box,) = paths(picture, "unknown")
    begin, width = (int(number) for number in re.findall(r"M(\d+) \d+h(\d+)", box)[0])
    assert begin + width == strokes.RIGHT
    assert "the run ended before the final read" in [text.text for text in picture.texts]
    assert "No complete final read." in picture.summary


def test_rows_stand_in_the_order_of_the_read() -> None:
    """Few rows carry the initial of their sender and their number, and those of an anomaly are told apart."""
    picture = drawn(samples.broken_claim("duplicate", "unexpected"))
    names = [text.text for text in sorted(picture.texts, key=lambda t: t.x) if text.kind == "row-name"]
    assert names == ["?", "a1", "a2", "a2", "a3"]
    assert (len(paths(picture, "row")), len(paths(picture, "row-bad"))) == (2, 3)


def test_many_rows_are_one_strip() -> None:
    """Rows that have no room for a name share one path for each kind, and the first and the last are numbered."""
    script = Script(receivers="none")
    messages = [script.send() for _ in range(300)]
    picture = drawn(script.finish([*messages, messages[100]]))
    assert (len(paths(picture, "row")), len(paths(picture, "row-bad"))) == (1, 1)
    assert {"row 1", "row 301"} <= {text.text for text in picture.texts}


@pytest.mark.parametrize(
    "kind", ["lost", "duplicate", "corrupted", "unexpected", "crashed", "reordered", "missed", "repeated", "stuck"]
)
def test_every_kind_of_anomaly_has_a_mark_that_leads_to_its_place(kind: str) -> None:
    """An anomaly of a sender, a receiver, the server or a row has a pin, and a line to where it belongs."""
    picture = drawn(samples.broken_claim(kind))
    pin = next(pin for pin in picture.pins if pin.text.startswith(f"Anomaly {pin.number}: {kind}"))
    assert re.fullmatch(r"M\d+ \d+L\d+ \d+", pin.lead)


def test_an_anomaly_of_a_kind_unknown_here_needs_no_change() -> None:
    """An anomaly that names neither message nor time still has its mark."""
    anomaly = Anomaly("new_kind", None, "after 9 s")  # type: ignore[arg-type]  # a kind of tomorrow
    picture = drawn(samples.claim(), [anomaly])
    assert [pin.text for pin in picture.pins] == ["Anomaly 1: new_kind"]


@pytest.mark.parametrize("count", [1, 33, 200])
def test_no_mark_lies_upon_another(count: int) -> None:
    """Marks of the same moment are placed side by side, each a target of 24 pixels, all inside the drawing."""
    message = f"{TOKEN}-alice-0001"
    anomalies = [Anomaly("lost", message, "", time=0.5 + 0.4 * (number % 3)) for number in range(count)]
    pins = drawn(samples.claim(), anomalies).pins
    assert sorted(pin.number for pin in pins) == list(range(1, count + 1))
    assert all(12 <= pin.x <= strokes.WIDTH - 12 for pin in pins)
    for row in {pin.y for pin in pins}:
        places = sorted(pin.x for pin in pins if pin.y == row)
        assert all(right - left >= 24 for left, right in pairwise(places))
    heights = sorted({pin.y for pin in pins})
    assert all(lower - upper >= 24 for upper, lower in pairwise(heights))


def test_the_place_of_an_anomaly_is_set_off_from_what_it_lies_on() -> None:
    """Under each mark lies the same path for the colour of the ground: red on green or blue would be hard to tell."""
    picture = drawn(samples.broken_claim("lost"))
    kinds = [shape.kind for shape in picture.shapes]
    assert paths(picture, "halo") == paths(picture, "place") != []
    assert kinds.index("acknowledged") < kinds.index("halo") < kinds.index("place")


def test_anomalies_without_a_number_are_marked_together() -> None:
    """What has no card has no mark of its own, but its place in its lane, and the picture says how many."""
    picture = drawn(samples.lost_everything(1000), numbered=10)
    assert len(picture.pins) == 10
    assert "990 further anomalies marked without a number" in picture.notes
    assert (len(paths(picture, "place")), len(paths(picture, "places"))) == (0, 1)


def test_of_twenty_senders_those_with_trouble_have_a_lane() -> None:
    """Eight senders have lanes, the others share one, and the picture names them; an anomaly's sender has its own."""
    picture = drawn(crowd(3, lost=("erinc", "erinb"), receivers=()))
    shown = lanes(picture)
    assert {"erinc", "erinb", "12 others"} <= set(shown)
    assert len(set(shown) & set(SENDERS)) == 8
    assert any(n.startswith("12 senders in one lane, without their connections: ") for n in picture.notes)


def test_all_twenty_senders_have_a_lane_when_all_are_in_trouble() -> None:
    """No anomaly's lane is left out for want of room."""
    picture = drawn(crowd(2, lost=SENDERS))
    assert set(SENDERS) <= set(lanes(picture))
    assert all(pin.lead for pin in picture.pins)


@pytest.mark.parametrize(("each", "limit"), [(1, 12_000), (200, 24_000)])
def test_twenty_senders_stay_small(each: int, limit: int) -> None:
    """The size of the picture is bounded by its lanes, not by the number of messages."""
    assert size(drawn(crowd(each), [])) < limit


def test_one_sender_with_three_messages_is_tiny() -> None:
    """What most scenarios are takes a fraction of the bound."""
    assert size(drawn(samples.claim())) < 4_000


@pytest.mark.parametrize(
    "history", [samples.idle(), samples.failed(), samples.interrupted(), History([samples.claim().started])]
)
def test_what_is_unfinished_can_be_drawn(history: History) -> None:
    """A run without messages, without a final read, or with nothing but its beginning has a picture."""
    picture = drawn(history)
    assert picture.height > 0
    assert not picture.pins
    assert "final read" in lanes(picture)


def test_times_out_of_order_do_not_matter() -> None:
    """Events of different sources may be late: nothing is drawn backwards or outside."""
    script = Script()
    message = script.post()
    script.fault(message)
    script.attempt(message, 2, connection=2)
    script.acknowledge(message, 2)
    history = script.finish([message])
    last = history.events[-1].time
    reversed_time = [msgspec.structs.replace(event, time=last - event.time) for event in history.events[1:]]
    picture = drawn(History([history.started, *reversed_time]))
    drawn_bars = "".join(path for kind in ("fault", "up", "link", "acknowledged") for path in paths(picture, kind))
    assert drawn_bars
    assert "-" not in drawn_bars
    begins = re.findall(r"M(\d+) ", "".join(s.path for s in picture.shapes if s.kind not in ("rule", "grid")))
    assert all(strokes.LEFT - 6 <= int(x) <= strokes.RIGHT + 6 for x in begins)


def test_hostile_names_are_cut_and_spelled_out() -> None:
    """Names are short, in one line, and show what cannot be seen; the template escapes the rest."""
    script = Script()
    hostile = "\u202e\x1b</svg>" + "x" * 500
    message = script.post()
    script.add(h.FaultBegan, number=1, fault=hostile, kind="link", on=hostile)
    script.add(h.Connected, client=hostile, connection=1)
    script.add(h.Receiving, receiver=hostile)
    script.unanswered(message)
    script.add(h.ServerExited, status=1, expected=False, reason=hostile)
    picture = drawn(script.history())
    said = [text.text for text in picture.texts] + titles(picture) + [picture.summary]
    assert all(len(text) <= 400 and text.isprintable() for text in said)
    assert any("\\u202e" in text for text in said)


def test_the_legend_explains_every_kind_that_is_drawn_and_no_other() -> None:
    """Each kind of shape but the lines of the grid and what sets a mark off is in the legend."""
    picture = drawn(samples.broken_claim("duplicate", "crashed"))
    assert set(picture.keys) == {shape.kind for shape in picture.shapes} - {"grid", "rule", "halo"}
    assert set(picture.keys) <= set(timeline.KEYS)


def test_the_picture_is_told_in_words() -> None:
    """Who cannot see it gets faults, traffic and rows as a sentence each."""
    assert drawn(samples.claim()).summary == (
        "Faults: lose_acknowledgement on alice, 1.100 s to 1.500 s. 1 sender, 3 messages, 4 attempts, "
        "1 of them without an acknowledgement. 3 rows read."
    )
