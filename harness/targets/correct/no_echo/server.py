"""A correct server that does not send a message back to its own sender, and promises nothing to receivers.

The acknowledgement is the sender's echo. There is no replay: a chat that one looks at while it happens.
"""

import argparse
import asyncio
import contextlib
import logging
import sqlite3

import socketio
from aiohttp import web
from engineio.payload import Payload

log = logging.getLogger("chat")


def open_database(path: str) -> sqlite3.Connection:
    """Open the database; the table is made if it is not there."""
    database = sqlite3.connect(path, timeout=0.1, check_same_thread=False)
    database.execute("PRAGMA journal_mode = DELETE")  # the default: with it a writer and a reader exclude each other
    database.execute("PRAGMA synchronous = FULL")
    with database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS messages"
            " (id INTEGER PRIMARY KEY AUTOINCREMENT, client_offset TEXT UNIQUE, content TEXT)"
        )
    return database


def store(database: sqlite3.Connection, content: str, client_offset: str) -> int | None:
    """Store and commit a message; its id, or None when it was there already.

    Raises:
        ValueError: the offset is another message's.
    """
    with database:  # commits, or rolls back
        row = database.execute("SELECT id, content FROM messages WHERE client_offset = ?", (client_offset,)).fetchone()
        if row is None:
            statement = "INSERT INTO messages (client_offset, content) VALUES (?, ?)"
            return database.execute(statement, (client_offset, content)).lastrowid
    if row[1] != content:
        raise ValueError(f"the offset {client_offset!r} belongs to row {row[0]}")
    return None


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", required=True)
    arguments = parser.parse_args()

    Payload.max_decode_packets = 1000
    sio = socketio.AsyncServer(async_mode="aiohttp", ping_interval=2, ping_timeout=2)
    # One message at a time, in the order of arrival: a lock wakes those who wait in the order in which they came.
    turn = asyncio.Lock()

    async def chat_message(sid: str, content: str, client_offset: str) -> object:
        async with turn:
            try:
                row_id = await asyncio.to_thread(store, database, content, client_offset)
            except (sqlite3.Error, ValueError) as error:
                log.warning("not stored: %s", error)
                return sio.not_handled
            if row_id is not None:
                await sio.emit("chat message", (content, row_id), skip_sid=sid)
        return None

    sio.on("chat message", chat_message)
    application = web.Application()
    sio.attach(application)
    with contextlib.closing(open_database(arguments.database)) as database:
        web.run_app(
            application, host=arguments.host, port=arguments.port, print=None, access_log=None, shutdown_timeout=0.1
        )


if __name__ == "__main__":
    main()
