"""python-socketio on aiohttp, with what its HTTP transport gets wrong mended."""

import asyncio
from typing import Any

import engineio.async_drivers.aiohttp  # else the first server that is made would load it, and each fork is the first
import engineio.async_socket
import engineio.payload
import socketio
from aiohttp import StreamReader, web

# A client that was away posts all its messages in one request. The default of 16 would lose them all, silently; as
# many messages as this do not fit into the 1 MB that a request may have.
_PACKETS_PER_REQUEST = 20_000

# Stock Python clients have the same limit of 16 packets for what they get, acknowledgements and pings included.
_PACKETS_WAITING = 8


class _Body:
    """A request's body, read whole or not at all.

    engineio takes what one `read` returns for the body, and aiohttp's returns what has arrived: of a request in two
    segments the second would be lost, silently.
    """

    def __init__(self, content: StreamReader) -> None:
        self._content = content

    async def read(self, length: int) -> bytes:
        try:
            return await self._content.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            return b""  # the client is gone; half a request is none


class _Socket(engineio.async_socket.AsyncSocket):  # type: ignore[misc]  # the library ships no types
    """A session whose upgrade can fail: engineio would hold its packets back for ever, and give its polls nothing."""

    async def _websocket_handler(self, ws: Any) -> Any:
        try:
            return await super()._websocket_handler(ws)
        finally:
            if not self.upgraded:
                self.upgrading = False


def make_server(ping_interval_seconds: int, ping_timeout_seconds: float) -> socketio.AsyncServer:
    """Make a Socket.IO server for an aiohttp application."""
    engineio.payload.Payload.max_decode_packets = _PACKETS_PER_REQUEST
    engineio.async_socket.AsyncSocket = _Socket
    server = socketio.AsyncServer(
        async_mode="aiohttp",
        # Rows are sent from the connect handler on: the client must know by then that it is connected.
        always_connect=True,
        ping_interval=ping_interval_seconds,
        ping_timeout=ping_timeout_seconds,
    )
    translate = server.eio._async["translate_request"]

    def translate_request(request: web.Request) -> dict[str, Any]:
        environ: dict[str, Any] = translate(request)
        return {**environ, "wsgi.input": _Body(request.content)}

    server.eio._async = {**server.eio._async, "translate_request": translate_request}
    return server


async def room(server: socketio.AsyncServer, sid: str) -> None:
    """Wait until what is sent next to a connection will not be too much for one poll of it."""
    socket = server.eio.sockets.get(server.manager.eio_sid_from_sid(sid, "/"))
    if socket is not None and socket.queue.qsize() >= _PACKETS_WAITING:
        await socket.queue.join()


async def dismiss(server: socketio.AsyncServer, timeout_seconds: float) -> None:
    """Let the clients take what is queued for them, then end their transports.

    Not with `disconnect`, nor with a CLOSE packet: stock clients do not come back after those, and this may be a
    restart.
    """
    queues = [socket.queue for socket in server.eio.sockets.values()]
    if queues:
        flushes = [asyncio.create_task(queue.join()) for queue in queues]
        _, late = await asyncio.wait(flushes, timeout=timeout_seconds)
        for flush in late:
            flush.cancel()
    for queue in queues:
        # What engineio itself puts there to end a transport's writer.
        queue.put_nowait(None)
