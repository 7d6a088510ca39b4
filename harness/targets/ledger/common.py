"""What the servers of the ledger share, and what none of them gets wrong: command line, database, replay, broadcast.

A server of the ledger is this plus its own event handler, schema or replay query, and that is where its mistake is.
It imports nothing of the harness: `python -m ledger.<entry>.server` in the folder above, as any other target.
"""

import argparse
import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

import socketio
from aiohttp import web
from engineio.payload import Payload

log = logging.getLogger("chat")

SCHEMA = """
    CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        client_offset TEXT UNIQUE,
        content TEXT
    )
"""
_BUSY_TIMEOUT_SECONDS = 0.2  # a locked database delays everybody's next statement by this much
_LIVE = "live"  # the room of the connections whose replay is over

P = ParamSpec("P")
R = TypeVar("R")
Row = tuple[int, str]
Handler = Callable[[str, str, str], Awaitable[object]]


def insert(database: sqlite3.Connection, content: str, client_offset: str) -> None:
    """Store a message; it is committed when this returns."""
    database.execute("INSERT INTO messages (client_offset, content) VALUES (?, ?)", (client_offset, content))


def insert_once(database: sqlite3.Connection, content: str, client_offset: str) -> bool:
    """Store a message unless it is there; False when its offset is another message's."""
    try:
        insert(database, content, client_offset)
    except sqlite3.IntegrityError:
        query = "SELECT content FROM messages WHERE client_offset = ?"
        return bool(database.execute(query, (client_offset,)).fetchone() == (content,))
    return True


def rows_after(database: sqlite3.Connection, server_offset: int) -> Sequence[Row]:
    """The rows that a client which has seen `server_offset` has not seen."""
    query = "SELECT id, content FROM messages WHERE id > ? ORDER BY id"
    return database.execute(query, (server_offset,)).fetchall()


class Chat:
    """The chat server around a handler: `serve` parses the command line and runs until SIGTERM.

    The event loop never waits for the database: one thread does all work on it, in the order in which it was asked
    for. A handler that asks before it awaits anything else therefore keeps each client's messages in order.
    """

    def __init__(
        self,
        *,
        schema: str = SCHEMA,
        replay: Callable[[sqlite3.Connection, int], Sequence[Row]] = rows_after,
        opened: Callable[[sqlite3.Connection], None] = lambda _: None,
        closing: Callable[[sqlite3.Connection], None] = lambda _: None,
    ) -> None:
        Payload.max_decode_packets = 1000  # the default refuses a burst of 17 messages over polling
        self.sio = socketio.AsyncServer(async_mode="aiohttp", always_connect=True, ping_interval=2, ping_timeout=2)
        self.broadcasting = asyncio.Lock()
        self.published = 0  # the last row that was broadcast; replay ends where live messages begin
        self._schema = schema
        self._replay = replay
        self._opened, self._closing = opened, closing
        self._thread = ThreadPoolExecutor(1)
        self._database: sqlite3.Connection
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, handler: Handler) -> None:
        """Run with `handler` for the event `chat message`."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--database", required=True)
        arguments = parser.parse_args()
        self._open(arguments.database)
        self.sio.on("connect", self._connect)
        self.sio.on("chat message", handler)
        application = web.Application()
        self.sio.attach(application)
        application.cleanup_ctx.append(self._close)
        web.run_app(
            application, host=arguments.host, port=arguments.port, print=None, access_log=None, shutdown_timeout=0.1
        )

    async def run(
        self, function: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call `function` with the database in the database's thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: function(self._database, *args, **kwargs)
        )

    async def store(self, content: str, client_offset: str) -> bool:
        """Store a message once; whether it is stored and committed now, so that it may be acknowledged."""
        try:
            return await self.run(insert_once, content, client_offset)
        except sqlite3.Error as error:
            log.warning("not stored: %s", error)
            return False

    async def publish(self) -> None:
        """Broadcast every row that was not broadcast yet, in the order of the table."""
        async with self.broadcasting:
            for row_id, content in await self.run(rows_after, self.published):
                await self.broadcast(content, row_id)
                self.published = row_id

    async def broadcast(self, content: str, row_id: int) -> None:
        """Send one message to everybody whose replay is over; hold `broadcasting`."""
        await self.sio.emit("chat message", (content, row_id), room=_LIVE)

    def start(self, work: Awaitable[None]) -> None:
        """Run `work` in the background."""

        async def working() -> None:
            await work

        task = asyncio.create_task(working())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, sid: str, _: object, auth: dict[str, int] | None) -> None:
        self.start(self._welcome(sid, (auth or {}).get("serverOffset") or 0))

    async def _welcome(self, sid: str, server_offset: int) -> None:
        async with self.broadcasting:
            for row_id, content in await self.run(self._replay, server_offset):
                if row_id <= self.published:
                    await self.sio.emit("chat message", (content, row_id), to=sid)
            if self.sio.manager.is_connected(sid, "/"):
                await self.sio.enter_room(sid, _LIVE)

    def _open(self, path: str) -> None:
        # Autocommit: every statement is a transaction of its own.
        self._database = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(self._schema)
        self._opened(self._database)
        (self.published,) = self._database.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()

    async def _close(self, _: web.Application) -> AsyncIterator[None]:
        yield
        self._thread.shutdown(cancel_futures=True)
        self._closing(self._database)
        self._database.close()
