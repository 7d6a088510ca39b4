"""One connection, on real sockets: what the stock client hides is switched off, and every end of it is noticed."""

import asyncio
import base64
import functools
import hashlib
import itertools
import time
from collections.abc import Callable

import aiohttp
import pytest
import socketio.exceptions
import socketio.packet
from engineio.packet import MESSAGE, Packet
from socketio.exceptions import BadNamespaceError

from harness import waiting
from harness.clients.connection import ConnectFailedError
from tests.systems import (
    EVENT,
    ChatServer,
    Direction,
    Flow,
    Rule,
    Tap,
    chatting,
    connect,
    connected,
    in_event_loop,
    limit,
    listening,
    seen,
    soon,
    tapped,
)

TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "polling"])
# What ends at once ends within this, on a machine with other work; pings and polls take a minute here.
AT_ONCE_SECONDS = 3.0


def on_request(start: bytes, act: Callable[[Flow], int]) -> Rule:
    """Cut on the chunk upstream that begins so; `act` says how much of it passes."""

    def rule(flow: Flow, direction: Direction, data: bytes) -> int | None:
        return act(flow) if direction == "up" and data.startswith(start) else None

    return rule


async def ended_at_once(closed: "asyncio.Future[str]") -> str:
    """Why a connection ended, which it does at once."""
    return await waiting.within(asyncio.shield(closed), awaited="the end", timeout_seconds=AT_ONCE_SECONDS)


# -- no retry of its own -----------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_handshake_that_is_cut_is_not_sent_again(transport: str) -> None:
    """Of a handshake whose connection dies there is one request on the wire."""
    async with chatting() as server, tapped(server.port) as tap:
        tap.rule = limit("down", 1)
        with pytest.raises(ConnectFailedError):
            await connect(tap.port, transport)
        assert len(tap.requests()) == 1
        assert len(tap.flows) == 1


@in_event_loop
async def test_tap_sees_the_retry_of_a_stock_session() -> None:
    """The session of aiohttp as it is does send a GET again: were the switch off, the tests here would tell."""
    async with chatting() as server, tapped(server.port) as tap:
        tap.rule = limit("down", 1)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://127.0.0.1:{tap.port}/socket.io/?transport=polling&EIO=4")
        assert len(tap.requests()) == 2


@in_event_loop
async def test_poll_that_is_cut_is_not_sent_again() -> None:
    """Of a poll whose connection dies there is one request on the wire, and the connection has ended."""
    async with chatting() as server, tapped(server.port) as tap, connected(tap.port, "polling") as connection:
        await seen(lambda: connection.poll_pending, "the poll")
        await seen(lambda: tap.bytes_passed("up") == connection.bytes_sent, "the handshake")
        requests = tap.requests()
        tap.rule = lambda _, direction, data: 0 if direction == "down" else None
        await server.broadcast("makes the poll return")
        await ended_at_once(connection.closed)
        assert tap.requests() == requests
        assert sum(request.startswith("GET") for request in requests) == 3  # of the handshake, of CONNECT, pending


# -- the zombies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra_bytes", [0, 1, 10])
@in_event_loop
async def test_poll_response_cut_inside_its_body_ends_the_connection(extra_bytes: int) -> None:
    """A poll whose response ends in its body, or before it, ends the connection: it would never poll again."""
    async with chatting() as server, tapped(server.port) as tap, connected(tap.port, "polling") as connection:
        await seen(lambda: connection.poll_pending, "the poll")

        def inside_the_body(_: Flow, direction: Direction, data: bytes) -> int | None:
            if direction == "down" and b"well cut" in data:
                return data.index(b"\r\n\r\n") + 4 + extra_bytes
            return None

        tap.rule = inside_the_body
        await server.broadcast("well cut", 1)
        await ended_at_once(connection.closed)
        assert not connection.is_open
        assert connection.crash is None


@in_event_loop
async def test_post_that_fails_ends_the_connection_at_once() -> None:
    """A POST that fails ends the connection although its poll is pending, for a minute here."""
    async with chatting() as server, tapped(server.port) as tap, connected(tap.port, "polling") as connection:
        await seen(lambda: connection.poll_pending, "the poll")
        tap.rule = on_request(b"POST ", lambda _: 10)
        await connection.emit(EVENT, ("text", "offset"), lambda: None)
        await ended_at_once(connection.closed)
        assert server.received == []


