"""Mistake: truncates the content.

The first database had a VARCHAR(255) and refused anything longer, so the handler cuts the content to fit, and
acknowledges. The column is a TEXT by now; the cut stayed.
"""

from ..common import Chat

COLUMN_LENGTH = 255

chat = Chat()


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    stored = await chat.store(content[:COLUMN_LENGTH], client_offset)
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
