"""A continuous stream: it goes on whatever becomes of one of its senders, and what one fails with is not lost."""

from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest

from harness import waiting
from harness.clients.author import Message
from harness.errors import HarnessError
from harness.streaming import Turns, streaming
from tests.systems import in_event_loop


class Fake:
    """A sender whose messages are done at once, or never: it has lost its patience then."""

    def __init__(self, name: str, *, stuck: bool = False) -> None:
        self.name = name
        self.posted: list[Message] = []
        self._stuck = stuck

    def post(self) -> Message:
        """Take a message."""
        self.posted.append(Message("", "", None))
        if not self._stuck:
            self.posted[-1].done.set()
        return self.posted[-1]

    async def finished(self, _: Message) -> None:
        """Wait no longer."""
        await waiting.pause(0)

    async def send_many(self, count: int) -> None:
        """Take some."""
        for _ in range(count):
            await self.finished(self.post())


class Broken(Fake):
    """A sender that cannot send."""

    tries = 0

    def post(self) -> Message:
        """Fail."""
        self.tries += 1
        raise HarnessError("a message cannot say that")


def stream(*senders: Fake) -> AbstractAsyncContextManager[Turns]:
    """A stream of these."""
    return streaming([cast("Any", sender) for sender in senders])


@in_event_loop
async def test_everybody_sends_although_nothing_happens_in_the_scope() -> None:
    """A server can be wrong without any fault."""
    alice, bob = Fake("alice"), Fake("bob")
    async with stream(alice, bob):
        pass
    assert min(len(alice.posted), len(bob.posted)) > 10


@in_event_loop
async def test_sender_that_is_stuck_holds_up_nobody() -> None:
    """It sends nothing more by itself, those behind it go on, and the schedule gets its turn."""
    stuck, alice = [Fake(f"stuck{number}", stuck=True) for number in range(20)], Fake("alice")
    async with stream(*stuck, alice) as turns:
        while len(alice.posted) < 10:
            await waiting.pause(0)
        async with turns(cast("Any", stuck[0])):
            assert len(stuck[0].posted) == 1


@in_event_loop
async def test_sender_that_cannot_send_fails_the_stream() -> None:
    """It does not just stop sending, while the others go on: there is no last message then."""
    broken = Broken("bob")

    async def whole() -> None:
        async with stream(Fake("alice"), broken):
            while not broken.tries:
                await waiting.pause(0)

    with pytest.raises(HarnessError, match="cannot say that"):
        await whole()
    assert broken.tries == 1