@in_event_loop
async def test_poll_that_fails_while_a_packet_waits_ends_the_connection_at_once() -> None:
    """The library loses the end of its polling behind a packet in the same batch, and goes on without polls."""
    async with chatting() as server, tapped(server.port) as tap, connected(tap.port, "polling") as connection:
        await seen(lambda: connection.poll_pending, "the poll")
        queue = connection._client.eio.queue
        put = queue.put

        async def put_behind_another(packet: object) -> None:
            if packet is None:
                queue.put_nowait(Packet(MESSAGE, '2["another"]'))
            await put(packet)

        queue.put = put_behind_another
        tap.rule = limit("down", 1)
        await server.broadcast("cut", 1)
        await ended_at_once(connection.closed)


@in_event_loop
async def test_post_that_is_refused_ends_the_connection_at_once() -> None:
    """A POST that the server answers with an error ends the connection although its poll is pending."""
    async with chatting() as server, connected(server.port, "polling") as connection:
        await seen(lambda: connection.poll_pending, "the poll")
        server.io.eio.max_http_buffer_size = 10
        await connection.emit(EVENT, ("text", "offset"), lambda: None)
        await ended_at_once(connection.closed)


@TRANSPORTS
@in_event_loop
async def test_refused_emission_ends_a_connection_without_its_namespace(transport: str) -> None:
    """A connection that has lost its namespace unnoticed ends with the first emission that it refuses."""
    async with chatting("/chat") as server, connected(server.port, transport, namespace="/chat") as connection:
        await lose_namespace(server)
        await seen(lambda: not connection._client.namespaces, "the namespace to be lost")
        assert connection.is_open
        with pytest.raises(BadNamespaceError):
            await connection.emit(EVENT, ("text", "offset"), lambda: None)
        assert not connection.is_open


async def lose_namespace(server: ChatServer) -> None:
    """Refuse the main namespace, which nobody asked for: python-socketio's client then drops all others, silently."""
    packet = socketio.packet.Packet(socketio.packet.CONNECT_ERROR, namespace="/", data={"message": "no"})
    for sid in server.sids:
        await server.io._send_packet(server.io.manager.eio_sid_from_sid(sid, server.namespace), packet)


@TRANSPORTS
@in_event_loop
async def test_handler_that_fails_is_a_failure_of_the_client(transport: str) -> None:
    """A handler that raises ends the connection as a crash: what it should have recorded is missing for ever."""

    def hear(*_: object) -> None:
        raise LookupError("no room left")

    async with chatting() as server, connected(server.port, transport, handlers={EVENT: hear}) as connection:
        await server.broadcast("text", 1)
        await ended_at_once(connection.closed)
        assert connection.crash is not None
        assert "no room left" in connection.crash


# -- the handshake -----------------------------------------------------------------------------------------------


async def bytes_of_a_handshake(server: ChatServer, transport: str, direction: Direction) -> int:
    """How many bytes a connection takes until it is usable."""
    async with tapped(server.port) as tap, connected(tap.port, transport) as connection:
        await seen(lambda: connection.poll_pending, "the poll")
        await seen(lambda: tap.bytes_passed("up") == connection.bytes_sent, "the bytes to pass")
        return tap.bytes_passed(direction)


