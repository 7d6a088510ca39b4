"""Mistake: broadcasts no resend.

Receivers had seen messages twice, so what was tried once is not broadcast again. "Tried" is noted before the insert.
When that fails, and the resend is stored, everybody who is connected has missed the message: later ones move their
offsets past it, and no replay will bring it.
"""

import sqlite3

from ..common import Chat, insert

chat = Chat()
tried: set[str] = set()


def insert_new(database: sqlite3.Connection, content: str, client_offset: str) -> int | None:
    """Store a message unless it is there; returns its row if it is new."""
    try:
        insert(database, content, client_offset)
    except sqlite3.IntegrityError:
        return None
    (row_id,) = database.execute("SELECT last_insert_rowid()").fetchone()
    return int(row_id)


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody of a new one, acknowledge; an unstored one is left to the client's resend."""
    async with chat.broadcasting:  # one at a time, so that rows and broadcasts have one order
        is_resend = client_offset in tried
        tried.add(client_offset)
        try:
            row_id = await chat.run(insert_new, content, client_offset)
        except sqlite3.Error:
            return chat.sio.not_handled
        if row_id is not None:
            if not is_resend:
                await chat.broadcast(content, row_id)
            chat.published = row_id
        return None


if __name__ == "__main__":
    chat.serve(chat_message)
