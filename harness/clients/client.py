"""What senders and receivers share: a client that is connected, or on its way to be connected again."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Literal

from harness import history as h
from harness import waiting
from harness.clients.connection import ConnectFailedError, Connection
from harness.target import Protocol

TRANSPORTS = {"websocket": ["websocket"], "polling": ["polling"], "upgrade": ["polling", "websocket"]}
"""The word in a scenario's id -> what a client is told to use, the first of them first."""

RECONNECT_DELAYS_SECONDS = (0.01, 0.08)
"""The first and the longest: soon after a cut, seldom while a server starts, since what retries would eat is the time
that it needs to get ready."""

_CONNECT_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Dialer:
    """How clients reach the target, and where they leave what they saw.

    `run` is the token of the run, `content` what its messages may say; `failed` is told of a client that failed by
    itself: whose, and why.
    """

    protocol: Protocol
    transport: str
    content: Literal["any", "plain"]
    run: str
    recorder: h.Recorder
    failed: Callable[[str, str], None]


ServerOffset = int | float | str | None


def server_offset(arguments: tuple[object, ...]) -> ServerOffset:
    """The id of its row that a broadcast has as its second argument, if it has one."""
    offset = arguments[1] if len(arguments) > 1 else None
    return offset if isinstance(offset, int | float | str) and not isinstance(offset, bool) else None


class Cursor:
    """A server offset that a client has heard of: with it, it comes back."""

    def __init__(self) -> None:
        self._offset: int | float | str = 0

    def advance(self, offset: ServerOffset) -> None:
        """Go on to an offset, unless it is lower; text has no order that we know."""
        if isinstance(offset, int | float) and isinstance(self._offset, int | float):
            offset = max(self._offset, offset)
        self.follow(offset)

    def follow(self, offset: ServerOffset) -> None:
        """Go to an offset, lower or not, as the tutorial does."""
        if offset is not None:
            self._offset = offset

    def auth(self) -> dict[str, object]:
        """What is said of it when a connection is made."""
        return {"serverOffset": self._offset}


def last_failure(failures: Sequence[str]) -> str:
    """Why the last try to connect failed, for the error of whoever waited for a connection."""
    return f"the last of {len(failures)} failed tries: {failures[-1]}" if failures else "no try that failed"


class Client:
    """Keeps one connection to the target open and records when it has one.

    Args:
        name: of the client, lower-case letters.
        port: of its link.
        dialer: how it reaches the target.
        handlers: event -> plain function for what it hears.
        auth: called for each connection.

    Attributes:
        connection: the one that is open, if one is.
        connect_failures: why each try to connect failed that did.
        endings: why each connection ended that did.
    """

    def __init__(
        self,
        name: str,
        port: int,
        dialer: Dialer,
        *,
        handlers: dict[str, Callable[..., None]],
        auth: Callable[[], dict[str, object] | None] = lambda: None,
    ) -> None:
        self.name = name
        self._port = port
        self._dialer = dialer
        self._recorder = dialer.recorder
        self._handlers = handlers
        self._auth = auth
        self._online = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connection: Connection | None = None
        self._latest: Connection | None = None
        self.connect_failures: list[str] = []
        self.endings: list[str] = []
        self._connections = 0
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._called = asyncio.Event()
        self._opened = asyncio.Event()
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._start(self._stay_connected())

    async def _stay_connected(self) -> None:
        record, now = self._recorder.record, self._recorder.now
        delay_seconds = RECONNECT_DELAYS_SECONDS[0]
        while True:
            await self._wanted.wait()
            self._called.clear()
            self._connections += 1
            number = self._connections
            try:
                connection = await self._connect(number)
            except ConnectFailedError as error:
                self.connect_failures.append(str(error))
                record(h.ConnectFailed(time=now(), client=self.name, connection=number, reason=str(error)))
                delay_seconds = min(2 * delay_seconds, RECONNECT_DELAYS_SECONDS[1])
            else:
                record(h.Connected(time=now(), client=self.name, connection=number))
                self._called.clear()
                reason = await self._use(connection)
                self.endings.append(reason)
                record(h.Disconnected(time=now(), client=self.name, connection=number, reason=reason))
                delay_seconds = RECONNECT_DELAYS_SECONDS[0]
            with contextlib.suppress(waiting.WaitTimeout):
                await waiting.within(self._called.wait(), awaited="a call", timeout_seconds=delay_seconds)

    async def _connect(self, number: int) -> Connection:
        protocol = self._dialer.protocol
        return await Connection.open(
            number=number,
            port=self._port,
            transports=TRANSPORTS[self._dialer.transport],
            path=protocol.path,
            namespace=protocol.namespace,
            timeout_seconds=_CONNECT_TIMEOUT_SECONDS,
            auth=self._auth(),
            handlers=self._handlers,
            opened=self._session_opened,
        )

    async def _session_opened(self) -> None:
        self._opened.set()
        await self._goes_on.wait()

    async def _use(self, connection: Connection) -> str:
        """Have a connection until it ends; returns why it did."""
        self.connection = self._latest = connection
        self._online.set()
        try:
            reason = await asyncio.shield(connection.closed)
        finally:
            self._online.clear()
            self.connection = None
            await connection.abort()
        if connection.crash is not None:
            self._fail(connection.crash)
        return reason

    async def online(self) -> Connection:
        """Wait, without a deadline, until it is connected."""
        while True:
            await self._online.wait()
            if self.connection is not None and self.connection.is_open:
                return self.connection
            await waiting.pause(0)  # it has just closed; the task above has yet to notice

    async def connected(self, timeout_seconds: float) -> Connection:
        """Wait until it is connected.

        Raises:
            WaitTimeout: it was not, by the deadline.
        """
        return await waiting.within(
            self.online(),
            awaited=f"{self.name} to be connected",
            timeout_seconds=timeout_seconds,
            last_seen=lambda: last_failure(self.connect_failures),
        )

    def hurry(self) -> None:
        """Where it is on its way back, have it try at once, since the server is known to be there."""
        if self.connection is None or not self.connection.is_open:
            self._called.set()

    def disconnect(self) -> None:
        """Close its connection and stay away, until `connect`."""
        self.stay_away()
        if self.connection is not None:
            self.connection.leave()

    def stay_away(self) -> bool:
        """Keep its connection, and make no other when that has ended, until `connect`; it does as it is told."""
        self._wanted.clear()
        return True

    def halt(self) -> asyncio.Event:
        """Wait in the handshake of the next connection, when its session is open, until `connect`; set when it is."""
        self._opened = asyncio.Event()
        self._goes_on.clear()
        return self._opened

    def connect(self) -> None:
        """Come back, and at once, or go on: who is called waits for no delay."""
        self._goes_on.set()
        self._wanted.set()
        self.hurry()

    def forget(self) -> None:
        """Forget how its connections ended, and how tries to connect failed."""
        self.connect_failures.clear()
        self.endings.clear()

    async def close(self) -> None:
        """End its connection and its tasks."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fail(self, reason: str) -> None:
        self._dialer.failed(f"client {self.name}", reason)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run a part of the client for as long as it likes; an exception is a failure of the client."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(f"{type(error).__name__}: {error}")
