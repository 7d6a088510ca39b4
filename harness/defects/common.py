"""What the reproductions share: processes that never outlive them, Toxiproxy's HTTP API, and an onlooker on the wire.

Each reproduction is a script of its own; it needs this file, `server.py`, the packages of `requirements.txt`, and for
most of them the program `toxiproxy-server` (2.12).
"""

import argparse
import asyncio
import contextlib
import gc
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp

CHAT = "chat message"
_BEGAN = time.monotonic()

# Kills process groups and removes a folder when its standard input ends: whatever became of the script.
_JANITOR = """
import contextlib, os, shutil, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
groups = [int(line) for line in sys.stdin]
for group in groups:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class CannotTellError(Exception):
    """The schedule could not be carried out, so nothing can be said about the defect."""


def say(text: str) -> None:
    """Print an observation with the seconds since the beginning."""
    print(f"{time.monotonic() - _BEGAN:6.2f}  {text}", flush=True)


async def until(true: Callable[[], Any], what: str, seconds: float = 5.0) -> None:
    """Wait until something is true.

    Raises:
        CannotTellError: it is not within these seconds.
    """
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise CannotTellError(f"waited {seconds:g} s in vain for {what}")
        await asyncio.sleep(0.005)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Bench:
    """Where a reproduction takes place: a folder of its own, and processes that end with it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.folder = Path(tempfile.mkdtemp(prefix="reproduce-"))
        self.database = self.folder / "chat.db"
        self._janitor = subprocess.Popen(
            [sys.executable, "-c", _JANITOR, self.folder], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self._started = 0

    def close(self) -> None:
        """Kill what was started, and remove the folder."""
        assert self._janitor.stdin is not None
        self._janitor.stdin.close()
        self._janitor.wait(timeout=10)

    async def start(self, command: list[str], port: int) -> None:
        """Start a program and wait until it listens.

        Raises:
            CannotTellError: it does not.
        """
        assert self._janitor.stdin is not None
        self._started += 1
        log = self.folder / f"{self._started}.log"
        with log.open("wb") as output:
            process = _start(command, output)
        self._janitor.stdin.write(f"{process.pid}\n")
        self._janitor.stdin.flush()

        def listens() -> bool:
            if process.poll() is not None:
                raise CannotTellError(f"{command} ended: {log.read_text(errors='replace')[-500:]}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        await until(listens, f"{command} to listen", seconds=10)

    async def server(self, *options: str) -> int:
        """Start the chat server; returns its port."""
        port = free_port()
        server = [sys.executable, str(self._options.server), "--port", str(port), "--database", str(self.database)]
        await self.start([*server, *options], port)
        return port

    async def toxiproxy(self) -> "Toxiproxy":
        """Start Toxiproxy.

        Raises:
            CannotTellError: there is none.
        """
        program = shutil.which(self._options.toxiproxy)
        if program is None:
            raise CannotTellError(f"no program {self._options.toxiproxy}: give --toxiproxy PATH")
        port = free_port()
        await self.start([program, "-host", "127.0.0.1", "-port", str(port)], port)
        return Toxiproxy(f"http://127.0.0.1:{port}")

    def rows(self) -> list[str]:
        """The contents that are stored."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return [content for (content,) in database.execute("SELECT content FROM messages ORDER BY id")]


def _start(command: list[str], output: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


class Toxiproxy:
    """One proxy on a Toxiproxy server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.port = free_port()

    async def create(self, upstream_port: int) -> None:
        """Lead its port to another one."""
        addresses = {"listen": f"127.0.0.1:{self.port}", "upstream": f"127.0.0.1:{upstream_port}"}
        await self._request("POST", "/proxies", {"name": "link", "enabled": True, **addresses})

    async def add(self, kind: str, stream: str, **attributes: int) -> None:
        """Add a toxic, also to the connections that are open."""
        toxic = {"name": kind, "type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes}
        await self._request("POST", "/proxies/link/toxics", toxic)

    async def remove(self, kind: str) -> None:
        """Remove a toxic."""
        await self._request("DELETE", f"/proxies/link/toxics/{kind}", None)

    async def enable(self, *, enabled: bool) -> None:
        """Accept connections, or close those that are open and refuse others."""
        await self._request("POST", "/proxies/link", {"enabled": enabled})

    async def _request(self, method: str, path: str, body: object) -> None:
        timeout = aiohttp.ClientTimeout(total=8)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, self._url + path, json=body) as response,
        ):
            if response.status >= 300:
                raise CannotTellError(f"Toxiproxy said {response.status} to {method} {path}: {await response.text()}")


class Onlooker:
    """Passes on what goes between Toxiproxy and the server, and counts it.

    Attributes:
        polls: how many polls (GETs of a session) were sent.
        poll_pending: whether the last of them has no answer yet.
        answer: the bytes of the last answer to a poll, those of its head and those of its body.
        handshakes: how many GETs without a session were sent.
        handshake: the bytes of the last answer to one.
        posts: the statuses of the answers to POSTs.
        waiting: how many wait to be let through.
        upgrade_bytes: what went upstream on a connection up to the end of its request for an upgrade.
    """

    def __init__(self) -> None:
        self.polls = 0
        self.poll_pending = False
        self.answer = (0, 0)
        self.handshakes = 0
        self.handshake = (0, 0)
        self.posts: list[int] = []
        self._turnstile: asyncio.Semaphore | None = None
        self.waiting = 0
        self.upgrade_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def between(cls, port: int) -> AsyncIterator[tuple["Onlooker", int]]:
        """One that leads to this port, and its own port."""
        self = cls()

        async def pair(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._turnstile is not None:
                self.waiting += 1
                await self._turnstile.acquire()
                self.waiting -= 1
            there = await asyncio.open_connection("127.0.0.1", port)
            exchange = _Exchange()
            for work in (
                self._pass(reader, there[1], exchange, self._up),
                self._pass(there[0], writer, exchange, self._down),
            ):
                task = asyncio.create_task(work)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(pair, "127.0.0.1", 0)
        try:
            yield self, server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()

    def let_in_one(self) -> None:
        """Let the next connection through, and have others wait."""
        self._turnstile = asyncio.Semaphore(1)

    def let_in_all(self) -> None:
        """Let those through that wait, and all that come."""
        turnstile, self._turnstile = self._turnstile, None
        if turnstile is not None:
            for _ in range(self.waiting):
                turnstile.release()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        exchange: "_Exchange",
        look: Callable[["_Exchange", bytes], None],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**18):
                look(exchange, data)
                writer.write(data)
                await writer.drain()
        writer.close()

    def _up(self, exchange: "_Exchange", data: bytes) -> None:
        exchange.sent += len(data)
        if not data.startswith((b"GET ", b"POST ")):
            return
        exchange.kind = "post"
        if data.startswith(b"GET ") and b"transport=polling" in data:
            exchange.kind = "poll" if b"sid=" in data else "handshake"
        elif data.startswith(b"GET "):
            exchange.kind = "upgrade"
            self.upgrade_bytes = exchange.sent
        if exchange.kind == "poll":
            self.polls += 1
            self.poll_pending = True
        elif exchange.kind == "handshake":
            self.handshakes += 1

    def _down(self, exchange: "_Exchange", data: bytes) -> None:
        head, end, _ = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 "):
            return
        lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        length = (len(head) + len(end), lengths[0] if lengths else 0)
        match exchange.kind:
            case "poll":
                self.answer, self.poll_pending = length, False
            case "handshake":
                self.handshake = length
            case "post":
                self.posts.append(int(head[9:12]))


class _Exchange:
    """What an onlooker has seen last on a connection."""

    sent = 0
    kind = ""


def main(
    schedule: Callable[[Bench], Coroutine[Any, Any, tuple[bool, str]]], *, title: str | None, seconds: float
) -> None:
    """Carry out a schedule and exit: 0 when the defect showed itself, 1 when not.

    Args:
        schedule: what to do; whether the defect showed itself, and what was seen.
        title: of the defect.
        seconds: it never takes longer.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--server", type=Path, default=Path(sys.argv[0]).resolve().parent / "server.py")
    parser.add_argument("--toxiproxy", default="toxiproxy-server", help="the program, if it is not on PATH")
    bench = Bench(parser.parse_args())
    try:
        reproduced, seen = asyncio.run(_within(schedule(bench), seconds))
    except (CannotTellError, TimeoutError, OSError, aiohttp.ClientError) as error:
        reproduced, seen = False, f"cannot tell: {error or f'not over after {seconds:g} s'}"
    finally:
        bench.close()
    print(f"{'reproduced' if reproduced else 'not reproduced'}: {seen}", flush=True)
    sys.exit(0 if reproduced else 1)


async def _within(work: Awaitable[tuple[bool, str]], seconds: float) -> tuple[bool, str]:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_tell_of_error)
    try:
        async with asyncio.timeout(seconds):
            return await work
    finally:
        loop.set_exception_handler(lambda *_: None)  # a client that cannot be closed any more is not worth a line
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=2)
        gc.collect()  # what closes itself needs the loop


def _tell_of_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if "exception" in context:
        say(f"asyncio: {context['message']}: {context['exception']!r}")
