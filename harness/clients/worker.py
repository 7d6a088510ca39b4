"""A sender in a process of its own: `python -m harness.clients.worker`, driven by `ProcessSender`.

It is told what to do on standard input and tells what happens on standard output, a JSON line each; see PROTOCOL.md.
"""

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from harness import history as h
from harness.clients.author import Message
from harness.clients.client import Dialer
from harness.clients.sender import Sender
from harness.target import Protocol

if TYPE_CHECKING:
    from harness.link import SenderLink


class Command(msgspec.Struct, frozen=True, tag_field="command", tag=str.lower):
    """What a sender is told."""


class Start(Command, frozen=True, kw_only=True):
    """The first command: who it is, where to connect, what to say, how, and the file of its outbox, if it has one."""

    name: str
    run: str
    port: int
    transport: str
    path: str
    namespace: str
    event: str
    policy: h.Policy
    ack_timeout_seconds: float
    outbox: str | None
    seed: int


class Post(Command, frozen=True, kw_only=True):
    """Emit this message, behind those before it."""

    message: str
    content: str
    offset: str


class Settled(Command, frozen=True, kw_only=True):
    """In an outbox: this message is done with."""

    message: str


_decoder = msgspec.json.Decoder(Start | Post)
_kept = msgspec.json.Decoder(Post | Settled)
_encode = msgspec.json.Encoder().encode
_LONGEST_LINE_BYTES = 2**24


class Outbox:
    """The messages that are not settled, in a file that outlives the process."""

    def __init__(self, path: Path) -> None:
        whole, newline, _ = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        self.unsettled = _unsettled(whole)
        self._file = path.open("ab", buffering=0)
        # What follows the last newline was cut by a kill: that message was never emitted.
        self._file.truncate(len(whole + newline))

    def keep(self, command: Post | Settled) -> None:
        """Append, and have it on disk before anything else happens."""
        self._file.write(_encode(command) + b"\n")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()


def _unsettled(lines: bytes) -> list[Post]:
    left: dict[str, Post] = {}
    for line in filter(None, lines.split(b"\n")):
        command = _kept.decode(line)
        if isinstance(command, Post):
            left[command.message] = command
        else:
            left.pop(command.message, None)
    return list(left.values())


class _Told(h.Recorder):
    """Tells on standard output what is recorded, and keeps the outbox up to date."""

    def __init__(self, outbox: Outbox | None) -> None:
        super().__init__(Path("/dev/fd/1"))
        self._outbox = outbox

    def record(self, event: h.AnyEvent) -> None:
        if isinstance(event, h.Settled) and self._outbox is not None:
            self._outbox.keep(Settled(message=event.message))
        super().record(event)


class _Way:
    """The link of a sender, as far as it is known in here."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sender: Any = None


async def _work() -> None:
    lines = asyncio.StreamReader(limit=_LONGEST_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    start = _decoder.decode(await lines.readline())
    assert isinstance(start, Start)
    outbox = Outbox(Path(start.outbox)) if start.outbox is not None else None
    told = _Told(outbox)
    sender = _sender(start, told)
    for post in outbox.unsettled if outbox is not None else ():
        sender.take(Message(post.message, post.content, post.offset))
    while line := await lines.readline():
        post = cast("Post", _decoder.decode(line))
        if outbox is not None:
            outbox.keep(post)
        sender.take(Message(post.message, post.content, post.offset))
    await sender.close()


def _sender(start: Start, told: h.Recorder) -> Sender:
    protocol = Protocol(
        event=start.event,
        namespace=start.namespace,
        path=start.path,
        ack_timeout_seconds=start.ack_timeout_seconds,
    )

    def failed(where: str, reason: str) -> None:
        told.record(h.Failed(time=told.now(), where=where, reason=reason))

    dialer = Dialer(protocol, start.transport, "plain", start.run, told, failed)
    return Sender(
        start.name,
        dialer,
        cast("SenderLink", _Way(start.port)),
        policy=start.policy,
        random_numbers=random.Random(start.seed),
    )


if __name__ == "__main__":
    asyncio.run(_work())
