"""The driver with the stock client: it tells what that client does, and mends nothing."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.systems import DEADLINE_SECONDS, EVENT, Tap, chatting, in_event_loop, limit, seen, tapped

TRANSPORTS = pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids=str)
ACK_TIMEOUT_SECONDS = 0.5


class Driven:
    """A driver, and what it has told so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.told.append(msgspec.json.decode(line))

    def tell(self, command: str, **rest: object) -> None:
        """Give it a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode({"command": command, **rest}) + b"\n")

    def connect(self, port: int, transports: list[str], policy: str = "resend", outbox: Path | None = None) -> None:
        """Have it connect."""
        self.tell(
            "connect",
            name="alice",
            run="0123abcd",
            port=port,
            transports=transports,
            path="/socket.io",
            namespace="/",
            event=EVENT,
            policy=policy,
            ack_timeout_seconds=ACK_TIMEOUT_SECONDS,
            reconnect_delay_seconds=[0.01, 0.08],
            outbox=str(outbox) if outbox else None,
            seed=1,
        )

    def post(self, message: str, offset: str | None = "offset") -> None:
        """Have it post a message."""
        self.tell("post", message=message, content=f"content of {message}", offset=offset)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """What it told of these kinds."""
        return [line for line in self.told if line["event"] in kinds]

    def story(self, message: str) -> list[str]:
        """What it told of a message, in short."""
        return [
            " ".join(str(line[key]) for key in ("event", "attempt", "outcome", "late") if key in line)
            for line in self.told
            if line.get("message") == message
        ]

    async def heard(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Wait until it has told so many of a kind; the last of them."""
        return (await seen(lambda: self.events(kind)[count - 1 :], f"{count} {kind}", lambda: self.told))[0]

    async def ended(self) -> int:
        """Wait for its end, and for the end of what it tells."""
        status = await asyncio.wait_for(self.process.wait(), DEADLINE_SECONDS)
        await self._reading
        return status


@contextlib.asynccontextmanager
async def driver() -> AsyncIterator[Driven]:
    """A driver that is stopped at the end, if the test has not done so."""
    command = (sys.executable, "-m", "harness.clients.stock")
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    driven = Driven(process)
    try:
        yield driven
        assert driven.process.stdin is not None
        driven.process.stdin.close()
        assert await driven.ended() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def polls(tap: Tap) -> int:
    """How many polls passed a tap."""
    return sum(line.startswith("GET ") and "sid=" in line for line in tap.requests())


@TRANSPORTS
@in_event_loop
async def test_message_is_emitted_and_acknowledged(transports: list[str]) -> None:
    """Over each transport; a counter offset has the id of the connection, and the wire is told of."""
    async with chatting() as server, driver() as alice:
        alice.connect(server.port, transports)
        await alice.heard("connected")
        await seen(lambda: alice.events("wire") and alice.events("wire")[-1]["poll_pending"], "the next poll")
        before = alice.events("wire")[-1]["sent"]
        alice.post("m-1", None)
        alice.post("m-2", None)
        await alice.heard("settled", 2)
        sid = server.sids[0]
        assert sorted(server.received) == [(f"content of m-{number}", f"{sid}-{number - 1}") for number in (1, 2)]
        assert alice.story("m-1") == ["invoke", "attempt 1", "ok 1 False", "settled acknowledged"]
        assert alice.events("wire")[-1]["sent"] > before + 2 * len(sid)
        assert alice.events("error") == []


@in_event_loop
async def test_bytes_of_posts_are_counted_as_they_pass() -> None:
    """What is told as sent is what a tap sees of POST requests."""
    async with chatting() as server, tapped(server.port) as tap, driver() as alice:
        alice.connect(tap.port, ["polling"])
        await alice.heard("connected")
        alice.post("m-1")
        await alice.heard("settled")

        def posted() -> int:
            parts = [part for flow in tap.flows for part in bytes(flow.up).replace(b"GET ", b"\0G").split(b"\0")]
            return sum(len(part) for whole in parts for part in [whole[whole.find(b"POST ") :]] if b"POST " in whole)

        assert alice.events("wire")[-1]["sent"] == posted()


