"""The server under test: started from its description, watched, and what can happen to it."""

import asyncio
import contextlib
import http.client
import re
import signal
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from harness import history as h
from harness import waiting
from harness.clients.author import Message
from harness.errors import HarnessError, TargetError
from harness.fault import Acts, NotSeen, fault
from harness.link import SenderLink, stored_unanswered
from harness.process import Process, ended_within
from harness.runtimes import Address, Host, Wanted
from harness.store import SQLiteStore
from harness.target import Points, Target, of_run, put


class Server:
    """One server process group of the target, and the next one after each restart, on the same port and database.

    Args:
        target: its description.
        host: where it runs.
        address: where it has to listen.
        database: the path that stands for `{database}`.
        log: where its output goes.
        recorder: of the run.
        store: where faults look for rows.
        control: the control of the target whose command is used, instead of the server's own.
        patience_seconds: how long a fault waits for its evidence.
        moves: called when the server is to listen elsewhere; leads its clients to another address, and returns that.
    """

    title = "the server"

    def __init__(
        self,
        target: Target,
        *,
        host: Host,
        address: Address,
        database: Path,
        log: Path,
        recorder: h.Recorder,
        store: SQLiteStore,
        control: str | None,
        patience_seconds: float,
        moves: Callable[[], Awaitable[Address]],
    ) -> None:
        self._target = target
        self._host = host
        self._address = address
        self._database = database
        self._log = log
        self._recorder = recorder
        self._store = store
        self._moves = moves
        self._command = target.command(control) if control is not None else host.command
        self._patience_seconds = patience_seconds
        self._process: Process | None = None
        self._end_expected = False
        self._log_start = 0

    def _fill(self, text: str) -> str:
        return put(text, {**self._host.placeholders, **of_run(self._address.port, self._database)})

    # -- what faults are made of ---------------------------------------------------------------------------------

    async def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it is ready.

        Raises:
            TargetError: its port is taken, it cannot be started, it ends, or it does not get ready; its last log lines
                are in the text.
        """
        await self.kill()
        await self._require_free()
        self._end_expected = False
        self._process = await self._launch(environment or {})
        await self._wait_until_ready(self._process)
        self._recorder.record(h.ServerStarted(time=self._recorder.now(), pid=self._process.pid))

    async def _launch(
        self, environment: Mapping[str, str], *, held: bool = False, unprivileged: bool = False
    ) -> Process:
        self._log.touch()  # who is to read what the server prints may be sooner than the server
        self._log_start = self._log.stat().st_size
        env = {
            key: self._fill(value)
            for key, value in {**self._target.server.env, **self._host.env, **environment}.items()
        }
        wanted = Wanted([self._fill(text) for text in self._command], env, held=held, unprivileged=unprivileged)
        try:
            return await self._host.start(wanted, log=self._log, on_exit=self._exited)
        except HarnessError as error:
            raise TargetError(self._no_start(error)) from error

    def _no_start(self, why: object) -> str:
        return f"the server of {self._target.name} cannot be started: {why}"

    async def _require_free(self) -> None:
        try:
            await self._host.require_free(self._address)
        except HarnessError as error:
            raise TargetError(self._no_start(error)) from error

    @property
    def forks(self) -> bool:
        """Whether its starts are forks."""
        return self._host.forks

    def from_nothing(self) -> contextlib.AbstractContextManager[None]:
        """Each start within is one of the command, whatever the target offers."""
        return self._host.from_nothing()

    async def _start_badly(
        self, *, ready: Callable[[Process], Awaitable[bool]], unprivileged: bool = False
    ) -> int | None:
        """Start it where it cannot work; its exit status, or None when it runs, `ready` or not, at the deadline."""
        await self.kill()
        self._end_expected = True
        self._process = process = await self._launch({}, unprivileged=unprivileged)

        async def decided() -> bool:
            return process.exit_status is not None or await ready(process)

        with contextlib.suppress(waiting.WaitTimeout):
            await waiting.until(
                decided,
                awaited="the server to fail or to get ready",
                timeout_seconds=self._target.server.ready_timeout_seconds,
            )
        return process.exit_status

    async def _wait_until_ready(self, process: Process) -> None:
        settings = self._target.server

        async def ready() -> bool:
            if process.exit_status is not None:
                raise TargetError(
                    f"the server of {self._target.name} ended with exit status {process.exit_status} before it was "
                    f"ready ({settings.ready}, port {self._address.port}). {self._last_lines(process)}"
                )
            return await self._is_ready(process)

        try:
            await waiting.until(
                ready,
                awaited="the server to get ready",
                timeout_seconds=settings.ready_timeout_seconds,
                interval_seconds=0.002,
            )
        except waiting.WaitTimeout:
            self._end_expected = True
            told = self._last_lines(process)
            await process.kill()
            raise TargetError(
                f"the server of {self._target.name} did not get ready within {settings.ready_timeout_seconds:g} s "
                f"({settings.ready}, port {self._address.port}). {told}"
            ) from None

    def _last_lines(self, process: Process) -> str:
        hint = self._host.hint(self._address, process)
        return f"{hint + ' ' if hint else ''}Its last lines:\n{process.last_log_lines()}"

    async def _is_ready(self, process: Process) -> bool:
        kind, _, rest = self._target.server.ready.partition(":")
        if kind == "tcp":
            return await self._host.accepts(self._address, process)
        if kind == "http":
            return await asyncio.to_thread(_answers, f"http://127.0.0.1:{self._address.published}{rest}")
        printed = self._log.read_bytes()[self._log_start :].decode(errors="replace")
        return re.search(rest, printed, re.MULTILINE) is not None

    def _exited(self, status: int) -> None:
        reason = f"signal {-status}" if status < 0 else f"exit status {status}"
        # SIGXFSZ is how the system tells of the size limit that `store.full` sets: our doing, and no crash.
        expected = self._end_expected or status == -signal.SIGXFSZ
        self._recorder.record(
            h.ServerExited(time=self._recorder.now(), status=status, expected=expected, reason=reason)
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

    async def ended_within(self, seconds: float) -> bool:
        """Wait until it has ended by itself, for so long; whether it has."""
        if self._process is not None:
            await ended_within(self._process, seconds)
        return not self.is_running

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.exit_status is None

    @property
    def pids(self) -> list[int]:
        """The processes of its group; none where there is no /proc."""
        return self._process.pids() if self._process is not None else []

    def path(self, here: Path) -> Path:
        """What it calls a file of this machine."""
        return self._host.path(here)

    def group(self) -> int:
        """The id of its process group.

        Raises:
            NotSeen: it does not run.
        """
        return self._running().pid

    async def idle(self) -> None:
        """Wait until it has nothing to do."""
        await self._running().idle()

    def expect_end(self) -> None:
        """Its next end is the harness's doing."""
        self._end_expected = True

    async def ended(self) -> None:
        """Wait until its process group is gone, after something has killed it."""
        if self._process is not None:
            await self._process.wait()
            await self.kill()

    async def start_held(self) -> None:
        """Start it so that it stands before its first call, until `let_go`; nobody waits until it is ready.

        Raises:
            TargetError: it cannot be started.
        """
        await self.kill()
        await self._require_free()
        self._end_expected = True
        self._process = await self._launch({}, held=True)
        await self._process.stopped()

    async def ready(self) -> None:
        """Wait until it is ready.

        Raises:
            TargetError: it ends, or is not ready by its deadline.
        """
        await self._wait_until_ready(self._running())

    def let_go(self) -> None:
        """Let it start that stands before its first call."""
        self._running().resume()

    @contextlib.asynccontextmanager
    async def restarting(self) -> AsyncIterator[None]:
        """At the end it is started, whatever has become of it."""
        try:
            yield
        finally:
            await self.start()

    def _running(self) -> Process:
        if self._process is None or not self.is_running:
            raise NotSeen("the server was not running any more")
        return self._process

    # -- faults --------------------------------------------------------------------------------------------------

    @fault("server")
    async def kill_now(self) -> Acts:
        """Kill it while the message has no answer; started again at the end."""
        async with self.restarting():
            message = yield None
            self._running()
            await self.kill()
            yield _unanswered(message, "the process group was killed")

    @fault("server")
    async def kill_mid_emit(self, link: SenderLink) -> Acts:
        """Pause it, let the message leave its sender, kill it; started again at the end."""
        await link.sender.idle()
        async with self.restarting():
            await self._running().pause()
            message = yield None
            await link.sender.left(message)
            await self.kill()
            yield _unanswered(message, "the process group was paused, then killed")

    @fault("server")
    async def kill_after_commit(self, link: SenderLink) -> Acts:
        """Kill it when the row of the message is there and its answer is still on the way; started at the end."""
        async with self._healing(link):
            await link.hold("downstream")
            message = yield None
            await self._store.wait_for(message)
            self._running()
            await self.kill()
            await link.close()
            yield f"the process group was killed; {stored_unanswered(message)}"

    @fault("server")
    async def crash(self, point: str) -> Acts:
        """Restart it so that it dies at a crash point, in the first message it handles; started again at the end."""
        async with self._restarted(self._at("crash", self._target.crash_points, point)):
            self._end_expected = True
            process = self._running()
            message = yield None
            await waiting.within(
                process.wait(),
                awaited=f"the server to die at its crash point {point!r}",
                timeout_seconds=self._patience_seconds,
            )
            yield _unanswered(message, f"the server died at its crash point {point!r}")

    @fault("server")
    async def delay(self, point: str, seconds: float) -> Acts:
        """Restart it so that the first message that it handles waits for `seconds` at a delay point of the target.

        Every attempt of that message does, and no other message. Started again at the end.
        """
        async with self._restarted(self._delayed(point, seconds)):
            message = yield None
            await message.first_attempt(self._patience_seconds)
            began = self._recorder.now()
            await self._store.wait_for(message)
            taken = self._recorder.now() - began
            if taken < seconds:
                raise NotSeen(f"the message was stored {taken:.3f} s after its first attempt, sooner than the delay")
            yield f"its handler stood {point.replace('_', ' ')}: {message.id} was stored after {taken:.3f} s"

    @fault("server")
    async def delay_joining(self, link: SenderLink, joined: int, seconds: float) -> Acts:
        """Restart it so that the first message waits long before its broadcast, and the next who joins longer still.

        A message that is posted then is stored, and not yet broadcast, when somebody joins and is to be sent all rows.
        `joined` is how many clients come back first. To be bitten when the other has joined. Started again at the end.
        """
        async with self._restarted(self._delayed("joining", seconds, joined=joined)):
            message = yield None
            await self._store.wait_for(message)
            if link.sender.has_heard(message):
                raise NotSeen(f"{message.id} was broadcast before anybody had joined")
            await self._heard(link, message)
            newcomer = self._newcomer_without_rows(message)
            yield f"{newcomer} joined when the row of {message.id} was there, before its broadcast and its own rows"

    @fault("server")
    async def delay_replay(self, link: SenderLink, joined: int, seconds: float) -> Acts:
        """Restart it so that the next who joins is sent the rows late, when they have been read for `seconds`.

        `joined` is how many clients come back first. To be bitten when the other has joined. Started again at the end.
        """
        async with self._restarted(self._delayed("before_replay", seconds, joined=joined)):
            message = yield None
            await self._heard(link, message)
            newcomer = self._newcomer_without_rows(message)
            yield f"{message.id} was broadcast when {newcomer} had joined and was not yet sent the rows before it"

    @fault("server")
    async def delay_broadcast(self, seconds: float) -> Acts:
        """Restart it so that the first message that it handles waits for `seconds` between its row and its broadcast.

        To be bitten when others have been stored and broadcast meanwhile. Started again at the end.
        """
        async with self._restarted(self._delayed("after_insert", seconds)):
            message = yield None
            await self._store.wait_for(message)
            yield f"its handler stood behind its INSERT: {stored_unanswered(message)}"

    def _newcomer_without_rows(self, message: Message) -> str:
        """The receiver that joined last, which must not have been sent any other message yet."""
        joined = (event.receiver for event in reversed(self._recorder.events) if isinstance(event, h.Receiving))
        if (newcomer := next(joined, None)) is None:
            raise NotSeen("nobody has joined")
        for event in self._recorder.events:
            if isinstance(event, h.Received) and event.receiver == newcomer and message.id not in (event.content or ""):
                raise NotSeen(f"{newcomer} was sent its rows before {message.id} was broadcast")
        return newcomer

    @fault("server")
    async def fail(self, point: str) -> Acts:
        """Restart it so that its database reports an error at an error point, for the first message that it handles.

        To be bitten when the message is done. Started again at the end.
        """
        async with self._restarted(self._at("error", self._target.error_points, point)):
            message = yield None
            await self._store.wait_for(message)
            if message.attempts < 2:
                raise NotSeen("the first attempt of the message was acknowledged")
            yield f"attempt 1 of {message.id} was stored, reported as an error, and not answered"

    async def _heard(self, link: SenderLink, message: Message) -> None:
        await waiting.within(
            message.heard.wait(),
            awaited=f"the broadcast of {message.id}",
            timeout_seconds=self._patience_seconds,
        )

    def _delayed(self, point: str, seconds: float, joined: int = 0) -> dict[str, str]:
        """The environment in which the first message, or the next who joins, waits at a delay point."""
        values = {"{joining}": str(joined + 1), "{milliseconds}": str(round(seconds * 1000))}
        return self._at("delay", self._target.delay_points, point, values)

    def _at(self, kind: str, points: Points, point: str, values: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment in which something happens at a point of the target, to the first message."""
        if point not in points:
            raise TargetError(f"the target {self._target.name} has no {kind} point {point!r}")
        return {name: put(text, {"{message}": "1", **(values or {})}) for name, text in points[point].items()}

    @contextlib.asynccontextmanager
    async def _restarted(self, environment: Mapping[str, str]) -> AsyncIterator[None]:
        """Restarted with these variables, and started again without them at the end."""
        await self.stop()
        async with self.restarting():
            await self.start(environment)
            yield

    @fault("server")
    async def pause(self, link: SenderLink, seconds: float) -> Acts:
        """Stop it where it stands (SIGSTOP), for `seconds` after the message left its sender; then it goes on."""
        await link.sender.idle()
        process = self._running()
        try:
            await process.pause()
            message = yield None
            await link.sender.left(message)
            await waiting.pause(seconds)
            if process.exit_status is not None:
                raise NotSeen("the server ended while it was paused")
            yield _unanswered(message, f"the process group was paused for {seconds:g} s")
        finally:
            process.resume()

    @fault("server")
    async def partition(self, link: SenderLink, seconds: float) -> Acts:
        """Take its host from the network for `seconds` after the message left its sender; then it is there again.

        Toxiproxy stays on the network: neither it nor the server gets a byte of the other, or the end of a connection.
        """
        await link.sender.idle()
        async with self._host.partitioned():
            message = yield None
            await link.sender.left(message)
            await waiting.pause(seconds)
            self._running()
            if await self._store.holds(message):
                raise NotSeen("the message was stored although its server was away from the network")
            yield _unanswered(message, f"the server was away from its network for {seconds:g} s, and no row was there;")

    @fault("server")
    async def restart(self) -> Acts:
        """Stop it gracefully while the message has no answer; started again at the end."""
        async with self.restarting():
            message = yield None
            self._running()
            await self.stop()
            yield _unanswered(message, "the server was stopped")

    @fault("server")
    async def restart_while_held(self, link: SenderLink, slow_seconds: float = 0) -> Acts:
        """Stop it gracefully while the message is held in the link; started again at the end, or so much later."""
        async with self._healing(link):
            await self._hold(link)
            message = yield None
            await self._stop_while_held(link, message)
            await waiting.pause(slow_seconds)
            away = f" and was away for {slow_seconds:g} s" if slow_seconds else ""
            yield _unanswered(message, f"the server was stopped{away}, and no row was there;")

    @fault("server")
    async def restart_in_vain(self, link: SenderLink, times: int) -> Acts:
        """Stop it while the message is held in the link, and start it in vain, as somebody has its port."""
        async with self._healing(link):
            await self._hold(link)
            message = yield None
            await self._stop_while_held(link, message)
            async with self._host.taken(self._address):
                ends = [await self._start_badly(ready=_never) for _ in range(times)]
            await self.kill()
            if any(status in (None, 0) for status in ends):
                raise NotSeen(f"it was to fail, as its port was taken, and ended with {ends}")
            yield _unanswered(message, f"it failed to start {times} times (exit status {ends[0]}),")

    @fault("server")
    async def move(self, link: SenderLink) -> Acts:
        """Stop it while the message is held in the link; started on another port at the end, as its clients' links."""
        async with self._healing(link):
            await self._hold(link)
            message = yield None
            await self._stop_while_held(link, message)
            before, self._address = self._address, await self._moves()
            yield _unanswered(message, f"the server moved from port {before.published} to {self._address.published},")

    @fault("server")
    async def forget_acknowledgements(self, link: SenderLink, sends: int) -> Acts:
        """Have the target's server that acknowledges nothing, until the message was given up after that many sends.

        Of a sender that never gives up, until it has sent it once more than that.
        """
        async with self._healing(link):
            await self.stop()
            own, self._command = self._command, self._target.command("without_acknowledgement")
            try:
                await self.start()
            finally:
                self._command = own
            await link.sender.connected(self._patience_seconds)
            message = yield None
            gives_up = link.sender.policy.startswith("retries")
            await waiting.until(
                lambda: message.done.is_set() or (message.emissions > sends and not gives_up),
                awaited=f"{message.id} to be given up",
                timeout_seconds=self._patience_seconds,
            )
            if message.done.is_set() and message.emissions != sends:
                raise NotSeen(f"the message was sent {message.emissions} times, and not {sends} times")
            yield _unanswered(message, f"sent {message.emissions} times to a server that acknowledges nothing,")

    @fault("store")
    async def lose_write_permission(self, link: SenderLink, seconds: float) -> Acts:
        """Kill it with the message held in the link, and start it where it may read its store, and not write to it."""
        async with self._healing(link):
            await self._hold(link)
            message = yield None
            await self._left_unstored(link, message)
            await self.kill()
            with self._store.read_only():
                await asyncio.to_thread(self._store.require_refusal)
                status = await self._start_badly(ready=self._is_ready, unprivileged=True)
                await link.restore()
                await waiting.pause(seconds)
                if await self._store.holds(message):
                    raise NotSeen("the message was stored")
                what = "served its clients" if status is None else f"did not start (exit status {status})"
                await self.kill()
            yield _unanswered(message, f"with a read-only store for {seconds:g} s the server {what};")

    @contextlib.asynccontextmanager
    async def _healing(self, link: SenderLink) -> AsyncIterator[None]:
        """At the end the server is started and then the link restored, whatever becomes of the first."""
        async with contextlib.AsyncExitStack() as healing:
            healing.push_async_callback(link.restore)
            healing.push_async_callback(self.start)
            yield

    async def _hold(self, link: SenderLink) -> None:
        await link.sender.idle()
        await link.hold("upstream")

    async def _stop_while_held(self, link: SenderLink, message: Message) -> None:
        await self._left_unstored(link, message)
        self._running()
        await self.stop()
        await link.close()

    async def _left_unstored(self, link: SenderLink, message: Message) -> None:
        await link.sender.left(message)
        if await self._store.holds(message):
            raise NotSeen("the message was stored although its link was held")


async def _never(process: Process) -> bool:
    """What answers on a port that somebody else has is not the server."""
    del process
    return False


def _unanswered(message: Message, what: str) -> str:
    if message.acknowledged:
        raise NotSeen("the message was acknowledged before")
    return f"{what} with attempt {message.attempts} of {message.id} unanswered"


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=1) as response:
            return bool(response.status < 400)
    except (OSError, http.client.HTTPException):  # an answer of 400 and above among them
        return False