@pytest.mark.parametrize("direction", ["up", "down"])
@TRANSPORTS
@in_event_loop
async def test_handshake_cut_anywhere_fails_and_never_hangs(transport: str, direction: Direction) -> None:
    """A handshake that is cut after any number of bytes fails or, where its end is all that is cut, has ended."""
    async with chatting() as server:
        whole = await bytes_of_a_handshake(server, transport, direction)
        for count in (*range(1, whole, whole // 16), whole - 2, whole - 1):
            async with tapped(server.port) as tap:
                tap.rule = limit(direction, count)
                began = time.monotonic()
                try:
                    connection = await connect(tap.port, transport)
                except ConnectFailedError:
                    pass
                else:
                    await ended_at_once(connection.closed)
                    await connection.abort()
                    assert count > whole // 2
                assert time.monotonic() - began < AT_ONCE_SECONDS


@TRANSPORTS
@in_event_loop
async def test_refused_connection_fails(transport: str) -> None:
    """Where nothing listens a connection fails."""
    async with chatting() as server:
        port = server.port
    with pytest.raises(ConnectFailedError, match=r"Engine\.IO"):
        await connect(port, transport)


@TRANSPORTS
@in_event_loop
async def test_connect_without_an_answer_fails_at_its_deadline(transport: str) -> None:
    """A server that never answers CONNECT costs a connection its deadline, and no more."""
    over = asyncio.Event()

    async def admit(_: str) -> None:
        await over.wait()

    async with chatting() as server:
        server.admit = admit
        with pytest.raises(ConnectFailedError, match=r"not connected within 0\.3 s"):
            await connect(server.port, transport, timeout_seconds=0.3)
        over.set()


@TRANSPORTS
@in_event_loop
async def test_silent_server_costs_a_connection_its_deadline(transport: str) -> None:
    """A server that accepts and says nothing costs a connection its deadline, and no more."""

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass

    async with listening(silent) as port:
        with pytest.raises(ConnectFailedError, match=r"not connected within 0\.3 s"):
            await connect(port, transport, timeout_seconds=0.3)


@TRANSPORTS
@in_event_loop
async def test_refused_namespace_fails_with_the_reason(transport: str) -> None:
    """A server that refuses the client makes the connection fail, in the server's words."""

    async def admit(_: str) -> None:
        raise socketio.exceptions.ConnectionRefusedError("members only")

    async with chatting() as server:
        server.admit = admit
        with pytest.raises(ConnectFailedError, match="members only"):
            await connect(server.port, transport)


@TRANSPORTS
@in_event_loop
async def test_unknown_namespace_fails(transport: str) -> None:
    """A namespace that the server does not have makes the connection fail."""
    async with chatting("/chat") as server:
        with pytest.raises(ConnectFailedError, match="refused by the server"):
            await connect(server.port, transport, namespace="/elsewhere")


OPEN = '0{"sid":"s","upgrades":[],"pingInterval":25000,"pingTimeout":20000}'


@pytest.mark.parametrize(
    "body",
    ["", "hello", "2", "0", "0{}", "0[]", "0null", '0"x"', '0{"sid":1}', "\x1e\x1e", OPEN.replace("25000", '"soon"')],
)
@in_event_loop
async def test_nonsense_in_a_polling_handshake_fails(body: str) -> None:
    """A polling handshake that is no OPEN packet fails, whatever it is."""
    response = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    await fails_on(lambda _: response)


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error", "302 Found", "204 No Content"])
@TRANSPORTS
@in_event_loop
async def test_other_status_in_a_handshake_fails(transport: str, status: str) -> None:
    """A handshake that is answered with another status fails."""
    await fails_on(lambda _: f"HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\n<html>".encode(), transport)


@pytest.mark.parametrize("response", [b"\x16\x03\x01 TLS?", b"SSH-2.0-OpenSSH\r\n", b"\r\n\r\n", b"HTTP/1.1 200"])
@TRANSPORTS
@in_event_loop
async def test_other_protocol_in_a_handshake_fails(transport: str, response: bytes) -> None:
    """What listens and speaks no HTTP makes the connection fail."""
    await fails_on(lambda _: response, transport)


TEXT, BINARY, CLOSE = 0x81, 0x82, 0x88


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (TEXT, b""),
        (TEXT, b"hello"),
        (TEXT, b"0"),
        (TEXT, b"0{}"),
        (TEXT, b"0[]"),
        (TEXT, b"4x"),
        (TEXT, b"\xff\xff"),
        (BINARY, b"0{}"),
        (BINARY, b""),
        (CLOSE, b"\x03\xe8bye"),
        (CLOSE, b""),
    ],
)
@in_event_loop
async def test_nonsense_in_a_websocket_handshake_fails(kind: int, payload: bytes) -> None:
    """A WebSocket whose first frame is no OPEN packet makes the connection fail, whatever it is."""

    def upgrade(request: bytes) -> bytes:
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        return head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + bytes([kind, len(payload)]) + payload

    await fails_on(upgrade, "websocket")