@pytest.mark.parametrize("policy", ["fire-and-forget", "once"])
@in_event_loop
async def test_emission_without_a_connection_is_dropped(policy: str) -> None:
    """The library refuses it; the user was told at the post that it is out of their hands."""
    async with driver() as alice:
        alice.connect(1, ["websocket"], policy)
        assert "ECONNREFUSED" in (await alice.heard("connectfailed"))["reason"]
        alice.post("m-1", None)
        await alice.heard("fail")
        assert alice.story("m-1") == ["invoke", "settled handed-over", "attempt 1", "fail 1"]
        assert alice.events("invoke")[0]["offset"] == "undefined-0"
        alice.tell("stop")
        assert await alice.ended() == 0


@in_event_loop
async def test_late_acknowledgement_is_told_once() -> None:
    """Without an answer in time `once` ends and `resend` sends again; what comes then is late."""
    async with chatting() as server, driver() as once, driver() as resend:
        answer = asyncio.Event()

        async def slow(_: int) -> object:
            await answer.wait()
            return None

        server.answer = slow
        once.connect(server.port, ["websocket"], "once")
        resend.connect(server.port, ["websocket"])
        await once.heard("connected")
        await resend.heard("connected")
        once.post("m-1", "o-1")
        resend.post("m-2", "o-2")
        await once.heard("info")
        await resend.heard("attempt", 2)
        answer.set()
        await once.heard("ok")
        await resend.heard("ok", 2)
        assert once.story("m-1") == ["invoke", "settled handed-over", "attempt 1", "info 1", "ok 1 True"]
        assert resend.story("m-2")[1:5] == ["attempt 1", "info 1", "attempt 2", "ok 1 True"]
        assert {line["offset"] for line in resend.events("attempt")} == {"o-2"}


@in_event_loop
async def test_unknown_policy_is_an_error() -> None:
    """It is told, and nothing is connected."""
    async with driver() as alice:
        alice.connect(1, ["websocket"], "retries=3")
        assert "retries=3" in (await alice.heard("error"))["reason"]


@pytest.mark.parametrize(
    ("style", "told", "offset"),
    [("tutorial", [2, 2, 1], 1), ("hardened", [2, 1], 2), ("forgetful", [2, 2, 1], 0)],
)
@in_event_loop
async def test_receiver_keeps_an_offset(style: str, told: list[int], offset: int) -> None:
    """The tutorial's is that of the latest event; a hardened one has no repeats and keeps the highest; or it is 0."""
    async with chatting() as server, tapped(server.port) as tap, driver() as rita:
        rita.tell("receive", broadcast=EVENT, style=style)
        rita.connect(tap.port, ["websocket"])
        await rita.heard("connected")
        for number in (2, 2, 1):
            await server.broadcast("text", number)
        await rita.heard("received", len(told))
        await server.dismiss()  # which is for good: the library does not come back
        await rita.heard("disconnected")
        rita.connect(tap.port, ["websocket"])
        assert (await rita.heard("connected", 2))["connection"] == 2
        assert [line["server_offset"] for line in rita.events("received")] == told
        assert server.auths == [{"serverOffset": 0}, {"serverOffset": offset}]


