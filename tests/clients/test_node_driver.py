"""The driver with the official JavaScript client: what it tells of each way of sending is what happens on the wire."""

import asyncio
import contextlib
import functools
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engineio.packet import PING, Packet

from harness import node
from harness.clients import protocol as p
from harness.clients.conformance import Program
from harness.clients.kinds import KINDS
from harness.process import ProcessGroup
from tests.systems import (
    EVENT,
    NEVER_SECONDS,
    RUN,
    ChatServer,
    Tap,
    chatting,
    in_event_loop,
    limit,
    listening,
    seen,
    tapped,
)

SHORT_SECONDS = 0.2
QUIET_SECONDS = 0.3
TRANSPORTS = pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids="-".join)


@pytest.fixture(scope="session", autouse=True)
def packages() -> Path:
    """What the driver needs of npm."""
    return node.modules()


@contextlib.asynccontextmanager
async def driving(port: int, folder: Path, policy: str = "persistent", **connect: object) -> AsyncIterator[Program]:
    """The driver, told to connect."""
    command = KINDS["node"].command
    assert command is not None
    process = ProcessGroup(
        command, log=folder / "log", cwd=folder, env={"NODE_PATH": str(node.modules_folder())}, pipes=True
    )
    settings: dict[str, object] = {
        "command": "connect",
        "name": "alice",
        "run": RUN,
        "port": port,
        "transports": ["websocket"],
        "path": "/socket.io",
        "namespace": "/",
        "event": EVENT,
        "policy": policy,
        "ack_timeout_seconds": SHORT_SECONDS,
        "reconnect_delay_seconds": [0.01, 0.08],
        "outbox": None,
        "seed": 1,
    }
    program = Program(process, settings | connect)
    await program.listen()
    program.connect()
    try:
        yield program
        assert not program.nonsense
    finally:
        await program.close()


def story(program: Program, message: str) -> list[str]:
    """What was told of one message, in short."""
    words = []
    for event in program.told:
        match event:
            case p.Attempt(message=message_told, attempt=number, connection=connection) if message_told == message:
                words.append(f"attempt {number} on {connection}")
            case p.Ok(message=message_told, attempt=number, late=late) if message_told == message:
                words.append(f"ok {number}" + (" late" if late else ""))
            case p.Info(message=message_told, attempt=number, timed_out=timed_out) if message_told == message:
                words.append(f"info {number} by {'timeout' if timed_out else 'disconnect'}")
            case p.Fail(message=message_told, attempt=number) if message_told == message:
                words.append(f"fail {number}")
            case p.Settled(message=message_told, outcome=outcome) if message_told == message:
                words.append(outcome)
    return words


def untold(tries: int) -> list[str]:
    """The story of attempts that time out, one after the other."""
    return [word for n in range(1, tries + 1) for word in (f"attempt {n} on 1", f"info {n} by timeout")]


async def silent(server: ChatServer) -> None:
    """Have a server acknowledge nothing."""
    server.answer = server.forget


def payload_bytes(tap: Tap) -> int:
    """The bytes of frames and of POST requests that passed, heartbeats aside: there is none in a test."""
    total = 0
    for flow in tap.flows:
        head, _, rest = bytes(flow.up).partition(b"\r\n\r\n")
        if head.startswith(b"POST"):
            total += len(flow.up)
        elif b"upgrade: websocket" in head.lower():
            total += len(rest)
    return total


@TRANSPORTS
@in_event_loop
async def test_the_bytes_told_are_those_on_the_wire(tmp_path: Path, transports: list[str]) -> None:
    """Whatever the transport, and also for texts that are compressed or split."""
    async with (
        chatting() as server,
        tapped(server.port) as tap,
        driving(tap.port, tmp_path, transports=transports) as it,
    ):
        await it.tells(p.Connected)
        for number, body in enumerate(("", "é" * 80, "x" * 70_000, "y" * 300)):
            await it.tells(p.Settled, message=it.post(number, body))
            await seen(lambda: it.all(p.Wire)[-1].poll_pending, "the next poll")
            await seen(
                lambda: payload_bytes(tap) == it.all(p.Wire)[-1].sent,
                "the same bytes",
                lambda: (payload_bytes(tap), it.all(p.Wire)[-1].sent),
            )


