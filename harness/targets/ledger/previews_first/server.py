"""Mistake: broadcasts each message when its preview is ready.

A message is stored and acknowledged at once, and what it links to is looked up in the background, so that nobody waits
for other people's servers. The broadcast comes after that, with the preview. Rows are in order; a message with much to
look up is overtaken on its way to the receivers.
"""

import asyncio

from ..common import Chat, rows_after

SECONDS_PER_CHARACTER = 0.001
MOST_SECONDS = 0.3

chat = Chat()


async def broadcast_with_preview(content: str, row_id: int) -> None:
    """Tell everybody; the wait stands for the look-up, which takes longer for longer messages."""
    await asyncio.sleep(min(len(content) * SECONDS_PER_CHARACTER, MOST_SECONDS))
    async with chat.broadcasting:
        await chat.broadcast(content, row_id)


async def publish() -> None:
    """Start the broadcast of every row that is new."""
    async with chat.broadcasting:
        for row_id, content in await chat.run(rows_after, chat.published):
            chat.start(broadcast_with_preview(content, row_id))
            chat.published = row_id


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, acknowledge; an unstored one is left to the client's resend."""
    stored = await chat.store(content, client_offset)
    await publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
