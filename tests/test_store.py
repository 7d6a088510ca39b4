"""The SQLite store: rows are read by name whatever they hold, every unusable store is one clear error, locks bite."""

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from harness import history as h
from harness import store as store_module
from harness.clients.author import Message
from harness.errors import HarnessError, TargetError
from harness.fault import NotSeen
from harness.store import LockMode, SQLiteStore, StoredRow
from harness.waiting import WaitTimeout
from tests.systems import RUN, in_event_loop, make_store, seen, soon

TABLE = "CREATE TABLE messages (id INTEGER PRIMARY KEY, client_offset TEXT UNIQUE, content)"
ROWS = "SELECT id, client_offset, content FROM messages ORDER BY id"
IDENTITY = f"{RUN}-alice-0001"
NO_DATABASE = Path(__file__)
MODES = pytest.mark.parametrize("mode", ["wal", "delete"])
LOCKS = pytest.mark.parametrize("lock_mode", ["IMMEDIATE", "EXCLUSIVE"])
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process that runs")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where the database of a test is, with blanks and signs in its path that a URI would misunderstand."""
    folder = tmp_path / "a folder, 50% full? #1 + ü"
    folder.mkdir()
    return folder / "store.db"


@contextmanager
def written(database: Path, mode: str = "wal") -> Iterator[sqlite3.Connection]:
    """A server's connection to its database."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        assert connection.execute(f"PRAGMA journal_mode = {mode}").fetchone() == (mode,)
        connection.execute(TABLE)
        yield connection


def insert(connection: sqlite3.Connection, *rows: tuple[object, object, object]) -> None:
    """Store rows."""
    connection.executemany("INSERT INTO messages VALUES (?, ?, ?)", rows)


# -- reading -----------------------------------------------------------------------------------------------------


@MODES
@in_event_loop
async def test_rows_are_read_while_the_server_writes(mode: str, database: Path) -> None:
    """Rows are those that are committed, in the order of the query, in either journal mode."""
    with written(database, mode) as server:
        insert(server, (1, "one", "first"), (3, "three", "third"))
        server.execute("BEGIN IMMEDIATE")
        insert(server, (4, "four", "not yet"))
        store = make_store(database, ROWS + " DESC")
        assert await store.rows() == [StoredRow(3, "three", "third"), StoredRow(1, "one", "first")]
        server.execute("COMMIT")
        assert len(await store.rows()) == 3


@MODES
@in_event_loop
async def test_rows_are_read_after_the_server_has_gone(mode: str, database: Path) -> None:
    """A database that was closed properly can be read without anybody else having it open."""
    with written(database, mode) as server:
        insert(server, (1, "one", "first"))
    assert await make_store(database, ROWS).rows() == [StoredRow(1, "one", "first")]


@MODES
@in_event_loop
async def test_rows_are_read_after_the_server_was_killed(mode: str, database: Path) -> None:
    """What a killed server leaves beside its database is a part of it, but for what was not committed."""
    copy = database.with_name("left.db")
    with written(database, mode) as server:
        insert(server, (1, "one", "first"))
        server.execute("BEGIN IMMEDIATE")
        insert(server, (2, "two", "never committed"))
        for path in list(database.parent.iterdir()):
            if not path.name.endswith("-shm"):
                path.with_name(path.name.replace("store", "left")).write_bytes(path.read_bytes())
        server.execute("ROLLBACK")
    assert await make_store(copy, ROWS).rows() == [StoredRow(1, "one", "first")]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT content, id, client_offset FROM messages",
        "SELECT client_offset, 'more' AS more, content, id, content AS again FROM messages",
        "SELECT rowid AS id, content AS content, client_offset AS client_offset FROM messages",
        "WITH m AS (SELECT * FROM messages) SELECT * FROM m",
    ],
)
@in_event_loop
async def test_columns_are_taken_by_name(query: str, database: Path) -> None:
    """The query may return the three columns in any order, among others, under any alias."""
    with written(database) as server:
        insert(server, (7, "seven", "text"))
        assert await make_store(database, query).rows() == [StoredRow(7, "seven", "text")]


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (("NULL", "'text'"), (None, "text")),
        (("'o'", "NULL"), ("o", None)),
        (("'o'", "42"), ("o", "42")),
        (("'o'", "1.5"), ("o", "1.5")),
        (("'o'", "X'746578740a'"), ("o", "text\n")),
        (("'o'", "X'ff00fe'"), ("o", "\ufffd\x00\ufffd")),
        (("'o'", "CAST(X'74ff' AS TEXT)"), ("o", "t\ufffd")),
        (("X'6f'", "''"), ("o", "")),
        (("'o'", "'nul' || char(0) || 'byte'"), ("o", "nul\x00byte")),
    ],
)
@in_event_loop
async def test_any_value_is_read_as_text(stored: tuple[str, str], read: tuple[str, str], database: Path) -> None:
    """NULL stays what it is; numbers, BLOBs and invalid UTF-8 are shown as text, and never refused."""
    with written(database) as server:
        server.execute(f"INSERT INTO messages VALUES (1, {stored[0]}, {stored[1]})")  # noqa: S608 - the test's own
        assert await make_store(database, ROWS).rows() == [StoredRow(1, *read)]


@pytest.mark.parametrize(
    ("stored", "read"), [("'id-1'", "id-1"), ("1.5", 1.5), ("NULL", None), ("X'6964'", "b'id'"), ("-3", -3)]
)
@in_event_loop
async def test_ids_are_numbers_or_texts(stored: str, read: object, database: Path) -> None:
    """An id is what the target makes of it."""
    with written(database) as server:
        insert(server, (1, "one", "text"))
        query = f"SELECT {stored} AS id, client_offset, content FROM messages"  # noqa: S608 - the test's own
        rows = await make_store(database, query).rows()
        assert rows == [StoredRow(read, "one", "text")]  # type: ignore[arg-type]


@in_event_loop
async def test_reading_changes_nothing(database: Path) -> None:
    """A query that writes is refused, since the store belongs to the target."""
    with written(database) as server:
        insert(server, (1, "one", "text"))
        with pytest.raises(TargetError, match="readonly"):
            await make_store(database, "DELETE FROM messages RETURNING id, client_offset, content").rows()
        assert len(await make_store(database, ROWS).rows()) == 1


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("SELECT id, content FROM messages", "lacks client_offset and returns id, content"),
        ("SELECT 1", "lacks id, client_offset, content and returns 1"),
        ("SELECT body, id, client_offset FROM messages", "no such column: body"),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELEKT", "syntax error"),
        ("", "lacks id, client_offset, content and returns none"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT id, client_offset, content FROM messages WHERE id = ?", "binding"),
    ],
)
@in_event_loop
async def test_unusable_query_is_one_clear_error(query: str, error: str, database: Path) -> None:
    """The error says what is wrong with the query, and shows it."""
    with written(database), pytest.raises(TargetError) as raised:
        await make_store(database, query).rows()
    assert error in str(raised.value)
    assert query in str(raised.value)


@in_event_loop
async def test_missing_database_is_one_clear_error(database: Path) -> None:
    """Where the server has made no database the error says who has to make it, and none is made."""
    with pytest.raises(TargetError, match=r"store\.db does not exist: the server has to create it"):
        await make_store(database, ROWS).rows()
    assert list(database.parent.iterdir()) == []


@in_event_loop
async def test_directory_is_no_database(tmp_path: Path) -> None:
    """A location that is a directory is told as that."""
    with pytest.raises(TargetError, match="is not a file"):
        await make_store(tmp_path, ROWS).rows()


@in_event_loop
async def test_other_file_is_no_database() -> None:
    """A file that is no SQLite database is told as that."""
    with pytest.raises(TargetError, match="file is not a database"):
        await make_store(NO_DATABASE, ROWS).rows()


@MODES
@in_event_loop
async def test_exclusive_lock_times_out_with_a_clear_error(
    mode: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that somebody keeps locked against readers costs a read its timeout, and is told as locked."""
    monkeypatch.setattr(store_module, "_BUSY_TIMEOUT_SECONDS", 0.1)
    with written(database, mode) as server:
        server.execute("PRAGMA locking_mode = EXCLUSIVE")  # without it WAL has no lock against readers
        if mode == "wal":
            server.execute("PRAGMA journal_mode = delete")
            server.execute("PRAGMA journal_mode = wal")
        server.execute("BEGIN EXCLUSIVE")
        insert(server, (1, "one", "text"))
        with pytest.raises(TargetError, match=r"cannot read the rows of .*store\.db: database is locked"):
            await soon(make_store(database, ROWS).rows())


