"""One Socket.IO connection, used once: python-socketio's client without its hidden retries and zombie states.

What the stock client does behind a history's back (measured with python-engineio 4.15, aiohttp 3.14), and what is
done about it here:

* aiohttp sends a GET again when its connection dies: switched off.
* A poll response that is cut inside its body raises in the read loop, and the client stays "connected" for ever:
  the body is read where the error counts as a failed request.
* A failed POST ends the write loop only, until the pending poll returns: the end of either loop is the end.
* A poll that fails while a packet waits to be sent does not end the write loop, and that keeps the client "connected"
  for 30 s: a failed request is the end.
* A polling payload of more than 16 packets is rejected whole: the limit is raised (for this process).
* `disconnect()` over polling waits for the pending poll: connections are aborted.
"""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import engineio
import engineio.base_client
import engineio.payload
import socketio

from harness.errors import root_cause

engineio.payload.Payload.max_decode_packets = 1_000_000


class ConnectFailedError(Exception):
    """The connection could not be made; the text says at which step and why."""


class _Meter:
    """What a connection has handed to the kernel, in bytes, over all its TCP connections, which are its `wires`.

    `unit` is the length of the last WebSocket frame or POST request (with its headers), `polls` the number of GETs.
    """

    sent = 0
    unit = 0
    polls = 0

    def __init__(self) -> None:
        self.wires: list[_Wire] = []


class _Wire(socket.socket):
    """A TCP socket that reports to a meter. aiohttp writes a frame or a request in one or a few sends."""

    meter: _Meter
    sent = 0
    received = 0
    _in_unit = False

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        self.received += len(data)
        return data

    def send(self, data: Any, flags: int = 0, /) -> int:
        count = super().send(data, flags)
        self._count(bytes(data[:5]), count)
        return count

    def sendmsg(self, buffers: Any, *rest: Any) -> int:
        parts = list(buffers)
        count = super().sendmsg(parts, *rest)
        self._count(b"".join(bytes(part[:5]) for part in parts)[:5], count)
        return count

    def _count(self, first: bytes, count: int) -> None:
        self.sent += count
        self.meter.sent += count
        if first.startswith((b"POST ", b"\x81")):  # 0x81: a whole text frame
            self.meter.unit, self._in_unit = 0, True
        elif first.startswith(b"GET "):
            self._in_unit = False
            self.meter.polls += 1
        if self._in_unit:
            self.meter.unit += count


async def _at_once() -> None:
    pass


class _EngineIO(engineio.AsyncClient):  # type: ignore[misc]  # the library ships no types
    """Engine.IO client that counts a response as failed when its body is cut."""

    polls_answered = 0
    first_failed: str | None = None
    on_opened: Callable[[], Awaitable[None]]
    on_failed: Callable[[], None] = staticmethod(lambda: None)

    async def _trigger_event(self, event: str, *args: Any, **kwargs: Any) -> Any:
        # Not in a handler of the event: the library takes a cancelled one for one that has returned.
        if event == "connect":
            await self.on_opened()
        return await super()._trigger_event(event, *args, **kwargs)

    async def _send_request(self, method: str, *args: Any, **kwargs: Any) -> Any:
        response = await super()._send_request(method, *args, **kwargs)
        if isinstance(response, aiohttp.ClientResponse):
            try:
                await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                response = f"the response was cut: {error!r}"
        if not isinstance(response, aiohttp.ClientResponse):
            self.first_failed = self.first_failed or method
            self.on_failed()
        if method == "GET":
            self.polls_answered += 1
        return response


class _SocketIO(socketio.AsyncClient):  # type: ignore[misc]  # as above
    def _engineio_client_class(self) -> type[_EngineIO]:
        return _EngineIO