@in_event_loop
async def test_the_bytes_received_are_those_on_the_wire(tmp_path: Path) -> None:
    """Everything that came on the connection of a client over WebSocket, its handshake included."""
    async with (
        chatting() as server,
        tapped(server.port) as tap,
        driving(tap.port, tmp_path, transports=["websocket"]) as it,
    ):
        await it.tells(p.Connected)
        for number, body in enumerate(("", "é" * 80, "x" * 70_000)):
            await it.tells(p.Settled, message=it.post(number, body))
            await seen(
                lambda: tap.bytes_passed("down") == it.all(p.Wire)[-1].received,
                "the same bytes",
                lambda: (tap.bytes_passed("down"), it.all(p.Wire)[-1].received),
            )


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@in_event_loop
async def test_heartbeats_are_not_counted(tmp_path: Path, transport: str) -> None:
    """A pong travels, and `sent` stays."""
    async with (
        chatting() as server,
        tapped(server.port) as tap,
        driving(tap.port, tmp_path, transports=[transport]) as it,
    ):
        await it.tells(p.Settled, message=it.post(1))
        before, told = payload_bytes(tap), it.all(p.Wire)[-1].sent
        for socket in list(server.io.eio.sockets.values()):
            await socket.send(Packet(PING))
        await seen(lambda: payload_bytes(tap) > before, "the pong")
        assert before == told == it.all(p.Wire)[-1].sent


@in_event_loop
async def test_retries_tells_its_sender_and_goes_on(tmp_path: Path) -> None:
    """Four attempts, each told to have timed out, then the sender is told, then the next message."""
    async with chatting() as server, driving(server.port, tmp_path, "retries=3") as it:
        await silent(server)
        first, second = it.post(1), it.post(2)
        await it.tells(p.Settled, message=second)
        assert story(it, first) == story(it, second) == [*untold(4), "gave-up"]


@in_event_loop
async def test_the_tutorial_drops_a_message_and_tells_nobody(tmp_path: Path) -> None:
    """The last timeout is told too, though the client tells nobody of it."""
    async with chatting() as server, driving(server.port, tmp_path, "tutorial") as it:
        await silent(server)
        message = it.post(1)
        await it.tells(p.Info, message=message, attempt=4)
        server.answer = server.acknowledge
        following = it.post(2)
        await it.tells(p.Settled, message=following)
        assert story(it, message) == untold(4)
        assert story(it, following) == ["attempt 1 on 1", "ok 1", "acknowledged"]


@in_event_loop
async def test_a_bare_acknowledgement_is_a_failure_to_retries_without_a_timeout(tmp_path: Path) -> None:
    """Four emissions, four acknowledgements, and the sender is told that it failed."""
    async with chatting() as server, driving(server.port, tmp_path, "tutorial-untimed") as it:
        message = it.post(1)
        await it.tells(p.Settled, message=message)
        assert story(it, message) == [*(w for n in range(1, 5) for w in (f"attempt {n} on 1", f"ok {n}")), "gave-up"]
        assert len(server.received) == 4


@in_event_loop
async def test_a_late_acknowledgement_is_told_once(tmp_path: Path) -> None:
    """The first attempt's answer comes during the second, which is not settled by it."""
    async with chatting() as server, driving(server.port, tmp_path) as it:
        first, others = asyncio.Event(), asyncio.Event()

        async def slow(number: int) -> object:
            await (first if number == 1 else others).wait()
            return None

        server.answer = slow
        message = it.post(1)
        await it.tells(p.Attempt, message=message, attempt=2)
        first.set()
        await it.tells(p.Ok, message=message, attempt=1, late=True)
        assert not it.all(p.Settled)
        others.set()
        await it.tells(p.Settled, message=message)
        told = story(it, message)
        assert told[:3] == ["attempt 1 on 1", "info 1 by timeout", "attempt 2 on 1"]
        assert told.count("ok 1 late") == 1


@in_event_loop
async def test_what_is_only_in_a_buffer_is_no_attempt(tmp_path: Path) -> None:
    """While there is no connection nothing is told to be sent; afterwards it is, once."""
    for policy in ("persistent", "resend", "pipelined", "fire-and-forget", "new-offset"):
        async with chatting() as server, tapped(server.port) as tap, driving(tap.port, tmp_path, policy) as it:
            await it.tells(p.Connected)
            it.say(command="disconnect")
            await it.tells(p.Disconnected)
            messages = [it.post(number) for number in (1, 2)]
            await it.tells(p.Invoke, message=messages[-1])
            await asyncio.sleep(QUIET_SECONDS)  # longer than the ack timeout
            assert not it.all(p.Attempt)
            it.connect()
            for message in messages:
                await it.tells(p.Attempt, message=message, connection=2)
                assert len(it.all(p.Attempt, message=message)) == 1


@in_event_loop
async def test_once_drops_what_is_posted_without_a_connection(tmp_path: Path) -> None:
    """It is told as an attempt that failed before anything was sent."""
    async with chatting() as server, driving(server.port, tmp_path, "once") as it:
        away = it.post(1)
        await it.tells(p.Connected)
        message = it.post(2)
        await it.tells(p.Ok, message=message)
        assert story(it, away) == ["handed-over", "attempt 1 on 0", "fail 1"]
        assert story(it, message) == ["handed-over", "attempt 1 on 1", "ok 1"]


