"""Mistake: acknowledges on any database error.

The tutorial acknowledges a message that violates the unique constraint, because it is stored already. Here the
`except` was written for that case and catches every other one too, a locked database among them.
"""

import sqlite3

from ..common import Chat, insert

chat = Chat()


async def chat_message(_sid: str, content: str, client_offset: str) -> None:
    """Store the message, tell everybody, acknowledge."""
    try:
        await chat.run(insert, content, client_offset)
    except sqlite3.Error:
        return  # a resend: we have it, so that the client can stop
    await chat.publish()


if __name__ == "__main__":
    chat.serve(chat_message)
