"""A server that is right as long as its clients' offsets are unique: that is the mistake of the client beside it."""

import sqlite3

from ..common import Chat, insert

chat = Chat()


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge; an offset that is there already means stored already."""
    try:
        await chat.run(insert, content, client_offset)
    except sqlite3.IntegrityError:
        return None
    except sqlite3.Error:
        return chat.sio.not_handled
    await chat.publish()
    return None


if __name__ == "__main__":
    chat.serve(chat_message)