@in_event_loop
async def test_read_waits_for_a_short_exclusive_lock(database: Path) -> None:
    """A database that is locked for a moment is read when it is free again, and the event loop goes on meanwhile."""
    with written(database, "delete") as server:
        server.execute("BEGIN EXCLUSIVE")
        insert(server, (1, "one", "text"))
        reading = asyncio.create_task(make_store(database, ROWS).rows())
        for _ in range(50):
            await asyncio.sleep(0.001)
            assert not reading.done()
        server.execute("COMMIT")
        assert await soon(reading) == [StoredRow(1, "one", "text")]


# -- looking for a message ---------------------------------------------------------------------------------------


def message(sequence: int = 1) -> Message:
    """A message of this run."""
    identity = f"{RUN}-alice-{sequence:04d}"
    return Message(identity, f"{identity} text {identity}", f"{identity}-offset")


@pytest.mark.parametrize(
    ("client_offset", "content", "held"),
    [
        (f"{IDENTITY}-offset", f"{IDENTITY} text {IDENTITY}", True),
        (None, f"{IDENTITY} cut o", True),
        ("another", f"ext {IDENTITY}", True),
        (f"{IDENTITY}-offset", "all gone", True),
        (f"{IDENTITY}-offset", None, True),
        (None, f"{IDENTITY}0 is message 10", False),
        ("fedcba98-alice-0001", "fedcba98-alice-0001 of another run", False),
        (None, None, False),
    ],
)
@in_event_loop
async def test_message_is_known_by_its_identity(
    client_offset: str | None, content: str | None, held: bool, database: Path
) -> None:
    """A row is that of a message if either end of its content, or else its offset, says so."""
    with written(database) as server:
        insert(server, (1, client_offset, content))
        assert await make_store(database, ROWS).holds(message()) is held