async def fails_on(respond: Callable[[bytes], bytes], transport: str = "polling") -> None:
    """A connection fails on a server that says this, and then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(respond(await reader.readuntil(b"\r\n\r\n")))
        await writer.drain()

    async with listening(serve) as port:
        began = time.monotonic()
        with pytest.raises(ConnectFailedError):
            await connect(port, transport)
        assert time.monotonic() - began < AT_ONCE_SECONDS


@TRANSPORTS
@in_event_loop
async def test_open_that_is_cancelled_leaves_nothing(transport: str) -> None:
    """A connection that is cancelled on its way, at any step, closes what it has opened."""

    async def admit(_: str) -> None:
        await over.wait()

    over = asyncio.Event()
    async with chatting() as server:
        server.admit = admit
        for step in itertools.count():
            async with tapped(server.port) as tap:
                opening = asyncio.create_task(connect(tap.port, transport))
                passed = await _step(step, tap, server)
                opening.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await opening
                for flow in tap.flows:
                    await soon(flow.ended.wait())
            if passed:
                break
        over.set()


async def _step(step: int, tap: Tap, server: ChatServer) -> bool:
    """Let a handshake make so many steps; whether it then waits for the answer to its CONNECT."""
    connects = len(server.auths)
    if step >= 10:
        await seen(lambda: len(server.auths) > connects, "the CONNECT")
        return True
    for _ in range(step):
        await waiting.pause(0)
    return False


# -- the end -----------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_disconnect_by_the_server_ends_the_connection(transport: str) -> None:
    """A client that the server disconnects is told so at once."""
    async with chatting() as server, connected(server.port, transport) as connection:
        await server.dismiss()
        assert await ended_at_once(connection.closed) == "server disconnect"
        assert connection.crash is None


@TRANSPORTS
@in_event_loop
async def test_connection_that_is_cut_has_ended(transport: str) -> None:
    """A client whose TCP connections are closed notices at once, and emits no more."""
    async with chatting() as server:
        async with tapped(server.port) as tap:
            connection = await connect(tap.port, transport)
            await seen(lambda: connection.poll_pending, "the poll")
        await ended_at_once(connection.closed)
        assert not connection.is_open
        await connection.abort()


@TRANSPORTS
@in_event_loop
async def test_abort_is_immediate_and_silent(transport: str) -> None:
    """An abort closes every TCP connection at once, waits for no poll and sends nothing."""
    async with chatting() as server, tapped(server.port) as tap:
        connection = await connect(tap.port, transport)
        await seen(lambda: connection.poll_pending, "the poll")
        await seen(lambda: tap.bytes_passed("up") == connection.bytes_sent, "the bytes to pass")
        sent = tap.bytes_passed("up")
        began = time.monotonic()
        await connection.abort()
        assert time.monotonic() - began < AT_ONCE_SECONDS
        assert connection.closed.result() == "ended by the client"
        for flow in tap.flows:
            await soon(flow.ended.wait())
        # RFC 6455 wants the closing frame; to Socket.IO it says nothing.
        assert tap.bytes_passed("up") - sent <= (8 if transport == "websocket" else 0)


@TRANSPORTS
@in_event_loop
async def test_abort_of_an_ended_connection_does_nothing(transport: str) -> None:
    """Aborting twice is allowed, and the first reason stays."""
    async with chatting() as server, connected(server.port, transport) as connection:
        await server.dismiss()
        reason = await ended_at_once(connection.closed)
        await connection.abort()
        await connection.abort()
        assert connection.closed.result() == reason


# -- what arrives ------------------------------------------------------------------------------------------------


@TRANSPORTS
@in_event_loop
async def test_burst_arrives_whole_and_in_order(transport: str) -> None:
    """More than 16 packets in one polling payload, where the stock client drops all, arrive in their order."""
    heard: list[int] = []
    async with (
        chatting() as server,
        connected(server.port, transport, handlers={EVENT: lambda number: heard.append(number)}) as connection,
    ):
        await seen(lambda: connection.poll_pending, "the poll")
        for number in range(100):
            await server.broadcast(number)
        await seen(lambda: len(heard) == 100, "the burst", lambda: heard)
        assert heard == list(range(100))
        assert connection.is_open


@TRANSPORTS
@in_event_loop
async def test_burst_of_emissions_is_acknowledged(transport: str) -> None:
    """Emissions in one go arrive in their order, and each is acknowledged once."""
    answers: list[int] = []
    async with chatting() as server, connected(server.port, transport) as connection:
        for number in range(40):
            await connection.emit(EVENT, (str(number), "offset"), lambda *_, number=number: answers.append(number))
        await seen(lambda: len(answers) == 40, "the acknowledgements")
        assert sorted(answers) == list(range(40))
        assert [arguments[0] for arguments in server.received] == [str(number) for number in range(40)]


# -- bytes -------------------------------------------------------------------------------------------------------

CONTENTS = {
    "small": "x",
    "two-byte-length": "y" * 200,
    "non-ascii": "Zażółć 消息 👩‍👩‍👧‍👦 שלום",
    "long": "z" * 10_000,
    "long-non-ascii": "é中👍" * 3_000,
    "huge": "w" * 300_000,
}


@pytest.mark.parametrize("content", CONTENTS)
@TRANSPORTS
@in_event_loop
async def test_bytes_are_counted_as_they_are_on_the_wire(transport: str, content: str) -> None:
    """What a connection says to have sent is what a tap saw, in all and for the last frame or POST."""
    async with chatting() as server, tapped(server.port) as tap, connected(tap.port, transport) as connection:
        server.answer = server.forget
        await seen(lambda: connection.poll_pending, "the poll")
        await seen(lambda: tap.bytes_passed("up") == connection.bytes_sent, "the handshake")
        for number in range(1, 4):
            before = tap.bytes_passed("up")
            assert before == connection.bytes_sent
            await connection.emit(EVENT, (CONTENTS[content], f"offset-{number}"), lambda: None)
            await seen(functools.partial(lambda n: len(server.received) == n, number), "the message")
            assert tap.bytes_passed("up") == connection.bytes_sent
            assert connection.last_unit_bytes == tap.bytes_passed("up") - before


@in_event_loop
async def test_handshake_over_websocket_is_a_request_and_one_frame() -> None:
    """Nothing is sent before or behind CONNECT but the HTTP request: the last frame begins where that ends."""
    async with chatting() as server, tapped(server.port) as tap, connected(tap.port, "websocket") as connection:
        await seen(lambda: tap.bytes_passed("up") == connection.bytes_sent, "the handshake")
        (flow,) = tap.flows
        assert bytes(flow.up).index(b"\r\n\r\n") + 4 == connection.bytes_sent - connection.last_unit_bytes


@TRANSPORTS
@in_event_loop
async def test_last_unit_stays_that_of_the_message(transport: str) -> None:
    """Polls that follow a message's acknowledgement do not change the length of its frame or POST."""
    async with chatting() as server, tapped(server.port) as tap, connected(tap.port, transport) as connection:
        await seen(lambda: connection.poll_pending, "the poll")
        await seen(lambda: tap.bytes_passed("up") == connection.bytes_sent, "the handshake")
        before = connection.bytes_sent
        answered = asyncio.Event()
        await connection.emit(EVENT, ("text", "offset"), answered.set)
        await soon(answered.wait())
        await seen(lambda: connection.poll_pending, "the next poll")
        await seen(lambda: tap.bytes_passed("up") == connection.bytes_sent, "the bytes to pass")
        polls = sum(len(request) for request in _polls(tap)[-1:])
        assert connection.last_unit_bytes == connection.bytes_sent - before - polls


