"""Mistake: the replay skips a row.

The client sends the last offset that it has seen. The query was written for "the first one that I want", and somebody
then added one to mend it, although `>` was there already: the first row that a returning receiver missed stays missed.
"""

import sqlite3
from collections.abc import Sequence

from ..common import Chat, Row


def rows_after(database: sqlite3.Connection, server_offset: int) -> Sequence[Row]:
    """The rows that a client which has seen `server_offset` has not seen."""
    first_wanted = server_offset + 1
    query = "SELECT id, content FROM messages WHERE id > ? ORDER BY id"
    return database.execute(query, (first_wanted,)).fetchall()


chat = Chat(replay=rows_after)


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    stored = await chat.store(content, client_offset)
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
