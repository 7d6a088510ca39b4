"""A continuous stream: each of many senders sends one message after the other, for as long as a scope lasts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.system import AnySender

TEXT = "a text that is long enough for ten slices"
"""What meets a fault, and what goes before it: of one length, and short, so that its pieces do not take for ever."""

_UNDER_WAY = 8
_AFTERWARDS = 20

Turns = Callable[["AnySender"], asyncio.Lock]
"""`async with turns(sender)`: within, nobody else has that sender send, and all others go on."""


@contextlib.asynccontextmanager
async def streaming(senders: "Sequence[AnySender]") -> AsyncIterator[Turns]:
    """Have all of them send, until a little after the scope; then each is given one more message, with no wait for it.

    So there is a stream also where nothing else happens in the scope. A sender sends its next message when nothing more
    will be done about the one before; once it has lost its patience it sends nothing more by itself: what is stuck by
    the end of the run is for the judge, and holds up nobody else. Only some messages are under way at once: where a
    crowd hears of each, all of its members at once would make answers late without any fault, and sending again would
    keep them late.

    Raises:
        HarnessError: one of them cannot send.
    """
    turns = {sender.name: asyncio.Lock() for sender in senders}
    under_way = asyncio.Semaphore(_UNDER_WAY)

    async def keep_sending(sender: "AnySender") -> None:
        # A lock is given to who has waited longest, so the schedule gets its turn between two messages.
        message = None
        while message is None or message.done.is_set():
            async with turns[sender.name], under_way:
                message = sender.post()
                await sender.finished(message)

    tasks = [asyncio.create_task(keep_sending(sender)) for sender in senders]
    try:
        yield lambda sender: turns[sender.name]
        async with turns[senders[0].name]:
            await senders[0].send_many(_AFTERWARDS)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for failure in (end for end in ends if isinstance(end, Exception)):
        raise failure
    for sender in senders:
        sender.post()
