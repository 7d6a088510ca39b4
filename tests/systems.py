"""Real things to test with: a chat server in this process, a tap on the wire, and a target behind Toxiproxy."""

import asyncio
import contextlib
import dataclasses
import functools
import gc
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import engineio.async_socket
import msgspec
from aiohttp import web
from engineio.payload import Payload

from harness import history as h
from harness import ports, target, waiting
from harness.clients.author import Offsets
from harness.clients.client import TRANSPORTS, Dialer
from harness.clients.connection import Connection
from harness.clients.receiver import Receiver
from harness.clients.sender import Sender
from harness.install import locate
from harness.link import SenderLink
from harness.runtimes import Address
from harness.runtimes.local import LocalHost
from harness.server import Server
from harness.store import SQLiteStore
from harness.target import Protocol, Target
from harness.targets.reference.transport import make_server
from harness.toxiproxy import Toxiproxy
from tests.histories import started

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=h.AnyEvent)

RUN = "0123abcd"
EVENT = "chat message"
# Generous, for a machine with other work: what is awaited comes within milliseconds.
DEADLINE_SECONDS = 10.0
# Longer than any test: where this is the ping interval or the ack timeout, neither plays a part.
NEVER_SECONDS = 60


def in_event_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test to its end; it fails when it leaves a task behind or an error that nobody looked at."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def whole() -> None:
            unseen: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
            await waiting.within(test(*args, **kwargs), awaited="the test", timeout_seconds=3 * DEADLINE_SECONDS)
            await seen(lambda: not others(), "the tasks to end", others)
            gc.collect()  # what was not closed, or not looked at, complains now
            assert not unseen

        gc.freeze()  # what was there before is not searched: that takes longer than most tests
        try:
            asyncio.run(whole())
        finally:
            gc.unfreeze()

    return run


def others() -> list[str]:
    """The tasks that run beside this one."""
    return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def seen(condition: Callable[[], T], awaited: str, last_seen: Callable[[], object] | None = None) -> T:
    """Wait until a condition holds."""
    return await waiting.until(
        condition, awaited=awaited, timeout_seconds=DEADLINE_SECONDS, last_seen=last_seen, interval_seconds=0.001
    )


async def soon(awaitable: Awaitable[T]) -> T:
    """Await what has to come."""
    return await waiting.within(awaitable, awaited="it", timeout_seconds=DEADLINE_SECONDS)


# -- on the wire -------------------------------------------------------------------------------------------------

Direction = Literal["up", "down"]
_REQUEST = re.compile(rb"(?:GET|POST) [^ \r\n]+ HTTP/1\.1\r\n")


class Flow:
    """One TCP connection through a tap: the bytes that passed it in each direction.

    Attributes:
        refused: whether there was nobody beyond.
        resets: the directions whose sender has ended it by a reset (RST), and not by a FIN.
        ended: set when it has ended, on both sides.
    """

    def __init__(self) -> None:
        self.up = bytearray()
        self.down = bytearray()
        self.refused = False
        self.resets: set[Direction] = set()
        self.ended = asyncio.Event()

    def passed(self, direction: Direction) -> bytearray:
        """What passed in one direction."""
        return self.up if direction == "up" else self.down


Rule = Callable[[Flow, Direction, bytes], int | None]
"""How many bytes of a chunk may pass before the connection is closed on both sides; None: all, and it stays."""


