"""Expected and stored messages, compared sender by sender."""

import pytest

from harness import checker
from harness import history as h
from harness.checker import Anomaly
from harness.history import History
from harness.report import diff
from harness.report.diff import Diff
from tests.report import samples
from tests.report.samples import TOKEN, Script


def compared(history: History, lines: int = 80) -> list[Diff]:
    """The diffs of a history, with the anomalies that the checker finds in it."""
    return diff.diffs(checker.fold(history), checker.judge(history).anomalies, lines)


def shown(history: History, lines: int = 80) -> list[str]:
    """The lines of the one diff of a history, as one would print them, `@@` before each hunk."""
    (only,) = compared(history, lines)
    text = []
    for hunk in only.hunks:
        text.append("@@")
        text += [f"{line.sign} {line.messages} {line.rows} {line.note}".rstrip() for line in hunk.lines]
        text += [f"{it.sign} further {it.count}: {it.messages} {it.note}".rstrip() for it in hunk.folded]
    return text


def sent(count: int, *senders: str) -> tuple[Script, list[str]]:
    """A script in which each sender has so many messages acknowledged, and the messages in their order."""
    script = Script(receivers="none", order="sender")
    messages = []
    for number in range(count):
        for sender in senders or ("alice",):
            message = script.post(f"body {number}", sender)
            script.acknowledge(message)
            messages.append(message)
    return script, messages


def test_a_lost_message_stands_between_three_lines_of_context() -> None:
    """What is expected and not stored has a minus, with three neighbours on both sides and no more."""
    script, messages = sent(12)
    del messages[5]
    assert shown(script.finish(messages)) == [
        "@@",
        "  0003 3",
        "  0004 4",
        "  0005 5",
        "- 0006  lost",
        "  0007 6",
        "  0008 7",
        "  0009 8",
    ]


def test_a_second_row_of_a_message_is_too_many() -> None:
    """The first row of a message is in its place; every further one has a plus where it is stored."""
    script, messages = sent(3)
    assert shown(script.finish([*messages, messages[0]])) == [
        "@@",
        "  0001 1",
        "  0002 2",
        "  0003 3",
        "+ 0001 4 duplicate",
    ]


def test_a_reordered_message_is_missing_in_its_place_and_stored_in_another() -> None:
    """A message that the checker calls reordered has a minus where it belongs and a plus where it is."""
    script, (one, two, three) = sent(3)
    assert shown(script.finish([two, one, three])) == [
        "@@",
        "- 0001  reordered",
        "  0002 1",
        "+ 0001 2 reordered",
        "  0003 3",
    ]


def test_a_corrupted_message_shows_both_contents_where_they_part() -> None:
    """However long the contents are, the place where they part is among what is shown of them."""
    script = Script(receivers="none")
    message = script.post("x" * 5000 + "GIVEN" + "y" * 7300)
    script.acknowledge(message)
    script.add(h.Drained, complete=True)
    script.row(message, "x" * 5000 + "STORED")
    script.add(h.Finished)
    (only,) = compared(script.history())
    minus, plus = only.hunks[0].lines
    assert (minus.sign, minus.note, plus.sign, plus.note) == ("-", "corrupted", "+", "corrupted")
    assert minus.text == "…" + "x" * 16 + "GIVEN" + "y" * 73 + "…"
    assert plus.text == "…" + "x" * 16 + "STORED"


def test_a_content_that_is_null_is_none() -> None:
    """A row without content is told apart from one with little content."""
    script = Script(receivers="none")
    message = script.post("")
    script.acknowledge(message)
    script.add(h.Row, id=1, client_offset=message, content=None)
    script.add(h.Finished)
    (only,) = compared(script.history())
    assert [line.text for line in only.hunks[0].lines] == [f" {message}", None]


def test_a_message_that_nobody_posted_has_a_diff_of_its_sender() -> None:
    """A row whose identity names a sender that there was not is too many, under that sender's name."""
    script, messages = sent(1)
    script.add(h.Drained, complete=True)
    script.row(messages[0])
    script.add(h.Row, id=2, client_offset=f"{TOKEN}-mallory-0007", content="never posted")
    script.add(h.Finished)
    (only,) = compared(script.history())
    assert only.sender == "mallory"
    assert [(line.sign, line.messages, line.note) for line in only.hunks[0].lines] == [("+", "0007", "unexpected")]


