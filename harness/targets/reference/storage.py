"""The table of messages in SQLite: one thread that writes in the order it was asked to, one that reads.

The threads keep the database off the event loop. Readers are not held up by a writer, nor by somebody else's lock:
the database is in WAL mode, unless a rollback journal is asked for.
"""

import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_SETUP_TIMEOUT_SECONDS = 5.0
# Short, as messages behind a locked one wait for it; the client sends again what was not stored.
_BUSY_TIMEOUT_SECONDS = 0.2
_PAGE_ROWS = 200
_LARGEST_ID = 2**63 - 1

_COLUMNS = [("id", "INTEGER", 1), ("client_offset", "TEXT", 0), ("content", "TEXT", 0)]
_UNIQUE_INDEX = """
    SELECT 1 FROM pragma_index_list('messages') AS found
    WHERE found."unique" AND NOT found.partial
    AND (SELECT group_concat(name) FROM pragma_index_info(found.name)) = 'client_offset'
"""


Journal = Literal["wal", "delete"]


class StorageError(Exception):
    """The database cannot be used; the text says why in one line."""


@dataclass(frozen=True, slots=True)
class Row:
    """One stored message."""

    id: int
    client_offset: str | None
    content: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a write that the database did not fail.

    `duplicate`: the message had been stored before. `refused`: its offset belongs to another content.
    """

    step: Literal["stored", "duplicate", "refused"]
    row_id: int


class Storage:
    """The messages of one database file, which is created when it is missing.

    Args:
        path: the database file.
        unique: whether a client offset can be stored only once.
        journal: `wal`, or `delete` for a rollback journal.
        after_commit: called in the writing thread right after each commit that stored a message.

    Raises:
        StorageError: the file cannot be opened, is no database, or has another table of that name.
    """

    def __init__(
        self,
        path: Path,
        *,
        unique: bool = True,
        journal: Journal = "wal",
        after_commit: Callable[[], None] = lambda: None,
    ) -> None:
        try:
            _prepare(path, unique=unique, journal=journal)
            self._writer = _Writer(path, after_commit)
            self._reader = _connect(path)
            self.last_id = _last_id(self._reader)
        except sqlite3.Error as error:
            raise StorageError(f"cannot use the database {path}: {error}") from error
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._reads = ThreadPoolExecutor(1, thread_name_prefix="read")

    def write(self, client_offset: str, content: str) -> Future[Outcome]:
        """Queue one message to be stored, behind all that were queued before.

        The future fails with the database's own error (`sqlite3.Error`). The row can be there nevertheless: a commit
        can be reported as failed and have happened.
        """
        return self._writes.submit(self._writer.store, client_offset, content)

    def hurry(self) -> None:
        """Wait for no more locks: from now on, also for what is queued, a locked database fails at once."""
        self._writer.busy_timeout_seconds = 0.0

    def read(self, above: int, up_to: int = _LARGEST_ID) -> Future[list[Row]]:
        """Read the rows with `above` < id <= `up_to` in id order: the first of them, not necessarily all."""
        return self._reads.submit(_read, self._reader, above, up_to)

    def close(self) -> None:
        """Drop what is still queued, wait for what is running, and close the database."""
        self._writes.shutdown(cancel_futures=True)
        self._reads.shutdown(cancel_futures=True)
        self._writer.close()
        self._reader.close()


class _Writer:
    """The only connection that writes. No transaction outlives the call that began it."""

    def __init__(self, path: Path, after_commit: Callable[[], None]) -> None:
        self._path = path
        self._after_commit = after_commit
        self.busy_timeout_seconds = _BUSY_TIMEOUT_SECONDS
        self._connection: sqlite3.Connection | None = _connect(path)

    def store(self, client_offset: str, content: str) -> Outcome:
        connection = self._connection = self._connection or _connect(self._path)
        try:
            connection.execute(f"PRAGMA busy_timeout = {self.busy_timeout_seconds * 1000:.0f}")
            connection.execute("BEGIN IMMEDIATE")
            outcome = _insert(connection, client_offset, content)
            connection.execute("COMMIT")
        except sqlite3.Error:
            self._roll_back(connection)
            raise
        if outcome.step == "stored":
            self._after_commit()
        return outcome

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            # Nobody knows what state it is in: the next write opens another.
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _insert(connection: sqlite3.Connection, client_offset: str, content: str) -> Outcome:
    try:
        inserted = connection.execute(
            "INSERT INTO messages (client_offset, content) VALUES (?, ?)", (client_offset, content)
        )
    except sqlite3.IntegrityError:
        query = "SELECT id, content FROM messages WHERE client_offset = ?"
        existing = connection.execute(query, (client_offset,)).fetchone()
        if existing is None:
            raise  # the offset is new: another constraint failed
        return Outcome("duplicate" if existing[1] == content else "refused", existing[0])
    assert inserted.lastrowid is not None
    return Outcome("stored", inserted.lastrowid)


def _read(connection: sqlite3.Connection, above: int, up_to: int) -> list[Row]:
    query = "SELECT id, client_offset, content FROM messages WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
    return [Row(*row) for row in connection.execute(query, (above, up_to, _PAGE_ROWS)).fetchall()]


def _last_id(connection: sqlite3.Connection) -> int:
    last_id: int = connection.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()[0]
    return last_id


def _connect(path: Path, timeout_seconds: float = _BUSY_TIMEOUT_SECONDS) -> sqlite3.Connection:
    """Open a connection whose transactions are explicit and whose commits survive a power loss."""
    connection = sqlite3.connect(path, timeout=timeout_seconds, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _prepare(path: Path, *, unique: bool, journal: Journal) -> None:
    connection = _connect(path, _SETUP_TIMEOUT_SECONDS)
    try:
        if not os.access(path, os.W_OK):
            raise StorageError(f"cannot use the database {path}: it cannot be written to")
        (mode,) = connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()
        if mode != journal:
            raise StorageError(
                f"cannot use the database {path}: its journal mode cannot be {journal!r}, it is {mode!r}"
            )
        if _definition(connection) is None:
            constraint = " UNIQUE" if unique else ""
            connection.execute(
                "CREATE TABLE IF NOT EXISTS messages"
                f" (id INTEGER PRIMARY KEY AUTOINCREMENT, client_offset TEXT{constraint}, content TEXT)"
            )
        _check_layout(connection, path, unique=unique)
    finally:
        connection.close()


def _definition(connection: sqlite3.Connection) -> str | None:
    found = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'messages'").fetchone()
    return str(found[0]) if found else None


def _check_layout(connection: sqlite3.Connection, path: Path, *, unique: bool) -> None:
    columns = [
        (name, kind.upper(), key) for _, name, kind, _, _, key in connection.execute("PRAGMA table_info(messages)")
    ]
    # Without AUTOINCREMENT the id of a deleted last row is given again, and receivers would not see the new row.
    if columns != _COLUMNS or "AUTOINCREMENT" not in str(_definition(connection)).upper():
        raise StorageError(
            f"cannot use the database {path}: its table messages is not"
            " (id INTEGER PRIMARY KEY AUTOINCREMENT, client_offset TEXT, content TEXT)"
        )
    has_unique = connection.execute(_UNIQUE_INDEX).fetchone() is not None
    if has_unique != unique:
        was, option = ("with", "without") if has_unique else ("without", "with")
        raise StorageError(
            f"cannot use the database {path}: its table messages was made {was} the UNIQUE constraint,"
            f" and this server is to run {option} it (see --without-unique)"
        )
