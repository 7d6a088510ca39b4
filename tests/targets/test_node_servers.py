"""The two Node.js servers, as real processes on free ports, spoken with by stock Python clients."""

import asyncio
import contextlib
import functools
import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec

import pytest
import socketio

import harness.targets
from harness import node
from harness.waiting import until, within

P = ParamSpec("P")
EVENT = "chat message"
DEADLINE_SECONDS = 10.0
# A client that says it has all rows: the tutorial's server may replay one to who connects just before it is stored.
ALL_ROWS = {"auth": {"serverOffset": 1_000_000}}
SILENCE_SECONDS = 0.7
TARGETS = Path(harness.targets.__file__).parent
BOTH = pytest.mark.parametrize("name", ["tutorial", "hardened"])


def in_event_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test to its end, with a deadline."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 3 * DEADLINE_SECONDS))

    return run


def command(name: str, *options: str) -> list[str]:
    """What starts a server."""
    return ["node", str(TARGETS / f"{name}-node" / "server.js"), *options]


def environment(**switches: str) -> dict[str, str]:
    """What a server finds its packages with, and its switches."""
    return {**os.environ, "NODE_PATH": str(node.modules()), **switches}


class Server:
    """A running server and its database."""

    def __init__(self, process: asyncio.subprocess.Process, database: Path, url: str) -> None:
        self.process = process
        self.database = database
        self.url = url

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The stored messages, in id order: offset and content."""
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            return database.execute("SELECT client_offset, content FROM messages ORDER BY id").fetchall()

    async def exited(self) -> int:
        """Wait for its end; its exit status."""
        return await within(self.process.wait(), awaited="the server to exit", timeout_seconds=DEADLINE_SECONDS)

    async def terminated(self) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return await self.exited()


@contextlib.asynccontextmanager
async def running(name: str, folder: Path, *options: str, **switches: str) -> AsyncIterator[Server]:
    """Start a server on a free port; kill it, if it still runs, at the end of the scope."""
    database = folder / "chat.db"
    process = await asyncio.create_subprocess_exec(
        *command(name, "--port", "0", "--database", str(database), *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(**switches),
    )
    try:
        assert process.stdout is not None
        line = await within(process.stdout.readline(), awaited="the ready line", timeout_seconds=DEADLINE_SECONDS)
        ready = re.fullmatch(rb"listening on (http://127\.0\.0\.1:[1-9][0-9]*)\n", line)
        assert ready is not None, line
        yield Server(process, database, ready[1].decode())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Client:
    """A stock client, and what it received: content and id."""

    def __init__(self, sio: socketio.AsyncClient) -> None:
        self.sio = sio
        self.received: list[tuple[str, int]] = []
        sio.on(EVENT, lambda content, number, *_: self.received.append((content, number)))

    async def send(self, content: object, offset: object, seconds: float = DEADLINE_SECONDS) -> bool:
        """Emit one message; whether it was acknowledged in time."""
        try:
            await self.sio.call(EVENT, (content, offset), timeout=seconds)
        except socketio.exceptions.SocketIOError:
            return False
        return True

    async def unanswered(self, content: object, offset: object) -> bool:
        """Emit one message; whether no acknowledgement came for a while."""
        return not await self.send(content, offset, SILENCE_SECONDS)

    async def got(self, count: int) -> list[str]:
        """Wait until this many messages are there; what they say."""

        async def enough() -> bool:
            return len(self.received) >= count

        await until(enough, awaited=f"{count} messages", timeout_seconds=DEADLINE_SECONDS)
        return [content for content, _ in self.received]


@contextlib.asynccontextmanager
async def connected(server: Server, **options: Any) -> AsyncIterator[Client]:
    """Connect a client for the scope."""
    client = Client(socketio.AsyncClient(reconnection=False, handle_sigint=False))
    await client.sio.connect(server.url, transports=["websocket"], **options)
    try:
        yield client
    finally:
        await client.sio.disconnect()


@BOTH
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--database", "x"], "--port is missing"),
        (["--port", "70000", "--database", "x"], "--port is 70000"),
        (["--port", "0"], "--database is missing"),
        (["--port", "0", "--database", "x", "--unit-ms", "0"], "--unit-ms is 0"),
        (["--port", "0", "--database", "x", "--witout-unique"], "--witout-unique"),
    ],
)
def test_wrong_options_are_refused_in_one_line(name: str, options: list[str], complaint: str, tmp_path: Path) -> None:
    """Status 2, and one line that names the option."""
    ended = subprocess.run(
        command(name, *options), env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert complaint in ended.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("CHAT_DELAY", "before-lunch:1:5"), ("CHAT_DELAY", "before-insert:0:5"), ("CHAT_CRASH", "after-insert")],
)
def test_wrong_points_are_refused(variable: str, value: str, tmp_path: Path) -> None:
    """A delay or crash point that does not exist is no point at all: status 2."""
    line = command("tutorial", "--port", "0", "--database", str(tmp_path / "chat.db"))
    ended = subprocess.run(line, env=environment(**{variable: value}), capture_output=True, text=True, check=False)

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"{variable}={value}")


@BOTH
@in_event_loop
async def test_message_is_stored_acknowledged_and_broadcast_once(name: str, tmp_path: Path) -> None:
    """A second attempt is acknowledged, and adds neither a row nor a broadcast."""
    async with running(name, tmp_path) as server, connected(server, **ALL_ROWS) as client:
        assert await client.send("nul \0, and é", "a")
        assert await client.send("nul \0, and é", "a")
        assert await client.send("next", "b")

        assert await client.got(2) == ["nul \0, and é", "next"]
        assert server.rows == [("a", "nul \0, and é"), ("b", "next")]


@pytest.mark.parametrize(("name", "acknowledged"), [("tutorial", True), ("hardened", False)])
@in_event_loop
async def test_other_content_with_a_known_offset(name: str, acknowledged: bool, tmp_path: Path) -> None:
    """The tutorial says that it is stored, which is not so; the hardened server says nothing."""
    async with running(name, tmp_path) as server, connected(server) as client:
        assert await client.send("one", "a")

        assert await client.send("another", "a", SILENCE_SECONDS) is acknowledged
        assert server.rows == [("a", "one")]


@BOTH
@in_event_loop
async def test_message_without_a_callback(name: str, tmp_path: Path) -> None:
    """It is stored by both, and ends the tutorial's server."""
    async with running(name, tmp_path) as server, connected(server) as client:
        await client.sio.emit(EVENT, ("text", "a"))

        if name == "tutorial":
            assert await server.exited() == 1
        else:
            assert await client.send("next", "b")
        assert ("a", "text") in server.rows