@in_event_loop
async def test_resend_and_pipelined_have_several_in_flight(tmp_path: Path) -> None:
    """All of them, and eight; the end of the connection ends each."""
    for policy, in_flight in (("resend", 10), ("pipelined", 8)):
        async with (
            chatting() as server,
            driving(server.port, tmp_path, policy, ack_timeout_seconds=NEVER_SECONDS) as it,
        ):
            await silent(server)
            await it.tells(p.Connected)
            for number in range(10):
                it.post(number)
            await it.tells(p.Attempt, count=in_flight)
            await asyncio.sleep(QUIET_SECONDS)
            assert len(it.all(p.Attempt)) == in_flight
            it.say(command="disconnect")
            await it.tells(p.Info, count=in_flight)
            assert all(not info.timed_out for info in it.all(p.Info))


@in_event_loop
async def test_new_offsets_are_fresh_and_the_same_for_a_seed(tmp_path: Path) -> None:
    """What is told is what the server got."""
    offsets = []
    for _ in range(2):
        async with chatting() as server, driving(server.port, tmp_path, "new-offset", ack_timeout_seconds=0.05) as it:
            await silent(server)
            message = it.post(1)
            await it.tells(p.Attempt, count=4)
            offsets.append([attempt.offset for attempt in it.all(p.Attempt)][:4])
            assert story(it, message)[:6] == untold(3)
            assert [arguments[1] for arguments in server.received][:3] == offsets[-1][:3]
    assert offsets[0] == offsets[1]
    assert len(set(offsets[0])) == 4


@TRANSPORTS
@in_event_loop
async def test_a_cut_is_told_and_the_message_sent_again(tmp_path: Path, transports: list[str]) -> None:
    """On each transport: the attempt ends with its connection, and the next one is on the new connection."""
    async with (
        chatting() as server,
        tapped(server.port) as tap,
        driving(tap.port, tmp_path, transports=transports, ack_timeout_seconds=NEVER_SECONDS) as it,
    ):
        await it.tells(p.Settled, message=it.post(1))
        tap.rule = limit("up", 40)
        message = it.post(2)
        await it.tells(p.Disconnected)
        tap.rule = lambda *_: None
        await it.tells(p.Settled, message=message)
        number = it.all(p.Connected)[-1].connection
        assert story(it, message) == [
            *("attempt 1 on 1", "info 1 by disconnect"),
            *(f"attempt 2 on {number}", "ok 2", "acknowledged"),
        ]


@in_event_loop
async def test_a_try_that_fails_has_the_system_s_reason(tmp_path: Path) -> None:
    """Not the client's own `websocket error` or `xhr poll error`."""
    for transport in ("websocket", "polling"):
        async with listening(lambda *_: asyncio.sleep(0)) as port:
            pass
        async with driving(port, tmp_path, transports=[transport]) as it:
            failed = await it.tells(p.ConnectFailed, count=3)
            assert (failed.connection, failed.reason) == (3, f"connect ECONNREFUSED 127.0.0.1:{port}")


@in_event_loop
async def test_a_connection_that_ends_before_its_namespace_is_open_is_a_try_that_failed(tmp_path: Path) -> None:
    """An open engine is no connection yet."""
    async with chatting() as server, driving(server.port, tmp_path, namespace="/elsewhere") as it:
        failed = await it.tells(p.ConnectFailed)
        assert "/elsewhere" in failed.reason or "Unable to connect" in failed.reason
        assert not it.all(p.Connected)


@in_event_loop
async def test_the_server_s_goodbye_is_told_with_the_client_s_reason(tmp_path: Path) -> None:
    """The socket's reason, not the engine's `forced close`."""
    async with chatting() as server, driving(server.port, tmp_path) as it:
        await it.tells(p.Connected)
        await server.dismiss()
        assert (await it.tells(p.Disconnected)).reason == "io server disconnect"


@in_event_loop
async def test_a_reload_forgets_and_counts_on(tmp_path: Path) -> None:
    """The message is gone, the connection's number goes on, the counter of offsets does not."""
    async with chatting() as server, driving(server.port, tmp_path, ack_timeout_seconds=NEVER_SECONDS) as it:
        await silent(server)
        message = it.post(1, offset=None)
        await it.tells(p.Attempt, message=message)
        it.say(command="reload")
        await it.tells(p.Connected, connection=2)
        await seen(lambda: len(server.sids) == 1, "the first connection to end")
        server.answer = server.acknowledge
        following = it.post(2, offset=None)
        await it.tells(p.Settled, message=following)
        assert story(it, message) == ["attempt 1 on 1", "info 1 by disconnect"]
        offsets = [invoke.offset for invoke in it.all(p.Invoke)]
        assert offsets[0] == "undefined-0"
        assert offsets[1].endswith("-0")
        assert not offsets[1].startswith("undefined")


