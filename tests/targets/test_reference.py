"""The reference chat server, as a real process on a free port, driven by stock and by hostile clients."""

import asyncio
import contextlib
import functools
import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import aiohttp
import engineio.payload
import pytest
import socketio
import yarl

from harness.targets import reference
from harness.targets.reference import chat, storage
from harness.targets.reference.__main__ import main
from harness.targets.reference.delivery import Delivery
from harness.waiting import until, within

P = ParamSpec("P")
T = TypeVar("T")
COMMAND = (sys.executable, "-m", "harness.targets.reference")
EVENT = "chat message"
DEADLINE_SECONDS = 15.0
TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "polling"])


def in_event_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test to its end, with a deadline."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 3 * DEADLINE_SECONDS))

    return run


@pytest.fixture(autouse=True)
def _large_payloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock polling client rejects a payload of more than 16 packets, and with it a replay."""
    monkeypatch.setattr(engineio.payload.Payload, "max_decode_packets", 100_000)


# --- the server ---------------------------------------------------------------------------------------------------


class Server:
    """A running reference server and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process, output: Path, errors: Path) -> None:
        self.process = process
        self.output = output
        self.errors = errors
        self.url = ""

    def steps(self, step: str) -> list[dict[str, Any]]:
        """The evidence lines of one kind so far."""
        lines = [json.loads(line) for line in self.output.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["step"] == step]

    def offsets(self, step: str) -> list[str | None]:
        """The client offsets of the evidence lines of one kind so far."""
        return [line["client_offset"] for line in self.steps(step)]

    async def recorded(self, step: str, offset: str) -> dict[str, Any]:
        """Wait for the evidence of one step of one message."""
        await seen(lambda: offset in self.offsets(step), f"{step} {offset}")
        return next(line for line in self.steps(step) if line["client_offset"] == offset)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the server and return its exit status."""
        self.process.send_signal(number)
        return await within(self.process.wait(), awaited="the server to exit", timeout_seconds=DEADLINE_SECONDS)


@contextlib.asynccontextmanager
async def running(database: Path, *options: str, **environment: str) -> AsyncIterator[Server]:
    """Start a server in a foreign working directory; end it, if it still runs, at the end of the scope."""
    directory = database.parent
    stem = f"server-{time.monotonic_ns()}"
    output, errors = directory / f"{stem}.jsonl", directory / f"{stem}.txt"
    with output.open("wb") as out, errors.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "--port", "0", "--database", str(database), *options),
            stdout=out,
            stderr=err,
            cwd=directory,
            env={**os.environ, **environment},
        )
    server = Server(process, output, errors)
    try:
        line = await seen(lambda: re.search(r"listening on (\S+)\n", errors.read_text()), "the server to listen")
        assert line is not None
        server.url = line[1]
        yield server
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def seen(condition: Callable[[], T], awaited: str) -> T:
    """Wait until a condition holds."""
    return await until(condition, awaited=awaited, timeout_seconds=DEADLINE_SECONDS)


def stored(database: Path) -> list[tuple[int, str, str]]:
    """The rows of the table, read from outside."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT id, client_offset, content FROM messages ORDER BY id").fetchall()


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the write lock of a database."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


# --- clients ------------------------------------------------------------------------------------------------------


class Client:
    """A stock client that does not reconnect by itself."""

    def __init__(self) -> None:
        self.socket = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        self.received: list[tuple[str, int]] = []
        self.acknowledged: list[str] = []
        self.disconnected = asyncio.Event()
        self.socket.on(EVENT, self._receive)
        self.socket.on("disconnect", self._disconnect)

    async def _receive(self, content: str, row_id: int) -> None:
        self.received.append((content, row_id))

    async def _disconnect(self, _reason: str) -> None:
        self.disconnected.set()

    @property
    def ids(self) -> list[int]:
        """The ids of what was received, in the order of arrival."""
        return [row_id for _, row_id in self.received]

    async def post(self, content: object, offset: str) -> None:
        """Emit a message; its acknowledgement is added to `acknowledged`."""
        await self.socket.emit(EVENT, (content, offset), callback=lambda *_: self.acknowledged.append(offset))

    async def send(self, content: object, offset: str) -> None:
        """Emit a message and wait until it is acknowledged."""
        before = self.acknowledged.count(offset)
        await self.post(content, offset)
        await seen(lambda: self.acknowledged.count(offset) > before, f"the acknowledgement of {offset}")

    async def close(self) -> None:
        """Leave at once: a polling client's own disconnect waits for the pending poll."""
        tasks = [task for task in (self.socket.eio.read_loop_task, self.socket.eio.write_loop_task) if task]
        await self.socket.eio.disconnect(abort=True)
        await asyncio.wait(tasks, timeout=DEADLINE_SECONDS)