class Connection:
    """An open connection; make it with `open`.

    Attributes:
        number: its place among the client's connections, from 1.
        closed: set, with the reason, when the connection has ended in any way.
        crash: why a task of the client died by itself, if one did.
        opening_bytes: how many bytes it had sent and got when its session was open, before its namespace is asked for.
    """

    opening_bytes: tuple[int, int]
    recovered = False  # python-socketio asks no server to restore a session

    def __init__(self, number: int, namespace: str, handlers: Mapping[str, Callable[..., None]]) -> None:
        self.number = number
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.crash: str | None = None
        self._namespace = namespace
        self._meter = _Meter()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._http = self._session()
        self._client = _SocketIO(
            reconnection=False,
            handle_sigint=False,
            http_session=self._http,
            timestamp_requests=False,  # a varying length of the URL would vary what is on the wire
        )
        self._client.on("connect", lambda: self._ready.set_result(None), namespace=namespace)
        self._client.on("connect_error", lambda *why: self._close(f"refused by the server: {why}"), namespace=namespace)
        self._client.on("disconnect", lambda reason: self._close(str(reason)), namespace=namespace)
        for event, handler in handlers.items():
            self._client.on(event, self._guard(handler), namespace=namespace)

    @classmethod
    async def open(
        cls,
        *,
        number: int,
        port: int,
        transports: list[str],
        path: str,
        namespace: str,
        timeout_seconds: float,
        auth: Mapping[str, object] | None,
        handlers: Mapping[str, Callable[..., None]],
        opened: Callable[[], Awaitable[None]] = _at_once,
    ) -> "Connection":
        """Connect to 127.0.0.1 and wait until the namespace is connected.

        Args:
            number: its place among the client's connections.
            port: of the link.
            transports: `websocket` or `polling`, or polling first and then an upgrade.
            path: where Socket.IO is served, `/socket.io`.
            namespace: the namespace to connect.
            timeout_seconds: for the whole of it.
            auth: sent with CONNECT.
            handlers: event -> plain function, called in the order of arrival with the event's arguments.
            opened: awaited when the session is open, before the namespace is asked for.

        Raises:
            ConnectFailedError: with the step and the reason.
        """
        self = cls(number, namespace, handlers)
        self._client.eio.on_opened = functools.partial(self._opened, opened)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._client.connect(
                    f"http://127.0.0.1:{port}",
                    transports=transports,
                    socketio_path=path,
                    namespaces=[namespace],
                    auth=dict(auth) if auth else None,
                    wait=False,  # its wait ends in a `disconnect()`, which over polling waits for the pending poll
                )
                self._watch()
                await asyncio.wait((self._ready, self.closed), return_when=asyncio.FIRST_COMPLETED)
                if self.closed.done():
                    raise ConnectFailedError(f"before CONNECT was answered: {self.closed.result()}")
        except BaseException as error:
            await self.abort()
            match error:
                case TimeoutError():
                    raise ConnectFailedError(f"not connected within {timeout_seconds:g} s") from None
                case socketio.exceptions.ConnectionError() | aiohttp.ClientError() | OSError():
                    raise ConnectFailedError(f"Engine.IO: {root_cause(error)}") from error
                case ValueError() | TypeError() | LookupError():  # what the library makes of a packet it did not expect
                    raise ConnectFailedError(f"Engine.IO, not an OPEN packet: {error!r}") from error
            raise
        return self

    def _session(self) -> aiohttp.ClientSession:
        def wire(address: Any) -> socket.socket:
            made = _Wire(*address[:3])
            made.meter = self._meter
            self._meter.wires.append(made)
            return made

        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=wire))
        session._retry_connection = False  # private; tests/clients counts the requests on the wire
        return session

    async def _opened(self, opened: Callable[[], Awaitable[None]]) -> None:
        ((sent, received),) = self.bytes_by_wire
        self.opening_bytes = sent, received
        await opened()

    def _watch(self) -> None:
        """End with either of the client's loops: without its reader or its writer it only seems to be connected.

        And with a request that fails, as the loops may go on.
        """
        self._client.eio.on_failed = functools.partial(self._close, "transport closed")
        for name in ("read", "write"):
            task: asyncio.Task[None] | None = getattr(self._client.eio, f"{name}_loop_task")
            if task is None:
                self._close("transport closed")
            else:
                task.add_done_callback(functools.partial(self._loop_ended, name))

    def _loop_ended(self, name: str, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self.is_open:
            self.crash = f"the client's {name} loop died: {error!r}"
        self._close("transport closed")

    def _guard(self, handler: Callable[..., None]) -> Callable[..., None]:
        """Make a handler that raises end the connection: the library would lose the error, and go on."""

        def guarded(*arguments: object) -> None:
            try:
                handler(*arguments)
            except Exception as error:
                if self.is_open:
                    self.crash = f"a handler of the client failed: {error!r}"
                self._close("a handler of the client has failed")

        return guarded

    def _close(self, reason: str) -> None:
        if self.is_open:
            self.closed.set_result(reason)

    @property
    def is_open(self) -> bool:
        """Whether nothing has ended it yet."""
        return not self.closed.done()

    @property
    def bytes_sent(self) -> int:
        """How many bytes were handed to the kernel so far, over all its TCP connections."""
        return self._meter.sent

    @property
    def bytes_by_wire(self) -> list[tuple[int, int]]:
        """How many bytes were handed to the kernel so far, and how many came from it, for each TCP connection."""
        return [(wire.sent, wire.received) for wire in self._meter.wires]

    @property
    def last_unit_bytes(self) -> int:
        """The length on the wire of the last WebSocket frame or POST request (with its headers)."""
        return self._meter.unit

    @property
    def poll_pending(self) -> bool:
        """Whether the next poll is on the wire (over WebSocket there are none: always)."""
        eio = self._client.eio
        return bool(eio.current_transport != "polling" or self._meter.polls > eio.polls_answered)

    @property
    def is_websocket(self) -> bool:
        """Whether it is one over WebSocket, from its beginning or since its upgrade."""
        return bool(self._client.eio.current_transport == "websocket")

    @property
    def cut(self) -> str:
        """What a cut has hit: over polling the TCP connection of one request, and the other ends after it."""
        failed = self._client.eio.first_failed
        return f"the connection of the {failed}" if failed else "the connection"

    @property
    def sid(self) -> str:
        """The id that the server gave it in its namespace."""
        return str(self._client.get_sid(self._namespace))

    async def emit(self, event: str, arguments: tuple[object, ...], on_ack: Callable[..., None] | None) -> None:
        """Hand an event to the client, to be sent at once.

        `on_ack` is called with the acknowledgement; with None, none is asked for.

        Raises:
            socketio.exceptions.BadNamespaceError: it is not connected; nothing was sent, and it has ended.
        """
        try:
            callback = self._guard(on_ack) if on_ack is not None else None
            await self._client.emit(event, arguments, namespace=self._namespace, callback=callback)
        except socketio.exceptions.BadNamespaceError as error:
            # The library can lose a namespace without a disconnect: it would refuse everything from now on.
            self._close(str(error))
            raise

    def leave(self) -> None:
        """Have it end because its user says so."""
        self._close("the client left")

    async def abort(self) -> None:
        """End it now, without a word to the server."""
        self._close("ended by the client")
        eio = self._client.eio
        eio.state = "disconnected"
        tasks = [task for task in (eio.read_loop_task, eio.write_loop_task) if task is not None]
        async with contextlib.AsyncExitStack() as ending:  # each step is taken, also when this is cancelled in one
            with contextlib.suppress(ValueError):
                engineio.base_client.connected_clients.remove(eio)
            if eio.ws is not None:
                # At once, since its transport is gone by then; it gives back what aiohttp counts as open.
                ending.push_async_callback(eio.ws.close)
            ending.push_async_callback(self._http.close)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