@pytest.mark.parametrize("arguments", [("text", ""), ("text", 1), (None, "a"), ("\ud800", "a"), (b"text", "a")])
@in_event_loop
async def test_hardened_server_refuses_what_is_no_message(arguments: tuple[object, object], tmp_path: Path) -> None:
    """It is neither stored nor acknowledged, and the next message is."""
    async with running("hardened", tmp_path) as server, connected(server) as client:
        assert await client.unanswered(*arguments)
        assert await client.send("text", "b")
        assert server.rows == [("b", "text")]


@BOTH
@in_event_loop
async def test_protections_can_be_switched_off(name: str, tmp_path: Path) -> None:
    """Without UNIQUE a repeated offset is stored again; without acknowledgements both are silent."""
    switches = ["--without-unique", "--without-acknowledgement"]
    async with running(name, tmp_path, *switches) as server, connected(server, **ALL_ROWS) as client:
        assert await client.unanswered("text", "a")
        assert await client.unanswered("text", "a")
        assert await client.got(2) == ["text", "text"]
        assert server.rows == [("a", "text")] * 2


@pytest.mark.parametrize(
    ("name", "options", "more"),
    [
        ("tutorial", [], 1),
        ("tutorial", ["--without-recovery"], 0),
        ("hardened", [], 0),
        ("hardened", ["--recovery"], 1),
    ],
)
@in_event_loop
async def test_recovery_can_be_switched(name: str, options: list[str], more: int, tmp_path: Path) -> None:
    """Connection state recovery shows as one more argument of each event."""
    async with running(name, tmp_path, *options) as server:
        sio = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        events: asyncio.Queue[int] = asyncio.Queue()
        sio.on(EVENT, lambda _content, _number, *others: events.put_nowait(len(others)))
        await sio.connect(server.url, transports=["websocket"], auth={"serverOffset": 0})
        await sio.call(EVENT, ("text", f"offset {more}"), timeout=DEADLINE_SECONDS)
        assert await within(events.get(), awaited="an event", timeout_seconds=DEADLINE_SECONDS) == more
        await sio.disconnect()


@BOTH
@in_event_loop
async def test_limit_of_a_message_ends_the_connection(name: str, tmp_path: Path) -> None:
    """A message above the limit is not stored."""
    async with running(name, tmp_path, "--max-http-buffer-size", "1000") as server, connected(server) as client:
        assert await client.unanswered("x" * 2000, "a")
        assert not client.sio.connected
        assert server.rows == []


@BOTH
@in_event_loop
async def test_rows_above_the_client_s_offset_are_replayed(name: str, tmp_path: Path) -> None:
    """From the offset that the client names, or all."""
    async with running(name, tmp_path) as server:
        async with connected(server) as first:
            for text in "abc":
                assert await first.send(text, text)
        async with connected(server, auth={"serverOffset": 1}) as second:
            assert await second.got(2) == ["b", "c"]
        async with connected(server) as third:
            assert await third.got(3) == ["a", "b", "c"]


@pytest.mark.parametrize("offset", [999, -1, "2", 1.5, None, True])
@in_event_loop
async def test_hardened_server_bears_any_server_offset(offset: object, tmp_path: Path) -> None:
    """A client that names an offset that cannot be gets what is new at least."""
    async with running("hardened", tmp_path) as server, connected(server, auth={"serverOffset": offset}) as client:
        assert await client.send("new", "a")
        assert await client.got(1) == ["new"]


