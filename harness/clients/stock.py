"""A driver with python-socketio's `AsyncClient` as it comes: `python -m harness.clients.stock`; see PROTOCOL.md.

What `harness.clients.connection` mends stays as it is here: the reconnection is the library's own, a GET that died is
sent again, a connection can be dead and say nothing of it. Only the delays are set, and the sessions come from a
factory of ours, which gives the library what it would make itself: aiohttp's own, with sockets that are listened to.

The client tells what the library tells. Where the library says nothing (its reconnect task has died, say), neither does
this program.
"""

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import socketio
from socketio.exceptions import BadNamespaceError

from harness import waiting
from harness.clients import protocol as p
from harness.clients.outbox import Outbox, Settled
from harness.errors import root_cause

_STOP_SECONDS = 1.0
_LEFT = "the page was left"


_encode = msgspec.json.encode


def tell(event: str, **facts: object) -> None:
    """Write one line to standard output, at once."""
    sys.stdout.buffer.write(_encode({"event": event, **facts}) + b"\n")
    sys.stdout.buffer.flush()


# --- what goes over the wire ------------------------------------------------------------------------------------


class Wire:
    """What a client has handed to the system on its present connection.

    Args:
        changed: called after each change.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.sent = 0
        self.poll_pending = False
        self.failure: BaseException | None = None
        self._changed = changed

    def begin(self) -> None:
        """A new connection: count from 0."""
        self.sent, self.poll_pending, self.failure = 0, False, None

    def add(self, count: int) -> None:
        """So many bytes more of WebSocket frames or POST requests."""
        self.sent += count
        self._changed()

    def poll(self, *, pending: bool) -> None:
        """A poll was sent, or is over."""
        self.poll_pending = pending
        self._changed()

    def session(self) -> aiohttp.ClientSession:
        """What the library would make itself, `aiohttp.ClientSession()`, but listened to."""

        def listened_to(address: Any) -> socket.socket:
            made = _Socket(*address[:3])
            made.wire, made.head = self, b""
            return made

        async def over(_: object, __: object, request: aiohttp.TraceRequestEndParams) -> None:
            self._over(request.method, request.url.query.get("transport"))

        async def failed(_: object, __: object, request: aiohttp.TraceRequestExceptionParams) -> None:
            self.failure = request.exception
            self._over(request.method, request.url.query.get("transport"))

        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(over)
        trace.on_request_exception.append(failed)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=listened_to), trace_configs=[trace])

    def _over(self, method: str, transport: str | None) -> None:
        if method == "GET" and transport == "polling":
            self.poll(pending=False)


class _Socket(socket.socket):
    """A socket that reads along what is sent: requests, and after an upgrade WebSocket frames."""

    wire: Wire
    head: bytes
    _left = 0
    _counted = False

    def send(self, data: Any, flags: int = 0, /) -> int:
        count = super().send(data, flags)
        self._read(bytes(memoryview(data)[:count]))
        return count

    def sendmsg(self, buffers: Any, *rest: Any) -> int:
        parts = list(buffers)
        count = super().sendmsg(parts, *rest)
        self._read(b"".join(bytes(part) for part in parts)[:count])
        return count

    def _read(self, data: bytes) -> None:
        while data:
            if not self._left:
                self.head += data
                if not self._begin():
                    return
                data, self.head = self.head, b""
            taken = min(self._left, len(data))
            self._left -= taken
            data = data[taken:]
            if self._counted:
                self.wire.add(taken)

    def _begin(self) -> bool:
        """Read the head of a request or of a frame; whether it is there as a whole."""
        known = _request(self.head) if self.head[:1].isalpha() else _frame(self.head)
        if known is None:
            return False
        self._left, self._counted, is_poll = known
        if is_poll:
            self.wire.poll(pending=True)
        return True


def _request(head: bytes) -> tuple[int, bool, bool] | None:
    """The length of a request, whether it is counted (a body of one byte is a heartbeat), whether it is a poll."""
    lines, end, _ = head.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *fields = lines.split(b"\r\n")
    lengths = [int(field[15:]) for field in fields if field[:15].lower() == b"content-length:"]
    body = lengths[0] if lengths else 0
    is_poll = first.startswith(b"GET ") and b"transport=polling" in first and b"sid=" in first
    return len(lines) + len(end) + body, first.startswith(b"POST ") and body > 1, is_poll


def _frame(head: bytes) -> tuple[int, bool, bool] | None:
    """The same of a client's frame: not counted are heartbeats (one byte of text) and what is not a message."""
    short = head[1] & 0x7F if len(head) > 1 else 0
    extended = {126: 2, 127: 8}.get(short, 0)
    if len(head) < 2 + extended:
        return None
    payload = int.from_bytes(head[2 : 2 + extended], "big") if extended else short
    return 2 + extended + 4 + payload, head[0] & 0x0F < 8 and payload > 1, False


