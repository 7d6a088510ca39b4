"""The target's store: reading its rows, and holding a lock on it. One class per kind of database."""

import asyncio
import contextlib
import hashlib
import itertools
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness import history as h
from harness import process, waiting
from harness.clients.author import Message
from harness.errors import HarnessError, TargetError, brief
from harness.fault import Acts, NotSeen, fault

LockMode = Literal["IMMEDIATE", "EXCLUSIVE"]

_SUFFIXES = ("", "-wal", "-journal", "-shm")
_COLUMNS = ("id", "client_offset", "content")
# A view of our own connection, since a query that ends in a semicolon or a comment has no place within another one.
_VIEW = "CREATE TEMP VIEW IF NOT EXISTS midemit_rows AS {}"
_LATER = "SELECT * FROM midemit_rows LIMIT -1 OFFSET ?1"
_ABOUT = f"SELECT * FROM ({_LATER}) WHERE instr(content, ?2) OR instr(client_offset, ?2)"  # noqa: S608 - both are ours
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
        server_pids: the processes that write to it.

    Attributes:
        path: of the database file.
    """

    title = "the store"

    def __init__(
        self,
        path: Path,
        rows_query: str,
        *,
        run: str,
        patience_seconds: float,
        server_pids: Callable[[], Iterable[int]],
    ) -> None:
        self._server_pids = server_pids
        self.path = path
        self._query = rows_query
        self._run = run
        self._patience_seconds = patience_seconds
        self._passed = 0
        self._sequences: dict[str, int] = {}
        self._digest = _digest()

    async def rows(self) -> list[StoredRow]:
        """Read the stored rows as they are now, but for those that were passed.

        Raises:
            TargetError: the database or the query is unusable; the text says why.
        """
        return await asyncio.to_thread(self._rows)

    def _rows(self, about: str | None = None) -> list[StoredRow]:
        if not self.path.exists():
            raise TargetError(f"the store {self.path} does not exist: the server has to create it before it is ready")
        if not self.path.is_file():
            raise TargetError(f"the store {self.path} is not a file")
        with self._reading() as database:
            return list(self._read(database, self._passed, about))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._connected(f"{self.path.as_uri()}?mode=ro") as database:
                yield database
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise TargetError(f"cannot read the rows of {self.path}: {error}; the query is {self._query}") from error

    def _read(self, database: sqlite3.Connection, passed: int, about: str | None = None) -> Iterator[StoredRow]:
        """The rows behind those, or of them the ones in which a text stands: one message needs no others."""
        if about is None and not passed:
            cursor = database.execute(self._query)
            places = self._places(cursor)
        else:
            database.execute(_VIEW.format(self._query))
            places = self._places(database.execute("SELECT * FROM midemit_rows LIMIT 0"))
            cursor = database.execute(_LATER, (passed,)) if about is None else database.execute(_ABOUT, (passed, about))
        return (_row(*(values[place] for place in places)) for values in cursor)

    def _places(self, cursor: sqlite3.Cursor) -> list[int]:
        columns = [column[0] for column in cursor.description or ()]
        missing = [name for name in _COLUMNS if name not in columns]
        if missing:
            raise TargetError(
                f"store.rows has to return the columns {', '.join(_COLUMNS)}; it lacks {', '.join(missing)} "
                f"and returns {', '.join(columns) or 'none'}: {self._query}"
            )
        return [columns.index(name) for name in _COLUMNS]

    def pass_by(self, rows: Sequence[StoredRow], sequences: Mapping[str, int]) -> None:
        """Take these, the first of those that were not passed, for read: they are not among `rows` any more.

        Args:
            rows: all that `rows` returned.
            sequences: the last message of each sender that any of the passed rows can be of.
        """
        self._passed += len(rows)
        self._sequences = dict(sequences)
        for row in rows:
            _add(self._digest, row)

    async def passed_again(self) -> h.Reread | None:
        """Read all rows from the first on: what has become of those that were passed, at time 0; None without any.

        Raises:
            TargetError: they cannot be read, or later rows stand among them: nobody can tell which were passed then.
        """
        return await asyncio.to_thread(self._passed_again) if self._passed else None

    def _passed_again(self) -> h.Reread:
        digest = _digest()
        with self._reading() as database:
            for row in itertools.islice(self._read(database, 0), self._passed):
                _add(digest, row)
            if digest.digest() == self._digest.digest():
                return h.Reread(time=0.0, before=self._passed, rows=self._passed, same=True)
            rows = list(self._read(database, 0))
        left = sum(map(self._is_old, rows))
        later = next((row for row in rows[: self._passed] if not self._is_old(row)), None)
        if left >= self._passed and later is not None:
            raise TargetError(
                f"the row {later.id} stands among those that were there before it: a soak needs rows in the order in "
                f"which they are stored, and the query is {self._query}"
            )
        return h.Reread(time=0.0, before=self._passed, rows=min(left, self._passed), same=False)

    def _is_old(self, row: StoredRow) -> bool:
        """Whether it is no message that was posted when the passed rows had been read."""
        message = h.identity_in(self._run, row.content, row.client_offset)
        return message is None or h.is_among(message, self._sequences)

    @contextlib.contextmanager
    def _connected(self, uri: str) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(
            uri, uri=True, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        # A BLOB or invalid UTF-8 in the place of a text is shown, not refused.
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            yield connection
        finally:
            connection.close()

    async def holds(self, message: Message) -> bool:
        """Whether a row of the message is readable now."""
        return self.is_in(await asyncio.to_thread(self._rows, message.id), message)

    def is_in(self, rows: list[StoredRow], message: Message) -> bool:
        """Whether a row of the message is among these."""
        return any(h.identity_in(self._run, row.content, row.client_offset) == message.id for row in rows)

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

    @contextlib.asynccontextmanager
    async def locked(self, mode: LockMode = "IMMEDIATE") -> AsyncIterator[Callable[[], list[StoredRow]]]:
        """Hold a lock; gives a reading of the rows over the connection that holds it: others it may keep from reading.

        Raises:
            TargetError: it cannot be taken.
        """
        with contextlib.ExitStack() as held:
            database = await asyncio.to_thread(self._lock, held, mode)
            yield lambda: list(self._read(database, self._passed))

    def copy_to(self, folder: Path) -> None:
        """Copy its files into a folder; nobody may have it open."""
        for path in self._files():
            shutil.copyfile(path, folder / path.name)

    def copy_from(self, folder: Path) -> None:
        """Be again what was copied into that folder; nobody may have it open."""
        for path in self._files():
            path.unlink()
        for path in folder.iterdir():
            shutil.copyfile(path, self.path.with_name(path.name))

    def _files(self) -> list[Path]:
        return [path for suffix in _SUFFIXES if (path := self.path.with_name(self.path.name + suffix)).exists()]

    @fault("store")
    async def lock(self, seconds: float, mode: LockMode = "IMMEDIATE") -> Acts:
        """Hold a lock from before the message until the end, and for `seconds` after its first attempt began.

        `IMMEDIATE` keeps other writers out. So does `EXCLUSIVE`, and where the journal is a rollback journal readers
        too.
        """
        async with self.locked(mode) as rows:
            message = yield None
            yield await self._refused(message, rows, seconds)

    @fault("store")
    async def lock_repeatedly(self, times: int, seconds: float, mode: LockMode = "IMMEDIATE") -> Acts:
        """Hold a lock as `lock` does, then release it and take it again, so that it is held `times` times."""
        async with contextlib.AsyncExitStack() as held:
            rows = await held.enter_async_context(self.locked(mode))
            message = yield None
            evidence = await self._refused(message, rows, seconds)
            for _ in range(times - 1):
                await held.aclose()
                await held.enter_async_context(self.locked(mode))
                await waiting.pause(seconds)
            yield f"{evidence}, the first of {times} locks"

    @fault("store")
    async def lock_again(self, seconds: float) -> Acts:
        """Hold a lock while a message that is stored already is sent again, and for `seconds` after that began."""
        async with self.locked() as rows:
            message = yield None
            await waiting.until(
                lambda: message.attempts > 1,
                awaited=f"attempt 2 of {message.id}",
                timeout_seconds=self._patience_seconds,
            )
            await waiting.pause(seconds)
            if not self.is_in(await asyncio.to_thread(rows), message):
                raise NotSeen("the message was not stored when it came again")
            yield f"its row was there under the lock, for {seconds:g} s from attempt {message.attempts} of {message.id}"

    @fault("store")
    async def full(self, seconds: float) -> Acts:
        """Let the server write no byte to any file, for `seconds` after the first attempt of the message began.

        A size limit on its processes (RLIMIT_FSIZE): writes fail with EFBIG.

        Raises:
            HarnessError: this system cannot limit a process that runs.
        """
        with contextlib.ExitStack() as limited:
            for pid in self._server_pids():
                limited.enter_context(_no_file_may_grow(pid))
            message = yield None
            await message.first_attempt(self._patience_seconds)
            await waiting.pause(seconds)
            await self._require_refused(message, await self.rows(), "no file could be written")
            yield f"no row and no answer without space for {seconds:g} s, at attempt {message.attempts} of {message.id}"

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Take the permission to write the database, and its journals, from everybody who opens it from now on."""
        files = [*self.path.parent.glob(f"{self.path.name}*"), self.path.parent]
        modes = {path: path.stat().st_mode for path in files}
        try:
            for path, mode in modes.items():
                path.chmod(mode & ~_WRITE)
            yield
        finally:
            for path in reversed(files):
                with contextlib.suppress(FileNotFoundError):  # a journal that is gone
                    path.chmod(modes[path])

    def require_refusal(self) -> None:
        """See that a program that permission bits bind may read the database, and not write to it.

        Raises:
            NotSeen: it may write, or cannot even run.
        """
        command = [*process.unprivileged(), sys.executable, "-I", "-S", "-c", _PROBE, str(self.path)]
        try:
            tried = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotSeen(f"the permission to write could not be taken away: {error}") from error
        if tried.stdout.strip() != "PermissionError":
            raise NotSeen(f"the permission to write could not be taken away: {brief(tried.stdout + tried.stderr)}")

    async def _refused(self, message: Message, rows: Callable[[], list[StoredRow]], seconds: float) -> str:
        await message.first_attempt(self._patience_seconds)
        await waiting.pause(seconds)
        await self._require_refused(message, await asyncio.to_thread(rows), "the store was locked")
        return (
            f"no row and no answer after {seconds:g} s under the lock, with attempt {message.attempts} of {message.id}"
        )

    async def _require_refused(self, message: Message, rows: list[StoredRow], while_: str) -> None:
        if message.acknowledged:
            raise NotSeen(f"the message was acknowledged while {while_}")
        if self.is_in(rows, message):
            raise NotSeen(f"the message was stored while {while_}")

    def _lock(self, held: contextlib.ExitStack, mode: LockMode) -> sqlite3.Connection:
        try:
            with contextlib.ExitStack() as taking:
                database = taking.enter_context(self._connected(f"{self.path.as_uri()}?mode=rw"))
                database.execute(f"BEGIN {mode}")
                # Not before: who is cancelled meanwhile must not wait, in the event loop, to close what waits in here.
                held.push(taking.pop_all())
        except sqlite3.Error as error:
            raise TargetError(f"cannot lock {self.path}: {error}") from error
        return database


# Prints what became of opening a file to write to it, when it can be read.
_PROBE = """
import sys
open(sys.argv[1], "rb").close()
try:
    open(sys.argv[1], "r+b").close()
except OSError as error:
    print(type(error).__name__)
"""
_PROBE_TIMEOUT_SECONDS = 10.0
_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


@contextlib.contextmanager
def _no_file_may_grow(pid: int) -> Iterator[None]:
    if sys.platform != "linux":
        raise HarnessError("a full disk needs prlimit, which only Linux has")
    try:
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    except OSError as error:
        raise HarnessError(f"cannot limit the files of the server's process {pid}: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it has ended
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def _digest() -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=16)


def _add(digest: "hashlib.blake2b", row: StoredRow) -> None:
    digest.update(repr(tuple(row)).encode(errors="backslashreplace"))


def _row(number: Any, client_offset: Any, content: Any) -> StoredRow:
    if not isinstance(number, int | float | str | None):
        number = repr(number)
    return StoredRow(number, _text(client_offset), _text(content))


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value is None else str(value)
