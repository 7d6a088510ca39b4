"""The server under test: started from its description, watched, and what can happen to it."""

import asyncio
import contextlib
import http.client
import re
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from harness import history as h
from harness import waiting
from harness.clients.sender import Message
from harness.errors import HarnessError, TargetError
from harness.fault import Acts, NotSeen, fault
from harness.link import SenderLink
from harness.process import ProcessGroup
from harness.store import SQLiteStore
from harness.target import Target, fill

# What a server that was just killed still had open is gone within milliseconds.
_PORT_TIMEOUT_SECONDS = 1.0


class Server:
    """One server process group of the target, and the next one after each restart, on the same port and database.

    Args:
        target: its description.
        port: where it has to listen.
        database: the path that stands for `{database}`.
        log: where its output goes.
        recorder: of the run.
        store: where faults look for rows.
        control: the control of the target whose command is used, instead of the server's own.
        patience_seconds: how long a fault waits for its evidence.
    """

    title = "the server"

    def __init__(
        self,
        target: Target,
        *,
        port: int,
        database: Path,
        log: Path,
        recorder: h.Recorder,
        store: SQLiteStore,
        control: str | None,
        patience_seconds: float,
    ) -> None:
        self._target = target
        self._port = port
        self._database = database
        self._log = log
        self._recorder = recorder
        self._store = store
        self._command = [self._fill(text) for text in target.command(control)]
        self._patience_seconds = patience_seconds
        self._process: ProcessGroup | None = None
        self._end_expected = False
        self._log_start = 0

    def _fill(self, text: str) -> str:
        return fill(text, port=self._port, database=self._database)

    # -- what faults are made of ---------------------------------------------------------------------------------

    async def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it is ready.

        Raises:
            TargetError: its port is taken, it cannot be started, it ends, or it does not get ready; its last log lines
                are in the text.
        """
        await self.kill()
        await self._require_free_port()
        settings = self._target.server
        self._end_expected = False
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        env = {key: self._fill(value) for key, value in {**settings.env, **(environment or {})}.items()}
        try:
            self._process = ProcessGroup(
                self._command, cwd=self._target.folder, env=env, log=self._log, on_exit=self._exited
            )
        except HarnessError as error:
            raise TargetError(f"the server of {self._target.name} cannot be started: {error}") from error
        await self._wait_until_ready(self._process)
        self._recorder.record(h.ServerStarted(time=self._recorder.now(), pid=self._process.pid))

    async def _require_free_port(self) -> None:
        """What answers on the port from now on has to be this server, and not somebody else's program."""
        try:
            await waiting.until(
                lambda: _is_free(self._port), awaited="a free port", timeout_seconds=_PORT_TIMEOUT_SECONDS
            )
        except waiting.WaitTimeout:
            raise TargetError(
                f"the server of {self._target.name} cannot be started: another program listens on port {self._port}"
            ) from None

    async def _wait_until_ready(self, process: ProcessGroup) -> None:
        settings = self._target.server

        async def ready() -> bool:
            if process.exit_status is not None:
                raise TargetError(
                    f"the server of {self._target.name} ended with exit status {process.exit_status} before it was "
                    f"ready ({settings.ready}) on port {self._port}. Its last lines:\n{process.last_log_lines()}"
                )
            return await self._is_ready(settings.ready)

        try:
            await waiting.until(
                ready, awaited="the server to get ready", timeout_seconds=settings.ready_timeout_seconds
            )
        except waiting.WaitTimeout:
            self._end_expected = True
            await process.kill()
            raise TargetError(
                f"the server of {self._target.name} did not get ready within {settings.ready_timeout_seconds:g} s "
                f"({settings.ready}, port {self._port}). Its last lines:\n{process.last_log_lines()}"
            ) from None

    async def _is_ready(self, ready: str) -> bool:
        kind, _, rest = ready.partition(":")
        if kind == "tcp":
            return await _accepts(self._port)
        if kind == "http":
            return await asyncio.to_thread(_answers, f"http://127.0.0.1:{self._port}{rest}")
        printed = self._log.read_bytes()[self._log_start :].decode(errors="replace")
        return re.search(rest, printed, re.MULTILINE) is not None

    def _exited(self, status: int) -> None:
        reason = f"signal {-status}" if status < 0 else f"exit status {status}"
        self._recorder.record(
            h.ServerExited(time=self._recorder.now(), status=status, expected=self._end_expected, reason=reason)
        )

    async def kill(self) -> None:
        """SIGKILL its process group, if there is one."""
        if self._process is not None:
            self._end_expected = self._end_expected or self._process.exit_status is None
            await self._process.kill()
            self._process = None

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when its stop timeout has passed."""
        if self._process is not None:
            self._end_expected = self._end_expected or self._process.exit_status is None
            await self._process.stop(self._target.server.stop_timeout_seconds)
            self._process = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.exit_status is None

    def _running(self) -> ProcessGroup:
        if self._process is None or not self.is_running:
            raise NotSeen("the server was not running any more")
        return self._process

    # -- faults --------------------------------------------------------------------------------------------------

    @fault("server")
    async def kill_now(self) -> Acts:
        """Kill it while the message has no answer; started again at the end."""
        try:
            message = yield None
            self._running()
            await self.kill()
            yield _unanswered(message, "the process group was killed")
        finally:
            await self.start()

    @fault("server")
    async def kill_mid_emit(self, link: SenderLink) -> Acts:
        """Pause it, let the message leave its sender, kill it; started again at the end."""
        connection = await link.sender.idle()
        sent_bytes = connection.bytes_sent
        try:
            await self._running().pause()
            message = yield None
            await waiting.until(
                lambda: connection.bytes_sent > sent_bytes,
                awaited=f"{message.id} to leave its sender",
                timeout_seconds=self._patience_seconds,
            )
            await self.kill()
            yield _unanswered(message, "the process group was paused, then killed")
        finally:
            await self.start()

    @fault("server")
    async def kill_after_commit(self, link: SenderLink) -> Acts:
        """Kill it when the row of the message is there and its answer is still on the way; started at the end."""
        async with contextlib.AsyncExitStack() as healing:
            healing.push_async_callback(link.restore)
            healing.push_async_callback(self.start)
            await link.freeze("downstream")
            message = yield None
            await self._store.wait_for(message)
            self._running()
            await self.kill()
            await link.close()
            yield f"the process group was killed; {link.stored_unanswered(message)}"

    @fault("server")
    async def crash(self, point: str) -> Acts:
        """Restart it so that it dies at a crash point, in the first message it handles; started again at the end."""
        environment = {key: value.replace("{message}", "1") for key, value in self._target.crash_points[point].items()}
        await self.stop()
        try:
            await self.start(environment)
            self._end_expected = True
            process = self._running()
            message = yield None
            await waiting.within(
                process.wait(),
                awaited=f"the server to die at its crash point {point!r}",
                timeout_seconds=self._patience_seconds,
            )
            yield _unanswered(message, f"the server died at its crash point {point!r}")
        finally:
            await self.start()

    @fault("server")
    async def restart(self) -> Acts:
        """Stop it gracefully while the message has no answer; started again at the end."""
        try:
            message = yield None
            self._running()
            await self.stop()
            yield _unanswered(message, "the server was stopped")
        finally:
            await self.start()

    @fault("server")
    async def restart_while_held(self, link: SenderLink) -> Acts:
        """Stop it gracefully while the message is held in the frozen upstream link; started again at the end."""
        connection = await link.sender.idle()
        sent_bytes = connection.bytes_sent
        async with contextlib.AsyncExitStack() as healing:
            healing.push_async_callback(link.restore)
            healing.push_async_callback(self.start)
            await link.freeze("upstream")
            message = yield None
            await waiting.until(
                lambda: connection.bytes_sent > sent_bytes,
                awaited=f"{message.id} to leave its sender",
                timeout_seconds=self._patience_seconds,
            )
            self._running()
            await self.stop()
            await link.close()
            if await self._store.holds(message):
                raise NotSeen("the message was stored although its link was frozen")
            yield _unanswered(message, "the server was stopped while the message was held in the link")


def _unanswered(message: Message, what: str) -> str:
    if message.acknowledged:
        raise NotSeen("the message was acknowledged before")
    return f"{what} with attempt {message.attempts} of {message.id} unanswered"


def _is_free(port: int) -> bool:
    """Whether nobody listens on the port. It is bound and not listened on: nobody can connect meanwhile."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=1) as response:
            return bool(response.status < 400)
    except (OSError, http.client.HTTPException):  # an answer of 400 and above among them
        return False