def _polls(tap: Tap) -> list[bytes]:
    """The GETs that passed, with their headers, but for the handshake's."""
    requests = [part + b"\r\n\r\n" for flow in tap.flows for part in bytes(flow.up).split(b"\r\n\r\n")]
    return [request for request in requests if request.startswith(b"GET ") and b"&sid=" in request]


@in_event_loop
async def test_poll_is_pending_when_its_request_is_on_the_wire() -> None:
    """Whenever a broadcast was heard and a poll is pending again, the request of that poll is on the wire."""
    heard: list[object] = []
    async with (
        chatting() as server,
        tapped(server.port) as tap,
        connected(tap.port, "polling", handlers={EVENT: heard.append}) as connection,
    ):
        await seen(lambda: connection.poll_pending, "the first poll")
        await seen(lambda: tap.bytes_passed("up") == connection.bytes_sent, "its bytes")
        for number in range(1, 11):
            before = len(_polls(tap))
            await server.broadcast(number)
            await seen(functools.partial(lambda n: len(heard) == n, number), "the broadcast")
            await seen(lambda: connection.poll_pending, "the next poll")
            await seen(lambda: tap.bytes_passed("up") == connection.bytes_sent, "its bytes")
            assert len(_polls(tap)) == before + 1


@in_event_loop
async def test_poll_is_always_pending_over_websocket() -> None:
    """Over WebSocket there is no poll to wait for."""
    async with chatting() as server, connected(server.port, "websocket") as connection:
        assert connection.poll_pending
