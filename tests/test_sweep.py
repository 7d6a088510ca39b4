"""Sweeps on a real system: every position is a case, each cut is where its case says, and nothing is left out."""

from pathlib import Path

import msgspec
import pytest

from harness import history as h
from harness import sweep
from harness.checker import judge
from harness.link import Direction
from harness.outcome import Outcome, outcomes
from harness.scenario import CONTROLS, Run
from harness.system import System
from tests.systems import in_event_loop
from tests.test_system import CLAIM, Place, of, place

SOME = Run("control", CONTROLS["once"], "persistent", None, {}, "python", CLAIM.target, space="wire/it")
ALL = msgspec.structs.replace(CLAIM, receivers=False, space="wire/it")


async def swept(here: Place, direction: Direction, run: Run) -> tuple[h.History, list[Outcome]]:
    """The history of a sweep and what came of its cases."""

    async def schedule(system: System) -> None:
        await sweep.every_byte(system, direction)

    history = await here.run(schedule, run)
    return history, outcomes(history, judge(history))


@in_event_loop
async def test_every_byte_of_a_message_is_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No position is left out, and the one behind the last byte is not cut: the frame was as long as that."""
    async with place(tmp_path, monkeypatch) as here:
        history, found = await swept(here, "upstream", ALL)
        assert of(history, h.Failed) == []
        assert [outcome.case for outcome in found] == [f"wire/it/{count}" for count in range(len(found))]
        assert [outcome.kind for outcome in found[:-2]] == ["resent"] * (len(found) - 2)
        assert found[-2].kind in ("resent", "acknowledged")
        assert found[-1].kind == "untouched"
        message = of(history, h.Invoke)[-1]
        frame = len(f'420["chat message","{message.content}","{of(history, h.Attempt)[-1].offset}"]') + 8
        assert len(found) - 2 == frame
        assert judge(history).verdict == "kept"
        here.require_nothing_left()


@in_event_loop
async def test_every_byte_of_an_answer_is_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is cut before the acknowledgement is sent again and found; behind it is nothing to send again."""
    async with place(tmp_path, monkeypatch) as here:
        history, found = await swept(here, "downstream", ALL)
        assert of(history, h.Failed) == []
        acknowledgement = len("431[]") + 2
        assert {outcome.kind for outcome in found[:acknowledgement]} == {"resent"}
        assert {outcome.kind for outcome in found[acknowledgement:-1]} <= {"resent", "acknowledged"}
        assert found[-1].kind == "untouched"
        assert len(of(history, h.Row)) == len(of(history, h.Invoke))


@in_event_loop
async def test_server_that_stores_twice_is_broken_where_the_acknowledgement_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its constraint the server doubles the messages whose acknowledgement did not get through.

    A second broadcast of such a message can be what is cut in the next case, which then proves nothing.
    """
    async with place(tmp_path, monkeypatch) as here:
        history, found = await swept(here, "downstream", msgspec.structs.replace(ALL, server="without_unique"))
        acknowledgement = len("431[]") + 2
        assert found[0].words == "duplicate"
        assert {outcome.words for outcome in found[:acknowledgement]} <= {"duplicate", "not cut where it should be"}
        assert not [outcome for outcome in found if outcome.kind == "resent"]
        assert judge(history).verdict == "broken"


@in_event_loop
async def test_one_case_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs alone; one that is not there is an error that says which is the last."""
    async with place(tmp_path, monkeypatch) as here:
        _, found = await swept(here, "upstream", msgspec.structs.replace(ALL, only=7))
        assert [(outcome.case, outcome.kind) for outcome in found] == [("wire/it/7", "resent")]
        history, found = await swept(here, "upstream", msgspec.structs.replace(ALL, only=5000))
        assert found == []
        (failed,) = of(history, h.Failed)
        assert failed.reason.startswith("there is no case wire/it/5000: the last one is wire/it/1")


@pytest.mark.parametrize("direction", ["upstream", "downstream"])
@in_event_loop
async def test_handshake_is_cut_at_its_first_and_last_bytes(
    direction: Direction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message waits for each of them, and one byte more than a handshake has lets it through."""

    async def schedule(system: System) -> None:
        await sweep.every_byte_of_a_handshake(system, direction)

    async with place(tmp_path, monkeypatch) as here:
        history = await here.run(schedule, SOME)
        found = outcomes(history, judge(history))
        assert of(history, h.Failed) == []
        assert [outcome.kind for outcome in found[:-1]] == ["resent"] * (len(found) - 1)
        assert found[0].evidence.startswith(f"a handshake was cut after 0 bytes {direction} while ")
        assert found[-1].kind == "untouched"
        assert judge(history).verdict == "kept"


@in_event_loop
async def test_control_runs_some_cases_and_loses_each_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control is no sweep of its own: some positions, with the first and the last, and what is cut is lost."""
    async with place(tmp_path, monkeypatch) as here:
        history, found = await swept(here, "upstream", msgspec.structs.replace(SOME, policy="once"))
        assert of(history, h.Failed) == []
        assert 10 <= len(found) <= 20
        assert {outcome.words for outcome in found[:-2]} == {"lost"}
        assert found[-1].kind == "untouched"