@contextlib.asynccontextmanager
async def connected(server: Server, transport: str = "websocket", auth: object = None) -> AsyncIterator[Client]:
    """Connect a stock client for the duration of the scope."""
    client = Client()
    await client.socket.connect(server.url, transports=[transport], auth=auth, wait_timeout=10)
    try:
        yield client
    finally:
        await client.close()


class RawPolling:
    """A client that posts any payload; nobody reads what the server has for it unless `poll` is called."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = f"{url}/socket.io/?EIO=4&transport=polling"

    async def open(self, connect: str = "40") -> None:
        """Shake hands and connect to the namespace."""
        async with self._session.get(self.url) as response:
            self.url += "&sid=" + json.loads((await response.text())[1:])["sid"]
        await self.post(connect)

    async def post(self, *packets: str) -> int:
        """Post some packets in one payload and return the HTTP status."""
        async with self._session.post(self.url, data=io.BytesIO("\x1e".join(packets).encode())) as response:
            return response.status

    async def poll(self) -> list[str]:
        """Fetch the packets that are ready."""
        async with self._session.get(self.url) as response:
            return (await response.text()).split("\x1e")


@contextlib.asynccontextmanager
async def raw_polling(server: Server, connect: str = "40") -> AsyncIterator[RawPolling]:
    """Connect a raw polling client."""
    async with aiohttp.ClientSession() as session:
        client = RawPolling(session, server.url)
        await client.open(connect)
        yield client


def packet(*arguments: object, acknowledgement: int | str = "") -> str:
    """An Engine.IO message with a Socket.IO event in it."""
    return f"42{acknowledgement}{json.dumps(list(arguments))}"


# --- storing and acknowledging ------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_a_message_is_stored_then_acknowledged_and_broadcast(tmp_path: Path, transport: str) -> None:
    """A message is stored, broadcast to everyone and acknowledged, and each step is recorded."""
    database = tmp_path / "chat.db"
    async with running(database) as server, connected(server) as other, connected(server, transport) as client:
        await client.send("grüße 👋", "a-1")
        await seen(lambda: client.received and other.received, "the broadcasts")
        assert stored(database) == [(1, "a-1", "grüße 👋")]
        assert client.received == other.received == [("grüße 👋", 1)]
        for step in ("received", "stored", "broadcast", "acknowledged"):
            assert server.offsets(step) == ["a-1"]
        assert "grüße" not in server.output.read_text()


@in_event_loop
async def test_a_resent_message_is_acknowledged_and_stored_once(tmp_path: Path) -> None:
    """The same offset with the same content is acknowledged each time, stored once and broadcast once."""
    database = tmp_path / "chat.db"
    async with running(database) as server, connected(server) as client:
        await client.send("hello", "a-1")
        client.acknowledged.clear()
        await client.send("hello", "a-1")
        await client.send("next", "a-2")
        await seen(lambda: len(client.received) > 1, "both broadcasts")
        assert [row[1] for row in stored(database)] == ["a-1", "a-2"]
        assert [content for content, _ in client.received] == ["hello", "next"]
        assert server.offsets("duplicate") == ["a-1"]


@in_event_loop
async def test_an_offset_with_other_content_is_refused(tmp_path: Path) -> None:
    """The same offset with other content is recorded as refused, and neither stored nor acknowledged."""
    database = tmp_path / "chat.db"
    async with running(database) as server, connected(server) as client:
        await client.send("hello", "a-1")
        client.acknowledged.clear()
        await client.post("other", "a-1")
        await client.send("next", "a-2")
        assert client.acknowledged == ["a-2"]
        assert [row[2] for row in stored(database)] == ["hello", "next"]
        assert server.offsets("refused") == ["a-1"]


@in_event_loop
async def test_without_unique_stores_a_resent_message_again(tmp_path: Path) -> None:
    """With its protection off, the server stores and broadcasts a resent message twice."""
    database = tmp_path / "chat.db"
    async with running(database, "--without-unique") as server, connected(server) as client:
        await client.send("hello", "a-1")
        client.acknowledged.clear()
        await client.send("hello", "a-1")
        await seen(lambda: client.ids == [1, 2], "two broadcasts")
        assert stored(database) == [(1, "a-1", "hello"), (2, "a-1", "hello")]


@TRANSPORTS
@in_event_loop
async def test_one_connection_with_many_messages_in_flight_keeps_its_order(tmp_path: Path, transport: str) -> None:
    """A hundred messages emitted without waiting are stored, acknowledged and broadcast in their order."""
    database = tmp_path / "chat.db"
    offsets = [f"a-{number}" for number in range(100)]
    async with running(database) as server, connected(server, transport) as client:
        for offset in offsets:
            await client.post(f"content of {offset}", offset)
        await seen(lambda: len(client.acknowledged) == 100 and len(client.received) == 100, "all answers")
        assert client.acknowledged == offsets
        assert [row[1] for row in stored(database)] == offsets
        assert client.ids == list(range(1, 101))


# --- the database fails -------------------------------------------------------------------------------------------


@in_event_loop
async def test_a_locked_database_holds_up_nothing_but_the_writes(tmp_path: Path) -> None:
    """While another program holds the lock, pings, connects and replays go on, and nothing is acknowledged."""
    database = tmp_path / "chat.db"
    async with (
        running(database, "--ping-interval-seconds", "1", "--ping-timeout-seconds", "0.5") as server,
        aiohttp.ClientSession() as session,
        connected(server) as client,
    ):
        await client.send("before", "a-1")
        with locked(database):
            await client.post("during", "a-2")
            assert "SQLITE_BUSY" in (await server.recorded("refused", "a-2"))["error"]
            async with session.ws_connect(f"{server.url}/socket.io/?EIO=4&transport=websocket") as idle:
                await idle.send_str("40")
                pings = 0
                while pings < 2:
                    await client.post("during", "a-2")
                    frame = await idle.receive_str(timeout=DEADLINE_SECONDS)
                    if frame == "2":
                        pings += 1
                        await idle.send_str("3")
            async with connected(server) as newcomer:
                await seen(lambda: newcomer.ids == [1], "the replay")
            assert client.acknowledged == ["a-1"]
            assert len(stored(database)) == 1
        await client.send("during", "a-2")
        await seen(lambda: client.ids == [1, 2], "the broadcast")
        assert not client.disconnected.is_set()
        assert [row[1] for row in stored(database)] == ["a-1", "a-2"]


@in_event_loop
async def test_a_server_can_start_while_its_database_is_locked(tmp_path: Path) -> None:
    """A restart during somebody else's transaction succeeds and replays what is there."""
    database = tmp_path / "chat.db"
    async with running(database) as server, connected(server) as client:
        await client.send("before", "a-1")
        await server.end(signal.SIGKILL)
    with locked(database):
        async with running(database) as server, connected(server) as client:
            await seen(lambda: client.ids == [1], "the replay")


