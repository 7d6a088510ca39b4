"""Mistake: acknowledges between the write and its sync.

One sync for many messages: the WAL is not synced at each commit but once a second, by a checkpoint. For up to a second
an acknowledged message is nowhere but in the memory of the machine.
"""

import asyncio
import sqlite3

from ..common import Chat

PERIOD_SECONDS = 1.0


def opened(database: sqlite3.Connection) -> None:
    """Leave the syncs to the checkpoints."""
    database.execute("PRAGMA synchronous = NORMAL")


chat = Chat(opened=opened)
syncing = False


async def sync() -> None:
    """Make everything durable, every second."""
    while True:
        await asyncio.sleep(PERIOD_SECONDS)
        await chat.run(lambda database: database.execute("PRAGMA wal_checkpoint(FULL)").fetchall())


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    global syncing
    if not syncing:
        syncing = True
        chat.start(sync())
    stored = await chat.store(content, client_offset)
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
