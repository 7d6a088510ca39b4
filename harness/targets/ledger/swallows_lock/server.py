"""Mistake: swallows the lock error.

"database is locked" went away when one tried again, so the insert got a helper that tries a few times. What the
helper does after the last try was not thought about: it returns as if the message were stored.
"""

import contextlib
import logging
import sqlite3

from ..common import Chat, insert_once

TRIES = 3

chat = Chat()
log = logging.getLogger("chat")


def insert_patiently(database: sqlite3.Connection, content: str, client_offset: str) -> bool:
    """Store a message, also when another program holds the database for a moment."""
    for _ in range(TRIES):
        with contextlib.suppress(sqlite3.OperationalError):
            return insert_once(database, content, client_offset)
    log.warning("the database is still locked after %d tries", TRIES)
    return True


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; refuse an offset that is another message's."""
    if not await chat.run(insert_patiently, content, client_offset):
        return chat.sio.not_handled
    await chat.publish()
    return None


if __name__ == "__main__":
    chat.serve(chat_message)
