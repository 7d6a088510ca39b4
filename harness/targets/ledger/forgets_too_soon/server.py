"""Mistake: remembers an offset for less time than its resend takes.

Offsets that were seen live in a table of their own, with the time, and expire: a copy of what one does with keys in
Redis (`SET offset 1 NX EX 30`). Nobody compared that time with how long a client keeps on trying. Scaled down as the
ack timeout of these tests is: an offset is forgotten after half an ack timeout.
"""

import contextlib
import sqlite3
import time

from ..common import Chat, insert

REMEMBERED_SECONDS = 0.5

chat = Chat(
    schema="""
    CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, client_offset TEXT, content TEXT);
    CREATE TABLE IF NOT EXISTS seen (client_offset TEXT PRIMARY KEY, at REAL);
    """
)


def insert_unseen(database: sqlite3.Connection, content: str, client_offset: str) -> None:
    """Store a message unless it was seen lately, and remember it, in one transaction."""
    now = time.time()
    database.execute("BEGIN IMMEDIATE")
    try:
        database.execute("DELETE FROM seen WHERE at < ?", (now - REMEMBERED_SECONDS,))
        if database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (client_offset, now)).rowcount:
            insert(database, content, client_offset)
        database.execute("COMMIT")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):  # some errors have rolled it back already
            database.execute("ROLLBACK")
        raise


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