@pytest.mark.parametrize("end", [";", " -- the end", "; -- the end\n"])
@in_event_loop
async def test_message_is_found_whatever_the_query_ends_with(end: str, database: Path) -> None:
    """What reads all rows finds one of them, too."""
    with written(database) as server:
        insert(server, (1, message().offset, message().content))
        store = make_store(database, ROWS + end)
        assert len(await store.rows()) == 1
        assert await store.holds(message())
        assert not await store.holds(message(2))


@in_event_loop
async def test_row_is_waited_for(database: Path) -> None:
    """A message's row is awaited until it is committed, and no longer than patience lasts."""
    with written(database) as server:
        waiting = asyncio.create_task(make_store(database, ROWS).wait_for(message()))
        insert(server, (1, None, "another"))
        insert(server, (2, message().offset, message().content))
        await soon(waiting)
        with pytest.raises(WaitTimeout, match=f"a row of {RUN}-alice-0002"):
            await make_store(database, ROWS, patience_seconds=0.05).wait_for(message(2))


# -- the lock ----------------------------------------------------------------------------------------------------


def try_to_write(database: Path) -> str:
    """What a writer that does not wait is told."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=0)) as writer:
        try:
            writer.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            return str(error)
        writer.execute("ROLLBACK")
        return "written"


AT = f"with attempt 1 of {h.message_id(RUN, 'alice', 1)}"


def attempted() -> Message:
    """A message that its sender has emitted."""
    posted = message()
    posted.attempts = 1
    posted.attempted.set()
    return posted


@MODES
@in_event_loop
async def test_lock_keeps_writers_out_and_readers_in(mode: str, database: Path) -> None:
    """From the beginning of the fault to its end nobody can write, and everybody can read."""
    with written(database, mode) as server:
        insert(server, (1, "one", "text"))
        store = make_store(database, ROWS)
        lock = store.lock(0.01)
        assert try_to_write(database) == "written"
        await lock.begin()
        assert try_to_write(database) == "database is locked"
        assert len(await store.rows()) == 1
        assert await lock.bite(attempted()) == f"no row and no answer after 0.01 s under the lock, {AT}"
        assert try_to_write(database) == "database is locked"
        await lock.heal()
        assert try_to_write(database) == "written"


def try_to_read(database: Path) -> str:
    """What a reader that does not wait is told."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=0)) as reader:
        try:
            rows = reader.execute("SELECT count(*) FROM messages").fetchone()
        except sqlite3.OperationalError as error:
            return str(error)
        return f"{rows[0]} rows"