class Emissions:
    """Stands in for the Socket.IO server of a chat that runs inside the test."""

    def __init__(self) -> None:
        self.not_handled = object()
        self.sent: list[int] = []

    def on(self, _event: str, _handler: object) -> None:
        """Accept a handler and never call it."""

    async def send(self, _sid: str, row: storage.Row) -> None:
        """Record what would go to a connection."""
        self.sent.append(row.id)


class FalseAlarm(storage.Storage):
    """Storage that reports the commits of some messages as failed although they happened."""

    def write(self, client_offset: str, content: str) -> Future[storage.Outcome]:
        """Store a message; report a failure if its content says so."""
        writing = super().write(client_offset, content)
        if content != "reported as failed":
            return writing
        failing: Future[storage.Outcome] = Future()
        writing.add_done_callback(lambda _: failing.set_exception(sqlite3.OperationalError("disk I/O error")))
        return failing


class Held(storage.Storage):
    """Storage that has begun to write and waits until it may proceed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.started = threading.Event()
        self.proceed = threading.Event()

    def write(self, client_offset: str, content: str) -> Future[storage.Outcome]:
        """Queue a message behind what the test allows."""

        def store() -> storage.Outcome:
            self.started.set()
            self.proceed.wait(DEADLINE_SECONDS)
            return self._writer.store(client_offset, content)

        return self._writes.submit(store)


@in_event_loop
async def test_a_row_whose_commit_was_reported_as_failed_is_broadcast_once(tmp_path: Path) -> None:
    """Such a message is not acknowledged, yet broadcast; its resend is acknowledged and not broadcast again."""
    table = FalseAlarm(tmp_path / "chat.db")
    emissions = Emissions()
    delivery = Delivery(table, emissions.send)
    room = chat.Chat(emissions, table, delivery)
    delivery.connect("someone", 0)
    assert await room.receive("me", "reported as failed", "a-1") is emissions.not_handled
    await seen(lambda: emissions.sent == [1], "the broadcast of a row that nobody acknowledged")
    assert await room.receive("me", "next", "a-2") is None
    await delivery.finish(DEADLINE_SECONDS)
    assert emissions.sent == [1, 2]
    table.close()


@in_event_loop
async def test_a_cancelled_handler_does_not_acknowledge_and_its_row_is_broadcast(tmp_path: Path) -> None:
    """A handler that dies while its message is written leaves no acknowledgement and no row without a broadcast."""
    table = Held(tmp_path / "chat.db")
    emissions = Emissions()
    delivery = Delivery(table, emissions.send)
    room = chat.Chat(emissions, table, delivery)
    delivery.connect("someone", 0)
    handler = asyncio.create_task(room.receive("me", "hello", "a-1"))
    await seen(table.started.is_set, "the write to begin")
    handler.cancel()
    assert await handler is emissions.not_handled
    table.proceed.set()
    await seen(lambda: emissions.sent == [1], "the broadcast of a row whose handler is dead")
    await delivery.finish(DEADLINE_SECONDS)
    table.close()


def test_commits_are_durable(tmp_path: Path) -> None:
    """The database is in WAL mode, and every connection that writes waits for the disk."""
    table = storage.Storage(tmp_path / "chat.db")
    writer = table._writer._connection
    assert writer is not None
    assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    table.close()


# --- delivery -----------------------------------------------------------------------------------------------------


@in_event_loop
async def test_a_receiver_that_joins_live_traffic_sees_every_row_once_and_in_order(tmp_path: Path) -> None:
    """However replay and live messages interleave, each receiver gets the rows by id, without gap or repetition."""
    count = 300
    async with (
        running(tmp_path / "chat.db") as server,
        connected(server) as sender,
        contextlib.AsyncExitStack() as open_,
    ):
        receivers: list[Client] = []
        for number in range(1, count + 1):
            await sender.post("x" * number, f"a-{number}")
            if number % 25 == 0:
                transport = "polling" if number % 50 else "websocket"
                receivers.append(await open_.enter_async_context(connected(server, transport)))
        await seen(lambda: all(len(receiver.received) >= count for receiver in receivers), "all rows everywhere")
        await sender.send("last", "last")
        await seen(lambda: all(receiver.ids[-1] == count + 1 for receiver in receivers), "the last row everywhere")
        for receiver in receivers:
            assert receiver.ids == list(range(1, count + 2))


@in_event_loop
async def test_a_long_history_is_replayed_whole(tmp_path: Path) -> None:
    """A replay that needs several reads of the table, longer than what is held in memory, has every row once."""
    database = tmp_path / "chat.db"
    storage.Storage(database).close()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = [(str(number), "content") for number in range(1, 1201)]
        connection.executemany("INSERT INTO messages (client_offset, content) VALUES (?, ?)", rows)
        connection.execute("DELETE FROM messages WHERE id % 7 = 0")
        connection.commit()
    async with running(database) as server, connected(server) as receiver, connected(server) as sender:
        await sender.send("live", "live")
        await seen(lambda: receiver.ids and receiver.ids[-1] == 1201, "the live row")
        assert receiver.ids == [number for number in range(1, 1202) if number % 7 or number == 1201]


@TRANSPORTS
@in_event_loop
async def test_a_returning_receiver_gets_what_it_has_not_got(tmp_path: Path, transport: str) -> None:
    """A receiver that connects with its highest offset gets the rows above it, then the live ones."""
    async with running(tmp_path / "chat.db") as server, connected(server) as sender:
        for number in range(1, 6):
            await sender.send("content", f"a-{number}")
        async with connected(server, transport, {"serverOffset": 3}) as receiver:
            await seen(lambda: receiver.ids == [4, 5], "the rows above the offset")
            await sender.send("live", "a-6")
            await seen(lambda: receiver.ids == [4, 5, 6], "the live row")


AUTHS: list[tuple[object, list[int]]] = [
    (None, [1, 2, 3]),
    (7, [1, 2, 3]),
    ("serverOffset", [1, 2, 3]),
    (["serverOffset", 1], [1, 2, 3]),
    ({"token": "x"}, [1, 2, 3]),
    ({"serverOffset": None}, [1, 2, 3]),
    ({"serverOffset": "1"}, [1, 2, 3]),
    ({"serverOffset": True}, [1, 2, 3]),
    ({"serverOffset": 1.5}, [1, 2, 3]),
    ({"serverOffset": [1]}, [1, 2, 3]),
    ({"serverOffset": -5}, [1, 2, 3]),
    ({"serverOffset": 1}, [2, 3]),
    ({"serverOffset": 2}, [3]),
    ({"serverOffset": 3}, [3]),
    ({"serverOffset": 10**60}, [3]),
]


@in_event_loop
async def test_any_auth_is_survived(tmp_path: Path) -> None:
    """An offset that is no number counts as none; one that is beyond the table gets the live rows only."""
    async with (
        running(tmp_path / "chat.db") as server,
        connected(server) as sender,
        contextlib.AsyncExitStack() as open_,
    ):
        await sender.send("old", "a-1")
        await sender.send("old", "a-2")
        await seen(lambda: sender.ids == [1, 2], "the broadcasts")
        clients = [await open_.enter_async_context(raw_polling(server, "40" + json.dumps(auth))) for auth, _ in AUTHS]
        await sender.send("live", "a-3")
        for client, (auth, expected) in zip(clients, AUTHS, strict=True):
            frames: list[str] = []
            while not any('"live"' in frame for frame in frames):
                frames += await within(client.poll(), awaited="the live row", timeout_seconds=DEADLINE_SECONDS)
            ids = [json.loads(frame[2:])[2] for frame in frames if frame.startswith("42")]
            assert (auth, ids) == (auth, expected)


# --- ends ---------------------------------------------------------------------------------------------------------


@in_event_loop
async def test_the_crash_point_is_after_the_commit_and_before_everything_else(tmp_path: Path) -> None:
    """The server dies with the message stored, neither broadcast nor acknowledged; after a restart it is found."""
    database = tmp_path / "chat.db"
    async with (
        running(database, REFERENCE_CRASH="after-commit:2") as server,
        connected(server) as client,
    ):
        await client.send("first", "a-1")
        await client.send("first", "a-1")  # a duplicate commits nothing
        await client.post("second", "a-2")
        await within(server.process.wait(), awaited="the crash", timeout_seconds=DEADLINE_SECONDS)
        await within(client.disconnected.wait(), awaited="the disconnect", timeout_seconds=DEADLINE_SECONDS)
        assert server.process.returncode == -signal.SIGKILL
        assert client.acknowledged == ["a-1", "a-1"]
        assert client.ids == [1]
        assert server.offsets("broadcast") == ["a-1"]
        assert [row[1] for row in stored(database)] == ["a-1", "a-2"]
    async with running(database) as server, connected(server, auth={"serverOffset": 1}) as client:
        await client.send("second", "a-2")
        await client.send("third", "a-3")
        await seen(lambda: client.ids == [2, 3], "the replay and the live row")
        assert server.offsets("duplicate") == ["a-2"]


@in_event_loop
async def test_a_killed_server_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """After SIGKILL amid traffic and a restart, every acknowledged message is stored once, in order."""
    database = tmp_path / "chat.db"
    async with running(database) as server, connected(server) as client:
        for number in range(200):
            await client.post("content", f"a-{number:03}")
        await seen(lambda: len(client.acknowledged) > 20, "some acknowledgements")
        await server.end(signal.SIGKILL)
    async with running(database):
        offsets = [row[1] for row in stored(database)]
    assert offsets == [f"a-{number:03}" for number in range(len(offsets))]
    assert client.acknowledged == offsets[: len(client.acknowledged)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@in_event_loop
async def test_a_stop_is_quick_and_clean(tmp_path: Path, number: signal.Signals) -> None:
    """With idle clients of both transports the server exits with 0 without waiting for them, and they notice."""
    async with running(tmp_path / "chat.db") as server:
        async with connected(server) as first, connected(server, "polling") as second, raw_polling(server):
            await second.send("hello", "a-1")
            began = time.monotonic()
            assert await server.end(number) == 0
            assert time.monotonic() - began < 3
            await within(first.disconnected.wait(), awaited="the disconnect", timeout_seconds=DEADLINE_SECONDS)
            await within(second.disconnected.wait(), awaited="the disconnect", timeout_seconds=DEADLINE_SECONDS)
        assert len(server.errors.read_text().splitlines()) == 1
        assert not (tmp_path / "chat.db-wal").exists()


@TRANSPORTS
@in_event_loop
async def test_a_stop_finishes_what_was_taken(tmp_path: Path, transport: str) -> None:
    """Messages that the server has received when it is told to stop are stored, acknowledged and broadcast."""
    database = tmp_path / "chat.db"
    async with running(database) as server, connected(server, transport) as client:
        for number in range(20):
            await client.post("content", f"a-{number}")
        await seen(lambda: len(server.steps("received")) == 20, "the messages to be received")
        assert await server.end() == 0
        await within(client.disconnected.wait(), awaited="the disconnect", timeout_seconds=DEADLINE_SECONDS)
        assert client.acknowledged == [f"a-{number}" for number in range(20)]
        assert client.ids == list(range(1, 21))
        assert len(stored(database)) == 20


@in_event_loop
async def test_a_stop_during_a_lock_gives_up_what_it_cannot_store(tmp_path: Path) -> None:
    """A stop while the database is locked waits for no lock again and again, and acknowledges nothing."""
    database = tmp_path / "chat.db"
    async with running(database) as server, connected(server) as client:
        with locked(database):
            for number in range(20):
                await client.post("content", f"a-{number}")
            await seen(lambda: len(server.steps("received")) == 20, "the messages to be received")
            began = time.monotonic()
            assert await server.end() == 0
            assert time.monotonic() - began < 2.5
        await within(client.disconnected.wait(), awaited="the disconnect", timeout_seconds=DEADLINE_SECONDS)
        assert client.acknowledged == []
        assert all("SQLITE_BUSY" in step["error"] for step in server.steps("refused"))
        assert len(server.steps("refused")) == 20
        assert stored(database) == []


@in_event_loop
async def test_stock_clients_come_back_after_a_graceful_restart(tmp_path: Path) -> None:
    """A stop ends the transports without a goodbye that would keep a stock client from reconnecting."""
    async with running(tmp_path / "chat.db") as server:
        clients = []
        for transport in ("websocket", "polling"):
            client = socketio.AsyncClient(handle_sigint=False, reconnection_delay=60, randomization_factor=0)
            await client.connect(server.url, transports=[transport])
            clients.append(client)
        assert await server.end() == 0
        await seen(lambda: all(client._reconnect_task for client in clients), "the clients to reconnect")
        for client in clients:
            await client.shutdown()


# --- hostile clients ----------------------------------------------------------------------------------------------

REFUSED: dict[str, list[object]] = {
    "no arguments": [],
    "one argument": ["content"],
    "three arguments": ["content", "h-1", "more"],
    "an integer content": [1, "h-1"],
    "an integer offset": ["content", 1],
    "a null content": [None, "h-1"],
    "a null offset": ["content", None],
    "a boolean": [True, "h-1"],
    "a nested object": [{"a": [{"b": {}}]}, {"c": "h-1"}],
    "an empty offset": ["content", ""],
    "half a surrogate pair": ["\ud83d", "h-1"],
    "half a surrogate pair as offset": ["content", "\ud83d"],
}


GARBAGE = [
    [""],
    ["x"],
    ["4"],
    ["42"],
    ["42{}"],
    ["42[]"],
    ["42[1]"],
    ["42[[1],2]"],
    ["42[null]"],
    ["4299999999999999999999[1]"],
    ['42["chat message"'],
    ["49"],
    ["44{}"],
    ["43[1]"],
    ["40"],
    ["40/elsewhere,"],
    [f'40{{"serverOffset":{10**300}}}'],
    ['42/elsewhere,["chat message","content","h-1"]'],
    [packet("unknown event", 1)],
    [packet("connect", {}, {"serverOffset": 0})],
    [packet("connect")],
    [packet("disconnect", "because")],
    ['451-["chat message",{"_placeholder":true,"num":0},"h-1"]', "bAAEC"],
    ['451-["chat message",{"_placeholder":true,"num":7},"h-1"]', "bAAEC"],
    ["4" + "[" * 100_000],
    ["5", "3"],
]


@in_event_loop
async def test_wrong_arguments_are_refused_and_not_acknowledged(tmp_path: Path) -> None:
    """Arguments that are no message are recorded as refused; the next message on that connection is served."""
    database = tmp_path / "chat.db"
    async with running(database) as server, raw_polling(server) as client:
        wrong = [packet(EVENT, *arguments, acknowledgement=7) for arguments in REFUSED.values()]
        assert await client.post(*wrong, packet(EVENT, "right", "a-1", acknowledgement=8)) == 200
        frames: list[str] = []
        while not any(frame.startswith("43") for frame in frames):
            frames += await within(client.poll(), awaited="the acknowledgement", timeout_seconds=DEADLINE_SECONDS)
        assert [frame for frame in frames if frame.startswith("43")] == ["438[]"]
        assert len(server.steps("refused")) == len(REFUSED)
        assert stored(database) == [(1, "a-1", "right")]


@TRANSPORTS
@in_event_loop
async def test_garbage_harms_nobody_else(tmp_path: Path, transport: str) -> None:
    """Whatever a client sends, another client is served, and the garbage is not stored."""
    database = tmp_path / "chat.db"
    async with running(database) as server, connected(server) as good, aiohttp.ClientSession() as session:
        for number, payload in enumerate(GARBAGE):
            if transport == "polling":
                offender = RawPolling(session, server.url)
                await offender.open()
                await offender.post(*payload)
            else:
                async with session.ws_connect(f"{server.url}/socket.io/?EIO=4&transport=websocket") as websocket:
                    for frame in ["40", *payload]:
                        await websocket.send_str(frame)
            await good.send("content", f"a-{number}")
        await seen(lambda: len(good.received) == len(GARBAGE), "all broadcasts")
        assert [row[1] for row in stored(database)] == [f"a-{number}" for number in range(len(GARBAGE))]


@in_event_loop
async def test_a_message_without_callback_is_stored(tmp_path: Path) -> None:
    """A client that asks for no acknowledgement gets none, and its message is stored."""
    database = tmp_path / "chat.db"
    async with running(database) as server, raw_polling(server) as client:
        await client.post(packet(EVENT, "content", "a-1"))
        await server.recorded("acknowledged", "a-1")
        assert len(stored(database)) == 1
        frames = await client.poll()
        assert not [frame for frame in frames if frame.startswith("43")]


@pytest.mark.parametrize("refused", [packet(EVENT, "x" * 2_000_000, "h-1", acknowledgement=1), "6"], ids=["2MB", "6"])
@in_event_loop
async def test_a_refused_request_holds_up_nobody_else(tmp_path: Path, refused: str) -> None:
    """A request of 2 MB, or with a packet that only servers send, is not stored, and others are served."""
    database = tmp_path / "chat.db"
    async with running(database) as server, connected(server) as good, raw_polling(server) as offender:
        # engineio closes the offender's session and answers when the client has fetched the CLOSE: never.
        posting = asyncio.create_task(offender.post(refused))
        for number in range(10):
            await good.send("content", f"a-{number}")
        posting.cancel()
        await asyncio.wait([posting])
        assert len(stored(database)) == 10
        assert await server.end() == 0


@in_event_loop
async def test_an_oversized_frame_ends_only_its_own_connection(tmp_path: Path) -> None:
    """A WebSocket message of 2 MB is not stored; its connection is closed, and others are served."""
    database = tmp_path / "chat.db"
    async with running(database) as server, connected(server) as good, aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{server.url}/socket.io/?EIO=4&transport=websocket") as websocket:
            await websocket.send_str("40")
            # The server closes without reading to the end.
            with contextlib.suppress(ConnectionError):
                await websocket.send_str(packet(EVENT, "x" * 2_000_000, "h-1", acknowledgement=1))
            while not websocket.closed:
                await websocket.receive(timeout=DEADLINE_SECONDS)
        await good.send("content", "a-1")
        assert [row[1] for row in stored(database)] == ["a-1"]


class Segments:
    """A polling request that is written to its socket bit by bit."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def write(self, data: bytes) -> None:
        """Hand some bytes to the kernel."""
        self._writer.write(data)
        await self._writer.drain()

    async def status(self) -> bytes:
        """The first line of the answer."""
        return await within(self._reader.readline(), awaited="an answer", timeout_seconds=DEADLINE_SECONDS)

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        await self._writer.wait_closed()


