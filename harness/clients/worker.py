"""The harness's own client as a driver: `python -m harness.clients.worker`; see PROTOCOL.md."""

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from harness import history as h
from harness.clients import outbox
from harness.clients import protocol as p
from harness.clients.author import Message
from harness.clients.client import TRANSPORTS, Cursor, Dialer, server_offset
from harness.clients.sender import Sender
from harness.target import Protocol

if TYPE_CHECKING:
    from harness.link import SenderLink


class _Telling(h.Recorder):
    """Tells on standard output what is recorded, keeps the outbox up to date, and knows what has not ended."""

    def __init__(self) -> None:
        super().__init__(Path("/dev/null"))
        self.outbox: outbox.Outbox | None = None
        self._connection: int | None = None
        self._attempts: dict[tuple[str, int], None] = {}

    def record(self, event: h.AnyEvent) -> None:
        if isinstance(event, h.Settled) and self.outbox is not None:
            self.outbox.keep(outbox.Settled(message=event.message))
        told = _told(event)
        if told is not None:
            self._follow(told)
            _tell(told)

    def _follow(self, told: p.AnyTold) -> None:
        match told:
            case p.Connected():
                self._connection = told.connection
            case p.Disconnected():
                self._connection = None
            case p.Attempt():
                self._attempts[told.message, told.attempt] = None
            case p.Ok() | p.Info() | p.Fail():
                self._attempts.pop((told.message, told.attempt), None)

    def end(self, *, asks_nothing: bool) -> None:
        """Tell the end of what was open when the page was left; what asks for no answer has none."""
        if self._connection is not None:
            _tell(p.Disconnected(connection=self._connection, reason="the page was left"))
        for message, attempt in () if asks_nothing else self._attempts:
            _tell(p.Info(message=message, attempt=attempt, reason="the page was left"))
        self._connection = None
        self._attempts.clear()


def _told(event: h.AnyEvent) -> p.AnyTold | None:
    """An event of a history, as a driver tells it."""
    match event:
        case h.Connected():
            return p.Connected(connection=event.connection)
        case h.ConnectFailed():
            return p.ConnectFailed(connection=event.connection, reason=event.reason)
        case h.Disconnected():
            return p.Disconnected(connection=event.connection, reason=event.reason)
        case h.Attempt():
            return p.Attempt(
                message=event.message, attempt=event.attempt, offset=event.offset, connection=event.connection
            )
        case h.Ok():
            return p.Ok(message=event.message, attempt=event.attempt, late=event.late)
        case h.Info():
            return p.Info(message=event.message, attempt=event.attempt, reason=event.reason, timed_out=event.timed_out)
        case h.Fail():
            return p.Fail(message=event.message, attempt=event.attempt, reason=event.reason)
        case h.Settled():
            return p.Settled(message=event.message, outcome=event.outcome)
        case _:
            return None


def _tell(told: p.AnyTold) -> None:
    line = p.encode(told) + b"\n"
    while line:
        line = line[os.write(sys.stdout.fileno(), line) :]


class _Way:
    """The link of a sender, as far as it is known in here."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sender: Any = None


class _Speaker(Sender):
    """A sender that also listens, where it was told to, and comes back with the offset that it has."""

    def __init__(self, *arguments: Any, receive: p.Receive | None, connections: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._receive = receive
        self._connections = connections
        self._told = Cursor()
        self._shown: set[int | float | str] = set()
        if receive is not None:
            self._auth = self._told.auth

    @property
    def connections(self) -> int:
        """How many tries to connect there were."""
        return self._connections

    def _hear(self, *arguments: object) -> None:
        super()._hear(*arguments)
        assert self._receive is not None
        text, offset = arguments[0] if arguments else None, server_offset(arguments)
        match self._receive.style:
            case "hardened" if offset is not None:
                if offset in self._shown:
                    return
                self._shown.add(offset)
                self._told.advance(offset)
            case "tutorial":
                self._told.follow(offset)
        _tell(p.Received(content=text if isinstance(text, str) else None, server_offset=offset))


class _Page:
    """What a page of the client has in memory, and does when it is told to."""

    def __init__(self) -> None:
        self._telling = _Telling()
        self._receive: p.Receive | None = None
        self._connect: p.Connect | None = None
        self._sender: _Speaker | None = None
        self._messages: dict[str, Message] = {}
        self._connections = 0

    async def do(self, command: p.AnyCommand) -> bool:
        """Do what is said; whether to go on."""
        match command:
            case p.Receive():
                self._receive = command
            case p.Connect() if self._sender is not None:
                self._sender.connect()
            case p.Connect():
                if command.policy.startswith("tutorial"):
                    raise ValueError(f"the policy {command.policy!r} is not known here")
                self._connect = command
                self._open()
            case p.Post():
                self._post(command)
            case p.Disconnect():
                self._speaking().disconnect()
            case p.Reload():
                await self.close()
                self._open()
            case p.Stop():
                return False
        return True

    def _speaking(self) -> _Speaker:
        if self._sender is None:
            raise ValueError("the first command has to be connect")
        return self._sender

    def _open(self) -> None:
        start = self._connect
        if start is None:
            raise ValueError("the first command has to be connect")
        self._telling.outbox = outbox.Outbox(Path(start.outbox)) if start.outbox is not None else None
        self._sender = self._speaker(start)
        for post in self._telling.outbox.unsettled if self._telling.outbox is not None else ():
            self._take(post)

    def _post(self, post: p.Post) -> None:
        sender = self._speaking()
        if post.offset is None:
            post = msgspec.structs.replace(post, offset=sender.offset_at(len(self._messages)))
        if self._telling.outbox is not None:
            self._telling.outbox.keep(post)
        _tell(p.Invoke(message=post.message, offset=cast("str", post.offset)))
        self._take(post)

    def _take(self, post: p.Post) -> None:
        before = self._messages.get(post.message)
        message = Message(post.message, post.content, post.offset, attempts=before.attempts if before else 0)
        self._messages[post.message] = message
        self._speaking().take(message)

    async def close(self) -> None:
        """Close the connection; what is in memory is gone."""
        if self._sender is not None:
            self._connections = self._sender.connections
            await self._sender.close()
            self._telling.end(asks_nothing=self._sender.asks_nothing)
        if self._telling.outbox is not None:
            self._telling.outbox.close()

    def _speaker(self, start: p.Connect) -> _Speaker:
        protocol = Protocol(
            event=start.event,
            broadcast=self._receive.broadcast if self._receive is not None else None,
            namespace=start.namespace,
            path=start.path,
            ack_timeout_seconds=start.ack_timeout_seconds,
        )
        transport = next(name for name, transports in TRANSPORTS.items() if transports == start.transports)

        def failed(where: str, reason: str) -> None:
            _tell(p.Error(reason=f"{where}: {reason}"))

        dialer = Dialer(protocol, transport, "plain", start.run, self._telling, failed)
        return _Speaker(
            start.name,
            dialer,
            cast("SenderLink", _Way(start.port)),
            policy=start.policy,
            random_numbers=random.Random(start.seed),
            receive=self._receive,
            connections=self._connections,
        )


async def _work() -> None:
    lines = asyncio.StreamReader(limit=p.LONGEST_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    page = _Page()
    while line := await lines.readline():
        if not await page.do(p.decode_command(line)):
            break
    await page.close()


def main() -> int:
    """Do what standard input says, until it ends; the exit status."""
    try:
        asyncio.run(_work())
    except (msgspec.MsgspecError, ValueError) as error:
        _tell(p.Error(reason=str(error)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
