"""Mistake: one task per event, with something slow before the insert.

python-socketio starts a task for each event unless told otherwise. That is harmless while the first thing a handler
does is to queue its insert. Then moderation was added in front, which takes longer for longer messages: a short one
overtakes the long one that its sender wrote before it.
"""

import asyncio

from ..common import Chat

SECONDS_PER_CHARACTER = 0.001
MOST_SECONDS = 0.3

chat = Chat()


async def moderate(content: str) -> None:
    """Stands for a call to a moderation service, whose time depends on the length of what it has to read."""
    await asyncio.sleep(min(len(content) * SECONDS_PER_CHARACTER, MOST_SECONDS))


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Moderate the message, store it, tell everybody, acknowledge; an unstored one is left to a resend."""
    await moderate(content)
    stored = await chat.store(content, client_offset)
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
