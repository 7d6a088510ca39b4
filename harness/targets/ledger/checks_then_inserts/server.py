"""Mistake: looks whether a message is stored, and then stores it.

A constraint would make the database say no, which looks like an error in the log, so the handler asks first. Between
its question and its insert it awaits something. A resend that comes along with its first attempt gets the same answer.
"""

import asyncio
import sqlite3

from ..common import Chat, insert

PREVIEW_SECONDS = 0.05

chat = Chat(
    schema="""
    CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        client_offset TEXT,
        content TEXT
    )
    """
)


def is_stored(database: sqlite3.Connection, client_offset: str) -> bool:
    """Whether a message is there already."""
    query = "SELECT 1 FROM messages WHERE client_offset = ?"
    return database.execute(query, (client_offset,)).fetchone() is not None


async def preview(_content: str) -> None:
    """Stands for looking up the title of a page that a message links to."""
    await asyncio.sleep(PREVIEW_SECONDS)


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message if it is new, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    try:
        if not await chat.run(is_stored, client_offset):
            await preview(content)
            await chat.run(insert, content, client_offset)
    except sqlite3.Error:
        return chat.sio.not_handled
    await chat.publish()
    return None


if __name__ == "__main__":
    chat.serve(chat_message)