@in_event_loop
async def test_an_outbox_is_read_again_without_the_half_line_of_a_kill(tmp_path: Path) -> None:
    """Only what is not settled is sent, after a start and after a reload."""
    outbox = tmp_path / "outbox.jsonl"
    lines = [
        {"command": "post", "message": f"{RUN}-alice-0001", "content": "one\u2028", "offset": "1"},
        {"command": "post", "message": f"{RUN}-alice-0002", "content": "two", "offset": "2"},
        {"command": "settled", "message": f"{RUN}-alice-0001"},
    ]
    outbox.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"command": "post", "mess')
    async with chatting() as server, driving(server.port, tmp_path, outbox=str(outbox)) as it:
        await it.tells(p.Settled, message=f"{RUN}-alice-0002")
        await it.tells(p.Settled, message=it.post(3))
        it.say(command="reload")
        await it.tells(p.Connected, connection=2)
        await it.tells(p.Settled, message=it.post(4))
        assert [arguments[1] for arguments in server.received] == [
            "2",
            f"{RUN}-alice-0003-offset",
            f"{RUN}-alice-0004-offset",
        ]
    kept = [json.loads(line) for line in outbox.read_text().splitlines()]
    assert [(line["command"], line["message"][-4:]) for line in kept[2:]] == [
        *(("settled", "0001"), ("settled", "0002")),
        *(("post", "0003"), ("settled", "0003"), ("post", "0004"), ("settled", "0004")),
    ]


@pytest.mark.parametrize(("style", "kept"), [("tutorial", 1), ("hardened", 2), ("forgetful", 0)])
@in_event_loop
async def test_a_receiver_comes_back_with_its_offset(tmp_path: Path, style: str, kept: int) -> None:
    """The latest, the highest or none, with more arguments and without an offset."""
    async with chatting() as server, driving(server.port, tmp_path) as it:
        await it.tells(p.Connected)
        it.say(command="disconnect")
        it.say(command="receive", broadcast=EVENT, style=style)
        it.connect()
        await it.tells(p.Connected, connection=2)
        broadcasts = [("one", 1), ("two", 2, "more"), ("one", 1), ("x" * 200_000, None)]
        for arguments in broadcasts:
            await server.broadcast(*arguments)
        await it.tells(p.Received, server_offset=None)
        if style == "hardened":
            del broadcasts[2]
        got = [(event.content, event.server_offset) for event in it.all(p.Received)]
        assert got == [arguments[:2] for arguments in broadcasts]
        it.say(command="disconnect")
        it.connect()
        await it.tells(p.Connected, connection=3)
        expected = None if style == "tutorial" else kept
        assert server.auths[1:] == [{"serverOffset": 0}, {"serverOffset": expected}]


@in_event_loop
async def test_half_a_surrogate_pair_becomes_the_text_of_its_escape(tmp_path: Path) -> None:
    """As the harness's own recorder has it."""
    async with chatting() as server, driving(server.port, tmp_path, connect=False) as it:
        await it.tells(p.Connected)
        it.say(command="disconnect")
        it.say(command="receive", broadcast=EVENT, style="tutorial")
        it.connect()
        await it.tells(p.Connected, connection=2)
        await server.broadcast("half \ud83d", 1)
        assert (await it.tells(p.Received)).content == "half \\ud83d"


@in_event_loop
async def test_it_ends_when_it_is_told_to_and_when_nobody_is_left(tmp_path: Path) -> None:
    """With status 0, over both transports."""
    for transport, way in itertools.product(("websocket", "polling"), ("stop", "input")):
        async with chatting() as server, driving(server.port, tmp_path, transports=[transport]) as it:
            await it.tells(p.Connected)
            if way == "stop":
                it.say(command="stop")
                await it.tells(p.Disconnected)
            else:
                it.process.close_input()
            assert await it.ends() == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"command": "sing"}\n', "sing"),
        (b"{\n", "JSON"),
        (b'{"command": "receive", "broadcast": "b", "style": "odd"}\n{"command": "disconnect"}\n', "odd"),
    ],
    ids=["command", "json", "style"],
)
@in_event_loop
async def test_what_it_does_not_know_is_an_error(tmp_path: Path, line: bytes, reason: str) -> None:
    """Told, and the end of the program."""
    async with chatting() as server, driving(server.port, tmp_path) as it:
        await it.tells(p.Connected)
        it.process.write(line)
        it.connect()
        assert reason in (await it.tells(p.Error)).reason
        assert await it.ends() == 1


@in_event_loop
async def test_an_unknown_policy_is_an_error(tmp_path: Path) -> None:
    """Told before it connects."""
    async with driving(1, tmp_path, "by-pigeon") as it:
        await seen(functools.partial(it.all, p.Error), "the error")
        assert await it.ends() == 1
