"""Interrupts: the first one ends what is under way, in good order, and the others change nothing."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from harness import interrupt
from harness.errors import HarnessError
from harness.interrupt import Interrupts


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    """Interrupts that listen."""
    listening = Interrupts()
    listening.listen()
    yield listening
    listening.stop_listening()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("error", [None, HarnessError("it could not be cleaned up")], ids=["clean", "fails"])
def test_work_cleans_up_before_it_is_interrupted(
    interrupts: Interrupts, number: signal.Signals, error: HarnessError | None
) -> None:
    """Either signal cancels the work, which cleans up undisturbed by further ones; then comes KeyboardInterrupt."""
    done = []

    async def work() -> None:
        signal.raise_signal(number)
        try:
            await asyncio.Event().wait()
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(0)
            done.append("clean")
            if error is not None:
                raise error

    with asyncio.Runner() as runner, pytest.raises(KeyboardInterrupt):
        interrupts.run(runner, work())
    assert done == ["clean"]


def test_work_after_an_interrupt_is_not_interrupted_again(interrupts: Interrupts) -> None:
    """What ends a run that was interrupted, like stopping Toxiproxy, runs to its end."""
    done = []

    async def work() -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0)
        done.append("stopped")

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    with asyncio.Runner() as runner:
        interrupts.run(runner, work())
    assert done == ["stopped"]


def test_run_that_is_ending_is_not_interrupted(interrupts: Interrupts) -> None:
    """Once the run is ending anyway even the first Ctrl-C changes nothing."""
    interrupts.ignore()
    signal.raise_signal(signal.SIGINT)


def test_work_that_does_not_end_can_be_ended(interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loop is blocked, another Ctrl-C ends the work at once when its time to clean up is over."""
    monkeypatch.setattr(interrupt, "_GRACE_SECONDS", -1.0)

    async def work() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it goes on")

    with asyncio.Runner() as runner, pytest.raises(KeyboardInterrupt):
        interrupts.run(runner, work())


def test_signals_are_given_back() -> None:
    """Afterwards both signals do what they did before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    listening = Interrupts()
    listening.listen()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    listening.stop_listening()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