@in_event_loop
async def test_delayed_insert_is_overtaken_on_the_tutorial_s_server(tmp_path: Path) -> None:
    """Every attempt of that message is delayed, and no other message."""
    point = "before-insert:1:2500"
    async with running("tutorial", tmp_path, CHAT_DELAY=point) as server, connected(server) as client:
        assert await client.unanswered("one", "a")
        assert await client.unanswered("one", "a")
        assert await client.send("two", "b")
        await client.got(2)
        assert server.rows == [("b", "two"), ("a", "one")]


@in_event_loop
async def test_delayed_insert_is_not_overtaken_on_the_hardened_server(tmp_path: Path) -> None:
    """The next message waits for it."""
    point = "before-insert:1:1500"
    async with running("hardened", tmp_path, CHAT_DELAY=point) as server, connected(server) as client:
        assert await client.unanswered("one", "a")
        assert await client.send("two", "b")
        assert server.rows == [("a", "one"), ("b", "two")]


@pytest.mark.parametrize(("name", "contents"), [("tutorial", ["live", "old"]), ("hardened", ["old", "live"])])
@in_event_loop
async def test_delayed_replay(name: str, contents: list[str], tmp_path: Path) -> None:
    """On the tutorial's server a live message overtakes the rows that were read before it."""
    async with running(name, tmp_path, CHAT_DELAY="before-replay:2:1500") as server, connected(server) as sender:
        assert await sender.send("old", "a")
        async with connected(server) as joined:
            await asyncio.sleep(0.1)  # until it has read the rows
            assert await sender.send("live", "b")
            assert await joined.got(2) == contents


@pytest.mark.parametrize(("name", "ids"), [("tutorial", [2, 1]), ("hardened", [1, 2])])
@in_event_loop
async def test_delayed_broadcast(name: str, ids: list[int], tmp_path: Path) -> None:
    """On the tutorial's server the next row's broadcast comes first."""
    async with (
        running(name, tmp_path, CHAT_DELAY="after-insert:1:1000") as server,
        connected(server) as one,
        connected(server) as two,
    ):
        assert all(await asyncio.gather(one.send("a", "a"), two.send("b", "b")))
        await one.got(2)
        assert [number for _, number in one.received] == ids


@BOTH
@in_event_loop
async def test_crash_after_an_insert(name: str, tmp_path: Path) -> None:
    """It is stored, nobody hears of it, and the next server acknowledges it."""
    async with running(name, tmp_path, CHAT_CRASH="after-insert:2") as server, connected(server, **ALL_ROWS) as client:
        assert await client.send("one", "a")
        assert await client.send("one", "a")
        assert await client.unanswered("two", "b")
        assert await server.exited() == -signal.SIGKILL
        assert [content for content, _ in client.received] == ["one"]
    async with running(name, tmp_path) as server, connected(server) as client:
        assert await client.send("two", "b")
        assert server.rows == [("a", "one"), ("b", "two")]


@in_event_loop
async def test_hardened_server_delivers_concurrent_writers_in_one_order(tmp_path: Path) -> None:
    """Every receiver hears the rows in the order of their ids, each once."""
    async with running("hardened", tmp_path) as server, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server)) for _ in range(5)]
        for number in range(20):
            sent = [client.send(f"{who}-{number}", f"{who}-{number}") for who, client in enumerate(clients)]
            assert all(await asyncio.gather(*sent))
        late = await stack.enter_async_context(connected(server))
        for client in (*clients, late):
            await client.got(100)
            assert [number for _, number in client.received] == list(range(1, 101))


@in_event_loop
async def test_hardened_server_stays_lively_under_a_lock(tmp_path: Path) -> None:
    """A message is refused under the lock, rows are still replayed, and the message is stored afterwards."""
    async with running("hardened", tmp_path) as server, connected(server) as client:
        assert await client.send("one", "a")
        with contextlib.closing(sqlite3.connect(server.database, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            assert await client.unanswered("two", "b")
            async with connected(server) as joined:
                assert await joined.got(1) == ["one"]
            lock.execute("ROLLBACK")
        assert await client.send("two", "b")


@in_event_loop
async def test_hardened_server_finishes_what_it_took_before_it_ends(tmp_path: Path) -> None:
    """A message that was taken is stored and acknowledged; the transport ends without a Socket.IO disconnect."""
    async with running("hardened", tmp_path, CHAT_DELAY="before-insert:1:600") as server, connected(server) as client:
        reasons: list[str] = []
        client.sio.on("disconnect", reasons.append)
        sending = asyncio.create_task(client.send("text", "a"))
        await asyncio.sleep(0.1)  # until the server has it
        assert await server.terminated() == 0
        assert await sending
        assert await client.got(1) == ["text"]
        await client.sio.wait()
        assert reasons == [client.sio.reason.TRANSPORT_ERROR]


@in_event_loop
async def test_tutorial_s_server_dies_of_sigterm(tmp_path: Path) -> None:
    """It has no handler."""
    async with running("tutorial", tmp_path) as server:
        assert await server.terminated() == -signal.SIGTERM
