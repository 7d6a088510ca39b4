"""What `--soak` asks for, parts that are judged one by one, and a schedule that broke and is made smaller."""

import argparse
import asyncio
import re
import shlex
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from harness import checker, coverage, soaking, steps
from harness import history as h
from harness import system as system_module
from harness.errors import HarnessError
from harness.scenario import Soak
from harness.soaking import Wish, option, smallest, wish
from harness.steps import Schedule, Step
from harness.streaming import TEXT, streaming
from harness.system import System
from tests.histories import content_of, identity, started
from tests.runs import Ran, run, running, wait_until
from tests.systems import in_event_loop
from tests.test_system import CLAIM, of, place

# -- the options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("0.5m", 30), ("1.5h", 5400)]
)
def test_duration_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    """And there are ten senders, unless the user says otherwise."""
    assert option(text) == text
    assert wish(text, None) == Wish(seconds, 10)
    assert wish(text, 50) == Wish(seconds, 50)


@pytest.mark.parametrize("text", ["", "ten", "10 m", "-3s", "10d", "m", "1e3", "inf", "nan", "10m5s", "nowhere.jsonl"])
def test_what_is_no_duration_and_no_file_is_refused(text: str) -> None:
    """Before anything runs, in words that say what it should be."""
    with pytest.raises(argparse.ArgumentTypeError, match="is neither a duration, such as 90s, 10m or 2h, nor a"):
        option(text)


def scheduled(folder: Path, *taken: Step, senders: int = 2) -> str:
    """The file of a schedule."""
    path = folder / steps.FILE
    steps.begin(path, senders)
    for step in taken:
        steps.append(path, step)
    return str(path)


