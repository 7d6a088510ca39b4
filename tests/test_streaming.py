"""A continuous stream: what one of its senders fails with is not lost."""

from typing import Any, cast

import pytest

from harness import waiting
from harness.clients.author import Message
from harness.errors import HarnessError
from harness.streaming import streaming
from tests.systems import in_event_loop


class Broken:
    """A sender that cannot send."""

    name = "alice"

    def __init__(self) -> None:
        self.tries = 0

    def post(self) -> Message:
        """Fail."""
        self.tries += 1
        raise HarnessError("a message cannot say that")


@in_event_loop
async def test_sender_that_cannot_send_fails_the_stream() -> None:
    """It does not just stop sending, while the others go on: there is no last message then."""
    sender = Broken()

    async def stream() -> None:
        async with streaming([cast("Any", sender)]):
            while not sender.tries:
                await waiting.pause(0)

    with pytest.raises(HarnessError, match="cannot say that"):
        await stream()
    assert sender.tries == 1
