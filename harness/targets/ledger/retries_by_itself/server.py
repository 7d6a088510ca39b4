"""Mistake: tries a message that failed again later, and lets the next one pass.

The table was locked for a moment, so the handler got what every tutorial on retries has: wait, try again. The
acknowledgement waits for it, and a sender that waits for that is served in order. One that does not wait has its next
message stored meanwhile.
"""

import asyncio

from ..common import Chat

AGAIN_SECONDS = 1.0
TRIES = 10

chat = Chat()


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, however often it takes, tell everybody, acknowledge."""
    for _ in range(TRIES):
        if await chat.store(content, client_offset):
            await chat.publish()
            return None
        await asyncio.sleep(AGAIN_SECONDS)
    return chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
