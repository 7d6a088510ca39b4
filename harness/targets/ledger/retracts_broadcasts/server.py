"""Mistake: broadcasts first, and takes back what could not be stored.

To make the chat feel instant everybody is told first. When the write fails, an event takes the message back: no client
listens to it, and one that was away for a moment never gets it.
"""

import sqlite3

from ..common import Chat

chat = Chat()


def next_id(database: sqlite3.Connection, client_offset: str) -> int | None:
    """The id that a message will have, or None when its offset is there already."""
    if database.execute("SELECT 1 FROM messages WHERE client_offset = ?", (client_offset,)).fetchone():
        return None
    (last,) = database.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()
    return int(last) + 1


def insert(database: sqlite3.Connection, row_id: int, content: str, client_offset: str) -> None:
    """Store a message under an id that it has already."""
    row = (row_id, client_offset, content)
    database.execute("INSERT INTO messages (id, client_offset, content) VALUES (?, ?, ?)", row)


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Tell everybody, store the message, acknowledge; take an unstored one back."""
    async with chat.broadcasting:  # one at a time, so that ids, rows and broadcasts have one order
        row_id = await chat.run(next_id, client_offset)
        if row_id is None:
            return None
        await chat.broadcast(content, row_id)
        try:
            await chat.run(insert, row_id, content, client_offset)
        except sqlite3.Error:
            await chat.sio.emit("chat message retracted", row_id)
            return chat.sio.not_handled
        chat.published = row_id
        return None


if __name__ == "__main__":
    chat.serve(chat_message)
