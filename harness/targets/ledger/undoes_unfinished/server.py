"""Mistake: undoes at its start what it had not finished, also where its sender has been told.

Before each insert the message's offset is written into a file of its own, which is removed when everything is done. A
file that is left at the start means that the server has died in between, so the row is deleted: its sender, one
thought, sends it again. One system call too late: the acknowledgement leaves before the file is removed.
"""

import asyncio
import os
import sqlite3
from pathlib import Path

from ..common import Chat


def note(database: sqlite3.Connection) -> Path:
    """The file beside the database."""
    (_, _, path) = database.execute("PRAGMA database_list").fetchone()
    return Path(path).with_name("unfinished")


def opened(database: sqlite3.Connection) -> None:
    """Delete the row of the message that was not finished, if there is one."""
    if (left := note(database)).exists():
        database.execute("DELETE FROM messages WHERE client_offset = ?", (left.read_text(encoding="utf-8"),))
        left.unlink()


chat = Chat(opened=opened)


def begin(database: sqlite3.Connection, client_offset: str) -> None:
    """Note what is begun, durably."""
    with note(database).open("w", encoding="utf-8") as file:
        file.write(client_offset)
        file.flush()
        os.fsync(file.fileno())


def finish(database: sqlite3.Connection) -> None:
    """Note that it is done."""
    note(database).unlink(missing_ok=True)


async def finish_later() -> None:
    """After the answer: nobody has to wait for this."""
    await chat.run(lambda _: None)
    await asyncio.sleep(0)
    await chat.run(finish)


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    await chat.run(begin, client_offset)
    stored = await chat.store(content, client_offset)
    await chat.publish()
    chat.start(finish_later())
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
