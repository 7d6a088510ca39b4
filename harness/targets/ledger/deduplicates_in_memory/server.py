"""Mistake: deduplicates in memory only.

A set of the offsets seen recognises every resend, across connections too, as long as the server lives. After a
restart the set is empty and the table has no constraint: a message whose acknowledgement died with the server is
stored again.
"""

import sqlite3

from ..common import Chat, insert

chat = Chat(
    schema="""
    CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        client_offset TEXT,
        content TEXT
    )
    """
)
seen: set[str] = set()


def insert_unseen(database: sqlite3.Connection, content: str, client_offset: str) -> None:
    """Store a message unless it was seen before."""
    if client_offset not in seen:
        insert(database, content, client_offset)
        seen.add(client_offset)


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
