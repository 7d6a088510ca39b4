"""The Toxiproxy server: started or joined, and the proxies that the harness has on it.

What toxiproxy-python 0.1.1 lacks is contained here: it has one server address per Python process, no timeouts, it
sends calls for 127.0.0.1 through HTTP_PROXY, takes most error answers for success, and blocks. So its HTTP calls go
through `_Http`, its calls run in threads, and every change is compared with the state that the server then reports.
Apart from link.py no other module imports the library.
"""

import asyncio
import contextlib
import http.client
import json
import re
import select
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args
from urllib.parse import urlsplit

import toxiproxy.api
from toxiproxy.api import APIConsumer
from toxiproxy.exceptions import ProxyExists

from harness import ports, reaper, waiting
from harness.errors import HarnessError, ToxiproxyError, brief, ending, root_cause
from harness.install import Binary
from harness.process import Process, ProcessGroup

T = TypeVar("T")

LOOPBACK = "127.0.0.1"

Stream = Literal["upstream", "downstream"]
"""The direction that a toxic works on: client to server, or server to client."""

# --- the library's HTTP calls -----------------------------------------------------------------------------------

# Lifting a freeze may take Toxiproxy 5 s when the receiver does not read; on a machine that is busy, more.
_API_TIMEOUT_SECONDS = 10.0
_START_TIMEOUT_SECONDS = 10.0
_START_TRIES = 3
_POLL_TIMEOUT_SECONDS = 1.0
_EXIT_TIMEOUT_SECONDS = 1.0
_KEPT_SECONDS = 10.0
_REQUEST_ID = "X-Toxiproxy-Request-Id"


class _Unreachable(ToxiproxyError):
    """No answer: the server is dead, stopped or stuck."""


class _Refused(ToxiproxyError):
    """The server answered that it did not do it."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class PortTaken(ToxiproxyError):
    """Somebody else got the API's port first."""


@dataclass(frozen=True)
class _Answer:
    """As much of a `requests.Response` as toxiproxy-python and this module look at."""

    status_code: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.content)