def test_schedule_brings_its_senders(tmp_path: Path) -> None:
    """Others are refused, and so is one that is not among them."""
    reset = Step("bob", 1, "link.reset")
    path = scheduled(tmp_path, reset)
    assert option(path) == path
    assert wish(path, None) == wish(path, 2) == Wish(30, 2, (reset,))
    with pytest.raises(HarnessError, match=r"--senders 3: the schedule .* has 2"):
        wish(path, 3)
    with pytest.raises(HarnessError, match=r"a step has the sender 'zoe', and there are alice, bob"):
        wish(scheduled(tmp_path, Step("zoe", 1, "link.reset")), None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--soak", "soon"], "argument --soak: soon is neither a duration"),
        (["--soak", "0s"], "argument --soak: 0s is neither a duration"),
        (["--soak", "1m", "--senders", "0"], "argument --senders: 0 is no whole number from 1 to 540"),
        (["--soak", "1m", "--senders", "many"], "argument --senders: many is no whole number"),
        (["--senders", "5"], "--senders is for --soak"),
        (["--soak", "1m", "--case", "wire/up/1"], "--soak and --case ask for different things"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    """Nothing has run then."""
    ran = run(tmp_path, "scenarios", *arguments)
    assert ran.status == pytest.ExitCode.USAGE_ERROR, ran.output
    assert said in ran.output
    assert "Traceback" not in ran.output
    assert not ran.reports.exists()


# -- parts -------------------------------------------------------------------------------------------------------


def lost(sender: str) -> Step:
    """A step that takes no time."""
    return Step(sender, 1, "link.lose_acknowledgement")


async def soaked(system: System) -> None:
    """The schedule of a soak."""
    everyone = {sender.name: sender for sender in await system.senders(2)}
    async for part in system.parts(list(everyone.values())):
        async with streaming(list(everyone.values())) as turns:
            for step in part:
                sender = everyone[step.sender]
                async with turns(sender):
                    await sender.send(TEXT)
                    async with system.inject(steps.made(step, system, sender)) as fault:
                        message = sender.post(TEXT)
                        await fault.bitten(message)


async def in_parts(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    between: Callable[[System], None] = lambda _: None,
) -> tuple[h.History, list[h.History]]:
    """A soak of three steps, each of them a part; its last history, and those of the parts before."""
    monkeypatch.setattr(system_module, "_PART_STEPS", 1)
    before = []
    async with place(folder, monkeypatch) as here:

        async def judged(path: Path) -> h.Soaked | None:
            history = h.History.load(path)
            before.append(history)
            between(here.systems[0])
            return coverage.soaked(history, checker.judge(history))

        soak = Soak(60, judged, (lost("alice"), lost("bob"), lost("alice")))
        last = await here.run(soaked, msgspec.structs.replace(CLAIM, soak=soak))
        here.require_nothing_left()
    return last, before


@in_event_loop
async def test_each_part_is_judged_by_itself_and_then_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every history has the messages of its own part only, and is kept; the counts are of all."""
    last, before = await in_parts(tmp_path, monkeypatch)
    histories = [*before, last]
    assert [checker.judge(history).verdict for history in histories] == ["kept"] * 3
    posted = [{event.message for event in of(history, h.Invoke)} for history in histories]
    assert not posted[0] & posted[1]
    assert not posted[1] & posted[2]
    stored = [len(of(history, h.Row)) for history in histories]
    assert stored == [len(messages) for messages in posted]
    assert [event.parts for history in histories for event in of(history, h.Soaked)] == [0, 1, 2]
    assert checker.judge(last).counts["sent"] == sum(stored) - 1  # the last message is there for the receivers
    assert [(again.before, again.same) for again in of(last, h.Reread)] == [(sum(stored[:2]), True)]
    assert steps.load(tmp_path / "run" / steps.FILE).steps == (lost("alice"), lost("bob"), lost("alice"))
    assert coverage.said(last, checker.judge(last)).endswith(", 3 faults: lose acknowledgement 3")


def changed(statement: str) -> Callable[[System], None]:
    """Somebody changes the store, once, between two parts."""
    done: list[str] = []

    def change(system: System) -> None:
        if not done:
            done.append(statement)
            with sqlite3.connect(system.store.path) as database:
                database.execute(statement)

    return change


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("DELETE FROM messages WHERE id = (SELECT max(id) FROM messages)", "lost"),
        ("UPDATE messages SET content = 'x' WHERE id = 2", "corrupted"),
        ("INSERT INTO messages SELECT id + 100, 'again', content FROM messages WHERE id = 2", "duplicate"),
    ],
)
@in_event_loop
async def test_what_becomes_later_of_the_rows_of_a_part_breaks_the_claim(
    statement: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although its messages are forgotten: rows that are gone or changed, and a message that comes again."""
    last, (_, second) = await in_parts(tmp_path, monkeypatch, changed(statement))
    assert kind in {anomaly.kind for history in (second, last) for anomaly in checker.judge(history).broken_by}


# -- the smallest ------------------------------------------------------------------------------------------------


def of_numbers(count: int, senders: int = 10) -> Schedule:
    """A schedule whose steps can be told apart."""
    return Schedule(senders, tuple(Step("alice", 3, "link.flap", {"times": number}) for number in range(count)))


def found(schedule: Schedule, part: int, breaks: Callable[[Schedule], bool]) -> tuple[Schedule | None, int]:
    """The smallest, and how many were tried."""
    tried = []

    async def attempt(candidate: Schedule) -> bool:
        tried.append(candidate)
        return breaks(candidate)

    work: Awaitable[Schedule | None] = smallest(schedule, part, attempt)

    async def whole() -> Schedule | None:
        return await work

    return asyncio.run(whole()), len(tried)


def test_schedule_is_reduced_to_the_step_that_breaks_and_to_one_sender() -> None:
    """Nothing goes before it then."""
    smaller, tried = found(of_numbers(50), 10, lambda candidate: 47 in _numbers(candidate))
    assert smaller == Schedule(1, (Step("alice", 0, "link.flap", {"times": 47}),))
    assert tried < 15


def test_what_takes_two_steps_and_two_senders_keeps_them() -> None:
    """And what went before them, where that is what it takes."""

    def breaks(candidate: Schedule) -> bool:
        enough = candidate.senders >= 2 and all(step.after for step in candidate.steps)
        return enough and {41, 46} <= set(_numbers(candidate))

    smaller, _ = found(of_numbers(50), 10, breaks)
    assert smaller is not None
    assert (_numbers(smaller), smaller.senders) == ([41, 46], 2)


def test_whole_schedule_is_tried_where_the_last_part_is_not_enough() -> None:
    """Something older is behind it."""
    smaller, _ = found(of_numbers(50), 10, lambda candidate: 3 in _numbers(candidate))
    assert smaller is not None
    assert _numbers(smaller) == [3]


def test_what_breaks_without_any_fault_has_no_steps() -> None:
    """Whatever had happened when it broke; there is nothing to leave out then but senders."""
    assert found(of_numbers(50), 10, lambda _: True) == (Schedule(1, ()), 3)
    assert found(of_numbers(0), 20, lambda _: True) == (Schedule(1, ()), 3)


def test_what_broke_by_chance_is_not_the_smallest() -> None:
    """What is found has broken twice; if nothing has, it is the smallest that broke at all."""
    once: list[Schedule] = []

    def breaks(candidate: Schedule) -> bool:
        if 47 not in _numbers(candidate) or candidate in once:
            return False
        once.extend([candidate] if len(candidate.steps) == 1 else [])
        return True

    smaller, _ = found(of_numbers(50), 10, breaks)
    assert smaller is not None
    assert len(smaller.steps) > 1

    def never_again(candidate: Schedule) -> bool:
        broke = candidate not in once
        once.append(candidate)
        return broke

    once.clear()
    assert found(of_numbers(50), 10, never_again)[0] == Schedule(1, ())


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("taken", [(), (lost("alice"),)], ids=["no steps", "a step"])
def test_late_answers_without_a_fault_are_of_the_machine(taken: tuple[Step, ...], late: bool, tmp_path: Path) -> None:
    """What breaks then is no sign of what the server is like when nothing happens."""
    recorder = h.Recorder(tmp_path / "history.jsonl")
    message = identity("alice", 1)
    content = content_of(message)
    events: list[h.AnyEvent] = [
        started(receivers="none"),
        h.Invoke(time=1.0, message=message, sender="alice", sequence=1, content=content, policy="persistent"),
        h.Attempt(time=1.1, message=message, attempt=1, offset="o", connection=1),
        h.Info(time=2.1, message=message, attempt=1, reason="no answer in 1 s", timed_out=True),
        h.Attempt(time=2.2, message=message, attempt=2, offset="o", connection=1),
        *([h.Ok(time=2.3, message=message, attempt=1, late=True)] if late else []),
        h.Ok(time=2.4, message=message, attempt=2, late=False),
        h.Settled(time=2.5, message=message, outcome="acknowledged"),
        *(h.Row(time=3.0, id=number, client_offset="o", content=content) for number in (1, 2)),
        h.Finished(time=3.0),
    ]
    for event in events:
        recorder.record(event)
    recorder.close()
    assert soaking.shows(tmp_path, {"duplicate"}, Schedule(1, taken)) == (not late or bool(taken))
    assert not soaking.shows(tmp_path, {"lost"}, Schedule(1, taken))


def test_of_a_long_schedule_only_the_last_steps_are_tried() -> None:
    """Nobody waits for hours once more."""
    tried: list[int] = []

    def breaks(candidate: Schedule) -> bool:
        tried.append(len(candidate.steps))
        return False

    assert found(of_numbers(5000), 20, breaks) == (None, 3)
    assert tried == [0, 20, 100]


def test_what_does_not_break_again_is_not_made_smaller() -> None:
    """There is nothing to show then, and it is not tried often."""
    assert found(of_numbers(50), 10, lambda _: False) == (None, 3)
    assert found(of_numbers(10), 10, lambda _: False) == (None, 2)


def _numbers(schedule: Schedule) -> list[object]:
    return [step.arguments["times"] for step in schedule.steps]


# -- from the command line ---------------------------------------------------------------------------------------


def test_soak_of_a_right_server_is_kept_and_tells_how_it_goes(tmp_path: Path) -> None:
    """It runs alone, its control bites, and its replay command has its options."""
    ran = run(tmp_path, "scenarios", "--soak", "5s", "--senders", "3", "--seed", "5")
    assert (ran.verdicts, ran.status) == ({"soak-python-websocket": "kept"}, 0), ran.output
    assert ran.controls("soak-python-websocket") == {"once": "bites"}
    assert "soak: it begins" in ran.output
    scenario = ran.scenarios["soak-python-websocket"]
    assert " faults: " in scenario["coverage"]
    assert scenario["replay"].endswith(" --seed 5 --target reference --soak 5s --senders 3")


@pytest.mark.parametrize(
    ("name", "kind", "line"),
    [
        ("no_unique_constraint", "duplicate", ".lose_acknowledgement()"),
        ("truncates_content", "corrupted", "pass  # it takes no fault"),
    ],
)
def test_soak_that_breaks_leaves_a_scenario_that_breaks_too(name: str, kind: str, line: str, tmp_path: Path) -> None:
    """And the command that runs it as it is, wherever the reports are; without a fault where it takes none."""
    path = scheduled(tmp_path, lost("alice"), Step("bob", 1, "link.flap", {"times": 1}))
    ran = run(tmp_path / "first", "scenarios", "--soak", path, "--target", f"ledger/{name}")
    assert ran.anomalies("soak-python-websocket") == {kind}, ran.output
    command = ran.scenarios["soak-python-websocket"]["smallest"]
    assert f"smallest: {command}\n" in ran.output
    assert line in (ran.folder / "soak-python-websocket" / "test_smallest.py").read_text()
    again = run(tmp_path / "second", *shlex.split(command)[1:])
    assert again.anomalies("soak-found-python-websocket") == {kind}, again.output
    assert again.scenarios["soak-found-python-websocket"]["replay"].startswith("pytest -p harness.plugin ")


def interrupted(folder: Path, awaited: str, *arguments: str) -> Ran:
    """A soak that is interrupted when it has said something."""
    with running(folder, "scenarios", *arguments) as started:
        wait_until(
            lambda: awaited in started.output or started.process.poll() is not None, awaited, lambda: started.output
        )
        started.interrupt()
        return started.wait()


def test_interrupted_soak_tells_what_it_has_judged(tmp_path: Path) -> None:
    """On the terminal and in the report; that is no verdict, and the exit status is pytest's."""
    ran = interrupted(tmp_path, "no anomalies", "--soak", scheduled(tmp_path, *[lost("alice")] * 1000))
    assert (ran.status, ran.summary["gate"]) == (2, "error"), ran.output
    said = re.search(r"; interrupted after \d+ parts?: [\d,]+ messages in .* faults: no anomalies", ran.output)
    assert said is not None, ran.output
    assert said[0] in ran.scenarios["soak-python-websocket"]["why"]
    assert said[0] in (ran.folder / "index.html").read_text()


def test_soak_that_is_interrupted_while_it_looks_for_less_is_broken(tmp_path: Path) -> None:
    """What was found stays found."""
    path = scheduled(tmp_path, lost("alice"))
    ran = interrupted(tmp_path, "it broke", "--soak", path, "--target", "ledger/no_unique_constraint")
    assert (ran.status, ran.summary["gate"]) == (2, "broken"), ran.output
    assert ran.anomalies("soak-python-websocket") == {"duplicate"}


@in_event_loop
async def test_nothing_more_is_done_to_a_server_that_has_crashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays down, and each further fault would only wait for what cannot come."""
    taken: list[Step] = []

    async def crashing(system: System) -> None:
        async for part in system.parts(await system.senders(1)):
            for step in part:
                taken.append(step)
                await system.server.stop()

    async with place(tmp_path, monkeypatch) as here:
        soak = Soak(60, lambda path: soaking.judged(path, print), (lost("alice"),) * 3)
        await here.run(crashing, msgspec.structs.replace(CLAIM, soak=soak))
    assert taken == [lost("alice")]


def test_parts_are_told_with_their_anomalies(tmp_path: Path) -> None:
    """And a part that breaks the claim is the last."""
    told: list[str] = []

    async def judged(name: str, *events: h.AnyEvent) -> h.Soaked | None:
        recorder = h.Recorder(tmp_path / name)
        for event in events:
            recorder.record(event)
        recorder.close()
        return await soaking.judged(tmp_path / name, told.append)

    first = started(receivers="none")
    begun = h.Soaked(time=0.0, parts=2, seconds=100.0, counts={"sent": 10}, faults={"flap": 3}, sequences={"alice": 9})
    message = identity("alice", 10)
    content = content_of(message)
    sent: list[h.AnyEvent] = [
        h.Invoke(time=119.0, message=message, sender="alice", sequence=10, content=content, policy="persistent"),
        h.Attempt(time=119.1, message=message, attempt=1, offset="o", connection=1),
        h.Ok(time=119.2, message=message, attempt=1, late=False),
        h.Settled(time=119.3, message=message, outcome="acknowledged"),
    ]
    row, end = h.Row(time=120.0, id=1, client_offset="o", content=content), h.Finished(time=120.0)
    so_far = asyncio.run(judged("kept.jsonl", first, begun, *sent, row, end))
    assert so_far is not None
    assert (so_far.parts, so_far.counts["sent"], so_far.sequences) == (3, 11, {"alice": 10})
    assert asyncio.run(judged("lost.jsonl", first, begun, *sent, end)) is None
    assert told == [
        "soak 02:00  11 messages in 120 s (0 a second), 3 faults: no anomalies",
        "soak 02:00  11 messages in 120 s (0 a second), 3 faults: lost x 1",
    ]
