"""Mistake: throws away what a connection has left behind when it ends.

Each connection has a buffer, which is acknowledged at once and written twice a second. When a connection ends its state
is cleaned up, and the buffer with it. Nothing is lost as long as the network holds.
"""

import asyncio
import contextlib
import sqlite3

from ..common import Chat, insert_once

COLLECT_SECONDS = 0.5

buffers: dict[str, list[tuple[str, str]]] = {}


def write(database: sqlite3.Connection, sid: str) -> None:
    """Store what a connection has sent, each message once, as far as that goes."""
    buffer = buffers.get(sid, [])
    while buffer:
        insert_once(database, *buffer[0])
        buffer.pop(0)


def write_everything(database: sqlite3.Connection) -> None:
    """Store what is left when the server is stopped."""
    with contextlib.suppress(sqlite3.Error):
        for sid in buffers:
            write(database, sid)


chat = Chat(closing=write_everything)


async def keep_writing(sid: str) -> None:
    """Write and publish as long as the connection is there."""
    while sid in buffers:
        await asyncio.sleep(COLLECT_SECONDS)
        with contextlib.suppress(sqlite3.Error):
            await chat.run(write, sid)
            await chat.publish()


async def chat_message(sid: str, content: str, client_offset: str) -> None:
    """Put the message into the connection's buffer and acknowledge it."""
    if sid not in buffers:
        buffers[sid] = []
        chat.start(keep_writing(sid))
    buffers[sid].append((content, client_offset))


@chat.sio.on("disconnect")  # type: ignore[untyped-decorator, unused-ignore]  # python-socketio's
async def clean_up(sid: str, *_: object) -> None:
    """Forget a connection."""
    buffers.pop(sid, None)


if __name__ == "__main__":
    chat.serve(chat_message)
