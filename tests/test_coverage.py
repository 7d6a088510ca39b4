"""What was covered of a space of pairs: any order that stays, a file from which the next run goes on, and words."""

from pathlib import Path

import pytest

from harness import coverage
from harness import history as h
from harness.checker import judge
from tests.histories import Script


def test_order_is_any_and_always_the_same() -> None:
    """Every case once; of another space, or of another size, in another order."""
    order = coverage.order("pairs/up-kill", 500)
    assert sorted(order) == list(range(500))
    assert order == coverage.order("pairs/up-kill", 500) != list(range(500))
    assert order != coverage.order("pairs/kill-kill", 500)
    assert [number for number in coverage.order("pairs/up-kill", 501) if number < 500] != order


def test_next_run_goes_on_where_the_last_has_ended(tmp_path: Path) -> None:
    """Until all were tried; then, and in a space of another size, from the beginning."""
    path = tmp_path / "sweeps" / "pairs.json"
    assert coverage.load(path, 100) == 0
    coverage.save(path, 100, 30)
    assert coverage.load(path, 100) == 30
    assert coverage.load(path, 99) == 0
    coverage.save(path, 100, 100)
    assert coverage.load(path, 100) == 0
    assert [each.name for each in path.parent.iterdir()] == ["pairs.json"]


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense", b'{"size":100,"done":-1}', b'{"size":100,"done":"3"}'])
def test_file_that_says_nothing_counts_as_none(content: bytes, tmp_path: Path) -> None:
    """Somebody else's, or half of one."""
    path = tmp_path / "pairs.json"
    path.write_bytes(content)
    assert coverage.load(path, 100) == 0


def test_progress_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    """It only begins again."""
    (tmp_path / "file").write_text("")
    coverage.save(tmp_path / "file" / "pairs.json", 100, 30)
    coverage.save(None, 100, 30)
    assert coverage.load(None, 100) == 0


@pytest.mark.parametrize(
    ("begun", "done", "words"),
    [
        (0, 20, "pairs/up-kill: 20 of 4,154 pairs (0.5%)"),
        (100, 4154, "pairs/up-kill: 4,054 of 4,154 pairs (97.6%), 4,154 with those of the runs before"),
    ],
)
def test_share_is_told_in_words(begun: int, done: int, words: str) -> None:
    """That of this run, and how many there were with earlier ones; a scenario without pairs says nothing."""
    script = Script()
    script.send()
    history = script.history()
    assert coverage.said(history, judge(history)) == ""
    script.events.append(h.Swept(time=0.0, space="pairs/up-kill", size=4154, begun=begun, done=done))
    history = script.history()
    assert coverage.said(history, judge(history)) == words


@pytest.mark.parametrize(("kind", "idle"), [("soak", True), ("soak with a fault", False), ("no soak", False)])
def test_soak_without_faults_is_told_from_others(kind: str, idle: bool) -> None:
    """One that ended before anything was done; what is no soak needs no faults."""
    script = Script()
    if kind != "no soak":
        script.events.append(h.Soaked(time=0.0, parts=0, seconds=0.0, counts={}, faults={}, sequences={}))
    if kind == "soak with a fault":
        script.events.append(h.FaultBegan(time=0.0, number=1, fault="cut", kind="link", on="the link of alice"))
    script.send()
    history = script.history()
    assert coverage.is_soak_without_faults(history, judge(history)) is idle
