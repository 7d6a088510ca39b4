"""A correct server whose ids have gaps: microseconds of the clock, and always above the last one.

Every connection follows the table on its own, from the offset that it came with: there is no broadcast to join and
so no seam between replay and live messages.
"""

import argparse
import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import socketio
from aiohttp import web
from engineio.payload import Payload

log = logging.getLogger("chat")
Payload.max_decode_packets = 1000
sio = socketio.AsyncServer(async_mode="aiohttp", always_connect=True, ping_interval=2, ping_timeout=2)


class Table:
    """The messages. One writer, so ids rise in the order of the commits and a follower never has to look back."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, timeout=0.1, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, client_offset TEXT UNIQUE, content TEXT)"
        )

    def store(self, content: str, client_offset: str) -> bool:
        """Store and commit a message unless it is there; False when its offset is another message's."""
        statement = """
            INSERT INTO messages (id, client_offset, content)
            SELECT max(?, coalesce(max(id), 0) + 1), ?, ? FROM messages
        """
        try:
            self._database.execute(statement, (time.time_ns() // 1000, client_offset, content))
        except sqlite3.IntegrityError:
            query = "SELECT content FROM messages WHERE client_offset = ?"
            return bool(self._database.execute(query, (client_offset,)).fetchone() == (content,))
        return True

    def after(self, offset: int) -> list[tuple[int, str]]:
        """The rows above an id."""
        query = "SELECT id, content FROM messages WHERE id > ? ORDER BY id"
        return self._database.execute(query, (offset,)).fetchall()

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class Chat:
    """The handlers, and one follower of the table for each connection."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._thread = ThreadPoolExecutor(1)
        self._news = asyncio.Event()  # set, and replaced, when rows were added
        self._followers: dict[str, asyncio.Task[None]] = {}

    async def connect(self, sid: str, _: object, auth: dict[str, int] | None) -> None:
        """Start to follow the table from where this client left off."""
        offset = (auth or {}).get("serverOffset") or 0
        self._followers[sid] = asyncio.create_task(self._follow(sid, offset))

    async def disconnect(self, sid: str, _: object) -> None:
        """Nobody is there to follow the table for."""
        self._followers.pop(sid).cancel()

    async def chat_message(self, _sid: str, content: str, client_offset: str) -> object:
        """Acknowledge what is committed, and nothing else."""
        loop = asyncio.get_running_loop()
        try:
            stored = await loop.run_in_executor(self._thread, self._table.store, content, client_offset)
        except sqlite3.Error as error:
            log.warning("not stored: %s", error)
            return sio.not_handled
        self._news.set()
        self._news = asyncio.Event()
        return None if stored else sio.not_handled

    async def _follow(self, sid: str, offset: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            news = self._news  # before the look, so that a row added after it is not slept through
            try:
                rows = await loop.run_in_executor(self._thread, self._table.after, offset)
            except sqlite3.Error as error:
                log.warning("to be read again: %s", error)
                continue
            for row_id, content in rows:
                await sio.emit("chat message", (content, row_id), to=sid)
                offset = row_id
            await news.wait()

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """End with the application."""
        yield
        for follower in self._followers.values():
            follower.cancel()
        self._thread.shutdown(cancel_futures=True)
        self._table.close()


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", required=True)
    arguments = parser.parse_args()
    chat = Chat(Table(arguments.database))
    sio.on("connect", chat.connect)
    sio.on("disconnect", chat.disconnect)
    sio.on("chat message", chat.chat_message)
    application = web.Application()
    sio.attach(application)
    application.cleanup_ctx.append(chat.run)
    web.run_app(
        application, host=arguments.host, port=arguments.port, print=None, access_log=None, shutdown_timeout=0.1
    )


if __name__ == "__main__":
    main()
