"""Finding and installing Toxiproxy with stand-ins for the network and for Go; everything else with the real one."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import toxiproxy as library

from harness import ports, reaper, toxiproxy, waiting
from harness.errors import HarnessError, ToxiproxyError
from harness.install import Binary, locate
from harness.process import ProcessGroup
from harness.toxiproxy import Proxy, Stream, Toxic, Toxiproxy
from tests.standins import NOWHERE, executable, http_server, reply, serving, waiting_for

# --- the real server --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def binary() -> Binary:
    """The real Toxiproxy; installed now if need be."""
    return locate()


@asynccontextmanager
async def _toxiproxy(binary: Binary, tmp_path: Path) -> AsyncIterator[Toxiproxy]:
    server = await Toxiproxy.start(binary, tmp_path / "toxiproxy.log")
    try:
        yield server
    finally:
        await server.stop()


@contextmanager
def _foreign_server(binary: Binary, tmp_path: Path) -> Iterator[str]:
    """A Toxiproxy that somebody else started; yields its URL."""
    reservation = ports.reserve()
    with (tmp_path / "foreign.log").open("wb") as log:
        process = subprocess.Popen(
            [binary.path, "-host", "127.0.0.1", "-port", str(reservation.port)], stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{reservation.port}"
    try:
        asyncio.run(waiting.until(lambda: _answers(url), awaited="a Toxiproxy to answer", timeout_seconds=10))
        yield url
        assert process.poll() is None, "the foreign Toxiproxy has ended"
    finally:
        process.kill()
        process.wait()
        reservation.release()


def _answers(url: str, timeout_seconds: float = 10) -> bool:
    try:
        _api(url, "GET", "/version", timeout_seconds=timeout_seconds)
    except OSError:
        return False
    return True


def _api(url: str, method: str, path: str, body: object = None, timeout_seconds: float = 10) -> Any:
    """Call the API as somebody else would."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, method=method, data=data)  # noqa: S310 - an address of this test
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        request, timeout=timeout_seconds
    ) as response:
        text = response.read()
    return json.loads(text) if text else None


@dataclass
class _Link:
    """A connection through a proxy: the client's end and the server's."""

    proxy: Proxy
    near: socket.socket
    far: socket.socket


@asynccontextmanager
async def _link(server: Toxiproxy, name: str = "run-alice") -> AsyncIterator[_Link]:
    with ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        proxy = await server.proxy(name, listener.getsockname()[1])
        near = closing.enter_context(await _connected(proxy.port))
        accepting = asyncio.get_running_loop().sock_accept(listener)
        far, _ = await waiting.within(accepting, awaited="a connection", timeout_seconds=5)
        closing.enter_context(far)
        yield _Link(proxy, near, far)


async def _connected(port: int) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    try:
        connecting = asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        await waiting.within(connecting, awaited=f"a connection to {port}", timeout_seconds=5)
    except OSError:
        client.close()
        raise
    return client


