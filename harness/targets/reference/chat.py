"""The chat's events: a message is acknowledged when it is stored, and only then."""

import asyncio
import sqlite3
from dataclasses import dataclass

import socketio

from . import steps
from .delivery import Delivery
from .storage import Outcome, Storage

EVENT = "chat message"


class Refused(Exception):
    """A message that cannot be taken; the text says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a client asks to have stored."""

    content: str
    client_offset: str


class Chat:
    """Handles the events of all clients of one server."""

    def __init__(
        self, server: socketio.AsyncServer, storage: Storage, delivery: Delivery, *, acknowledges: bool = True
    ) -> None:
        self._not_handled = server.not_handled
        self._acknowledges = acknowledges
        self._storage = storage
        self._delivery = delivery
        self._writes: set[asyncio.Future[Outcome]] = set()
        self._stopping = False
        server.on("connect", self.connect)
        server.on("disconnect", self.disconnect)
        server.on(EVENT, self.receive)

    def connect(self, sid: str, _environ: object = None, auth: object = None) -> None:
        """Begin to send a client what it has not got."""
        self._delivery.connect(sid, server_offset(auth))

    def disconnect(self, sid: str, _reason: object = None) -> None:
        """Forget a client."""
        self._delivery.disconnect(sid)

    async def receive(self, _sid: str, *arguments: object) -> object:
        """Store one message. Returning None acknowledges it, returning `not_handled` does not.

        Every event has a task of its own. They start in the order of arrival, so nothing may be awaited before the
        message is queued.
        """
        offset = arguments[1] if len(arguments) > 1 and isinstance(arguments[1], str) else None
        length = len(arguments[0]) if arguments and isinstance(arguments[0], str) else None
        steps.record("received", client_offset=offset, length=length)
        try:
            row_id = await self._store(self._accept(arguments))
        except Refused as refusal:
            steps.record("refused", client_offset=offset, error=str(refusal))
            return self._not_handled
        except sqlite3.Error as error:
            steps.record("refused", client_offset=offset, error=error_name(error))
            return self._not_handled
        except asyncio.CancelledError:
            # Not passed on: socketio acknowledges the event of a handler that was cancelled.
            steps.record("refused", client_offset=offset, error="cancelled: the server is stopping")
            return self._not_handled
        if not self._acknowledges:
            return self._not_handled
        steps.record("acknowledged", client_offset=offset, row_id=row_id)
        return None

    async def finish(self, timeout_seconds: float) -> None:
        """Take no more messages; wait for those that were taken, and give up what is left at the deadline."""
        self._stopping = True
        self._storage.hurry()
        if self._writes:
            _, late = await asyncio.wait(self._writes, timeout=timeout_seconds)
            for write in late:
                write.cancel()

    def _accept(self, arguments: tuple[object, ...]) -> Message:
        if self._stopping:
            raise Refused("the server is stopping")
        return parse(arguments)

    async def _store(self, message: Message) -> int:
        outcome = await self._write(message)
        if outcome.step == "refused":
            raise Refused(f"row {outcome.row_id} has this offset and another content")
        steps.record(outcome.step, client_offset=message.client_offset, row_id=outcome.row_id)
        return outcome.row_id

    def _write(self, message: Message) -> "asyncio.Future[Outcome]":
        loop = asyncio.get_running_loop()
        writing = self._storage.write(message.client_offset, message.content)
        # However the write ends, and whoever still waits for it: the row may be there.
        writing.add_done_callback(lambda _: loop.call_soon_threadsafe(self._delivery.look))
        write = asyncio.wrap_future(writing)
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        return write


def parse(arguments: tuple[object, ...]) -> Message:
    """Check an event's arguments.

    Raises:
        Refused: they are not a content and an offset.
    """
    if len(arguments) != 2:
        raise Refused(f"expected (content, client_offset), got {len(arguments)} arguments")
    content, offset = arguments
    if not isinstance(content, str) or not isinstance(offset, str):
        raise Refused(f"expected two strings, got {type(content).__name__} and {type(offset).__name__}")
    if not offset:
        raise Refused("the client offset is empty")
    try:
        (content + offset).encode()
    except UnicodeEncodeError as error:
        raise Refused(f"not Unicode text: {error.reason}") from error
    return Message(content, offset)


def server_offset(auth: object) -> int:
    """The id of the last row that a client says it has; 0 when it does not say, or says something else."""
    offset = auth.get("serverOffset") if isinstance(auth, dict) else None
    return offset if isinstance(offset, int) and not isinstance(offset, bool) else 0


def error_name(error: sqlite3.Error) -> str:
    """SQLite's name of an error, and its text."""
    return f"{getattr(error, 'sqlite_errorname', type(error).__name__)}: {error}"
