"""Waiting for a condition with a deadline: the only polling, the only deadlines and the only sleep."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_delay, wait_fixed

from harness.errors import HarnessError

T = TypeVar("T")


class WaitTimeout(HarnessError):
    """A deadline passed; the text says what was awaited, for how long, and what was last seen."""


@overload
async def until(
    condition: Callable[[], Awaitable[T]],
    *,
    awaited: str,
    timeout_seconds: float,
    last_seen: Callable[[], object] | None = None,
    interval_seconds: float = 0.005,
) -> T: ...
@overload
async def until(
    condition: Callable[[], T],
    *,
    awaited: str,
    timeout_seconds: float,
    last_seen: Callable[[], object] | None = None,
    interval_seconds: float = 0.005,
) -> T: ...
async def until(
    condition: Callable[[], Any],
    *,
    awaited: str,
    timeout_seconds: float,
    last_seen: Callable[[], object] | None = None,
    interval_seconds: float = 0.005,
) -> Any:
    """Call `condition` until it returns something true, and return that.

    Args:
        condition: a function, plain or async; its exceptions pass through. A call that hangs is given up after
            `timeout_seconds`, too.
        awaited: what is being waited for, as it reads after "waited 3 s for".
        timeout_seconds: the deadline, counted from this call.
        last_seen: called once when the deadline passes, to say what was there instead.
        interval_seconds: the pause between two calls.

    Raises:
        WaitTimeout: the deadline passed.
    """

    async def ask() -> Any:
        answer = condition()
        if not inspect.isawaitable(answer):
            return answer
        return await within(answer, awaited=awaited, timeout_seconds=timeout_seconds, last_seen=last_seen)

    retrying = AsyncRetrying(
        retry=retry_if_result(lambda answer: not answer),
        stop=stop_after_delay(timeout_seconds),
        wait=wait_fixed(interval_seconds),
        sleep=asyncio.sleep,
    )
    try:
        return await retrying(ask)
    except RetryError:
        raise WaitTimeout(_text(awaited, timeout_seconds, last_seen)) from None


async def within(
    awaitable: Awaitable[T],
    *,
    awaited: str,
    timeout_seconds: float,
    last_seen: Callable[[], object] | None = None,
) -> T:
    """Await an event with a deadline; its exceptions pass through, a TimeoutError of its own among them.

    Raises:
        WaitTimeout: the deadline passed.
    """
    deadline = asyncio.timeout(timeout_seconds)
    try:
        async with deadline:
            return await awaitable
    except TimeoutError:
        if not deadline.expired():
            raise
        raise WaitTimeout(_text(awaited, timeout_seconds, last_seen)) from None


async def pause(seconds: float) -> None:
    """Let time pass: a delay before a reconnect, the length of a hold. Never a way to wait for something."""
    await asyncio.sleep(seconds)


def _text(awaited: str, timeout_seconds: float, last_seen: Callable[[], object] | None) -> str:
    seen = f"; last seen: {last_seen()}" if last_seen else ""
    return f"waited {timeout_seconds:g} s for {awaited}{seen}"
