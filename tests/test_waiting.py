"""Waiting with a deadline: what it returns, and what it says when the deadline passes."""

import asyncio
import time
from collections.abc import Awaitable

import pytest

from harness import waiting
from harness.errors import HarnessError
from harness.waiting import WaitTimeout

# Long enough never to pass while a test succeeds.
LONG_SECONDS = 30.0
SHORT_SECONDS = 0.02


def test_first_true_answer_is_returned() -> None:
    """A condition is asked again until its answer is true, and that answer is what is returned."""
    answers = iter([None, 0, "", "there", "too late"])
    assert asyncio.run(waiting.until(lambda: next(answers), awaited="x", timeout_seconds=LONG_SECONDS)) == "there"
    assert next(answers) == "too late"


def test_async_condition_is_awaited() -> None:
    """A condition may be a coroutine function: its result decides, and not the coroutine's being there."""
    answers = iter([0, 0, 7])

    async def condition() -> int:
        await asyncio.sleep(0)
        return next(answers)

    assert asyncio.run(waiting.until(condition, awaited="x", timeout_seconds=LONG_SECONDS)) == 7


def test_deadline_says_what_was_awaited_and_what_was_seen() -> None:
    """When the deadline passes the error says for what, how long, and what was there instead, asked once."""
    asked: list[int] = []

    def last_seen() -> str:
        asked.append(1)
        return "3 rows"

    with pytest.raises(WaitTimeout) as caught:
        asyncio.run(
            waiting.until(lambda: False, awaited="the fourth row", timeout_seconds=SHORT_SECONDS, last_seen=last_seen)
        )
    assert str(caught.value) == "waited 0.02 s for the fourth row; last seen: 3 rows"
    assert asked == [1]
    assert isinstance(caught.value, HarnessError)


def test_deadline_without_a_last_seen_says_what_was_awaited() -> None:
    """What was seen is left out where nothing tells it."""
    with pytest.raises(WaitTimeout, match=r"^waited 0\.02 s for a row$"):
        asyncio.run(waiting.until(lambda: False, awaited="a row", timeout_seconds=SHORT_SECONDS))


def test_deadline_is_not_passed_early() -> None:
    """A wait lasts at least as long as it was told."""
    began = time.monotonic()
    with pytest.raises(WaitTimeout):
        asyncio.run(waiting.until(lambda: False, awaited="x", timeout_seconds=0.1))
    assert time.monotonic() - began >= 0.1


def test_condition_is_asked_once_though_there_is_no_time() -> None:
    """A deadline that has passed already still lets the condition answer once."""
    assert asyncio.run(waiting.until(lambda: "there", awaited="x", timeout_seconds=0)) == "there"
    with pytest.raises(WaitTimeout):
        asyncio.run(waiting.until(lambda: None, awaited="x", timeout_seconds=0))


def test_condition_that_became_true_while_the_loop_was_held_up_counts() -> None:
    """On a machine that is busy past the deadline the condition is asked before the wait is given up."""
    answers: list[str] = []

    def hold_up() -> None:
        time.sleep(0.1)
        answers.append("there")

    async def wait() -> str:
        asyncio.get_running_loop().call_soon(hold_up)
        return await waiting.until(
            lambda: answers[0] if answers else "", awaited="x", timeout_seconds=0.05, interval_seconds=0.001
        )

    assert asyncio.run(wait()) == "there"


def test_exceptions_of_a_condition_pass_through() -> None:
    """An exception of a condition ends the wait as itself, a TimeoutError too."""

    def condition() -> bool:
        raise TimeoutError("the database's own")

    with pytest.raises(TimeoutError, match="the database's own"):
        asyncio.run(waiting.until(condition, awaited="x", timeout_seconds=LONG_SECONDS))


@pytest.mark.parametrize("kind", ["until", "within"])
def test_timeout_of_what_is_awaited_passes_through(kind: str) -> None:
    """A TimeoutError that the awaited thing raises itself is not taken for the deadline."""

    async def connect() -> bool:
        raise TimeoutError("the connection's own")

    async def wait() -> None:
        if kind == "until":
            await waiting.until(connect, awaited="x", timeout_seconds=LONG_SECONDS)
        else:
            await waiting.within(connect(), awaited="x", timeout_seconds=LONG_SECONDS)

    with pytest.raises(TimeoutError, match="the connection's own") as caught:
        asyncio.run(wait())
    assert not isinstance(caught.value, HarnessError)


def test_condition_that_hangs_is_given_up() -> None:
    """A condition that never answers does not outlast the deadline for ever."""

    async def condition() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(WaitTimeout, match=r"^waited 0\.02 s for an answer; last seen: nothing$"):
        asyncio.run(
            waiting.until(condition, awaited="an answer", timeout_seconds=SHORT_SECONDS, last_seen=lambda: "nothing")
        )


def test_event_in_time_is_returned() -> None:
    """What an awaitable returns in time is returned."""

    async def answer() -> str:
        return "there"

    assert asyncio.run(waiting.within(answer(), awaited="x", timeout_seconds=LONG_SECONDS)) == "there"


def test_event_that_does_not_come_is_an_error() -> None:
    """An awaitable that is not done by the deadline is cancelled, with an error that says what was awaited."""
    cancelled: list[int] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    with pytest.raises(WaitTimeout, match=r"^waited 0\.02 s for the end; last seen: the middle$"):
        asyncio.run(
            waiting.within(wait(), awaited="the end", timeout_seconds=SHORT_SECONDS, last_seen=lambda: "the middle")
        )
    assert cancelled == [1]


def test_cancellation_passes_through() -> None:
    """A wait that is cancelled is cancelled, and has not reached its deadline."""

    async def cancel(wait: Awaitable[object]) -> None:
        task = asyncio.ensure_future(wait)
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel(waiting.until(lambda: False, awaited="x", timeout_seconds=LONG_SECONDS)))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel(waiting.within(asyncio.sleep(LONG_SECONDS), awaited="x", timeout_seconds=LONG_SECONDS)))