async def begin_post(server: Server, client: RawPolling, length: int) -> Segments:
    """Open a connection of its own and send a POST's header."""
    url = yarl.URL(client.url)
    assert url.host is not None
    assert url.port is not None
    request = Segments(*await asyncio.open_connection(url.host, url.port))
    await request.write(f"POST {url.path_qs} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
    return request


@in_event_loop
async def test_a_request_in_segments_is_taken_whole(tmp_path: Path) -> None:
    """A request whose body arrives in pieces, even inside a character, is stored like any other."""
    database = tmp_path / "chat.db"
    content = "ü" * 100_000
    body = f'42["chat message","{content}","a-1"]'.encode()
    async with running(database) as server, connected(server) as good, raw_polling(server) as client:
        request = await begin_post(server, client, len(body))
        for number, position in enumerate((0, 100, 101, 150_000)):
            await request.write(body[position : (100, 101, 150_000, len(body))[number]])
            await good.send("content", f"b-{number}")
        assert b" 200 " in await request.status()
        await request.close()
        await server.recorded("acknowledged", "a-1")
        assert [row[2] for row in stored(database) if row[1] == "a-1"] == [content]


@in_event_loop
async def test_half_a_request_is_none(tmp_path: Path) -> None:
    """Of a request that is cut off nothing is stored, not even the messages that had arrived."""
    database = tmp_path / "chat.db"
    body = f"{packet(EVENT, 'whole', 'a-1')}\x1e{packet(EVENT, 'cut', 'a-2')}".encode()
    async with running(database) as server, connected(server) as good, raw_polling(server) as client:
        request = await begin_post(server, client, len(body))
        await request.write(body[:-1])
        await good.send("content", "b-1")
        await request.close()
        await good.send("content", "b-2")
        assert await server.end() == 0
        assert [row[1] for row in stored(database)] == ["b-1", "b-2"]
        assert "Traceback" not in server.errors.read_text()


@in_event_loop
async def test_a_burst_over_polling_is_taken_whole(tmp_path: Path) -> None:
    """A hundred messages in one payload are all stored and acknowledged, in order."""
    database = tmp_path / "chat.db"
    async with running(database) as server, raw_polling(server) as client:
        burst = [packet(EVENT, "content", f"a-{number:03}", acknowledgement=number) for number in range(100)]
        assert await client.post(*burst) == 200
        answers: list[str] = []
        while len(answers) < 100:
            frames = await within(client.poll(), awaited="acknowledgements", timeout_seconds=DEADLINE_SECONDS)
            answers += [frame for frame in frames if frame.startswith("43")]
        assert answers == [f"43{number}[]" for number in range(100)]
        assert [row[1] for row in stored(database)] == [f"a-{number:03}" for number in range(100)]


# --- the command --------------------------------------------------------------------------------------------------


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line that is expected to fail by itself."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        env={**os.environ, **environment},
    )


