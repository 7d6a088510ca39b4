"""Mistake: replays one page.

A client that came back after a week was sent everything, so the query got a limit. The page after it was to follow
when the client asks for it, and no client does: whoever misses more than a page has a hole behind it.
"""

import sqlite3
from collections.abc import Sequence

from ..common import Chat, Row

PAGE_ROWS = 30


def first_page_after(database: sqlite3.Connection, server_offset: int) -> Sequence[Row]:
    """The first rows that a client which has seen `server_offset` has not seen."""
    query = "SELECT id, content FROM messages WHERE id > ? ORDER BY id LIMIT ?"
    return database.execute(query, (server_offset, PAGE_ROWS)).fetchall()


chat = Chat(replay=first_page_after)


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    stored = await chat.store(content, client_offset)
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
