"""A correct server whose acknowledgement carries a payload: `{"id": 7, "stored": "now"}`, or `"before"` for a resend.

A thread of its own stores what is put into its queue. Receivers get every row at least once: a row that is committed
and not yet broadcast when a receiver connects is in its replay and comes once more.
"""

import argparse
import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from queue import SimpleQueue
from typing import Literal, TypedDict, TypeVar

import socketio
from aiohttp import web
from engineio.payload import Payload

R = TypeVar("R")
log = logging.getLogger("chat")
Payload.max_decode_packets = 1000
sio = socketio.AsyncServer(async_mode="aiohttp", always_connect=True, ping_interval=2, ping_timeout=2)


class Acknowledgement(TypedDict):
    """What the sender is told."""

    id: int
    stored: Literal["now", "before"]


class Database(threading.Thread):
    """One thread, one connection; `ask` puts work into its queue and awaits the answer."""

    def __init__(self, path: str) -> None:
        super().__init__(name="database", daemon=True)
        self._connection = sqlite3.connect(path, timeout=0.1, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS messages"
            " (id INTEGER PRIMARY KEY AUTOINCREMENT, client_offset TEXT UNIQUE, content TEXT)"
        )
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.start()

    def run(self) -> None:
        """Work, until the process ends."""
        while True:
            self._work.get()()

    async def ask(self, question: Callable[[sqlite3.Connection], R]) -> R:
        """Have `question` answered in the thread, in the order of asking."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()

        def work() -> None:
            try:
                result = question(self._connection)
            except Exception as error:
                loop.call_soon_threadsafe(answer.set_exception, error)
            else:
                loop.call_soon_threadsafe(answer.set_result, result)

        self._work.put(work)
        return await answer


def store(connection: sqlite3.Connection, content: str, client_offset: str) -> Acknowledgement:
    """Store and commit a message, or find it.

    Raises:
        ValueError: the offset is another message's.
    """
    try:
        statement = "INSERT INTO messages (client_offset, content) VALUES (?, ?)"
        row_id = connection.execute(statement, (client_offset, content)).lastrowid
    except sqlite3.IntegrityError:
        query = "SELECT id, content FROM messages WHERE client_offset = ?"
        row_id, there = connection.execute(query, (client_offset,)).fetchone()
        if there != content:
            raise ValueError(f"the offset {client_offset!r} belongs to row {row_id}") from None
        return {"id": row_id, "stored": "before"}
    assert row_id is not None
    return {"id": row_id, "stored": "now"}


class Chat:
    """The handlers."""

    def __init__(self, path: str) -> None:
        self._database = Database(path)
        self._speaking = asyncio.Lock()  # one replay or one broadcast at a time
        self._welcomes: set[asyncio.Task[None]] = set()

    async def connect(self, sid: str, _: object, auth: dict[str, int] | None) -> None:
        """Replay in the background, so that this connection's pongs are heard meanwhile."""
        task = asyncio.create_task(self._welcome(sid, (auth or {}).get("serverOffset") or 0))
        self._welcomes.add(task)
        task.add_done_callback(self._welcomes.discard)

    async def _welcome(self, sid: str, offset: int) -> None:
        query = "SELECT id, content FROM messages WHERE id > ? ORDER BY id"
        async with self._speaking:
            for row_id, content in await self._database.ask(lambda c: c.execute(query, (offset,)).fetchall()):
                await sio.emit("chat message", (content, row_id), to=sid)
            if sio.manager.is_connected(sid, "/"):
                await sio.enter_room(sid, "listening")

    async def chat_message(self, _sid: str, content: str, client_offset: str) -> object:
        """Acknowledge, with a payload, what is committed."""
        try:
            acknowledgement = await self._database.ask(lambda c: store(c, content, client_offset))
        except (sqlite3.Error, ValueError) as error:
            log.warning("not stored: %s", error)
            return sio.not_handled
        if acknowledgement["stored"] == "now":
            async with self._speaking:
                await sio.emit("chat message", (content, acknowledgement["id"]), room="listening")
        return acknowledgement

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """End the replays with the application."""
        yield
        for task in self._welcomes:
            task.cancel()


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", required=True)
    arguments = parser.parse_args()
    chat = Chat(arguments.database)
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
