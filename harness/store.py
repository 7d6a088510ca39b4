"""The target's store: reading its rows, and holding a lock on it. One class per kind of database."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from harness import history as h
from harness import waiting
from harness.clients.sender import Message
from harness.errors import TargetError
from harness.fault import Acts, NotSeen, fault

_COLUMNS = ("id", "client_offset", "content")
# How long a read, or the lock itself, waits for somebody else's lock.
_BUSY_TIMEOUT_SECONDS = 5.0


class StoredRow(NamedTuple):
    """A row as the target's `rows` query returns it."""

    id: int | float | str | None
    client_offset: str | None
    content: str | None


class SQLiteStore:
    """A SQLite database that belongs to the target.

    Args:
        path: of the database file; the server creates it.
        rows_query: returns the columns id, client_offset and content, in the order that is judged.
        run: the token of the run.
        patience_seconds: how long a message's row is waited for.
    """

    title = "the store"

    def __init__(self, path: Path, rows_query: str, *, run: str, patience_seconds: float) -> None:
        self._path = path
        self._query = rows_query
        self._run = run
        self._patience_seconds = patience_seconds

    async def rows(self) -> list[StoredRow]:
        """Read the stored rows as they are now.

        Raises:
            TargetError: the database or the query is unusable; the text says why.
        """
        return await asyncio.to_thread(self._rows)

    def _rows(self) -> list[StoredRow]:
        if not self._path.exists():
            raise TargetError(f"the store {self._path} does not exist: the server has to create it before it is ready")
        if not self._path.is_file():
            raise TargetError(f"the store {self._path} is not a file")
        try:
            with self._connected(f"{self._path.as_uri()}?mode=ro") as connection:
                cursor = connection.execute(self._query)
                # A BLOB or invalid UTF-8 in the place of a text is shown, not refused.
                columns = [column[0] for column in cursor.description or ()]
                missing = [name for name in _COLUMNS if name not in columns]
                if missing:
                    raise TargetError(
                        f"store.rows has to return the columns {', '.join(_COLUMNS)}; it lacks {', '.join(missing)} "
                        f"and returns {', '.join(columns) or 'none'}: {self._query}"
                    )
                places = [columns.index(name) for name in _COLUMNS]
                return [_row(*(values[place] for place in places)) for values in cursor]
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise TargetError(f"cannot read the rows of {self._path}: {error}; the query is {self._query}") from error

    @contextlib.contextmanager
    def _connected(self, uri: str) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(
            uri, uri=True, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            yield connection
        finally:
            connection.close()

    async def holds(self, message: Message) -> bool:
        """Whether a row of the message is readable now."""
        return any(h.identity_in(self._run, row.content, row.client_offset) == message.id for row in await self.rows())

    async def wait_for(self, message: Message) -> None:
        """Wait until a row of the message is readable.

        Raises:
            WaitTimeout: it was not, by the deadline.
        """
        await waiting.until(
            lambda: self.holds(message),
            awaited=f"a row of {message.id}",
            timeout_seconds=self._patience_seconds,
        )

    @fault("store")
    async def lock(self, seconds: float) -> Acts:
        """Hold the write lock (BEGIN IMMEDIATE), for `seconds` after the first attempt of the message began."""
        with contextlib.ExitStack() as held:
            await asyncio.to_thread(self._lock, held)
            message = yield None
            await waiting.within(
                message.attempted.wait(),
                awaited=f"an attempt of {message.id}",
                timeout_seconds=self._patience_seconds,
            )
            await waiting.pause(seconds)
            if message.acknowledged:
                raise NotSeen("the message was acknowledged while the store was locked")
            if await self.holds(message):
                raise NotSeen("the message was stored while the store was locked")
            yield f"no row and no answer after {seconds:g} s under the lock and {message.attempts} attempts"

    def _lock(self, held: contextlib.ExitStack) -> None:
        try:
            with contextlib.ExitStack() as taking:
                taking.enter_context(self._connected(f"{self._path.as_uri()}?mode=rw")).execute("BEGIN IMMEDIATE")
                # Not before: who is cancelled meanwhile must not wait, in the event loop, to close what waits in here.
                held.push(taking.pop_all())
        except sqlite3.Error as error:
            raise TargetError(f"cannot lock {self._path}: {error}") from error


def _row(number: Any, client_offset: Any, content: Any) -> StoredRow:
    if not isinstance(number, int | float | str | None):
        number = repr(number)
    return StoredRow(number, _text(client_offset), _text(content))


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value is None else str(value)