def _database(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)


UNIQUE = "CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, client_offset TEXT UNIQUE, content TEXT)"


@pytest.mark.parametrize(
    ("statement", "unique", "expected"),
    [
        ("CREATE TABLE messages (id INTEGER PRIMARY KEY, text TEXT)", True, "its table messages is not"),
        (UNIQUE.replace("AUTOINCREMENT", ""), True, "its table messages is not"),
        ("CREATE VIEW messages AS SELECT 1 AS id", True, "its table messages is not"),
        (UNIQUE.replace("UNIQUE", ""), True, "made without the UNIQUE constraint"),
        (UNIQUE, False, "made with the UNIQUE constraint"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, statement: str, unique: bool, expected: str) -> None:
    """A database whose table is laid out otherwise is an error that says what was expected."""
    _database(tmp_path / "chat.db", statement)
    with pytest.raises(storage.StorageError, match=expected):
        storage.Storage(tmp_path / "chat.db", unique=unique)


def test_the_table_of_another_program_is_used(tmp_path: Path) -> None:
    """A table with the same columns, however it was written down, is accepted."""
    _database(
        tmp_path / "chat.db",
        "create table messages (\n  id integer primary key autoincrement,\n client_offset text unique, content text)",
    )
    storage.Storage(tmp_path / "chat.db").close()


@pytest.mark.parametrize("content", [b"hello", b"hello" * 10_000])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    """What is no database is an error that names the file, and left as it is."""
    file = tmp_path / "a-file"
    file.write_bytes(content)
    with pytest.raises(storage.StorageError, match=f"{file}: file is not a database"):
        storage.Storage(file)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["missing/file", "."])
def test_an_unusable_database_ends_the_command_in_one_line(tmp_path: Path, name: str) -> None:
    """A database that cannot be created is named in one line, without a traceback."""
    ended = run("--port", "0", "--database", tmp_path / name)
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (1, "", 1)
    assert f"cannot use the database {tmp_path / name}: unable to open database file" in ended.stderr


def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    """A port in use is named in one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run("--port", str(port), "--database", tmp_path / "chat.db")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"reference server: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize("value", ["", "after-commit:0", "before-commit:1"])
def test_a_malformed_crash_point_is_an_error(tmp_path: Path, value: str) -> None:
    """A crash point that would never be reached is refused in one line, before anything is created."""
    ended = run("--port", "0", "--database", tmp_path / "chat.db", REFERENCE_CRASH=value)
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)
    assert "REFERENCE_CRASH" in ended.stderr
    assert not (tmp_path / "chat.db").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "65536"],
        ["--port", "-1"],
        ["--port", "0", "--ping-interval-seconds", "0.5"],
        ["--port", "0", "--ping-interval-seconds", "0"],
        ["--port", "0", "--ping-timeout-seconds", "nan"],
        [],
    ],
)
def test_wrong_usage_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """An option that the server could not honour is refused."""
    monkeypatch.setattr(sys, "argv", ["reference", "--database", "chat.db", *options])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "error: " in capsys.readouterr().err


def test_it_stands_alone() -> None:
    """The server imports nothing of the harness outside its own folder."""
    program = "import sys, harness.targets.reference.__main__; print(*[m for m in sys.modules if 'harness' in m])"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    foreign = [module for module in modules if not module.startswith("harness.targets.reference")]
    assert foreign == ["harness", "harness.targets"]


def test_its_description_names_its_own_switches(tmp_path: Path) -> None:
    """The commands of target.toml are accepted by the command line, and its crash point by the server."""
    folder = Path(reference.__file__).parent
    described = tomllib.loads((folder / "target.toml").read_text())
    names = {"python": sys.executable, "host": "127.0.0.1", "port": "65536", "message": "3"}
    values = {**names, "database": str(tmp_path / "chat.db")}
    for command in (described["server"]["command"], described["controls"]["without_unique"]):
        ended = subprocess.run([part.format(**values) for part in command], cwd=folder, capture_output=True, text=True)
        assert "'65536' is not a port" in ended.stderr
    crash = {key: value.format(**values) for key, value in described["crash_points"]["after_commit"].items()}
    ended = run("--port", "0", "--database", tmp_path, **crash)
    assert "cannot use the database" in ended.stderr
