"""Mistake: broadcasts before the commit.

To make the chat feel instant everybody is told first and the row is written afterwards, under an id taken from the
clock because the table has not given one yet. When the write fails, the client resends as it should, and everybody
is told again.
"""

import sqlite3
import time

from ..common import Chat

chat = Chat()


def find(database: sqlite3.Connection, client_offset: str) -> str | None:
    """The content that is stored under an offset, if there is any."""
    query = "SELECT content FROM messages WHERE client_offset = ?"
    row = database.execute(query, (client_offset,)).fetchone()
    return row[0] if row else None


def insert(database: sqlite3.Connection, row_id: int, content: str, client_offset: str) -> None:
    """Store a message under an id that it has already."""
    row = (row_id, client_offset, content)
    database.execute("INSERT INTO messages (id, client_offset, content) VALUES (?, ?, ?)", row)


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Tell everybody, store the message, acknowledge; an unstored one is left to the client's resend."""
    async with chat.broadcasting:  # one at a time, so that ids, rows and broadcasts have one order
        try:
            stored = await chat.run(find, client_offset)
            if stored is not None:
                return None if stored == content else chat.sio.not_handled
            row_id = max(time.time_ns() // 1000, chat.published + 1)
            await chat.broadcast(content, row_id)
            await chat.run(insert, row_id, content, client_offset)
        except sqlite3.Error:
            return chat.sio.not_handled
        chat.published = row_id
        return None


if __name__ == "__main__":
    chat.serve(chat_message)