class Tap:
    """A TCP proxy that records, and that cuts where its rule says.

    Each GET waits for `poll_seconds` in it; `polls` is how many do.
    """

    def __init__(self) -> None:
        self.poll_seconds = 0.0
        self.polls = 0
        self.port = 0
        self.flows: list[Flow] = []
        self.rule: Rule = lambda *_: None

    def bytes_passed(self, direction: Direction) -> int:
        """How many bytes passed, over all connections."""
        return sum(len(flow.passed(direction)) for flow in self.flows)

    def requests(self) -> list[str]:
        """The first lines of all HTTP requests that passed."""
        return [found.decode().strip() for flow in self.flows for found in _REQUEST.findall(flow.up)]

    async def serve(self, upstream_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        flow = Flow()
        self.flows.append(flow)
        writers = [writer]
        try:
            with contextlib.suppress(OSError):
                flow.refused = True
                beyond, onward = await asyncio.open_connection("127.0.0.1", upstream_port)
                flow.refused = False
                writers.append(onward)
                pumps = [
                    asyncio.create_task(self._pump(flow, "up", reader, onward)),
                    asyncio.create_task(self._pump(flow, "down", beyond, writer)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for each in writers:
                each.close()
            flow.ended.set()

    async def _pump(
        self, flow: Flow, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await self._read(flow, direction, reader):
            if data.startswith(b"GET "):
                self.polls += 1
                await asyncio.sleep(self.poll_seconds)
                self.polls -= 1
            allowed = self.rule(flow, direction, data)
            passing = data if allowed is None else data[:allowed]
            flow.passed(direction).extend(passing)
            writer.write(passing)
            if allowed is not None:
                return
            await writer.drain()

    async def _read(self, flow: Flow, direction: Direction, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(65536)
        except ConnectionResetError:
            flow.resets.add(direction)
            raise


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Serve TCP connections; yields the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            return
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def tapped(upstream_port: int) -> AsyncIterator[Tap]:
    """A tap in front of a port."""
    tap = Tap()
    async with listening(functools.partial(tap.serve, upstream_port)) as port:
        tap.port = port
        yield tap


def limit(direction: Direction, count: int) -> Rule:
    """Cut when that many bytes have passed in one direction, over all connections together."""
    left = count

    def rule(_: Flow, towards: Direction, data: bytes) -> int | None:
        nonlocal left
        if towards != direction:
            return None
        left -= len(data)
        return None if left > 0 else len(data) + left

    return rule


# -- a server in this process ------------------------------------------------------------------------------------


class ChatServer:
    """Speaks the protocol of the reference server, in memory, and answers as a test likes.

    Attributes:
        answer: what the handler of an emission returns: by default it acknowledges.
        admit: what the handler of a connection does with its `auth`: by default it lets everybody in.
        received: the arguments of all emissions, in the order of arrival.
        auths: what the clients sent when they connected.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.port = 0
        # The server raises this limit for the process, which is the clients' here: they have to do so themselves.
        limit_of_clients = Payload.max_decode_packets
        self.io = make_server(NEVER_SECONDS, NEVER_SECONDS)
        Payload.max_decode_packets = limit_of_clients
        self.io.always_connect = False
        self.received: list[tuple[object, ...]] = []
        self.auths: list[Any] = []
        self.echo = False
        self.answer: Callable[[int], Awaitable[object]] = self.acknowledge
        self.admit: Callable[[str], Awaitable[None]] = self._welcome
        self.io.on("connect", self._connect, namespace=namespace)
        self.io.on(EVENT, self._receive, namespace=namespace)

    @property
    def sids(self) -> list[str]:
        """The clients that are connected."""
        rooms = self.io.manager.rooms.get(self.namespace, {}).get(None, {})
        return list(rooms)

    async def acknowledge(self, _: int) -> object:
        """Answer an emission."""
        return None

    async def forget(self, _: int) -> object:
        """Leave an emission without an answer."""
        return self.io.not_handled

    async def broadcast(self, *arguments: object) -> None:
        """Send to all clients."""
        await self.io.emit(EVENT, arguments, namespace=self.namespace)

    async def dismiss(self) -> None:
        """Disconnect all clients."""
        for sid in self.sids:
            await self.io.disconnect(sid, namespace=self.namespace)

    async def _welcome(self, _: str) -> None:
        return

    async def _connect(self, sid: str, _: object, auth: object = None) -> None:
        self.auths.append(auth)
        await self.admit(sid)

    async def _receive(self, _: str, *arguments: object) -> object:
        self.received.append(arguments)
        number = len(self.received)
        if self.echo:
            await self.broadcast(arguments[0], number)
        return await self.answer(number)


@contextlib.asynccontextmanager
async def chatting(namespace: str = "/") -> AsyncIterator[ChatServer]:
    """A chat server in this process."""
    server = ChatServer(namespace)
    application = web.Application()
    server.io.attach(application)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.port = site.port
        yield server
    finally:
        for socket in server.io.eio.sockets.values():
            socket.queue.put_nowait(None)  # ends its writer, and with it a poll that is pending
        await runner.cleanup()
        await server.io.shutdown()
        for task in asyncio.all_tasks():
            code = getattr(task.get_coro(), "cr_code", None)
            if code is not None and code.co_filename == engineio.async_socket.__file__:
                task.cancel()  # the pings of a connection that has ended, in their sleep


# -- clients -----------------------------------------------------------------------------------------------------


async def connect(
    port: int,
    transport: str,
    *,
    namespace: str = "/",
    timeout_seconds: float = DEADLINE_SECONDS,
    handlers: Mapping[str, Callable[..., None]] | None = None,
) -> Connection:
    """Open a connection; to be aborted."""
    return await Connection.open(
        number=1,
        port=port,
        transports=TRANSPORTS[transport],
        path="/socket.io",
        namespace=namespace,
        timeout_seconds=timeout_seconds,
        auth=None,
        handlers=handlers or {},
    )


@contextlib.asynccontextmanager
async def connected(port: int, transport: str, **options: Any) -> AsyncIterator[Connection]:
    """A connection, for as long as the scope lasts."""
    connection = await connect(port, transport, **options)
    try:
        yield connection
    finally:
        await connection.abort()


class Clients:
    """Senders and receivers on links of one Toxiproxy.

    Attributes:
        failures: what clients said that failed by themselves.
        links: all that were made.
    """

    def __init__(
        self, folder: Path, dialer: Dialer, toxiproxy: Toxiproxy, upstream_port: int, store: SQLiteStore, seed: int
    ) -> None:
        self.failures: list[str] = []
        self.links: list[SenderLink] = []
        self.dialer = dataclasses.replace(dialer, failed=lambda who, why: self.failures.append(f"{who}: {why}"))
        self.recorder = dialer.recorder
        self.folder = folder
        self._toxiproxy = toxiproxy
        self._upstream_port = upstream_port
        self._store = store
        self._random = random.Random(seed)
        self._undo = contextlib.AsyncExitStack()

    async def link(self, name: str) -> SenderLink:
        """A link."""
        proxy = await self._toxiproxy.proxy(f"test-{name}", self._upstream_port)
        self._undo.push_async_callback(proxy.delete)
        self.links.append(SenderLink(name, proxy, self._store, patience_seconds=DEADLINE_SECONDS))
        return self.links[-1]

    async def sender(self, name: str = "alice", policy: h.Policy = "persistent", offsets: Offsets = "random") -> Sender:
        """A connected sender."""
        link = await self.link(name)
        sender = Sender(name, self.dialer, link, policy=policy, random_numbers=self._random, offsets=offsets)
        self._undo.push_async_callback(sender.close)
        await sender.connected(DEADLINE_SECONDS)
        return sender

    async def receiver(self, name: str = "rita") -> tuple[Receiver, SenderLink]:
        """A connected receiver and its link."""
        link = await self.link(name)
        receiver = Receiver(name, link.port, self.dialer)
        self._undo.push_async_callback(receiver.close)
        await receiver.connected(DEADLINE_SECONDS)
        return receiver, link

    def events(self, kind: type[E]) -> list[E]:
        """What was recorded so far, of one kind."""
        return [event for event in self.recorder.events if isinstance(event, kind)]

    async def recorded(self, kind: type[E], count: int = 1) -> list[E]:
        """Wait until that many events of a kind are recorded, and return them all."""
        await seen(
            lambda: len(self.events(kind)) >= count,
            f"{count} {kind.__name__}",
            lambda: self.recorder.events,
        )
        return self.events(kind)

    async def close(self) -> None:
        """End them all."""
        await self._undo.aclose()


@contextlib.asynccontextmanager
async def clients(
    folder: Path,
    upstream_port: int,
    transport: str = "websocket",
    *,
    seed: int = 1,
    protocol: Protocol | None = None,
    store: SQLiteStore | None = None,
    content: Literal["any", "plain"] = "any",
    ack_timeout_seconds: float = NEVER_SECONDS,
) -> AsyncIterator[Clients]:
    """Clients of whatever listens on a port; it is an error when one of them fails by itself."""
    protocol = protocol or Protocol(event=EVENT, broadcast=EVENT, ack_timeout_seconds=ack_timeout_seconds)
    recorder = h.Recorder(folder / "history.jsonl")
    recorder.record(msgspec.structs.replace(started(), run=RUN))
    dialer = Dialer(protocol, transport, content, RUN, recorder, lambda *_: None)
    nowhere = make_store(folder / "none.db", "SELECT 1")
    async with toxiproxy_in(folder) as toxiproxy:
        made = Clients(folder, dialer, toxiproxy, upstream_port, store or nowhere, seed)
        try:
            yield made
        finally:
            await made.close()
            recorder.close()
    assert made.failures == []


# -- the real thing ----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def toxiproxy_in(folder: Path) -> AsyncIterator[Toxiproxy]:
    """A Toxiproxy of our own."""
    toxiproxy = await Toxiproxy.start(locate(), folder / "toxiproxy.log")
    try:
        yield toxiproxy
    finally:
        await toxiproxy.stop()


def described(folder: Path, **tables: Mapping[str, Any]) -> Target:
    """The reference target with other values in its tables; its relative paths start in `folder`."""
    reference = target.load("reference")
    changed = {
        name: msgspec.structs.replace(getattr(reference, name), **values)
        if isinstance(getattr(reference, name), msgspec.Struct)
        else values
        for name, values in tables.items()
    }
    return msgspec.structs.replace(reference, path=folder / "target.toml", **changed)


def make_store(
    database: Path,
    rows: str | None = None,
    patience_seconds: float = DEADLINE_SECONDS,
    server_pids: Callable[[], Iterable[int]] = tuple,
) -> SQLiteStore:
    """The store that a target of ours writes, by default with no process that is known to write it."""
    query = target.load("reference").store.rows if rows is None else rows
    return SQLiteStore(database, query, run=RUN, patience_seconds=patience_seconds, server_pids=server_pids)


def address(port: int) -> Address:
    """A port of this machine, which somebody else has reserved."""
    return Address(port, port, "127.0.0.1", lambda: None)


class Running:
    """A server under test, the store it writes and what was recorded of it.

    Attributes:
        moves: what the server calls when it is to listen elsewhere; it has nowhere to go unless a test says where.
    """

    def __init__(self, described: Target, folder: Path, recorder: h.Recorder, port: int, control: str | None) -> None:
        self.port = port
        self.log = folder / "server.log"
        self.database = folder / "store.db"
        self.store = make_store(self.database, server_pids=lambda: self.server.pids)
        self.moves: Callable[[], Awaitable[Address]] = self._stay
        self.server = Server(
            described,
            host=LocalHost(described),
            address=address(port),
            database=self.database,
            log=self.log,
            recorder=recorder,
            store=self.store,
            control=control,
            patience_seconds=DEADLINE_SECONDS,
            moves=lambda: self.moves(),
        )
        self._recorder = recorder

    def now(self) -> float:
        """The time by which the server's events are recorded."""
        return self._recorder.now()

    def hear_of(self, receiver: str, content: str | None = None) -> None:
        """Have it recorded here that somebody joins, or gets a message: in a system there is one recorder for all."""
        if content is None:
            self._recorder.record(h.Receiving(time=self.now(), receiver=receiver))
        else:
            self._recorder.record(h.Received(time=self.now(), receiver=receiver, server_offset=None, content=content))

    async def _stay(self) -> Address:
        raise AssertionError("the server moved")

    def events(self, kind: type[E]) -> list[E]:
        """What was recorded so far, of one kind."""
        return [event for event in self._recorder.events if isinstance(event, kind)]


@contextlib.contextmanager
def reserved() -> Iterator[int]:
    """A port of our own."""
    reservation = ports.reserve()
    try:
        yield reservation.port
    finally:
        reservation.release()


@contextlib.asynccontextmanager
async def serving(described: Target, folder: Path, control: str | None = None) -> AsyncIterator[Running]:
    """A server of a target, to be started; it is killed at the end."""
    recorder = h.Recorder(folder / "server.jsonl")
    with reserved() as port:
        running = Running(described, folder, recorder, port, control)
        try:
            yield running
        finally:
            await running.server.kill()
            recorder.close()
