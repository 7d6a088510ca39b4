"""A correct server that asks the database to ignore a resend: `INSERT … ON CONFLICT DO NOTHING`, then a look.

One task, the feed, sends everything that receivers get: it broadcasts new rows in the order of the table and replays
old ones to a connection between two broadcasts, so that nobody misses a row or gets one twice.
"""

import argparse
import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import socketio
from aiohttp import web
from engineio.payload import Payload

log = logging.getLogger("chat")
Payload.max_decode_packets = 1000
sio = socketio.AsyncServer(async_mode="aiohttp", always_connect=True, ping_interval=2, ping_timeout=2)


class Messages:
    """The table; its methods run in one thread, which keeps them in the order in which they were asked for."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, timeout=0.1, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS messages"
            " (id INTEGER PRIMARY KEY AUTOINCREMENT, client_offset TEXT UNIQUE, content TEXT)"
        )

    def store(self, content: str, client_offset: str) -> bool:
        """Whether this message is in the table now, whoever put it there."""
        self._database.execute(
            "INSERT INTO messages (client_offset, content) VALUES (?, ?) ON CONFLICT (client_offset) DO NOTHING",
            (client_offset, content),
        )
        query = "SELECT 1 FROM messages WHERE (client_offset, content) = (?, ?)"
        return self._database.execute(query, (client_offset, content)).fetchone() is not None

    def between(self, after: int, last: int | None) -> list[tuple[int, str]]:
        """The rows with an id above `after`, up to `last`."""
        query = "SELECT id, content FROM messages WHERE id > ? AND id <= coalesce(?, id) ORDER BY id"
        return self._database.execute(query, (after, last)).fetchall()

    def last(self) -> int:
        """The highest id."""
        (last,) = self._database.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()
        return int(last)

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class Chat:
    """The handlers and the feed."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._thread = ThreadPoolExecutor(1)
        self._told = messages.last()
        # A receiver to welcome, with its offset; None: there may be new rows.
        self._work: asyncio.Queue[tuple[str, int] | None] = asyncio.Queue()

    async def connect(self, sid: str, _: object, auth: dict[str, int] | None) -> None:
        """Let the feed replay what this client has not seen."""
        self._work.put_nowait((sid, (auth or {}).get("serverOffset") or 0))

    async def chat_message(self, _sid: str, content: str, client_offset: str) -> object:
        """Acknowledge what is committed, and nothing else."""
        loop = asyncio.get_running_loop()
        try:
            stored = await loop.run_in_executor(self._thread, self._messages.store, content, client_offset)
        except sqlite3.Error as error:
            log.warning("not stored: %s", error)
            return sio.not_handled
        self._work.put_nowait(None)
        return None if stored else sio.not_handled

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Feed the receivers while the application runs."""
        feed = asyncio.create_task(self._feed())
        yield
        feed.cancel()
        self._thread.shutdown(cancel_futures=True)
        self._messages.close()

    async def _feed(self) -> None:
        while True:
            work = await self._work.get()
            try:
                await (self._tell() if work is None else self._welcome(*work))
            except sqlite3.Error as error:
                log.warning("to be tried again: %s", error)
                self._work.put_nowait(work)

    async def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        for row_id, content in await loop.run_in_executor(self._thread, self._messages.between, self._told, None):
            await sio.emit("chat message", (content, row_id), room="told")
            self._told = row_id

    async def _welcome(self, sid: str, offset: int) -> None:
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._thread, self._messages.between, offset, self._told)
        for row_id, content in rows:
            await sio.emit("chat message", (content, row_id), to=sid)
        if sio.manager.is_connected(sid, "/"):
            await sio.enter_room(sid, "told")


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", required=True)
    arguments = parser.parse_args()
    chat = Chat(Messages(arguments.database))
    sio.on("connect", chat.connect)
    sio.on("chat message", chat.chat_message)
    application = web.Application()
    sio.attach(application)
    application.cleanup_ctx.append(chat.run)
    web.run_app(
        application, host=arguments.host, port=arguments.port, print=None, access_log=None, shutdown_timeout=0.1
    )


if __name__ == "__main__":
    main()
