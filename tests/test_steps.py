"""A random schedule as data: the same for the same seed, every fault in it, back from its file, and as a scenario."""

import ast
import itertools
import random
from pathlib import Path

import pytest

from harness import scenario, steps
from harness.errors import HarnessError
from harness.steps import FAULTS, AckTimeouts, Schedule, Step
from harness.target import load

NAMES = ("alice", "bob", "carol")


def first(count: int, seed: int = 1, programs: tuple[str, ...] = ("carol",), target: str = "reference") -> list[Step]:
    """The first steps of a schedule."""
    return list(itertools.islice(steps.drawn(load(target), NAMES, programs, random.Random(seed)), count))


def test_same_seed_draws_the_same_schedule() -> None:
    """And another seed another one."""
    assert first(100) == first(100)
    assert first(100) != first(100, seed=2)


def test_every_fault_comes_once_before_any_comes_again() -> None:
    """So that a short soak has them all."""
    drawn = [step.fault for step in first(3 * len(FAULTS))]
    for deck in (drawn[: len(FAULTS)], drawn[len(FAULTS) : 2 * len(FAULTS)], drawn[2 * len(FAULTS) :]):
        assert sorted(deck) == sorted(FAULTS)


def test_what_is_not_offered_is_not_drawn() -> None:
    """Clients are killed where they are programs, acknowledgements forgotten where the target has such a server."""
    assert {step.sender for step in first(200) if step.fault.startswith("client.")} == {"carol"}
    assert not [step for step in first(200, programs=()) if step.fault.startswith("client.")]
    assert "server.forget_acknowledgements" in {step.fault for step in first(100)}
    assert "server.forget_acknowledgements" not in {step.fault for step in first(100, target="ledger/writes_behind")}


def test_schedule_comes_back_from_its_file(tmp_path: Path) -> None:
    """Step by step, as it is taken: a run that is killed leaves those that it took."""
    path, drawn = tmp_path / steps.FILE, first(40)
    steps.begin(path, 3)
    for number, step in enumerate(drawn, start=1):
        steps.append(path, step)
        assert steps.load(path) == Schedule(3, tuple(drawn[:number]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: not of a schedule"),
        ("nonsense\n", "line 1: not of a schedule"),
        ('{"senders": 3}\n{"sender": "alice"}\n', "line 2: not of a schedule: Object missing required field `after`"),
        ('{"senders": 3}\n{"sender": "alice", "after": 1, "fault": "link.rust"}\n', "there is no fault 'link.rust'"),
        ('{"senders": 3}\n{"sender": "alice", "after": -1, "fault": "link.reset"}\n', "`after` is below 0"),
    ],
)
def test_file_that_is_no_schedule_is_an_error_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    """It names the line."""
    path = tmp_path / "schedule.jsonl"
    path.write_text(text)
    with pytest.raises(HarnessError) as error:
        steps.load(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """It names the file."""
    with pytest.raises(HarnessError, match=r"cannot read the schedule .*gone.jsonl: No such file"):
        steps.load(tmp_path / "gone.jsonl")


# -- as a scenario -----------------------------------------------------------------------------------------------


def as_scenario(schedule: Schedule) -> str:
    """A schedule as the text of a file."""
    return steps.as_scenario(
        schedule,
        NAMES[: schedule.senders],
        title="The smallest.",
        found="pytest scenarios --soak 1m",
        transport="websocket",
    )


def test_every_fault_can_be_written_as_a_scenario() -> None:
    """What comes out is Python that declares a scenario, whatever was drawn."""
    text = as_scenario(Schedule(3, tuple(first(len(FAULTS)))))
    declared: dict[str, object] = {}
    exec(compile(ast.parse(text), "test_smallest.py", "exec"), declared)  # noqa: S102 - what a user would run
    assert hasattr(declared["test_smallest_schedule_of_a_soak"], scenario.ATTRIBUTE)


def test_schedule_without_steps_is_a_scenario_too() -> None:
    """A server can break what it claims without any fault."""
    text = as_scenario(Schedule(2, ()))
    ast.parse(text)
    assert "    async with streaming(everyone) as turns:\n        pass  # it takes no fault\n" in text


def test_step_is_written_as_a_user_would_write_it() -> None:
    """Durations scale with the target's ack timeout; who has nothing to send before does not."""
    pause = Step("bob", 2, "server.pause", {"seconds": AckTimeouts(0.4)})
    slow = Step("alice", 0, "link.latency", {"direction": "downstream", "milliseconds": AckTimeouts(1.3)})
    text = as_scenario(Schedule(2, (pause, slow)))
    assert "    (alice, bob) = everyone\n" in text
    assert "            await bob.send_many(2)\n" in text
    assert "            fault = system.server.pause(bob.link, seconds=system.seconds(ack_timeouts=0.4))\n" in text
    assert "await alice.send_many" not in text
    latency = 'direction="downstream", milliseconds=round(1000 * system.seconds(ack_timeouts=1.3))'
    assert f"            fault = alice.link.latency({latency})\n" in text


def test_single_sender_is_unpacked_from_its_list() -> None:
    """One name alone would be the list."""
    assert "    (alice,) = everyone\n" in as_scenario(Schedule(1, (Step("alice", 1, "link.reset"),)))


# -- among fewer senders -----------------------------------------------------------------------------------------


def test_fewer_senders_share_the_steps() -> None:
    """Each of them stays another as long as there are enough; what hits a program hits the last, which is one."""
    taken = (Step("carol", 1, "link.reset"), Step("bob", 1, "link.reset"), Step("carol", 1, "client.kill"))
    assert [step.sender for step in steps.among(taken, ["alice", "bob"])] == ["alice", "bob", "bob"]
    assert [step.sender for step in steps.among(taken, ["alice"])] == ["alice", "alice", "alice"]
