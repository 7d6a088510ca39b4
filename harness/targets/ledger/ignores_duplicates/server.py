"""Mistake: does not answer a message that it knows.

A message that is there already is logged and ignored, like any other error of its insert. Its sender has lost the
answer to the first attempt, so it is told nothing for ever: it tries until it gives up, and reports a failure that is
none.
"""

import sqlite3

from ..common import Chat, insert, log

chat = Chat()


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; leave everything else unanswered."""
    try:
        await chat.run(insert, content, client_offset)
    except sqlite3.Error as error:
        log.warning("not stored: %s", error)
        return chat.sio.not_handled
    await chat.publish()
    return None


if __name__ == "__main__":
    chat.serve(chat_message)