class _Http:
    """Stands in for the `requests` module in toxiproxy-python.

    Every call has a timeout and passes by the user's proxies, and every answer but success is an error. The standard
    library's client needs a third of the processor time of `requests` for that, which counts in a sweep of a hundred
    cases a second; and half the time of a call is its connection, which a proxy's thread therefore keeps.
    """

    def get(self, url: str, params: None = None, timeout_seconds: float = _API_TIMEOUT_SECONDS) -> _Answer:
        del params  # the library always passes it, and never sets it
        return self._answer("GET", url, None, timeout_seconds)

    def post(self, url: str, data: None = None, json: object = None) -> _Answer:
        del data  # as above
        return self._answer("POST", url, json, _API_TIMEOUT_SECONDS)

    def delete(self, url: str) -> _Answer:
        return self._answer("DELETE", url, None, _API_TIMEOUT_SECONDS)

    def _answer(self, method: str, url: str, said: object, timeout_seconds: float) -> _Answer:
        server = f"Toxiproxy at {_address_in_use()}"
        parts = urlsplit(url)
        body = None if said is None else json.dumps(said)
        try:
            with _kept.connection(parts.netloc, timeout_seconds) as connection:
                connection.request(method, parts.path, body)
                response = connection.getresponse()
                answer = _Answer(response.status, response.headers, response.read())
        except TimeoutError as error:
            raise _Unreachable(
                f"{server} did not answer {method} within {timeout_seconds:g} s: "
                "its control plane is stuck or its process is stopped; restart Toxiproxy"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Unreachable(f"{server} is dead, it does not answer: {root_cause(error)}") from error
        if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            raise ToxiproxyError(f"{server}: control plane stuck (HTTP 503); restart Toxiproxy")
        if answer.status_code >= HTTPStatus.BAD_REQUEST:
            raise _Refused(f"{server} answers HTTP {answer.status_code}: {_reason(answer)}", answer.status_code)
        return answer


class _Kept(threading.local):
    """The connection that a thread keeps between its calls, if it is one that does.

    Toxiproxy ends one that nobody uses after 60 s: long before, it is not used again, so that no call meets that end.
    """

    keeps = False
    idle: http.client.HTTPConnection | None = None
    since = 0.0

    def begin(self) -> None:
        """Keep connections in this thread, until `end`."""
        self.keeps = True

    def end(self) -> None:
        """Close what is kept, and keep nothing more."""
        self.keeps = False
        if self.idle is not None:
            self.idle.close()

    @contextlib.contextmanager
    def connection(self, netloc: str, timeout_seconds: float) -> Iterator[http.client.HTTPConnection]:
        """A connection for one call; closed if that fails."""
        connection, self.idle = self.idle or http.client.HTTPConnection(netloc), None
        if f"{connection.host}:{connection.port}" != netloc or not self._is_fresh(connection):
            connection.close()
            connection = http.client.HTTPConnection(netloc)
        connection.timeout = timeout_seconds
        if connection.sock is not None:
            connection.sock.settimeout(timeout_seconds)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if self.keeps:
            self.idle, self.since = connection, time.monotonic()
        else:
            connection.close()

    def _is_fresh(self, connection: http.client.HTTPConnection) -> bool:
        """Whether it is new, or was used just now and the server has not ended it."""
        if connection.sock is None:
            return True
        ended = select.poll()
        ended.register(connection.sock, select.POLLIN)
        return time.monotonic() - self.since < _KEPT_SECONDS and not ended.poll(0)


_kept = _Kept()
_in_use: str | None = None


def _claim(host: str, port: int) -> str:
    """Point the library, and with it this whole Python process, at one server."""
    global _in_use
    url = f"http://{host}:{port}"
    if _in_use is not None:
        raise HarnessError(
            f"cannot use a Toxiproxy at {url} while the one at {_in_use} is in use: "
            "toxiproxy-python knows only one server per Python process; stop that one first"
        )
    _in_use = url
    APIConsumer.host = host
    APIConsumer.port = port
    toxiproxy.api.requests = _Http()
    return url


def _unclaim() -> None:
    global _in_use
    _in_use = None


def _address_in_use() -> str:
    return f"http://{APIConsumer.host}:{APIConsumer.port}"


def _reason(response: _Answer) -> str:
    """The server's own words."""
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return brief(response.text)


def _version() -> str:
    return _version_in(APIConsumer.get("/version"))


def _version_in(response: _Answer) -> str:
    try:
        version = response.json()["version"]
    except (ValueError, KeyError, TypeError):
        version = None
    if not isinstance(version, str):
        raise ToxiproxyError(
            f"what answers at {_address_in_use()} is no Toxiproxy server: its /version is {brief(response.text)}"
        )
    return version


# --- a server in use --------------------------------------------------------------------------------------------


class _Server:
    """The server as its proxies need it: whose it is, and calls to it that tell how it died."""

    def __init__(
        self,
        url: str,
        process: Process | None,
        listen_host: str = LOOPBACK,
        reserve: Callable[[], ports.Reservation] | None = None,
    ) -> None:
        self.url = url
        self.process = process
        self.listen_host = listen_host
        self.reserve = reserve or ports.reserve
        self.ending = False
        self._retired = False
        self._failure: str | None = None

    def retire(self) -> None:
        """From now on this is not the server that the library calls."""
        self._retired = True

    async def call(self, thread: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        if self._retired:
            raise ToxiproxyError(f"the Toxiproxy at {self.url} is not in use any more: it has been stopped")
        if self._failure is not None:
            raise ToxiproxyError(self._failure)
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, function)
        except _Unreachable as error:
            said = f"{error}{await self._post_mortem()}"
            if self.process is not None and self.process.exit_status is None:
                self._failure = said  # stuck, and going to be replaced: nobody else has to wait for it
            raise ToxiproxyError(said) from error

    async def _post_mortem(self) -> str:
        if self.process is None:
            return ""
        try:
            # The kernel closes a dying process's sockets before its parent hears of its exit.
            status = await waiting.within(
                self.process.wait(), awaited="Toxiproxy to exit", timeout_seconds=_EXIT_TIMEOUT_SECONDS
            )
        except waiting.WaitTimeout:
            return f" (its process {self.process.pid} has not exited)"
        return (
            f"\nIts process {self.process.pid} {ending(status)}; the last lines of {self.process.log}:\n"
            f"{self.process.last_log_lines(count=3)}"
        )


class Launched(NamedTuple):
    """A server that was just started: where its proxies listen, and how much its log had before."""

    process: Process
    old_log_bytes: int = 0
    listen_host: str = LOOPBACK


Launch = Callable[[int], Awaitable[Launched]]


class Toxiproxy:
    """The one Toxiproxy server that this Python process uses; made by `start` or `use`, ended by `stop`.

    It belongs to the event loop in which it was made. Every call fails with a `ToxiproxyError`, at the latest
    when Toxiproxy has not answered for some seconds, and at once when it is dead.
    """

    def __init__(self, server: _Server, version: str, undo: AsyncExitStack) -> None:
        self._server = server
        self._version = version
        self._undo = undo
        self._proxies: list[Proxy] = []
        self._thread = _one_thread("toxiproxy", undo)
        undo.callback(server.retire)

    @property
    def url(self) -> str:
        """The address of its API."""
        return self._server.url

    @property
    def version(self) -> str:
        """What it says that it is: a release, or `git` for a build by `go install`."""
        return self._version

    @property
    def owned(self) -> bool:
        """Whether the harness started it, and so ends it."""
        return self._server.process is not None

    @classmethod
    async def start(cls, binary: Binary, log: Path) -> "Toxiproxy":
        """Start a server of our own on a free port of 127.0.0.1; it ends with the harness in any case.

        Args:
            binary: from `locate`.
            log: the file that its output is appended to.

        Raises:
            ToxiproxyError: it does not start; the text ends with its last log lines.
            HarnessError: this Python process already uses another one.
        """

        async def launch(port: int) -> Launched:
            before = size_bytes(log)
            return Launched(_started(binary, port, log), before)

        return await cls.launched(launch, str(binary.path), ports.reserve)

    @classmethod
    async def launched(cls, launch: Launch, what: str, reserve: Callable[[], ports.Reservation]) -> "Toxiproxy":
        """Start a server of our own by `launch`, which is given the port of its API; it ends with the harness.

        Args:
            launch: has it listen on that port, and log what it is asked.
            what: is started, in words.
            reserve: gives the ports of its proxies.

        Raises:
            ToxiproxyError: it does not start; the text ends with its last log lines.
            HarnessError: this Python process already uses another one.
        """
        for _ in range(_START_TRIES):
            try:
                return await cls._launched_once(launch, reserve)
            except PortTaken:
                continue
        raise ToxiproxyError(f"{what}: {_START_TRIES} ports in a row were taken while it started")

    @classmethod
    async def _launched_once(cls, launch: Launch, reserve: Callable[[], ports.Reservation]) -> "Toxiproxy":
        async with AsyncExitStack() as undo:
            reservation = ports.reserve()
            undo.callback(reservation.release)
            url = _claim(LOOPBACK, reservation.port)
            undo.callback(_unclaim)
            launched = await launch(reservation.port)
            process = launched.process
            undo.push_async_callback(process.kill)
            version = await _first_answer(process, launched.old_log_bytes)
            return cls(_Server(url, process, launched.listen_host, reserve), version, undo.pop_all())

    @classmethod
    async def use(cls, url: str) -> "Toxiproxy":
        """Use a server that is already running; nothing on it is touched but the proxies made through this object.

        Args:
            url: the address of its API, `http://HOST:PORT`.

        Raises:
            ToxiproxyError: the address is no such URL, or no Toxiproxy answers there.
            HarnessError: this Python process already uses another one.
        """
        host, port = _host_and_port(url)
        async with AsyncExitStack() as undo:
            address = _claim(host, port)
            undo.callback(_unclaim)
            version = await asyncio.to_thread(_version)
            return cls(_Server(address, None), version, undo.pop_all())

    async def stop(self) -> None:
        """Delete the proxies that are left, end the server if it is owned, and let another one be used.

        Raises:
            ToxiproxyError: a proxy could not be deleted from a server that is not owned.
        """
        async with self._undo:
            # An owned server takes its proxies with it.
            self._server.ending = self.owned
            await _delete(self._proxies)

    async def alive(self) -> None:
        """Make sure that the server answers, to tell its death from the target's.

        Raises:
            ToxiproxyError: it has exited (with its last log lines) or does not answer.
        """
        await self._server.call(self._thread, _version)

    async def is_usable(self) -> bool:
        """Whether the server answers."""
        try:
            await self.alive()
        except ToxiproxyError:
            return False
        return True

    async def proxy(self, name: str, upstream_port: int, upstream_host: str = LOOPBACK) -> "Proxy":
        """Make a proxy from a free port of 127.0.0.1 to `upstream_port` that accepts connections.

        Args:
            name: unique on the server; it starts with something that only this run has.
            upstream_port: the target's port; nothing needs to listen there yet.
            upstream_host: where that is, as Toxiproxy reaches it.

        Raises:
            ToxiproxyError: it cannot be made, or the name is taken.
            HarnessError: the name or the port cannot be one.
        """
        proxy = await Proxy.create(self._server, name, upstream_port, upstream_host)
        self._proxies.append(proxy)
        return proxy


def _one_thread(name: str, undo: AsyncExitStack) -> ThreadPoolExecutor:
    """A thread for blocking calls, which carries them out in order.

    The event loop's default pool does not: and it is small, so that calls waiting for a database may fill it.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_kept.begin)
    undo.callback(thread.shutdown, wait=False)
    undo.callback(thread.submit, _kept.end)
    return thread


def _started(binary: Binary, port: int, log: Path) -> ProcessGroup:
    command = [str(binary.path), "-host", "127.0.0.1", "-port", str(port)]
    try:
        # At this level it logs the requests that it answers, see `_first_answer`.
        return ProcessGroup(command, log=log, env={"LOG_LEVEL": "debug"})
    except HarnessError as error:
        raise ToxiproxyError(str(error)) from error


def size_bytes(log: Path) -> int:
    """How much a log has by now, which what is started next has not said."""
    return log.stat().st_size if log.exists() else 0


async def _first_answer(process: Process, old_log_bytes: int) -> str:
    """Wait until `process`, and not another server on the same port, answers, and return its version.

    When the port is taken Toxiproxy keeps running, so a living process and an answer prove nothing, not even
    together. But each answer carries an id, which is also in the log of the process that gave it.
    """

    def printed() -> str:
        return process.log.read_bytes()[old_log_bytes:].decode(errors="replace")

    def last_seen() -> str:
        return f"its last log lines\n{process.last_log_lines()}"

    def asked() -> str | None:
        try:
            response = APIConsumer.get("/version", timeout_seconds=_POLL_TIMEOUT_SECONDS)
        except ToxiproxyError:
            return None
        request_id = response.headers.get(_REQUEST_ID)
        return _version_in(response) if request_id and request_id in printed() else None

    async def answered() -> str | None:
        if process.exit_status is not None:
            raise ToxiproxyError(f"Toxiproxy {ending(process.exit_status)} while it started; {last_seen()}")
        if "address already in use" in printed():
            raise PortTaken(f"{_address_in_use()} was taken")
        return await asyncio.to_thread(asked)

    try:
        version: str | None = await waiting.until(
            answered,
            awaited=f"Toxiproxy to answer at {_address_in_use()}",
            timeout_seconds=_START_TIMEOUT_SECONDS,
            last_seen=last_seen,
        )
    except waiting.WaitTimeout as error:
        raise ToxiproxyError(str(error)) from error
    assert version is not None  # `until` returns only what is true
    return version


def _host_and_port(url: str) -> tuple[str, int]:
    """The parts of the API's address, the host as it stands in a URL."""
    problem = f"{url!r} is no address of a Toxiproxy server; it should read http://HOST:PORT"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ToxiproxyError(f"{problem}: {error}") from error
    if not host or not port:
        raise ToxiproxyError(problem)
    host = f"[{host}]" if ":" in host else host
    # Anything else in it (another scheme, a path, a user) would be ignored, and is a mistake.
    if url.lower().removesuffix("/") != f"http://{host}:{port}":
        raise ToxiproxyError(problem)
    return host, port


async def _delete(proxies: list["Proxy"]) -> None:
    """Delete all, even when some fail, and then raise the first failure."""
    results = await asyncio.gather(*(proxy.delete() for proxy in proxies), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


# --- a proxy on it ----------------------------------------------------------------------------------------------

# Toxiproxy multiplies these in 64 bits without a check: an overflow makes them negative, and that can crash it.
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class _Attribute:
    smallest: int = 0
    default: int | None = None


_TOXICS: dict[str, dict[str, _Attribute]] = {
    "bandwidth": {"rate": _Attribute()},
    "latency": {"latency": _Attribute(), "jitter": _Attribute(default=0)},
    "limit_data": {"bytes": _Attribute()},
    "reset_peer": {"timeout": _Attribute()},
    "slicer": {
        "average_size": _Attribute(smallest=1),  # without a size it loops for ever
        "size_variation": _Attribute(default=0),
        "delay": _Attribute(default=0),
    },
    "slow_close": {"delay": _Attribute()},
    "timeout": {"timeout": _Attribute()},
}


class Toxic(NamedTuple):
    """A toxic to be: the arguments of `Proxy.add_toxic`."""

    name: str
    kind: str
    stream: Stream
    attributes: Mapping[str, int]


class Proxy:
    """One proxied link; made by `Toxiproxy.proxy`.

    Its port stays its own while it is disabled, unless a program that knows nothing of the harness takes it. Its
    calls are carried out one after the other, in the order in which they were made, also when a caller is
    cancelled: what a cancelled call does to the proxy is over before the next call begins. After each change the
    server's whole state of this proxy is compared with what was asked for up to then.
    """

    def __init__(
        self, server: _Server, name: str, port: int, upstream_port: int, upstream_host: str, undo: AsyncExitStack
    ) -> None:
        self.name = name
        self.port = port
        self._server = server
        self._undo = undo
        self._thread = _one_thread(name, undo)
        self._asked: dict[str, Any] = {
            "name": name,
            "listen": f"{server.listen_host}:{port}",
            "upstream": f"{upstream_host}:{upstream_port}",
            "enabled": True,
        }
        self._toxics: dict[str, dict[str, Any]] = {}
        self._remote = toxiproxy.Proxy(**self._asked)
        self._held = f"{server.url}/proxies/{name}"
        self._may_exist = False
        self._deleted = False

    @classmethod
    async def create(cls, server: _Server, name: str, upstream_port: int, upstream_host: str) -> "Proxy":
        """What `Toxiproxy.proxy` does."""
        _require_name("proxy", name)
        _require_port(name, upstream_port)
        async with AsyncExitStack() as undo:
            reservation = server.reserve()
            undo.callback(reservation.release)
            proxy = cls(server, name, reservation.port, upstream_port, upstream_host, undo)
            await proxy._change("create it", proxy._require_free_name)
            proxy._hold()
            async with AsyncExitStack() as failed:
                failed.push_async_callback(proxy._take_back)
                await proxy._change("create it", proxy._create)
                failed.pop_all()
            undo.push_async_callback(proxy._remove)
            proxy._undo = undo.pop_all()
        return proxy

    async def enable(self) -> None:
        """Accept connections, on the same port as ever; nothing happens if it does already.

        Raises:
            ToxiproxyError: it is not enabled, for example because somebody took the port.
        """
        await self._change("enable it", lambda: self._set_enabled(True))

    async def disable(self) -> None:
        """Refuse connections, and close those that are open; what they held is lost.

        Raises:
            ToxiproxyError: it is not disabled.
        """
        await self._change("disable it", lambda: self._set_enabled(False))

    async def add_toxic(self, name: str, kind: str, stream: Stream, attributes: Mapping[str, int]) -> None:
        """Add a toxic, to the connections that are open and to those that come.

        Args:
            name: unique in this proxy, over both directions.
            kind: Toxiproxy's name for what it does, like `limit_data`.
            stream: the direction that it works on.
            attributes: its settings in Toxiproxy's own units; jitter, variation and the slicer's delay default to 0.

        Raises:
            HarnessError: Toxiproxy knows no such toxic, would misunderstand it, or crash.
            ToxiproxyError: the server does not have it, or not as it was asked for.
        """
        toxic = _toxic(name, kind, stream, attributes)
        await self._change(f"add the toxic {name!r}", lambda: self._add_toxic(toxic))

    async def change_toxic(self, wanted: Toxic) -> None:
        """Give a toxic other attributes, on the connections that are open, too; they keep what they hold.

        Raises:
            HarnessError: Toxiproxy knows no such toxic, would misunderstand it, or crash.
            ToxiproxyError: there is no such toxic, or the server does not have it as it was asked for.
        """
        toxic = _toxic(*wanted)
        await self._change(f"change the toxic {wanted.name!r}", lambda: self._change_toxic(toxic))

    async def remove_toxic(self, name: str) -> None:
        """Remove a toxic.

        Raises:
            ToxiproxyError: there is no such toxic, or it is still there.
        """
        _require_name("toxic", name)
        await self._change(f"remove the toxic {name!r}", lambda: self._remove_toxic(name))

    async def renew(
        self, toxics: Sequence[Toxic] = (), *, upstream_port: int | None = None, upstream_host: str = LOOPBACK
    ) -> None:
        """Put a new one in its place: connections are closed, toxics gone, and the same port accepts again.

        Removing a toxic that holds data for an end that is gone blocks Toxiproxy 2.12 for 5 s, also when the proxy is
        disabled; this takes 3 ms (measured).

        Args:
            toxics: what the new one has from its first connection on.
            upstream_port: where it leads from now on, if elsewhere.
            upstream_host: where that port is.

        Raises:
            HarnessError: Toxiproxy knows no such toxic, would misunderstand it, or crash.
            ToxiproxyError: it is not there as it should be, for example because somebody took the port.
        """
        wanted = [_toxic(*toxic) for toxic in toxics]
        if upstream_port is not None:
            _require_port(self.name, upstream_port)
        upstream = f"{upstream_host}:{upstream_port}" if upstream_port is not None else None
        await self._change("renew it", lambda: self._renew(wanted, upstream))

    async def delete(self) -> None:
        """Close its connections, remove it from the server and give its port back; once done, nothing happens.

        Raises:
            ToxiproxyError: it may still be there, though it cannot be used through this object any more.
        """
        self._deleted = True
        await self._undo.pop_all().aclose()

    async def _change(self, doing: str, change: Callable[[], None]) -> None:
        if self._deleted:
            raise ToxiproxyError(f"cannot {doing}: the proxy {self.name!r} is deleted")
        await self._call(doing, change)

    async def _call(self, doing: str, change: Callable[[], None]) -> None:
        try:
            await self._server.call(self._thread, change)
        except ToxiproxyError as error:
            raise ToxiproxyError(f"proxy {self.name!r} on {self._asked['listen']}: cannot {doing}: {error}") from error

    async def _remove(self) -> None:
        """Remove what `_create` made or may have made, and nothing else."""
        if not self._server.ending:
            await self._call("delete it", self._delete)
        self._release()

    async def _take_back(self) -> None:
        """Remove it after a creation that failed: that failure is to be told, not one in here."""
        with contextlib.suppress(ToxiproxyError):
            await self._remove()

    def _hold(self) -> None:
        # An owned server dies with the harness anyway.
        if self._server.process is None:
            reaper.hold("url", self._held)

    def _release(self) -> None:
        if self._server.process is None:
            reaper.release("url", self._held)

    # What follows blocks, and runs in this proxy's thread.

    def _require_free_name(self) -> None:
        if self.name in toxiproxy.Toxiproxy().proxies():
            raise ToxiproxyError("a proxy of that name is there already, and is somebody else's")

    def _create(self) -> None:
        self._may_exist = True
        try:
            made = APIConsumer.post("/proxies", json=self._asked)
        except (ProxyExists, _Refused) as error:
            self._may_exist = False
            raise ToxiproxyError(str(error)) from error
        self._compare(made)

    def _renew(self, toxics: list[dict[str, Any]], upstream: str | None) -> None:
        self._destroy()
        self._toxics.clear()
        if upstream is not None:
            self._asked["upstream"] = upstream
        self._asked["enabled"] = not toxics  # none passes before they are there
        self._create()
        for toxic in toxics:
            self._add_toxic(toxic)
        if toxics:
            self._set_enabled(True)

    def _set_enabled(self, enabled: bool) -> None:
        self._asked["enabled"] = enabled
        self._compare(APIConsumer.post(f"/proxies/{self.name}", json={"enabled": enabled}))

    def _add_toxic(self, toxic: dict[str, Any]) -> None:
        self._have_toxic(toxic, "", toxic)

    def _change_toxic(self, toxic: dict[str, Any]) -> None:
        self._have_toxic(toxic, f"/{toxic['name']}", {"attributes": toxic["attributes"]})

    def _have_toxic(self, toxic: dict[str, Any], where: str, said: dict[str, Any]) -> None:
        made = APIConsumer.post(f"/proxies/{self.name}/toxics{where}", json=said).json()
        self._toxics[toxic["name"]] = toxic
        if made != toxic:
            raise ToxiproxyError(f"the server reports the toxic {made} instead of {toxic}")

    def _remove_toxic(self, name: str) -> None:
        self._remote.destroy_toxic(name)
        self._toxics.pop(name, None)

    def _delete(self) -> None:
        self._destroy()
        if self._may_exist and self.name in toxiproxy.Toxiproxy().proxies():
            raise ToxiproxyError("the server still has it")

    def _destroy(self) -> None:
        if not self._may_exist:
            return
        try:
            self._remote.destroy()
        except _Refused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def _compare(self, answer: _Answer) -> None:
        """The library does not look at what the server made of a call; its answer says so."""
        state = answer.json()
        reported = {key: state.get(key) for key in self._asked}
        toxics = {toxic["name"]: toxic for toxic in state.get("toxics", [])}
        if (reported, toxics) != (self._asked, self._toxics):
            raise ToxiproxyError(
                f"the server reports {reported} with the toxics {list(toxics.values())} "
                f"instead of {self._asked} with {list(self._toxics.values())}"
            )


def _toxic(name: str, kind: str, stream: Stream, attributes: Mapping[str, int]) -> dict[str, Any]:
    """As Toxiproxy speaks of it."""
    settings = _settings(name, kind, stream, attributes)
    return {"name": name, "type": kind, "stream": stream, "toxicity": 1.0, "attributes": settings}


def _require_port(name: str, port: int) -> None:
    if not 0 < port < 2**16:
        raise HarnessError(f"proxy {name!r}: {port} is no port")


def _require_name(what: str, name: str) -> None:
    # The library puts names into URLs as they are.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise HarnessError(f"{name!r} is no name for a {what}: letters, digits, dots, underscores and hyphens only")


def _settings(name: str, kind: str, stream: str, attributes: Mapping[str, int]) -> dict[str, int]:
    """All attributes of a toxic, its defaults among them.

    Toxiproxy reads an attribute that is missing or misspelt as 0, and crashes on some values.
    """
    _require_name("toxic", name)
    if kind not in _TOXICS:
        raise HarnessError(f"toxic {name!r}: there is no kind {kind!r}, only {', '.join(_TOXICS)}")
    if stream not in get_args(Stream):
        raise HarnessError(f"toxic {name!r}: the stream {stream!r} is not one of {', '.join(get_args(Stream))}")
    known = _TOXICS[kind]
    for unknown in attributes.keys() - known.keys():
        raise HarnessError(f"toxic {name!r}: {kind} has no attribute {unknown!r}, only {', '.join(known)}")
    settings = {attribute: _value(name, kind, attribute, attributes) for attribute in known}
    if kind == "slicer" and settings["size_variation"] >= settings["average_size"]:
        raise HarnessError(
            f"toxic {name!r}: the slicer's size_variation {settings['size_variation']} "
            f"is not below its average_size {settings['average_size']}"
        )
    return settings


def _value(name: str, kind: str, attribute: str, attributes: Mapping[str, int]) -> int:
    rule = _TOXICS[kind][attribute]
    value = attributes.get(attribute, rule.default)
    if value is None:
        raise HarnessError(f"toxic {name!r}: {kind} needs the attribute {attribute!r}")
    # A bool is an int to Python, and a float an error to Toxiproxy.
    if type(value) is not int or not rule.smallest <= value <= _LARGEST:
        raise HarnessError(
            f"toxic {name!r}: {attribute} {value!r} is not a whole number from {rule.smallest} to {_LARGEST}"
        )
    return value
