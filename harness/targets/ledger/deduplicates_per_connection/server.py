"""Mistake: deduplicates per connection.

Clients were thought to number their messages from 0 on each connection, so the offset was made unique within the
connection. A resend after a reconnect comes with a new connection id: it is a new message to this table.
"""

import sqlite3

from ..common import Chat

chat = Chat(
    schema="""
    CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        connection TEXT,
        client_offset TEXT,
        content TEXT,
        UNIQUE (connection, client_offset)
    )
    """
)


def insert_once(database: sqlite3.Connection, sid: str, content: str, client_offset: str) -> bool:
    """Store a message unless it is there; False when its offset is another message's."""
    row = (sid, client_offset, content)
    try:
        database.execute("INSERT INTO messages (connection, client_offset, content) VALUES (?, ?, ?)", row)
    except sqlite3.IntegrityError:
        query = "SELECT connection, client_offset, content FROM messages WHERE (connection, client_offset) = (?, ?)"
        return bool(database.execute(query, row[:2]).fetchone() == row)
    return True


async def chat_message(sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    try:
        stored = await chat.run(insert_once, sid, content, client_offset)
    except sqlite3.Error:
        stored = False
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