@LOCKS
@MODES
@in_event_loop
async def test_lock_keeps_readers_out_where_it_says_so(mode: str, lock_mode: LockMode, database: Path) -> None:
    """Only an EXCLUSIVE lock on a rollback journal keeps readers out; the evidence is found all the same, at once."""
    blocked = (mode, lock_mode) == ("delete", "EXCLUSIVE")
    with written(database, mode) as server:
        insert(server, (1, "one", "text"))
        lock = make_store(database, ROWS).lock(0.01, lock_mode)
        await lock.begin()
        assert try_to_write(database) == "database is locked"
        assert try_to_read(database) == ("database is locked" if blocked else "1 rows")
        began = asyncio.get_running_loop().time()
        assert "under the lock" in await lock.bite(attempted())
        assert asyncio.get_running_loop().time() - began < store_module._BUSY_TIMEOUT_SECONDS
        await lock.heal()
        assert (try_to_write(database), try_to_read(database)) == ("written", "1 rows")


@LOCKS
@MODES
@in_event_loop
async def test_lock_of_either_mode_sees_what_was_stored_before(mode: str, lock_mode: LockMode, database: Path) -> None:
    """A message that has a row is not one that the lock has stopped, whoever may read it meanwhile."""
    with written(database, mode) as server:
        insert(server, (1, message().offset, message().content))
        lock = make_store(database, ROWS).lock(0.01, lock_mode)
        await lock.begin()
        with pytest.raises(NotSeen, match="stored while the store was locked"):
            await lock.bite(attempted())
        await lock.heal()
        assert try_to_write(database) == "written"