# --- what it does -----------------------------------------------------------------------------------------------


class Page:
    """One client and what its application keeps in memory: a reload makes a new one.

    Args:
        start: how it connects and sends.
        receive: what it listens to, if it does.
        tries: how often was connected before.
        attempts: of each message before.
    """

    def __init__(self, start: p.Connect, receive: p.Receive | None, tries: int, attempts: dict[str, int]) -> None:
        self.start = start
        self.receive = receive
        self.tries = tries
        self.attempts = attempts
        self._outbox = Outbox(Path(start.outbox)) if start.outbox is not None else None
        self._counter = 0
        self._server_offset: object = 0
        self._received: set[object] = set()
        self._told_of = tries
        self._online = False
        self._unanswered: dict[tuple[str, int], None] = {}
        self._closing = False
        self._gone = False
        self._connected = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told_wire: tuple[int, bool, bool] | None = None
        self._wire = Wire(self._tell_wire)
        self._sessions: list[aiohttp.ClientSession] = []
        first, most = start.reconnect_delay_seconds
        self._client = socketio.AsyncClient(
            reconnection_delay=first,
            reconnection_delay_max=most,
            randomization_factor=0,
            handle_sigint=False,
            http_session=self._session,
        )
        self._client.on("connect", self._on_connect, namespace=start.namespace)
        self._client.on("connect_error", self._on_connect_error, namespace=start.namespace)
        self._client.on("disconnect", self._on_disconnect, namespace=start.namespace)
        self._dialing: asyncio.Task[None] | None = None
        self._hanging_up: asyncio.Task[None] | None = None

    # -- commands

    def open(self) -> None:
        """Connect, after what is still being closed, and send what the outbox has."""
        fresh = self._dialing is None
        if self.receive is not None:
            self._client.on(self.receive.broadcast, self._on_broadcast, namespace=self.start.namespace)
        self._dialing = self._spawn(self._connect(self._hanging_up))
        for post in self._outbox.unsettled if fresh and self._outbox is not None else ():
            self._send(post, str(post.offset))

    def post(self, post: p.Post) -> None:
        """Hand a message to the client."""
        offset = post.offset
        if offset is None:
            offset = f"{self._sid()}-{self._counter}"
            self._counter += 1
        if self._outbox is not None:
            self._outbox.keep(msgspec.structs.replace(post, offset=offset))
        tell("invoke", message=post.message, offset=offset)
        self._send(post, offset)

    def close(self) -> None:
        """Disconnect as the library does, however long that takes."""
        if not self._client.connected and self._dialing is not None:
            self._dialing.cancel()  # it may be in the tries of the first connect
        if self._hanging_up is None or self._hanging_up.done():
            self._hanging_up = self._spawn(self._disconnect())

    async def closed(self, timeout_seconds: float) -> None:
        """Wait until it is disconnected, but not longer than this."""
        if self._hanging_up is not None:
            await asyncio.wait((self._hanging_up,), timeout=timeout_seconds)

    async def vanish(self) -> None:
        """End as a page or a program does: nothing is said to the server, the system closes the sockets."""
        self._gone = True
        self._tell_disconnected(_LEFT)
        for message, attempt in self._unanswered:
            tell("info", message=message, attempt=attempt, reason=_LEFT, timed_out=False)
        self._client.reconnection = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for session in self._sessions:
            await session.close()
        if not self._client.connected:
            # It may be reconnecting; its task, where it has died, would raise again what it died of.
            self._tasks.add(asyncio.create_task(_forgiving(self._client.shutdown())))
        await asyncio.wait(tasks, timeout=_STOP_SECONDS) if tasks else None

    # -- the connection

    async def _connect(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        await self._over()
        start = self.start
        try:
            await self._client.connect(
                self._url,
                transports=start.transports,
                namespaces=[start.namespace],
                socketio_path=start.path,
                auth=self._auth,
                retry=True,
            )
        except Exception as error:  # also what the library lets through by mistake, where its user would see it too
            self._on_connect_error(str(error) or repr(error))

    async def _over(self) -> None:
        """Wait until the library has ended what its events are about: they come before."""
        await _forgiving(self._client.eio.wait())
        # Whoever of the library disconnects waits for the same, and can be the next to know of it.
        with contextlib.suppress(waiting.WaitTimeout):
            await waiting.until(
                lambda: self._client.eio.state != "disconnecting",
                awaited="the connection to have ended",
                timeout_seconds=_STOP_SECONDS,
                interval_seconds=0.001,
            )

    async def _disconnect(self) -> None:
        connected, self._closing = self._client.connected, True
        await _forgiving(self._client.shutdown())
        self._closing = False
        if connected:
            self._tell_disconnected("client disconnect")

    def _url(self) -> str:
        """The library asks for it at the beginning of each try."""
        if self.tries > self._told_of:
            self._on_connect_error("the library does not say why")
        self.tries += 1
        self._wire.begin()
        self._told_wire = None
        return f"http://127.0.0.1:{self.start.port}"

    def _auth(self) -> dict[str, object] | None:
        return {"serverOffset": self._server_offset} if self.receive is not None else None

    def _session(self) -> aiohttp.ClientSession:
        session = self._wire.session()
        self._sessions = [*(open_ for open_ in self._sessions if not open_.closed), session]
        return session

    def _sid(self) -> str:
        return str(self._client.get_sid(self.start.namespace) or "undefined")

    def _on_connect(self) -> None:
        if self._gone:
            return
        self._told_of = self.tries
        self._online = True
        tell("connected", connection=self.tries)
        self._connected.set()
        self._tell_wire()

    def _on_connect_error(self, reason: object = None) -> None:
        if self._gone or self.tries == self._told_of:
            return
        self._told_of = self.tries
        tell("connectfailed", connection=self.tries, reason=self._why(str(reason)))

    def _why(self, said: str) -> str:
        """The system's reason where there is one; over WebSocket the library says only that there was an error."""
        if self._wire.failure is None:
            return said
        cause: BaseException | None = self._wire.failure
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno is not None:
                return f"connect {errno.errorcode.get(cause.errno, cause.errno)} 127.0.0.1:{self.start.port}"
            cause = cause.__cause__ or cause.__context__
        what = root_cause(self._wire.failure)
        return said if what in said else f"{said} ({what})"

    def _on_disconnect(self, reason: object) -> None:
        self._connected.clear()
        if not self._closing and not self._gone:
            self._tell_disconnected(str(reason))

    def _tell_disconnected(self, reason: str) -> None:
        if self._online:
            self._online = False
            tell("disconnected", connection=self.tries, reason=reason)

    def _tell_wire(self) -> None:
        websocket = self._client.transport() == "websocket"
        now = (self._wire.sent, self._wire.poll_pending or websocket, websocket)
        if self._connected.is_set() and not self._gone and now != self._told_wire:
            self._told_wire = now
            tell("wire", connection=self.tries, sent=now[0], poll_pending=now[1], websocket=websocket)

    def _on_broadcast(self, *arguments: object) -> None:
        text, offset = (*arguments, None, None)[:2]
        content = text if isinstance(text, str) else None
        if isinstance(offset, bool) or not isinstance(offset, int | float | str):
            offset = None
        assert self.receive is not None
        if self._gone or (self.receive.style == "hardened" and offset in self._received):
            return
        tell("received", content=content, server_offset=offset)
        if offset is None or self.receive.style == "forgetful":
            return
        if self.receive.style == "hardened":
            self._received.add(offset)
            if isinstance(offset, int | float) and isinstance(self._server_offset, int | float):
                offset = max(offset, self._server_offset)
        self._server_offset = offset

    # -- messages

    def _send(self, post: p.Post, offset: str) -> None:
        if self.start.policy == "resend":
            self._spawn(self._resend(post, offset))
            return
        self._settle(post, "handed-over")
        self._spawn(self._call(post, offset) if self.start.policy == "once" else self._emit(post, offset, None))

    def _settle(self, post: p.Post, outcome: str) -> None:
        if self._outbox is not None:
            self._outbox.keep(Settled(message=post.message))
        tell("settled", message=post.message, outcome=outcome)

    async def _resend(self, post: p.Post, offset: str) -> None:
        while True:
            await self._connected.wait()
            if await self._call(post, offset):
                self._settle(post, "acknowledged")
                return
            if self._connected.is_set() and self._client.get_sid(self.start.namespace) is None:
                await asyncio.sleep(self.start.ack_timeout_seconds)  # a namespace that was lost without a word

    async def _call(self, post: p.Post, offset: str) -> bool:
        """What the library's `call` does, whose timeout goes on after a disconnect too; and hear late answers."""
        answered = asyncio.Event()
        over = False
        attempt = self.attempts.get(post.message, 0) + 1

        def acknowledge(*_: object) -> None:
            if not self._gone:
                self._unanswered.pop((post.message, attempt), None)
                tell("ok", message=post.message, attempt=attempt, late=over)
                answered.set()

        if not await self._emit(post, offset, acknowledge):
            return False
        self._unanswered[post.message, attempt] = None
        seconds = self.start.ack_timeout_seconds
        try:
            await asyncio.wait_for(answered.wait(), seconds)
        except TimeoutError:
            over = True
            self._unanswered.pop((post.message, attempt), None)
            tell("info", message=post.message, attempt=attempt, reason=f"no answer in {seconds:g} s", timed_out=True)
            return False
        return True

    async def _emit(self, post: p.Post, offset: str, callback: Callable[..., None] | None) -> bool:
        """Begin an attempt; whether the library took it. Nothing suspends in here: the order is that of the posts."""
        attempt = self.attempts[post.message] = self.attempts.get(post.message, 0) + 1
        start = self.start
        connection = self.tries if self._client.get_sid(start.namespace) is not None else 0
        tell("attempt", message=post.message, attempt=attempt, offset=offset, connection=connection)
        try:
            await self._client.emit(start.event, (post.content, offset), namespace=start.namespace, callback=callback)
        except BadNamespaceError as error:
            tell("fail", message=post.message, attempt=attempt, reason=str(error))
            return False
        return True

    def _spawn(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            tell("error", reason=repr(error))


async def _forgiving(work: Any) -> None:
    with contextlib.suppress(Exception):
        await work


_POLICIES = ("fire-and-forget", "once", "resend")


class Driver:
    """Carries out commands, one after the other, and never waits for one to be over."""

    def __init__(self) -> None:
        self._page: Page | None = None
        self._receive: p.Receive | None = None

    async def do(self, command: p.AnyCommand) -> None:
        """Carry out a command other than `stop`."""
        page = self._page
        match command:
            case p.Receive():
                self._receive = command
            case p.Connect() if command.policy not in _POLICIES:
                tell("error", reason=f"{command.policy!r} is no policy of this client, only {', '.join(_POLICIES)}")
            case p.Connect():
                if page is None:
                    page = self._page = Page(command, self._receive, 0, {})
                page.start, page.receive = command, self._receive
                page.open()
            case _ if page is None:
                tell("error", reason=f"{type(command).__name__.lower()} before a connect")
            case p.Post():
                page.post(command)
            case p.Disconnect():
                page.close()
            case p.Reload():
                await page.vanish()
                self._page = Page(page.start, self._receive, page.tries, page.attempts)
                self._page.open()

    async def stop(self) -> None:
        """p.Disconnect, and wait no longer than a second for it: over polling the library can need half a minute."""
        if self._page is not None:
            self._page.close()
            await self._page.closed(_STOP_SECONDS)
            await self._page.vanish()


async def drive(lines: asyncio.StreamReader) -> None:
    """Carry out the commands until `stop`, or until there are no more."""
    driver = Driver()
    while line := await lines.readline():
        command = p.decode_command(line)
        if isinstance(command, p.Stop):
            break
        await driver.do(command)
    await driver.stop()


async def _main() -> None:
    lines = asyncio.StreamReader(limit=p.LONGEST_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    try:
        await drive(lines)
    except Exception as error:
        tell("error", reason=repr(error))
        raise


if __name__ == "__main__":
    asyncio.run(_main())
