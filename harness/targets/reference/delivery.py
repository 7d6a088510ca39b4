"""Sends every stored row once to every connection, in id order.

The table is the truth: a row is sent because it is in the table, not because somebody says to have stored it. Each
connection has a cursor and gets the rows above it; whether such a row is old or new makes no difference, so a live
row can neither overtake nor repeat a replayed one.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable

from . import steps
from .storage import Row, Storage

# The newest rows stay in memory, so that a new row is read once and not once per connection.
_TAIL_ROWS = 500
_READ_AGAIN_SECONDS = 0.2


class Delivery:
    """Follows the table from its present end on and keeps every connection supplied.

    Must be made inside a running event loop.

    Args:
        storage: where the rows are.
        send: sends one row to one connection.
    """

    def __init__(self, storage: Storage, send: Callable[[str, Row], Awaitable[None]]) -> None:
        self._storage = storage
        self._send = send
        # Rows up to the head are published, in the order of their ids; the tail holds those above the floor.
        self._head = storage.last_id
        self._floor = self._head
        self._tail: deque[Row] = deque()
        self._connections: dict[str, asyncio.Task[None]] = {}
        self._look = asyncio.Event()
        self._moved = asyncio.Event()
        self._ending = False
        self._complete = False
        self.publisher = asyncio.create_task(self._publish(), name="publisher")

    def look(self) -> None:
        """The table may have new rows."""
        self._look.set()

    def connect(self, sid: str, offset: int) -> None:
        """Send a connection the rows above `offset`, from now on.

        An offset above the last published row cannot come from this table; it gets what is new.
        """
        if sid not in self._connections:
            cursor = min(max(offset, 0), self._head)
            self._connections[sid] = asyncio.create_task(self._supply(sid, cursor), name=f"supply {sid}")

    def disconnect(self, sid: str) -> None:
        """Send this connection nothing more."""
        task = self._connections.pop(sid, None)
        if task is not None:
            task.cancel()

    async def finish(self, timeout_seconds: float) -> None:
        """Publish and send what is in the table, then stop; what is not sent at the deadline stays unsent."""
        self._ending = True
        self.look()
        await asyncio.wait([self.publisher], timeout=timeout_seconds)
        self._complete = True
        self._moved.set()
        if self._connections:
            await asyncio.wait(self._connections.values(), timeout=timeout_seconds)
        for task in (self.publisher, *self._connections.values()):
            task.cancel()

    async def _publish(self) -> None:
        while True:
            await self._look.wait()
            self._look.clear()
            ending = self._ending
            while rows := await self._read(self._head):
                self._append(rows)
            if ending:
                return

    def _append(self, rows: list[Row]) -> None:
        for row in rows:
            steps.record("broadcast", client_offset=row.client_offset, row_id=row.id)
        self._tail.extend(rows)
        self._head = rows[-1].id
        while len(self._tail) > _TAIL_ROWS:
            self._floor = self._tail.popleft().id
        self._moved.set()
        self._moved = asyncio.Event()

    async def _supply(self, sid: str, cursor: int) -> None:
        while True:
            moved = self._moved
            if cursor == self._head:
                if self._complete:
                    return
                await moved.wait()
            head = self._head
            rows = await self._rows_above(cursor)
            for row in rows:
                await self._send(sid, row)
            # Nothing below the head: the rows in between were deleted.
            cursor = rows[-1].id if rows else head

    async def _rows_above(self, cursor: int) -> list[Row]:
        if cursor >= self._floor:
            return [row for row in self._tail if row.id > cursor]
        return await self._read(cursor, self._head)

    async def _read(self, above: int, *up_to: int) -> list[Row]:
        while True:
            try:
                return await asyncio.wrap_future(self._storage.read(above, *up_to))
            except sqlite3.Error as error:
                steps.complain(f"cannot read the rows above {above}, trying again: {error}")
                await asyncio.sleep(_READ_AGAIN_SECONDS)