@LOCKS
@MODES
@in_event_loop
async def test_repeated_lock_is_held_so_many_times(
    mode: str, lock_mode: LockMode, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is taken anew so many times, each by a transaction of its own, held each time, and free at the end."""
    taken: list[str] = []

    def trace(*arguments: object, **options: object) -> sqlite3.Connection:
        connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.set_trace_callback(taken.append)
        assert isinstance(connection, sqlite3.Connection)
        return connection

    with written(database, mode):
        lock = make_store(database, ROWS).lock_repeatedly(3, 0.05, lock_mode)
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", trace)
        await lock.begin()
        began = asyncio.get_running_loop().time()
        evidence = await lock.bite(attempted())
        assert asyncio.get_running_loop().time() - began >= 3 * 0.05
        monkeypatch.undo()
        assert evidence == f"no row and no answer after 0.05 s under the lock, {AT}, the first of 3 locks"
        assert [line for line in taken if line.startswith("BEGIN")] == [f"BEGIN {lock_mode}"] * 3
        assert try_to_write(database) == "database is locked"
        await lock.heal()
        assert try_to_write(database) == "written"


@in_event_loop
async def test_lock_of_a_message_that_comes_again_has_its_row(database: Path) -> None:
    """It is held while the second attempt is made; without a row, or without that attempt, it is not seen."""
    with written(database) as server:
        store = make_store(database, ROWS, patience_seconds=0.05)
        again = attempted()
        again.attempts = 2
        lock = store.lock_again(0.01)
        await lock.begin()
        assert try_to_write(database) == "database is locked"
        with pytest.raises(NotSeen, match="not stored when it came again"):
            await lock.bite(again)
        await lock.heal()
        assert try_to_write(database) == "written"
        insert(server, (1, again.offset, again.content))
        lock = store.lock_again(0.01)
        await lock.begin()
        assert await lock.bite(again) == f"its row was there under the lock, for 0.01 s from attempt 2 of {IDENTITY}"
        await lock.heal()
        lock = store.lock_again(0.01)
        await lock.begin()
        with pytest.raises(WaitTimeout, match=f"attempt 2 of {IDENTITY}"):
            await lock.bite(attempted())
        await lock.heal()


@in_event_loop
async def test_repeated_lock_that_did_not_bite_is_not_seen(database: Path) -> None:
    """What was stored or answered under the first lock was not refused, and nothing stays locked."""
    with written(database):
        lock = make_store(database, ROWS).lock_repeatedly(3, 0.01)
        await lock.begin()
        posted = attempted()
        posted.acknowledged = True
        with pytest.raises(NotSeen, match="acknowledged while the store was locked"):
            await lock.bite(posted)
        await lock.heal()
        assert try_to_write(database) == "written"


@in_event_loop
async def test_lock_counts_from_the_first_attempt(database: Path) -> None:
    """The time under the lock begins when the message is emitted."""
    with written(database):
        lock = make_store(database, ROWS).lock(0.05)
        await lock.begin()
        posted = message()
        biting = asyncio.create_task(lock.bite(posted))
        await asyncio.sleep(0.1)
        assert not biting.done()
        began = asyncio.get_running_loop().time()
        posted.attempted.set()
        await soon(biting)
        assert asyncio.get_running_loop().time() - began >= 0.049
        await lock.heal()


@in_event_loop
async def test_lock_without_an_attempt_is_not_seen_and_released(database: Path) -> None:
    """A message that never leaves its sender is no evidence, and the lock does not stay."""
    with written(database):
        lock = make_store(database, ROWS, patience_seconds=0.05).lock(0.01)
        await lock.begin()
        with pytest.raises(WaitTimeout, match=f"an attempt of {IDENTITY}"):
            await lock.bite(message())
        await lock.heal()
        assert try_to_write(database) == "written"


@in_event_loop
async def test_lock_of_an_acknowledged_message_is_not_seen(database: Path) -> None:
    """A server that acknowledges under the lock has not been stopped by it."""
    with written(database):
        lock = make_store(database, ROWS).lock(0.01)
        await lock.begin()
        posted = attempted()
        posted.acknowledged = True
        with pytest.raises(NotSeen, match="acknowledged while the store was locked"):
            await lock.bite(posted)
        await lock.heal()
        assert try_to_write(database) == "written"


@in_event_loop
async def test_lock_of_a_stored_message_is_not_seen(database: Path) -> None:
    """A message that was stored before the lock was not stopped by it."""
    with written(database) as server:
        insert(server, (1, message().offset, message().content))
        lock = make_store(database, ROWS).lock(0.01)
        await lock.begin()
        with pytest.raises(NotSeen, match="stored while the store was locked"):
            await lock.bite(attempted())
        await lock.heal()


@in_event_loop
async def test_lock_waits_for_another_writer(database: Path) -> None:
    """The lock is taken when a transaction of the server is over, and the event loop goes on meanwhile."""
    with written(database) as server:
        server.execute("BEGIN IMMEDIATE")
        lock = make_store(database, ROWS).lock(0.01)
        arming = asyncio.create_task(lock.begin())
        for _ in range(20):
            await asyncio.sleep(0.001)
            assert not arming.done()
        server.execute("COMMIT")
        await soon(arming)
        assert try_to_write(database) == "database is locked"
        await lock.heal()


@in_event_loop
async def test_lock_that_is_not_released_is_one_clear_error(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that never ends costs the lock its timeout, and the error names the database."""
    monkeypatch.setattr(store_module, "_BUSY_TIMEOUT_SECONDS", 0.05)
    with written(database) as server:
        server.execute("BEGIN IMMEDIATE")
        lock = make_store(database, ROWS).lock(0.01)
        with pytest.raises(TargetError, match=r"cannot lock .*store\.db: database is locked"):
            await lock.begin()
        await lock.heal()


@in_event_loop
async def test_lock_of_what_is_no_database_is_one_clear_error(database: Path) -> None:
    """A database that is missing, or none, cannot be locked; the error names it, and none is made."""
    for path, reason in ((database, "unable to open database file"), (NO_DATABASE, "file is not a database")):
        with pytest.raises(TargetError, match=f"cannot lock .*{path.name}: {reason}"):
            await make_store(path, ROWS).lock(0.01).begin()
    assert list(database.parent.iterdir()) == []


@in_event_loop
async def test_cancelled_lock_does_not_stay(database: Path) -> None:
    """A schedule that is interrupted while the lock is being taken leaves the store unlocked."""
    with written(database) as server:
        server.execute("BEGIN IMMEDIATE")
        lock = make_store(database, ROWS).lock(0.01)
        arming = asyncio.create_task(lock.begin())
        await asyncio.sleep(0.01)
        began = asyncio.get_running_loop().time()
        arming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await arming
        await lock.heal()
        assert asyncio.get_running_loop().time() - began < 2, "it waited for the lock"
        server.execute("COMMIT")
        await asyncio.get_running_loop().shutdown_default_executor()
        await seen(lambda: try_to_write(database) == "written", "the lock to be released")


# -- full --------------------------------------------------------------------------------------------------------

WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
number = 0
for line in sys.stdin:
    number += 1
    try:
        database.execute("INSERT INTO messages VALUES (?, ?, ?)", (number + 100, str(number), "x" * 10000))
        print("written", flush=True)
    except sqlite3.Error as error:
        print(error, flush=True)
"""


class Writer:
    """A server in a process of its own, which writes when it is told to."""

    def __init__(self, database: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", WRITER, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    async def write(self) -> str:
        """Have it write, and return what it was told."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("now\n")
        self._process.stdin.flush()
        return (await soon(asyncio.to_thread(self._process.stdout.readline))).strip()

    @property
    def limit(self) -> tuple[int, int]:
        """The size that its files may have: soft and hard."""
        return resource.prlimit(self.pid, resource.RLIMIT_FSIZE)

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def writer(database: Path) -> Iterator[Writer]:
    """A server in a process of its own."""
    made = Writer(database)
    try:
        yield made
    finally:
        made.kill()


@LINUX
@MODES
@in_event_loop
async def test_full_disk_refuses_every_write_until_the_end(mode: str, database: Path) -> None:
    """From the beginning of the fault to its end the server's own writes fail, and nothing else of it changes."""
    with written(database, mode), writer(database) as server:
        store = make_store(database, ROWS, server_pids=lambda: [server.pid])
        assert await server.write() == "written"
        before = server.limit
        full = store.full(0.01)
        await full.begin()
        assert server.limit == (0, before[1])
        assert await server.write() in ("disk I/O error", "database or disk is full")
        assert (
            await full.bite(attempted())
            == f"no row and no answer without space for 0.01 s, at {AT.removeprefix('with ')}"
        )
        assert await server.write() in ("disk I/O error", "database or disk is full")
        assert len(await store.rows()) == 1
        await full.heal()
        assert server.limit == before
        assert await server.write() == "written"


@LINUX
@in_event_loop
async def test_full_disk_is_that_of_every_process_of_the_server(database: Path) -> None:
    """Each of several writers is limited, and each gets back what it had, this process never being one of them."""
    own = resource.getrlimit(resource.RLIMIT_FSIZE)
    with written(database), writer(database) as one, writer(database) as other:
        resource.prlimit(other.pid, resource.RLIMIT_FSIZE, (10**9, 10**12))
        before = one.limit
        full = make_store(database, ROWS, server_pids=lambda: [one.pid, other.pid]).full(0.01)
        await full.begin()
        assert [process.limit[0] for process in (one, other)] == [0, 0]
        assert resource.getrlimit(resource.RLIMIT_FSIZE) == own
        await full.bite(attempted())
        await full.heal()
        assert (one.limit, other.limit) == (before, (10**9, 10**12))


@LINUX
@in_event_loop
async def test_full_disk_of_a_server_that_died_heals(database: Path) -> None:
    """A server that does not survive a write that fails leaves nothing to lift, and others are lifted nevertheless."""
    with written(database), writer(database) as one, writer(database) as other:
        before = one.limit
        full = make_store(database, ROWS, server_pids=lambda: [one.pid, other.pid]).full(0.01)
        await full.begin()
        other.kill()
        await full.bite(attempted())
        await full.heal()
        assert one.limit == before


@LINUX
@in_event_loop
async def test_full_disk_of_a_process_that_is_gone_is_one_clear_error(database: Path) -> None:
    """A process that cannot be limited is told by its number, and those before it are as they were."""
    with written(database), writer(database) as one, writer(database) as other:
        other.kill()
        before = one.limit
        full = make_store(database, ROWS, server_pids=lambda: [one.pid, other.pid]).full(0.01)
        with pytest.raises(HarnessError, match=f"cannot limit the files of the server's process {other.pid}: No such"):
            await full.begin()
        await full.heal()
        assert one.limit == before


@in_event_loop
async def test_full_disk_needs_linux(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another system cannot limit a process that runs, and says so."""
    monkeypatch.setattr(sys, "platform", "darwin")
    full = make_store(database, ROWS, server_pids=lambda: [os.getpid()]).full(0.01)
    with pytest.raises(HarnessError, match="only Linux has"):
        await full.begin()
    await full.heal()


@LINUX
@in_event_loop
async def test_full_disk_under_which_a_message_was_stored_or_answered_is_not_seen(database: Path) -> None:
    """A message that arrived all the same, by a writer that has no limit say, has met no full disk."""
    with written(database) as server, writer(database) as limited:
        store = make_store(database, ROWS, server_pids=lambda: [limited.pid])
        answered = attempted()
        answered.acknowledged = True
        full = store.full(0.01)
        await full.begin()
        with pytest.raises(NotSeen, match="acknowledged while no file could be written"):
            await full.bite(answered)
        await full.heal()
        full = store.full(0.01)
        await full.begin()
        insert(server, (1, message().offset, message().content))
        with pytest.raises(NotSeen, match="stored while no file could be written"):
            await full.bite(attempted())
        await full.heal()
        assert await limited.write() == "written"


@LINUX
@in_event_loop
async def test_full_disk_that_no_message_meets_is_not_seen(database: Path) -> None:
    """Without an attempt of the message there is nothing to see, and the limit does not stay."""
    with written(database), writer(database) as server:
        before = server.limit
        full = make_store(database, ROWS, patience_seconds=0.05, server_pids=lambda: [server.pid]).full(0.01)
        await full.begin()
        with pytest.raises(WaitTimeout, match=f"an attempt of {IDENTITY}"):
            await full.bite(message())
        await full.heal()
        assert server.limit == before


# -- read-only ---------------------------------------------------------------------------------------------------


def modes(database: Path) -> dict[str, int]:
    """The permissions of a database, its journals and their folder."""
    return {path.name: path.stat().st_mode for path in (database.parent, *database.parent.iterdir())}


@MODES
@in_event_loop
async def test_read_only_store_has_no_write_permission_until_the_end(mode: str, database: Path) -> None:
    """Database, journals and folder lose every write bit and nothing else, and have all of them back at the end."""
    with written(database, mode) as server:
        insert(server, (1, "one", "text"))
        store = make_store(database, ROWS)
        before = modes(database)
        with store.read_only():
            assert modes(database) == {name: bits & ~0o222 for name, bits in before.items()}
            assert len(await store.rows()) == 1
        assert modes(database) == before


def unprivileged(database: Path) -> str:
    """What a process is told that permissions bind, when it opens the database and writes."""
    code = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
try:
    database.execute("INSERT INTO messages VALUES (2, 'two', 'text')")
    print("written")
except sqlite3.Error as error:
    print(error)
"""
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"] if os.geteuid() == 0 else []
    return subprocess.check_output([*prefix, sys.executable, "-S", "-c", code, database], text=True).strip()


@LINUX
@MODES
@in_event_loop
async def test_read_only_store_cannot_be_written_by_who_opens_it(mode: str, database: Path) -> None:
    """Whoever opens it meanwhile, without privileges beyond the permissions, may read and not write."""
    with written(database, mode) as server:
        insert(server, (1, "one", "text"))
        store = make_store(database, ROWS)
        with store.read_only():
            assert unprivileged(database) == "attempt to write a readonly database"
        assert len(await store.rows()) == 1
        assert unprivileged(database) == "written"
        assert len(await store.rows()) == 2


@in_event_loop
async def test_read_only_store_is_writable_again_after_an_error(database: Path) -> None:
    """However the scope ends, the permissions are what they were, also where a journal has gone meanwhile."""
    with ExitStack() as open_until_then:
        server = open_until_then.enter_context(written(database, "wal"))
        insert(server, (1, "one", "text"))
        before = modes(database)
        assert f"{database.name}-wal" in before

        def disappear() -> None:
            with make_store(database, ROWS).read_only():
                open_until_then.close()  # the last connection takes the journal with it
                raise LookupError("a fault that goes wrong")

        with pytest.raises(LookupError, match="goes wrong"):
            disappear()
        assert modes(database) == {name: before[name] for name in (database.parent.name, database.name)}


def test_store_is_again_what_was_copied(tmp_path: Path) -> None:
    """With its WAL, in which the last row is; what came later is gone, and so is a journal that was not there."""
    path, copy = tmp_path / "a" / "store.db", tmp_path / "copy"
    path.parent.mkdir()
    copy.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, client_offset, content)")
        database.execute("INSERT INTO messages VALUES (1, 'a', 'first')")
        store = SQLiteStore(path, ROWS, run="", patience_seconds=1, server_pids=lambda: ())
        store.copy_to(copy)
        assert (copy / "store.db-wal").stat().st_size
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("INSERT INTO messages VALUES (2, 'b', 'second')")
        (path.parent / "store.db-journal").write_bytes(b"left over")
        store.copy_from(copy)
    assert not (path.parent / "store.db-journal").exists()
    assert [row.id for row in asyncio.run(store.rows())] == [1]


# -- rows that were passed ---------------------------------------------------------------------------------------


@MODES
@in_event_loop
async def test_passed_rows_are_not_read_again(mode: str, database: Path) -> None:
    """Whether a message is stored is asked of the others only; the order is that of the query."""
    store = make_store(database, "SELECT id, client_offset, content FROM messages ORDER BY client_offset DESC;")
    with written(database, mode) as connection:
        insert(connection, (1, "z", IDENTITY), (2, "y", "9"))
        store.pass_by(await store.rows(), {"alice": 1})
        assert await store.rows() == []
        assert not await store.holds(message())
        insert(connection, (3, "c", "1"), (4, "d", "2"))
        assert [row.id for row in await store.rows()] == [4, 3]
        async with store.locked() as rows:
            assert [row.id for row in rows()] == [4, 3]


@pytest.mark.parametrize(
    ("statement", "rows", "same"),
    [
        ("SELECT 1", 3, True),
        ("INSERT INTO messages VALUES (4, 'd', 'more')", 3, True),
        ("DELETE FROM messages WHERE id = 3", 2, False),
        ("UPDATE messages SET content = 'other' WHERE id = 2", 3, False),
        ("UPDATE messages SET id = 9 WHERE id = 1", 3, False),
    ],
)
@in_event_loop
async def test_what_has_become_of_passed_rows_is_found_out(
    statement: str, rows: int, same: bool, database: Path
) -> None:
    """Rows that are gone, changed or in another order; more of them behind are none of its business."""
    store = make_store(database)
    with written(database) as connection:
        assert await store.passed_again() is None
        insert(connection, (1, "a", "one"), (2, "b", "two"))
        store.pass_by(await store.rows(), {})
        insert(connection, (3, "c", "three"))
        store.pass_by(await store.rows(), {})
        connection.execute(statement)
        assert await store.passed_again() == h.Reread(time=0.0, before=3, rows=rows, same=same)


@in_event_loop
async def test_passed_row_that_is_gone_is_not_replaced_by_a_later_one(database: Path) -> None:
    """There are as many rows as before, and one of them is new."""
    store = make_store(database)
    with written(database) as connection:
        insert(connection, (1, "a", IDENTITY), (2, "b", f"{RUN}-alice-0002"))
        store.pass_by(await store.rows(), {"alice": 2})
        connection.execute("DELETE FROM messages WHERE id = 2")
        insert(connection, (3, "c", f"{RUN}-alice-0003"))
        assert await store.passed_again() == h.Reread(time=0.0, before=2, rows=1, same=False)


@in_event_loop
async def test_row_that_comes_between_passed_ones_is_an_error_and_no_accusation(database: Path) -> None:
    """A query that orders otherwise than by age would make old rows look new."""
    store = make_store(database, "SELECT id, client_offset, content FROM messages ORDER BY id DESC")
    with written(database) as connection:
        insert(connection, (1, "a", IDENTITY))
        store.pass_by(await store.rows(), {"alice": 1})
        insert(connection, (2, "b", f"{RUN}-alice-0002"))
        with pytest.raises(TargetError, match=r"the row 2 stands among those .* ORDER BY id DESC"):
            await store.passed_again()
