"""Mistake: remembers the last few offsets only.

The set of offsets seen was a leak, so it became a ring of the latest, filled from the table at the start. Its size was
found with one sender, who is never more than one message ahead. Others push an offset out before its resend comes.
"""

import sqlite3
from collections import deque

from ..common import Chat, insert

REMEMBERED = 30

recent: deque[str] = deque(maxlen=REMEMBERED)


def recall(database: sqlite3.Connection) -> None:
    """Remember what was stored before a restart."""
    query = "SELECT client_offset FROM messages ORDER BY id DESC LIMIT ?"
    recent.extendleft(client_offset for (client_offset,) in database.execute(query, (REMEMBERED,)))


def insert_unseen(database: sqlite3.Connection, content: str, client_offset: str) -> None:
    """Store a message unless it is one of the latest."""
    if client_offset not in recent:
        insert(database, content, client_offset)
        recent.append(client_offset)


chat = Chat(
    schema="""
    CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        client_offset TEXT,
        content TEXT
    )
    """,
    opened=recall,
)


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    try:
        await chat.run(insert_unseen, content, client_offset)
    except sqlite3.Error:
        return chat.sio.not_handled
    await chat.publish()
    return None


if __name__ == "__main__":
    chat.serve(chat_message)