@in_event_loop
async def test_reload_forgets_all_but_the_outbox(tmp_path: Path) -> None:
    """A new client, whose tries and attempts are counted on, and whose counter and offset begin again."""
    async with chatting() as server, driver() as alice:
        server.answer = server.forget
        alice.tell("receive", broadcast=EVENT, style="tutorial")
        alice.connect(server.port, ["websocket"], outbox=tmp_path / "outbox")
        await alice.heard("connected")
        alice.post("m-1", None)
        await server.broadcast("text", 7)
        await alice.heard("received")
        await alice.heard("attempt")
        alice.tell("reload")
        assert (await alice.heard("connected", 2))["connection"] == 2
        server.answer = server.acknowledge
        assert (await alice.heard("ok"))["attempt"] > 1
        assert server.auths == [{"serverOffset": 0}] * 2
        assert {offset for _, offset in server.received} == {alice.events("invoke")[0]["offset"]}
        alice.post("m-2", None)
        assert (await alice.heard("invoke", 2))["offset"].endswith("-0")


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@in_event_loop
async def test_reload_tells_the_end_of_what_it_leaves(transport: str) -> None:
    """The connection ends, and of the attempts on it the one without an answer, before the next connection is there."""
    async with chatting() as server, driver() as alice:
        alice.connect(server.port, [transport])
        await alice.heard("connected")
        alice.post("m-1", "o-1")
        await alice.heard("settled")
        server.answer = server.forget
        alice.post("m-2", "o-2")
        await alice.heard("attempt", 2)
        alice.tell("reload")
        assert (await alice.heard("disconnected"))["connection"] == 1
        assert (await alice.heard("connected", 2))["connection"] == 2
        assert alice.story("m-1")[1:] == ["attempt 1", "ok 1 False", "settled acknowledged"]
        assert alice.story("m-2") == ["invoke", "attempt 1", "info 1"]
        assert not alice.events("info")[0]["timed_out"]
        ends = [line["event"] for line in alice.told if line["event"] in ("connected", "disconnected", "info")]
        assert ends == ["connected", "disconnected", "info", "connected"]


@in_event_loop
async def test_reload_tells_no_end_of_what_has_ended() -> None:
    """An attempt that has timed out is over, and so is a connection that the server has closed."""
    async with chatting() as server, driver() as alice:
        server.answer = server.forget
        alice.connect(server.port, ["websocket"], "once")
        await alice.heard("connected")
        alice.post("m-1", "o-1")
        await alice.heard("info")
        await server.dismiss()
        await alice.heard("disconnected")
        alice.tell("reload")
        await alice.heard("connected", 2)
        assert len(alice.events("disconnected")) == 1
        assert alice.story("m-1") == ["invoke", "settled handed-over", "attempt 1", "info 1"]


@pytest.mark.parametrize(("transport", "least", "most"), [("websocket", 0, 1.5), ("polling", 1, DEADLINE_SECONDS)])
@in_event_loop
async def test_disconnect_takes_as_long_as_the_librarys(transport: str, least: float, most: float) -> None:
    """`disconnected` is told when it is over, which over polling waits for the pending poll; a `connect` comes back."""
    async with chatting() as server, driver() as alice:
        # Long before the next ping, also on a busy machine.
        server.io.eio.ping_interval = server.io.eio.ping_timeout = 3
        alice.connect(server.port, [transport])
        await alice.heard("connected")
        began = time.monotonic()
        alice.tell("disconnect")
        await alice.heard("disconnected")
        assert least < time.monotonic() - began < most
        alice.connect(server.port, [transport])
        await alice.heard("connected", 2)
        began = time.monotonic()
        alice.tell("stop")
        assert await alice.ended() == 0
        assert time.monotonic() - began < 2


@in_event_loop
async def test_poll_that_died_is_sent_again_behind_everybodys_back() -> None:
    """What the pending poll's response carried is lost, and the client says nothing: it is the stock one."""
    async with chatting() as server, tapped(server.port) as tap, driver() as rita:
        rita.tell("receive", broadcast=EVENT, style="hardened")
        rita.connect(tap.port, ["polling"])
        await rita.heard("connected")
        await seen(lambda: rita.events("wire") and rita.events("wire")[-1]["poll_pending"], "the next poll")
        before = polls(tap)
        tap.rule = limit("down", 50)
        await server.broadcast("lost", 1)
        await seen(lambda: polls(tap) > before, "the same poll again")
        tap.rule = lambda *_: None
        await server.broadcast("text", 2)
        assert (await rita.heard("received"))["content"] == "text"
        assert rita.events("disconnected", "error") == []


def test_nothing_of_the_library_is_changed() -> None:
    """Importing the driver leaves the packet limit and the retry alone."""
    code = (
        "import asyncio, sys, engineio.payload, harness.clients.stock as stock\n"
        "async def retries():\n"
        "    async with stock.Wire(print).session() as session: return session._retry_connection\n"
        "print(engineio.payload.Payload.max_decode_packets, asyncio.run(retries()))\n"
        "print('harness.clients.connection' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "16 True\nFalse\n"