def test_a_message_whose_sender_was_told_that_it_failed_is_not_expected() -> None:
    """The row of a given-up message is one too many."""
    script, messages = sent(1)
    late = script.post("late")
    script.unanswered(late)
    script.add(h.Settled, message=late, outcome="gave-up")
    assert shown(script.finish([*messages, late])) == ["@@", "  0001 1", "+ 0002 2 false_failure"]


def test_a_message_with_an_unknown_outcome_may_be_stored_or_not() -> None:
    """Neither the row nor the missing row of a message without an answer is a difference."""
    for stored in (True, False):
        script, (first, second) = sent(2)
        open_one = script.post("open")
        script.unanswered(open_one)
        history = script.finish([second, first, *([open_one] if stored else [])])
        fates = checker.fold(history)
        (only,) = diff.diffs(fates, checker.reordered(fates))
        changed = [line.messages for hunk in only.hunks for line in hunk.lines if line.sign != " "]
        assert changed == ["0001", "0001"]


def test_senders_are_compared_each_for_itself() -> None:
    """How the store interleaves senders is no difference, and a sender without an anomaly has no diff."""
    script, messages = sent(4, "alice", "bob")
    by_sender = sorted(messages)
    by_sender.remove(f"{TOKEN}-bob-0002")
    (only,) = compared(script.finish(by_sender))
    assert only.sender == "bob"


@pytest.mark.parametrize("history", [samples.claim(), samples.interrupted(), samples.broken_claim("missed", "crashed")])
def test_without_an_anomaly_of_the_store_there_is_no_diff(history: History) -> None:
    """What receivers got and whether the server crashed says nothing about rows."""
    assert compared(history) == []


def test_a_hundred_lost_of_two_hundred_are_one_line() -> None:
    """Lines that differ in nothing but consecutive numbers become one."""
    script, messages = sent(200)
    assert shown(script.finish(messages[:60] + messages[160:])) == [
        "@@",
        "  0058 58",
        "  0059 59",
        "  0060 60",
        "- 0061..0160  lost",
        "  0161 61",
        "  0162 62",
        "  0163 63",
    ]
    (only,) = compared(script.history())
    assert only.hunks[0].lines[3].count == 100


def test_every_second_message_lost_stays_readable_and_complete() -> None:
    """A hunk has a bounded number of lines; the messages beyond them are listed, none is left out."""
    script, messages = sent(200)
    (only,) = compared(script.finish(messages[::2]))
    (hunk,) = only.hunks
    assert len(hunk.lines) == 24
    lost = [line.messages for line in hunk.lines if line.sign == "-"]
    (folded,) = hunk.folded
    assert [*lost, *folded.messages.split(", ")] == [f"{number:04}" for number in range(2, 201, 2)]
    assert folded.count == 100 - len(lost)


def test_without_lines_left_all_further_changes_are_ranges() -> None:
    """When the lines are used up, whole hunks are folded into one, and still no message is left out."""
    script, messages = sent(100)
    lost = [9, 10, 29, 49, 69]
    text = shown(script.finish([m for number, m in enumerate(messages) if number not in lost]), lines=8)
    assert text == ["@@", *text[1:9], "@@", "- further 3: 0030, 0050, 0070 lost"]
    assert [line for line in text[1:9] if line.startswith("-")] == ["- 0010  lost", "- 0011  lost"]


def test_the_difference_is_counted_in_words() -> None:
    """Runs and folded lines count as many as they stand for."""
    script, messages = sent(200)
    found = compared(script.finish([*messages[:50:2], *messages[60:], messages[0]]), lines=10)
    assert diff.summary(found) == "35 messages not stored where expected, 1 row too many or elsewhere"


def test_a_long_body_is_cut_in_the_middle() -> None:
    """Beginning and end of a body stay, because that is where bodies differ."""
    script = Script(receivers="none")
    script.acknowledge(script.post("begin" + "x" * 10_000 + "end"))
    (only,) = compared(script.finish([]))
    text = only.hunks[0].lines[0].text or ""
    assert len(text) == diff.BODY_CHARACTERS
    assert text.startswith("beginx")
    assert "xend" in text[-20:]
    assert "…" in text


def test_an_anomaly_of_a_kind_unknown_here_needs_no_change() -> None:
    """Every anomaly that names a message and no receiver is noted where its message differs, whatever its kind."""
    script, messages = sent(2)
    fates = checker.fold(script.finish(messages[:1]))
    anomaly = Anomaly("new_kind", messages[1], "")  # type: ignore[arg-type]  # a kind of tomorrow
    (only,) = diff.diffs(fates, [anomaly])
    assert only.hunks[0].lines[-1].note == "new_kind"
