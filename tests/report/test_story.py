"""The fates of messages and the faults near them, from saved histories."""

from pathlib import Path

import pytest

from harness import history as h
from harness.checker import Anomaly
from harness.errors import HarnessError
from harness.history import History
from harness.report import story
from tests.report import samples
from tests.report.samples import Script


def told(folder: Path, history: History) -> story.Told:
    """A history, saved and read."""
    path = folder / "history.jsonl"
    path.write_bytes(samples.encoded(history))
    return story.read(path)


def test_a_fate_is_told_moment_by_moment(tmp_path: Path) -> None:
    """A message's fate holds its attempts with their outcomes, the faults and connections meanwhile, in time order."""
    fates = story.stories(["r7-alice-0002"], told(tmp_path, samples.broken_claim("lost")))
    moments = fates["r7-alice-0002"].first
    assert [moment.text for moment in moments] == [
        "handed to alice",
        "attempt 1 on connection 1, offset offset-r7-alice-0002",
        "lose_acknowledgement on alice begins",
        "lose_acknowledgement bit it: its row is readable while none of its attempts is answered",
        "attempt 1 has an unknown outcome: transport close",
        "alice loses connection 1: transport close",
        "lose_acknowledgement on alice ends",
        "alice has connection 2",
        "attempt 2 on connection 2, offset offset-r7-alice-0002",
        "attempt 2 acknowledged",
        "its sender was told: acknowledged",
    ]
    assert [moment.time for moment in moments] == sorted(moment.time for moment in moments)


def test_a_fate_ends_with_rows_and_receptions(tmp_path: Path) -> None:
    """A fate names the rows of its message, other content in them, and how often each receiver got it."""
    fate = story.stories(["r7-alice-0002"], told(tmp_path, samples.broken_claim("corrupted", "repeated")))
    (row,) = fate["r7-alice-0002"].rows
    assert row.other == "r7-alice-0002 dur"
    assert fate["r7-alice-0002"].received == ["bob twice, as its broadcast number 2, 3"]


def test_a_long_fate_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    """Hundreds of resends do not make a wall: the middle is counted."""
    script = Script()
    message = script.post()
    for number in range(2, 300):
        script.unanswered(message, number - 1)
        script.attempt(message, number)
    script.acknowledge(message, 299)
    fate = story.stories([message], told(tmp_path, script.finish([])))[message]
    assert (len(fate.first), len(fate.last)) == (16, 8)
    assert fate.omitted == 600 - 1 - 24 + 1
    assert fate.last[-1].text == "its sender was told: acknowledged"


def test_a_message_that_was_never_posted_has_no_fate(tmp_path: Path) -> None:
    """Nothing is told of an identity that no sender ever posted."""
    assert story.stories(["r7-mallory-0001"], told(tmp_path, samples.broken_claim("unexpected"))) == {}


@pytest.mark.parametrize(
    ("message", "time", "near"),
    [
        ("r7-alice-0002", 0.9, "lose_acknowledgement on alice, 1.100 s to 1.500 s: it bit this message"),
        ("r7-alice-0001", 0.4, "before lose_acknowledgement on alice, 1.100 s to 1.500 s"),
        (None, 1.2, "during lose_acknowledgement on alice, 1.100 s to 1.500 s"),
        (None, 1.75, "0.250 s after lose_acknowledgement on alice, 1.100 s to 1.500 s"),
        (None, None, None),
    ],
)
def test_the_fault_near_an_anomaly(tmp_path: Path, message: str | None, time: float | None, near: str | None) -> None:
    """The fault that bit the message is named; else the one at that time; else the one next to it."""
    anomaly = Anomaly("lost", message, "", time=time)
    assert story.near(anomaly, told(tmp_path, samples.broken_claim("lost"))) == near


def test_a_message_on_its_way_during_a_fault_is_near_it(tmp_path: Path) -> None:
    """A fault that acted while a message was on its way is near it, though it bit another; it may never have healed."""
    script = Script()
    message = script.post()
    script.add(h.FaultBegan, number=1, fault="lock", kind="store", on="store")
    script.acknowledge(message)
    near = story.near(Anomaly("lost", message, ""), told(tmp_path, script.finish([])))
    assert near == "lock on store, 0.600 s never healed: it acted on the way of this message"


def test_a_damaged_history_is_named(tmp_path: Path) -> None:
    """An answer to an attempt that never began is damage of the file, not a traceback."""
    script = Script()
    script.acknowledge("r7-alice-0009")
    with pytest.raises(HarnessError, match=r"history\.jsonl: event 5 of the history"):
        told(tmp_path, script.history())
