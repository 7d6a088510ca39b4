"""Mistake: never syncs.

A benchmark showed that `synchronous = OFF` makes the server several times as fast, and every test still passed: what a
server has written survives its own death. It does not survive that of the machine.
"""

import sqlite3

from ..common import Chat


def opened(database: sqlite3.Connection) -> None:
    """Be fast."""
    database.execute("PRAGMA synchronous = OFF")


chat = Chat(opened=opened)


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an unstored one is left to the client's resend."""
    stored = await chat.store(content, client_offset)
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
