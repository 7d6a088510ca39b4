"""Mistake: remembers an answer before the commit.

Answers are cached by offset, so that a resend need not touch the database. The answer goes into the cache with the
insert, and the commit comes after it: when that fails for want of space, the row is rolled back and the answer is not.
"""

import contextlib
import sqlite3

from ..common import Chat, insert_once

chat = Chat()
answers: dict[str, bool] = {}


def insert_in_transaction(database: sqlite3.Connection, content: str, client_offset: str) -> None:
    """Store a message and remember the answer to it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        answers[client_offset] = insert_once(database, content, client_offset)
        database.execute("COMMIT")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):  # some errors have rolled it back already
            database.execute("ROLLBACK")
        raise


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    try:
        if client_offset not in answers:
            await chat.run(insert_in_transaction, content, client_offset)
    except sqlite3.Error:
        return chat.sio.not_handled
    await chat.publish()
    return None if answers[client_offset] else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
