"""Mistake: leaves a transaction open behind a duplicate.

Functions that need a transaction may call each other, so a counter tells the outermost, and that one commits. The
early return for a message that is there already was added later, between the two: the counter stays one too high, and
from then on nothing is the outermost. The server itself reads its rows as ever; nobody else will.
"""

import contextlib
import sqlite3

from ..common import Chat, insert


class Transactions:
    """Begins with the first `begin` and commits with the last `end`."""

    depth = 0

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin, unless a transaction is open."""
        if self.depth == 0:
            database.execute("BEGIN IMMEDIATE")
        self.depth += 1

    def end(self, database: sqlite3.Connection) -> None:
        """Commit, unless somebody further out will."""
        self.depth -= 1
        if self.depth == 0:
            database.execute("COMMIT")

    def cancel(self, database: sqlite3.Connection) -> None:
        """Give up everything since the first `begin`."""
        self.depth = 0
        with contextlib.suppress(sqlite3.Error):  # there is none, or the error has rolled it back already
            database.execute("ROLLBACK")


chat = Chat()
transactions = Transactions()


def insert_once(database: sqlite3.Connection, content: str, client_offset: str) -> bool:
    """Store a message unless it is there; False when its offset is another message's."""
    transactions.begin(database)
    query = "SELECT content FROM messages WHERE client_offset = ?"
    found = database.execute(query, (client_offset,)).fetchone()
    if found is not None:
        return bool(found == (content,))
    insert(database, content, client_offset)
    transactions.end(database)
    return True


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    try:
        stored = await chat.run(insert_once, content, client_offset)
    except sqlite3.Error:
        await chat.run(transactions.cancel)
        return chat.sio.not_handled
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
