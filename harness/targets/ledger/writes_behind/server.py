"""Mistake: acknowledges what is only in memory (write-behind).

One commit per message was too slow, so messages are collected and written together, once a second, and once more at a
graceful stop. A batch that fails is kept and written later, so no error of the database loses anything. A kill does.
"""

import asyncio
import contextlib
import json
import sqlite3

from ..common import Chat

COLLECT_SECONDS = 1.0

collected: list[tuple[str, str]] = []


def write(database: sqlite3.Connection) -> None:
    """Store what was collected, each message once, all of it or nothing."""
    batch = collected[:]
    database.execute(
        "INSERT OR IGNORE INTO messages (client_offset, content)"
        " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)",
        (json.dumps(batch),),
    )
    del collected[: len(batch)]


def write_the_rest(database: sqlite3.Connection) -> None:
    """Store what is left when the server is stopped."""
    with contextlib.suppress(sqlite3.Error):
        write(database)


chat = Chat(closing=write_the_rest)


async def keep_writing() -> None:
    """Write and publish as long as there is anything to write."""
    while collected:
        await asyncio.sleep(COLLECT_SECONDS)
        with contextlib.suppress(sqlite3.Error):
            await chat.run(write)
            await chat.publish()


async def chat_message(_sid: str, content: str, client_offset: str) -> None:
    """Collect the message and acknowledge it."""
    collected.append((client_offset, content))
    if len(collected) == 1:
        chat.start(keep_writing())


if __name__ == "__main__":
    chat.serve(chat_message)
