"""Mistake: ends the process on an error of the database.

"Fail fast": what is not the unique constraint was taken for a bug, after which nothing can be trusted, and somebody
would start the server again. A table that is locked for a moment then ends it for everybody.
"""

import logging
import os
import sqlite3

from ..common import Chat, insert_once

chat = Chat()
log = logging.getLogger("chat")


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; refuse an offset that is another message's."""
    try:
        stored = await chat.run(insert_once, content, client_offset)
    except sqlite3.Error as error:
        log.critical("the database failed, giving up: %s", error)
        os._exit(1)
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
