"""Mistake: the offset has no unique constraint.

The handler relies on the constraint to recognise a resend, as the tutorial does. The table was created by an older
migration, which had the column and not the constraint, so a resend is simply stored again.
"""

from ..common import Chat

chat = Chat(
    schema="""
    CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        client_offset TEXT,
        content TEXT
    )
    """
)


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    stored = await chat.store(content, client_offset)
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