async def _send(end: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(end, data)


async def _received(end: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes, or fewer if the connection ends before."""
    data = b""
    while len(data) < count:
        chunk = await waiting.within(
            asyncio.get_running_loop().sock_recv(end, count - len(data)),
            awaited=f"{count} bytes",
            timeout_seconds=5,
            last_seen=lambda: len(data),  # noqa: B023 - called before the loop goes on
        )
        if not chunk:
            break
        data += chunk
    return data


def _nothing_to_read(end: socket.socket) -> bool:
    try:
        end.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


async def _is_refused(port: int) -> bool:
    try:
        (await _connected(port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_owned_server_answers_while_it_is_in_use_and_is_gone_afterwards(binary: Binary, tmp_path: Path) -> None:
    """`start` returns a server that answers on 127.0.0.1; `stop` leaves no process, proxy or listening port."""

    async def body() -> None:
        server = await Toxiproxy.start(binary, tmp_path / "toxiproxy.log")
        proxy = await server.proxy("run-alice", 9)
        await server.alive()
        assert server.owned
        assert server.version == binary.version
        assert server.url.startswith("http://127.0.0.1:")
        assert _api(server.url, "GET", "/version") == {"version": binary.version}

        await server.stop()

        assert await _is_refused(int(server.url.rpartition(":")[2]))
        assert await _is_refused(proxy.port)
        assert not _reserved(proxy.port)
        with pytest.raises(ToxiproxyError, match="is deleted"):
            await proxy.enable()
        for call in (server.alive, lambda: server.proxy("run-bob", 9)):
            with pytest.raises(ToxiproxyError, match="it has been stopped"):
                await call()
        await server.stop()

    asyncio.run(body())


def _reserved(port: int) -> bool:
    """Whether somebody holds a reservation of this port."""
    companion = ports._bound(port + ports._COMPANION_OFFSET)
    if companion is not None:
        companion.close()
    return companion is None


def test_a_second_server_in_one_python_process_is_refused_until_the_first_is_stopped(
    binary: Binary, tmp_path: Path
) -> None:
    """The library knows one server per process; a second would silently get the first one's calls."""

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server:
            with pytest.raises(HarnessError, match=f"while the one at {server.url} is in use"):
                await Toxiproxy.start(binary, tmp_path / "second.log")
            with pytest.raises(HarnessError, match=f"while the one at {server.url} is in use"):
                await Toxiproxy.use("http://127.0.0.1:8474")
            await server.alive()
        async with _toxiproxy(binary, tmp_path) as server:
            await server.alive()

    asyncio.run(body())


def test_a_port_that_was_taken_meanwhile_is_left_to_its_owner(
    binary: Binary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer by another server is not taken for one's own, even if it is a Toxiproxy: another port is tried."""
    reserve = ports.reserve
    with _foreign_server(binary, tmp_path) as foreign:
        offers = [ports.Reservation(int(foreign.rpartition(":")[2]), lambda: None)]
        monkeypatch.setattr(ports, "reserve", lambda: offers.pop() if offers else reserve())

        async def body() -> None:
            async with _toxiproxy(binary, tmp_path) as server:
                assert not offers
                assert server.url != foreign
                await server.proxy("run-alice", 9)

        asyncio.run(body())
        assert _api(foreign, "GET", "/proxies") == {}


def test_ports_that_are_always_taken_are_an_error(
    binary: Binary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three ports it gives up, and lets another server be used."""
    with serving(200, b'{"version": "2.12.0"}') as foreign:
        taken = int(foreign.rpartition(":")[2])
        with monkeypatch.context() as patch:
            patch.setattr(ports, "reserve", lambda: ports.Reservation(taken, lambda: None))
            with pytest.raises(ToxiproxyError, match="3 ports in a row were taken"):
                asyncio.run(Toxiproxy.start(binary, tmp_path / "toxiproxy.log"))

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server:
            await server.alive()

    asyncio.run(body())


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("#!/bin/sh\necho cannot do this\nexit 3\n", "exited with status 3 while it started"),
        ("#!/bin/sh\necho cannot do this\nexec sleep 60\n", "waited 0.5 s for"),
    ],
)
def test_a_server_that_does_not_start_is_an_error_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    """A server that exits or never answers is ended, and what it printed is told."""
    monkeypatch.setattr(toxiproxy, "_START_TIMEOUT_SECONDS", 0.5)
    fake = Binary(executable(tmp_path / "fake", program), "PATH", "2.12.0")

    with pytest.raises(ToxiproxyError, match=reason) as caught:
        asyncio.run(Toxiproxy.start(fake, tmp_path / "toxiproxy.log"))

    assert "cannot do this" in str(caught.value)


def test_a_program_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    """A binary that vanished after it was located is named."""
    with pytest.raises(ToxiproxyError, match=r"cannot start .*nothing-there"):
        asyncio.run(Toxiproxy.start(Binary(tmp_path / "nothing-there", "PATH", "git"), tmp_path / "log"))


def test_the_users_proxy_is_not_used_for_the_api(
    binary: Binary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With HTTP_PROXY set, calls to 127.0.0.1 still go there directly."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server:
            proxy = await server.proxy("run-alice", 9)
            await proxy.disable()
            await proxy.delete()

    asyncio.run(body())


# --- somebody else's server -------------------------------------------------------------------------------------


def test_on_somebody_elses_server_only_our_own_proxies_are_touched(binary: Binary, tmp_path: Path) -> None:
    """Their proxy keeps its state, toxics and connections; ours are gone at the end, and their server runs on."""

    async def body(url: str) -> None:
        foreign = {"name": "theirs", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:9", "enabled": True}
        _api(url, "POST", "/proxies", foreign)
        _api(url, "POST", "/proxies/theirs/toxics", {"type": "latency", "attributes": {"latency": 7}})
        before = _api(url, "GET", "/proxies/theirs")

        server = await Toxiproxy.use(url + "/")
        assert not server.owned
        assert server.url == url
        assert server.version == binary.version
        await server.alive()
        async with _link(server) as link:
            await link.proxy.add_toxic("slow", "latency", "upstream", {"latency": 1})
            await link.proxy.disable()
            await link.proxy.enable()
            await link.proxy.remove_toxic("slow")
        left = await server.proxy("run-left", 9)
        assert set(_api(url, "GET", "/proxies")) == {"theirs", "run-alice", "run-left"}
        await server.stop()

        assert _api(url, "GET", "/proxies") == {"theirs": before}
        assert not _reserved(left.port)

    with _foreign_server(binary, tmp_path) as url:
        asyncio.run(body(url))


def test_a_name_that_somebody_else_uses_is_refused_and_theirs_is_kept(binary: Binary, tmp_path: Path) -> None:
    """A proxy that exists already is neither taken over nor deleted, by us or by the reaper."""
    held: list[str] = []

    async def body(url: str) -> None:
        _api(url, "POST", "/proxies", {"name": "run-alice", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:9"})
        before = _api(url, "GET", "/proxies")
        server = await Toxiproxy.use(url)
        with pytest.raises(ToxiproxyError, match="a proxy of that name is there already"):
            await server.proxy("run-alice", 9)
        await server.stop()
        assert _api(url, "GET", "/proxies") == before

    with _foreign_server(binary, tmp_path) as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reaper, "hold", lambda _, name: held.append(str(name)))
        asyncio.run(body(url))
    assert held == []


def test_a_harness_that_is_killed_leaves_nothing_on_somebody_elses_server(binary: Binary, tmp_path: Path) -> None:
    """SIGKILL of the harness: its proxies go, theirs stay, also one that has the name of one that we had deleted."""
    script = """
import asyncio, os, signal, sys
from harness.toxiproxy import Toxiproxy
async def main():
    server = await Toxiproxy.use(sys.argv[1])
    await (await server.proxy("run-deleted", 9)).delete()
    await server.proxy("run-alice", 9)
    print("made", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    with _foreign_server(binary, tmp_path) as url:
        theirs = {"listen": "127.0.0.1:0", "upstream": "127.0.0.1:9"}
        _api(url, "POST", "/proxies", {"name": "theirs", **theirs})
        with subprocess.Popen(
            [sys.executable, "-c", script, url],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == b"made\n"
            _api(url, "POST", "/proxies", {"name": "run-deleted", **theirs})
            run.communicate(timeout=30)

        assert run.returncode == -signal.SIGKILL
        asyncio.run(
            waiting.until(
                lambda: set(_api(url, "GET", "/proxies")) == {"theirs", "run-deleted"},
                awaited="the reaper to delete the proxy",
                timeout_seconds=10,
                last_seen=lambda: _api(url, "GET", "/proxies"),
            )
        )


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8474",
        "http://127.0.0.1",
        "http://127.0.0.1:0",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "https://127.0.0.1:8474",
        "http://127.0.0.1:8474/proxies",
        "http://127.0.0.1:8474?x",
        "http://me@127.0.0.1:8474",
        "http://:8474",
        "http://[::1:8474",
        "",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """What the user gave is quoted, with the form that is expected."""
    with pytest.raises(ToxiproxyError, match="it should read http://HOST:PORT") as caught:
        asyncio.run(Toxiproxy.use(url))

    assert repr(url) in str(caught.value)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}", b"[]", b'{"version": 2}', b""])
def test_another_kind_of_server_at_the_address_is_refused(body: bytes) -> None:
    """Only what answers as Toxiproxy does is used; there is no fall-back to an own server."""
    with serving(200, body) as url, pytest.raises(ToxiproxyError, match=f"what answers at {url} is no Toxiproxy"):
        asyncio.run(Toxiproxy.use(url))


def test_nothing_at_the_address_is_an_error_and_frees_the_place(binary: Binary, tmp_path: Path) -> None:
    """A named server that does not answer is told, and another one can be used afterwards."""

    async def body() -> None:
        with pytest.raises(ToxiproxyError, match=f"Toxiproxy at {NOWHERE} is dead.*Connection refused"):
            await Toxiproxy.use(NOWHERE)
        async with _toxiproxy(binary, tmp_path) as server:
            await server.alive()

    asyncio.run(body())


# --- a server that is stuck or dead -----------------------------------------------------------------------------


@contextmanager
def _scripted(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A stand-in for a Toxiproxy in trouble: it answers /version, and lists no proxies; the rest is `answer`."""

    def serve(request: BaseHTTPRequestHandler) -> None:
        if request.path == "/version":
            reply(request, 200, b'{"version": "2.12.0"}')
        elif request.command == "GET" and request.path == "/proxies":
            reply(request, 200, b"{}")
        else:
            answer(request)

    with http_server(serve) as url:
        yield url


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (503, b"", "control plane stuck.*restart Toxiproxy"),
        (500, b'{"error": "listen tcp: no", "status": 500}', "answers HTTP 500: listen tcp: no"),
        (500, b"boom", "answers HTTP 500: 'boom'"),
        (403, b"User agent not allowed", "answers HTTP 403: 'User agent not allowed'"),
    ],
)
def test_an_error_answer_is_told_in_the_servers_words(status: int, body: bytes, reason: str) -> None:
    """What the library takes for success, or trips over, is a ToxiproxyError that names the proxy and the cause."""

    async def run(url: str) -> None:
        server = await Toxiproxy.use(url)
        with pytest.raises(ToxiproxyError, match=f"proxy 'run-alice' on .*: cannot create it: .*{reason}"):
            await server.proxy("run-alice", 9)
        await server.stop()

    with _scripted(lambda request: reply(request, status, body)) as url:
        asyncio.run(run(url))


def test_a_server_that_does_not_answer_is_an_error_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs ends by itself, and the event loop goes on meanwhile."""
    monkeypatch.setattr(toxiproxy, "_API_TIMEOUT_SECONDS", 0.2)
    over = threading.Event()

    async def run(url: str) -> None:
        server = await Toxiproxy.use(url)
        try:
            with pytest.raises(ToxiproxyError, match=r"did not answer POST within 0.2 s.*restart Toxiproxy"):
                await server.proxy("run-alice", 9)
        finally:
            over.set()
            await server.stop()

    with _scripted(waiting_for(over)) as url:
        asyncio.run(run(url))


def _every_call(server: Toxiproxy, proxy: Proxy) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "alive": server.alive,
        "enable": proxy.enable,
        "disable": proxy.disable,
        "add": lambda: proxy.add_toxic("slow", "latency", "upstream", {"latency": 1}),
        "change": lambda: proxy.change_toxic(Toxic("slow", "latency", "upstream", {"latency": 2})),
        "remove": lambda: proxy.remove_toxic("slow"),
        "renew": proxy.renew,
        "create": lambda: server.proxy("run-bob", 9),
        "delete": proxy.delete,
    }


def test_after_its_death_every_call_says_so_quickly(binary: Binary, tmp_path: Path) -> None:
    """A Toxiproxy that was killed is told from a dead target, with its exit and its last log lines."""

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server:
            proxy = await server.proxy("run-alice", 9)
            _signal(server, signal.SIGKILL)
            for name, call in _every_call(server, proxy).items():
                started = time.monotonic()
                with pytest.raises(ToxiproxyError) as caught:
                    await call()
                assert time.monotonic() - started < 2, name
                assert f"Toxiproxy at {server.url} is dead" in str(caught.value), name
                assert "was ended by SIGKILL" in str(caught.value), name
                assert "Starting Toxiproxy" in str(caught.value) or "Started proxy" in str(caught.value), name
            assert not _reserved(proxy.port)

    asyncio.run(body())


def _signal(server: Toxiproxy, number: signal.Signals) -> None:
    process = server._server.process
    assert isinstance(process, ProcessGroup)
    process.send_signal(number)


def test_a_call_in_flight_ends_when_the_server_is_killed(binary: Binary, tmp_path: Path) -> None:
    """A call that a stopped Toxiproxy has accepted and not answered fails at its death."""

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server:
            proxy = await server.proxy("run-alice", 9)
            _signal(server, signal.SIGSTOP)
            # The threads of a process stop one after the other, and until then some still answer.
            await waiting.until(
                lambda: not _answers(server.url, timeout_seconds=0.2), awaited="it to stop", timeout_seconds=10
            )
            call = asyncio.create_task(proxy.disable())
            await asyncio.wait({call}, timeout=0.1)
            assert not call.done()
            _signal(server, signal.SIGKILL)
            with pytest.raises(ToxiproxyError, match="is dead"):
                await waiting.within(call, awaited="the call to fail", timeout_seconds=3)

    asyncio.run(body())


# --- proxies and toxics -----------------------------------------------------------------------------------------


def _with_link(binary: Binary, tmp_path: Path, body: Callable[[_Link], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with _toxiproxy(binary, tmp_path) as server, _link(server) as link:
            await body(link)

    asyncio.run(run())


def test_a_proxy_carries_both_directions_unchanged(binary: Binary, tmp_path: Path) -> None:
    """Without a toxic a link is transparent."""

    async def body(link: _Link) -> None:
        await _send(link.near, b"to the server")
        assert await _received(link.far, 13) == b"to the server"
        await _send(link.far, b"to the client")
        assert await _received(link.near, 13) == b"to the client"

    _with_link(binary, tmp_path, body)


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
@pytest.mark.parametrize("limit_bytes", [1, 37])
def test_limit_data_passes_exactly_its_bytes(binary: Binary, tmp_path: Path, stream: Stream, limit_bytes: int) -> None:
    """Counted from the moment it is added, that many bytes arrive, then the end; the other direction is not counted."""

    async def body(link: _Link) -> None:
        source, sink = (link.near, link.far) if stream == "upstream" else (link.far, link.near)
        await _send(source, b"before")
        assert await _received(sink, 6) == b"before"
        await link.proxy.add_toxic("cut", "limit_data", stream, {"bytes": limit_bytes})
        await _send(sink, b"x" * 100)
        assert await _received(source, 100) == b"x" * 100

        data = bytes(range(200))
        await _send(source, data)

        assert await _received(sink, 200) == data[:limit_bytes]

    _with_link(binary, tmp_path, body)


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_a_freeze_loses_nothing_when_it_is_lifted(binary: Binary, tmp_path: Path, stream: Stream) -> None:
    """Bandwidth 0 holds every byte of its direction, lets the other pass, and delivers all on removal."""

    async def body(link: _Link) -> None:
        source, sink = (link.near, link.far) if stream == "upstream" else (link.far, link.near)
        await link.proxy.add_toxic("freeze", "bandwidth", stream, {"rate": 0})
        data = bytes(range(256)) * 40
        await _send(source, data)
        await _send(sink, b"still open")
        assert await _received(source, 10) == b"still open"
        assert _nothing_to_read(sink)

        await link.proxy.remove_toxic("freeze")

        assert await _received(sink, len(data)) == data
        await _send(source, b"after")
        assert await _received(sink, 5) == b"after"

    _with_link(binary, tmp_path, body)


def test_toxics_that_are_changed_keep_what_they_hold(binary: Binary, tmp_path: Path) -> None:
    """What is held then meets a limit as it is by then, and so many bytes of it get through."""

    async def body(link: _Link) -> None:
        freeze, limit = (
            Toxic("freeze", "bandwidth", "upstream", {"rate": 0}),
            Toxic("limit", "limit_data", "upstream", {}),
        )
        await link.proxy.add_toxic(*freeze)
        await link.proxy.add_toxic(*limit._replace(attributes={"bytes": 1000}))
        data = bytes(range(256))
        await _send(link.near, data)
        await link.proxy.change_toxic(limit._replace(attributes={"bytes": 7}))
        assert _nothing_to_read(link.far)

        await link.proxy.change_toxic(freeze._replace(attributes={"rate": 1000}))

        assert await _received(link.far, 8) == data[:7]
        with pytest.raises(ToxiproxyError, match=r"cannot change the toxic 'other': .*toxic not found"):
            await link.proxy.change_toxic(freeze._replace(name="other"))

    _with_link(binary, tmp_path, body)


def test_a_proxys_thread_keeps_its_connection_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread has one for each call, and so has one that was not used for longer than that."""
    callers = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        callers.append(request.client_address)
        request.protocol_version = "HTTP/1.1"
        reply(request, 200, b"{}")
        request.close_connection = False

    def called(times: int, initializer: Callable[[], None]) -> int:
        callers.clear()
        with ThreadPoolExecutor(1, initializer=initializer) as thread:
            for _ in range(times):
                thread.submit(toxiproxy._Http().get, f"{url}/version").result()
            thread.submit(toxiproxy._kept.end).result()
        return len(set(callers))

    with http_server(answer) as url:
        assert called(3, toxiproxy._kept.begin) == 1
        assert called(3, lambda: None) == 3
        monkeypatch.setattr(toxiproxy, "_KEPT_SECONDS", 0)
        assert called(3, toxiproxy._kept.begin) == 3


def test_a_disabled_proxy_cuts_and_refuses_and_comes_back_on_its_port(binary: Binary, tmp_path: Path) -> None:
    """Disabling ends the connection and refuses new ones; enabling accepts on the same port, which nobody else got."""

    async def body(link: _Link) -> None:
        await link.proxy.disable()
        assert await _received(link.near, 1) == b""
        assert await _received(link.far, 1) == b""
        assert await _is_refused(link.proxy.port)
        assert _reserved(link.proxy.port)
        port = link.proxy.port

        await link.proxy.enable()

        assert link.proxy.port == port
        assert not await _is_refused(port)

    _with_link(binary, tmp_path, body)


def test_enabling_on_a_stolen_port_is_an_error(binary: Binary, tmp_path: Path) -> None:
    """The library returns normally; here it is an error, and enabling works once the port is free."""

    async def body(link: _Link) -> None:
        await link.proxy.disable()
        thief = socket.create_server(("127.0.0.1", link.proxy.port))
        with thief, pytest.raises(ToxiproxyError, match=r"cannot enable it: .*address already in use"):
            await link.proxy.enable()
        await link.proxy.enable()
        assert not await _is_refused(link.proxy.port)

    _with_link(binary, tmp_path, body)


def test_enabling_and_disabling_twice_changes_nothing(binary: Binary, tmp_path: Path) -> None:
    """Both are safe to repeat: enabling again keeps the connection."""

    async def body(link: _Link) -> None:
        await link.proxy.enable()
        await _send(link.near, b"hello")
        assert await _received(link.far, 5) == b"hello"
        await link.proxy.disable()
        await link.proxy.disable()
        assert await _is_refused(link.proxy.port)

    _with_link(binary, tmp_path, body)


def test_a_proxy_does_not_touch_another_one(binary: Binary, tmp_path: Path) -> None:
    """A fault on one client's link leaves another's alone."""

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server, _link(server, "a") as one, _link(server, "b") as other:
            await one.proxy.add_toxic("hole", "timeout", "upstream", {"timeout": 0})
            await one.proxy.disable()
            await _send(other.near, b"hello")
            assert await _received(other.far, 5) == b"hello"
            await one.proxy.delete()
            await _send(other.far, b"hello")
            assert await _received(other.near, 5) == b"hello"

    asyncio.run(body())


def test_a_deleted_proxy_is_gone_and_its_port_is_given_back(binary: Binary, tmp_path: Path) -> None:
    """Deleting closes, removes and releases; it may be repeated, and its name be used again."""

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server, _link(server) as link:
            await link.proxy.delete()
            await link.proxy.delete()

            assert await _received(link.near, 1) == b""
            assert await _is_refused(link.proxy.port)
            assert not _reserved(link.proxy.port)
            assert _api(server.url, "GET", "/proxies") == {}
            with pytest.raises(ToxiproxyError, match="the proxy 'run-alice' is deleted"):
                await link.proxy.disable()
            await server.proxy("run-alice", 9)

    asyncio.run(body())


# --- renewing ---------------------------------------------------------------------------------------------------


@contextmanager
def _knocking(port: int) -> Iterator[list[list[bytes]]]:
    """Connect again and again from a thread; the last list gets the first bytes of each connection begun since."""
    heard: list[list[bytes]] = [[]]
    over = threading.Event()

    def knock() -> None:
        while not over.is_set():
            into = heard[-1]
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                    into.append(client.recv(100))
            except OSError:
                continue

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        yield heard
    finally:
        over.set()
        thread.join()


@contextmanager
def _greeting(text: bytes) -> Iterator[int]:
    """A server that says something to whoever connects, and hangs up; yields its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:

        def greet() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, suppress(OSError):
                    client.sendall(text)

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_renewed_proxy_is_a_new_one_on_its_old_port(binary: Binary, tmp_path: Path) -> None:
    """The connection ends, toxics are gone, what they held is not delivered, and the same port accepts at once."""

    async def body(link: _Link) -> None:
        port = link.proxy.port
        await link.proxy.add_toxic("hold", "bandwidth", "upstream", {"rate": 0})
        await _send(link.near, b"held")
        await link.proxy.renew()
        assert await _received(link.near, 1) == b""
        assert await _received(link.far, 1) == b""
        assert link.proxy.port == port
        assert not await _is_refused(port)
        assert link.proxy._toxics == {}
        await link.proxy.add_toxic("hold", "bandwidth", "upstream", {"rate": 0})  # the name is free again

    _with_link(binary, tmp_path, body)


def test_a_disabled_proxy_is_enabled_by_renewing(binary: Binary, tmp_path: Path) -> None:
    """A new proxy accepts connections, whatever the old one did."""

    async def body(link: _Link) -> None:
        await link.proxy.disable()
        await link.proxy.renew([Toxic("slow", "latency", "downstream", {"latency": 1})])
        assert not await _is_refused(link.proxy.port)
        await link.proxy.disable()
        await link.proxy.renew()
        assert not await _is_refused(link.proxy.port)

    _with_link(binary, tmp_path, body)


def test_no_connection_passes_before_the_toxics_are_there(binary: Binary, tmp_path: Path) -> None:
    """Somebody who connects all the time gets all of the greeting before, and never more than the toxics let pass."""

    async def body() -> None:
        with _greeting(b"hello") as upstream:
            async with _toxiproxy(binary, tmp_path) as server:
                proxy = await server.proxy("run-alice", upstream)
                with _knocking(proxy.port) as heard:
                    await waiting.until(lambda: b"hello" in heard[-1], awaited="a greeting", timeout_seconds=10)
                    for _ in range(20):
                        await proxy.disable()
                        heard.append([])
                        await proxy.renew(
                            [
                                Toxic("slow", "latency", "downstream", {"latency": 1}),
                                Toxic("cut", "limit_data", "downstream", {"bytes": 2}),
                            ]
                        )
                        await waiting.until(lambda: b"he" in heard[-1], awaited="a cut greeting", timeout_seconds=10)
                        assert set(heard[-1]) <= {b"he", b"h", b""}
                    await proxy.renew()
                    await waiting.until(lambda: b"hello" in heard[-1], awaited="a greeting", timeout_seconds=10)

    asyncio.run(body())


def test_toxics_of_a_renewed_proxy_are_on_the_server_as_they_were_asked_for(binary: Binary, tmp_path: Path) -> None:
    """Each toxic is there under its name, once, and a later one of the same name is refused."""

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server, _link(server) as link:
            await link.proxy.renew([Toxic("a", "latency", "upstream", {"latency": 7}), Toxic(*_HOLE)])
            state = _api(server.url, "GET", f"/proxies/{link.proxy.name}")
            assert state["enabled"] is True
            assert {toxic["name"]: (toxic["type"], toxic["stream"]) for toxic in state["toxics"]} == {
                "a": ("latency", "upstream"),
                "hole": ("timeout", "downstream"),
            }
            with pytest.raises(ToxiproxyError, match="cannot add the toxic 'hole'"):
                await link.proxy.add_toxic(*_HOLE)

    asyncio.run(body())


_HOLE: tuple[str, str, Stream, dict[str, int]] = ("hole", "timeout", "downstream", {"timeout": 0})


def test_a_renewed_proxy_leads_to_another_port(binary: Binary, tmp_path: Path) -> None:
    """From then on, and after further renewals, connections reach the other server; the toxics come with it."""

    async def hello(port: int) -> bytes:
        with await _connected(port) as client:
            return await _received(client, 5)

    async def body() -> None:
        with _greeting(b"first") as first, _greeting(b"other") as other:
            async with _toxiproxy(binary, tmp_path) as server:
                proxy = await server.proxy("run-alice", first)
                port = proxy.port
                assert await hello(port) == b"first"
                await proxy.renew(upstream_port=other)
                assert proxy.port == port
                assert await hello(port) == b"other"
                await proxy.renew()
                assert await hello(port) == b"other"
                await proxy.disable()
                await proxy.enable()
                assert await hello(port) == b"other"
                await proxy.renew([Toxic("cut", "limit_data", "downstream", {"bytes": 3})], upstream_port=first)
                assert await hello(port) == b"fir"

    asyncio.run(body())


@pytest.mark.parametrize("upstream_port", [0, -1, 65536])
def test_a_proxy_is_not_renewed_to_a_port_that_is_none(binary: Binary, tmp_path: Path, upstream_port: int) -> None:
    """A mistake is refused before anything is changed: the connection stays."""

    async def body(link: _Link) -> None:
        with pytest.raises(HarnessError, match=f"{upstream_port} is no port"):
            await link.proxy.renew(upstream_port=upstream_port)
        await _send(link.near, b"still there")
        assert await _received(link.far, 11) == b"still there"

    _with_link(binary, tmp_path, body)


def test_a_proxy_is_not_renewed_with_a_toxic_that_is_none(binary: Binary, tmp_path: Path) -> None:
    """One bad toxic among others is refused before anything is changed: the connection stays."""

    async def body(link: _Link) -> None:
        toxics = [Toxic("slow", "latency", "upstream", {"latency": 1}), Toxic("x", "slicer", "upstream", {})]
        with pytest.raises(HarnessError, match="slicer needs the attribute 'average_size'"):
            await link.proxy.renew(toxics)
        await _send(link.near, b"still there")
        assert await _received(link.far, 11) == b"still there"

    _with_link(binary, tmp_path, body)


def test_renewing_on_a_stolen_port_is_an_error(binary: Binary, tmp_path: Path) -> None:
    """A port that somebody took while the proxy was disabled is told, and renewing works once it is free."""

    async def body(link: _Link) -> None:
        await link.proxy.disable()
        thief = socket.create_server(("127.0.0.1", link.proxy.port))
        with thief, pytest.raises(ToxiproxyError, match=r"cannot renew it: .*address already in use"):
            await link.proxy.renew()
        await link.proxy.renew()
        assert not await _is_refused(link.proxy.port)

    _with_link(binary, tmp_path, body)


# --- toxics -----------------------------------------------------------------------------------------------------

_ALL_TOXICS: dict[str, dict[str, int]] = {
    "bandwidth": {"rate": 0},
    "latency": {"latency": 1, "jitter": 0},
    "limit_data": {"bytes": 0},
    "reset_peer": {"timeout": 0},
    "slicer": {"average_size": 2, "size_variation": 1, "delay": 0},
    "slow_close": {"delay": 1},
    "timeout": {"timeout": 2**31 - 1},
}


def test_every_kind_of_toxic_is_on_the_server_as_it_was_asked_for(binary: Binary, tmp_path: Path) -> None:
    """All kinds, in both directions, with their exact attributes, and none of them afterwards."""

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server:
            proxy = await server.proxy("run-alice", 9)
            streams: list[Stream] = ["upstream", "downstream"]
            for stream in streams:
                for kind, attributes in _ALL_TOXICS.items():
                    await proxy.add_toxic(f"{kind}-{stream}", kind, stream, attributes)
            on_server = _api(server.url, "GET", "/proxies/run-alice/toxics")
            assert {toxic["name"]: (toxic["type"], toxic["stream"], toxic["attributes"]) for toxic in on_server} == {
                f"{kind}-{stream}": (kind, stream, attributes)
                for stream in streams
                for kind, attributes in _ALL_TOXICS.items()
            }
            for toxic in on_server:
                await proxy.remove_toxic(toxic["name"])
            assert _api(server.url, "GET", "/proxies/run-alice/toxics") == []

    asyncio.run(body())


@pytest.mark.parametrize(
    ("kind", "stream", "attributes", "reason"),
    [
        ("lag", "upstream", {}, "there is no kind 'lag', only bandwidth"),
        ("timeout", "up", {"timeout": 0}, "the stream 'up' is not one of upstream, downstream"),
        ("limit_data", "upstream", {"byte": 3}, "limit_data has no attribute 'byte', only bytes"),
        ("limit_data", "upstream", {}, "limit_data needs the attribute 'bytes'"),
        ("limit_data", "upstream", {"bytes": -1}, "bytes -1 is not a whole number from 0"),
        ("limit_data", "upstream", {"bytes": 1.5}, "bytes 1.5 is not a whole number"),
        ("limit_data", "upstream", {"bytes": True}, "bytes True is not a whole number"),
        ("limit_data", "upstream", {"bytes": 2**31}, "is not a whole number from 0 to 2147483647"),
        ("bandwidth", "upstream", {"rate": -1}, "rate -1 is not a whole number from 0"),
        ("latency", "upstream", {"jitter": 3}, "latency needs the attribute 'latency'"),
        ("slicer", "upstream", {}, "slicer needs the attribute 'average_size'"),
        ("slicer", "upstream", {"average_size": 0}, "average_size 0 is not a whole number from 1"),
        ("slicer", "upstream", {"average_size": 2, "size_variation": 10}, "size_variation 10 is not below"),
        ("slicer", "upstream", {"average_size": 2, "size_variation": 2}, "size_variation 2 is not below"),
    ],
)
def test_a_toxic_that_toxiproxy_would_misunderstand_is_never_sent(
    kind: str,
    stream: Any,
    attributes: dict[str, Any],
    reason: str,
) -> None:
    """Misspelt, missing, impossible and fatal settings are refused by name before any call."""
    with pytest.raises(HarnessError, match=reason) as caught:
        toxiproxy._settings("cut", kind, stream, attributes)

    assert str(caught.value).startswith("toxic 'cut': ")


def test_a_refused_toxic_leaves_the_proxy_as_it_was(binary: Binary, tmp_path: Path) -> None:
    """After a refusal nothing is on the server, and the proxy works on."""

    async def body(link: _Link) -> None:
        with pytest.raises(HarnessError, match="rate -1"):
            await link.proxy.add_toxic("crash", "bandwidth", "upstream", {"rate": -1})
        await _send(link.near, b"hello")
        assert await _received(link.far, 5) == b"hello"
        await link.proxy.add_toxic("freeze", "bandwidth", "upstream", {"rate": 0})

    _with_link(binary, tmp_path, body)


Post = Callable[..., object]


def _post(monkeypatch: pytest.MonkeyPatch, instead: Callable[[Post, str, dict[str, object]], object]) -> None:
    """Have something else done where the library would POST."""
    post = library.api.APIConsumer.post
    monkeypatch.setattr(library.api.APIConsumer, "post", lambda url, *, json: instead(post, url, json))


def test_a_toxic_that_the_server_understood_otherwise_is_an_error(
    binary: Binary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's report is compared: an attribute that got lost on the way is silently 0 there."""

    def misspelling(post: Post, url: str, json: dict[str, object]) -> object:
        return post(url, json={**json, "attributes": {"byte": 5}})

    async def body(link: _Link) -> None:
        _post(monkeypatch, misspelling)
        with pytest.raises(ToxiproxyError, match=r"the server reports .*'bytes': 0.* instead of .*'bytes': 5"):
            await link.proxy.add_toxic("cut", "limit_data", "upstream", {"bytes": 5})

    _with_link(binary, tmp_path, body)


@pytest.mark.parametrize("method", ["disable", "enable"])
def test_a_change_that_did_not_happen_is_an_error(
    binary: Binary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A call that returns normally and changed nothing does not pass."""

    async def body(link: _Link) -> None:
        if method == "enable":
            await link.proxy.disable()
        _post(monkeypatch, lambda post, url, json: post(url, json={"enabled": not json["enabled"]}))
        with pytest.raises(ToxiproxyError, match=f"cannot {method} it: the server reports .*'enabled'"):
            await getattr(link.proxy, method)()

    _with_link(binary, tmp_path, body)


def test_what_others_did_to_our_proxy_is_noticed_at_the_next_change(binary: Binary, tmp_path: Path) -> None:
    """Somebody's `reset` in the middle of a fault is an error, not a fault that silently ended."""

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server, _link(server) as link:
            await link.proxy.add_toxic("freeze", "bandwidth", "upstream", {"rate": 0})
            _api(server.url, "POST", "/reset", {})
            with pytest.raises(ToxiproxyError, match=r"with the toxics \[\] instead of"):
                await link.proxy.disable()

    asyncio.run(body())


def test_a_toxic_cannot_be_added_twice_nor_removed_when_it_is_not_there(binary: Binary, tmp_path: Path) -> None:
    """Both are errors in the server's words, and the first toxic stays as it was."""

    async def body(link: _Link) -> None:
        await link.proxy.add_toxic("slow", "latency", "upstream", {"latency": 1})
        with pytest.raises(ToxiproxyError, match=r"cannot add the toxic 'slow': .*toxic already exists"):
            await link.proxy.add_toxic("slow", "latency", "downstream", {"latency": 2})
        with pytest.raises(ToxiproxyError, match=r"cannot remove the toxic 'other': .*toxic not found"):
            await link.proxy.remove_toxic("other")
        await link.proxy.remove_toxic("slow")

    _with_link(binary, tmp_path, body)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "..", "a?b", "a#b", "é", "-a"])
def test_a_name_that_would_break_a_url_is_refused(binary: Binary, tmp_path: Path, name: str) -> None:
    """The library puts names into URLs unquoted."""

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server:
            with pytest.raises(HarnessError, match="is no name for a proxy"):
                await server.proxy(name, 9)
            proxy = await server.proxy("run-alice", 9)
            with pytest.raises(HarnessError, match="is no name for a toxic"):
                await proxy.add_toxic(name, "latency", "upstream", {"latency": 1})
            with pytest.raises(HarnessError, match="is no name for a toxic"):
                await proxy.remove_toxic(name)

    asyncio.run(body())


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_an_upstream_port_that_is_none_is_refused(binary: Binary, tmp_path: Path, port: int) -> None:
    """Toxiproxy would accept it, and every connection would fail later."""

    async def body() -> None:
        async with _toxiproxy(binary, tmp_path) as server:
            with pytest.raises(HarnessError, match=f"{port} is no port"):
                await server.proxy("run-alice", port)

    asyncio.run(body())


def test_a_cancelled_change_is_over_before_the_next_one_begins(
    binary: Binary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that is healed because its caller was cancelled stays healed: no late call undoes that."""
    entered, leave = threading.Event(), threading.Event()

    def slow(post: Post, url: str, json: dict[str, object]) -> object:
        entered.set()
        leave.wait(10)
        return post(url, json=json)

    async def body(link: _Link) -> None:
        _post(monkeypatch, slow)
        cancelled = asyncio.create_task(link.proxy.disable())
        await waiting.until(entered.is_set, awaited="the call to begin", timeout_seconds=5)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        healing = asyncio.create_task(link.proxy.enable())
        await asyncio.wait({healing}, timeout=0.05)
        assert not healing.done()
        leave.set()
        await healing
        assert not await _is_refused(link.proxy.port)

    _with_link(binary, tmp_path, body)


def test_a_creation_that_is_cancelled_leaves_nothing_behind(
    binary: Binary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cancelled call still makes on the server is deleted again."""
    entered, leave, made = threading.Event(), threading.Event(), threading.Event()

    def slow(post: Post, url: str, json: dict[str, object]) -> object:
        entered.set()
        leave.wait(10)
        created = post(url, json=json)
        made.set()
        return created

    async def body(url: str) -> None:
        server = await Toxiproxy.use(url)
        _post(monkeypatch, slow)
        cancelled = asyncio.create_task(server.proxy("run-alice", 9))
        await waiting.until(entered.is_set, awaited="the call to begin", timeout_seconds=5)
        cancelled.cancel()
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await waiting.until(made.is_set, awaited="the call to end", timeout_seconds=5)
        assert _api(url, "GET", "/proxies") == {}
        await server.stop()

    with _foreign_server(binary, tmp_path) as url:
        asyncio.run(body(url))
