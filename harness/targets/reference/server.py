"""The running server: its parts put together, and taken down in order."""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from . import steps
from .chat import EVENT, Chat
from .delivery import Delivery
from .storage import Journal, Row, Storage
from .transport import dismiss, make_server, room

# Only a slow disk, a client that does not answer or an overloaded machine takes this long.
_FINISH_WRITES_SECONDS = 2.0
_FINISH_DELIVERY_SECONDS = 0.5
_FLUSH_SECONDS = 0.3
_CLOSE_SECONDS = 0.2


class AddressError(Exception):
    """The address cannot be listened on; the text says why in one line."""


@dataclass(frozen=True)
class Settings:
    """What the command line and the environment say."""

    host: str
    port: int
    database: Path
    unique: bool
    journal: Journal
    acknowledges: bool
    ping_interval_seconds: int
    ping_timeout_seconds: float
    crash_after_commits: int | None


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then end gracefully.

    Raises:
        StorageError: the database cannot be used.
        AddressError: the address cannot be listened on.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    storage = Storage(
        settings.database,
        unique=settings.unique,
        journal=settings.journal,
        after_commit=_crash_after(settings.crash_after_commits),
    )
    try:
        await _serve(settings, storage, stop)
    finally:
        storage.close()


async def _serve(settings: Settings, storage: Storage, stop: asyncio.Event) -> None:
    server = make_server(settings.ping_interval_seconds, settings.ping_timeout_seconds)

    async def send(sid: str, row: Row) -> None:
        await room(server, sid)
        await server.emit(EVENT, (row.content, row.id), to=sid)

    delivery = Delivery(storage, send)
    chat = Chat(server, storage, delivery, acknowledges=settings.acknowledges)
    application = web.Application()
    server.attach(application)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        site = await _listen(runner, settings.host, settings.port)
        await _until(stop, delivery.publisher)
        await site.stop()
        await chat.finish(_FINISH_WRITES_SECONDS)
        await delivery.finish(_FINISH_DELIVERY_SECONDS)
        await dismiss(server, _FLUSH_SECONDS)
    finally:
        await runner.cleanup()
        await server.shutdown()


async def _listen(runner: web.AppRunner, host: str, port: int) -> web.TCPSite:
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        # Name resolution has negative numbers and texts of its own; asyncio's text for the others is long.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise AddressError(f"cannot listen on {host}:{port}: {reason}") from error
    steps.complain(f"listening on http://{host}:{site.port}")
    return site


async def _until(stop: asyncio.Event, publisher: "asyncio.Task[None]") -> None:
    """Wait for the stop signal. A server that no longer broadcasts must not live on."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, publisher], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if publisher.done():
        publisher.result()


def _crash_after(commits: int | None) -> Callable[[], None]:
    """Make the function that kills this process when it is called for the given time."""
    left = commits

    def crash() -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return crash
