"""A sender whose client is a process of its own, so that it can be killed and frozen like the server."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness import history as h
from harness import waiting
from harness.clients.author import Author, Message
from harness.clients.client import Dialer
from harness.clients.worker import Post, Start
from harness.errors import ClientError, HarnessError, ending
from harness.fault import Acts, NotSeen, fault
from harness.process import ProcessGroup
from harness.store import SQLiteStore

if TYPE_CHECKING:
    from harness.link import SenderLink

Told = h.Connected | h.ConnectFailed | h.Disconnected | h.Attempt | h.Ok | h.Fail | h.Info | h.Settled | h.Failed
_decoder = msgspec.json.Decoder(Told)
_encode = msgspec.json.Encoder().encode
_LONGEST_LINE_BYTES = 2**24


class ProcessSender(Author):
    """Makes messages here and has another program emit them; what that tells is recorded as it arrives.

    Args:
        name: lower-case letters.
        dialer: of the run.
        link: its own.
        store: where its faults look for rows.
        command: the program, see PROTOCOL.md.
        folder: where it runs.
        log: where its standard error goes.
        outbox: the file in which it keeps what is not settled, or None: then a kill makes it forget.
        policy: see `Sender`.
        random_numbers: of the run.
    """

    def __init__(
        self,
        name: str,
        dialer: Dialer,
        link: "SenderLink",
        store: SQLiteStore,
        *,
        command: Sequence[str],
        folder: Path,
        log: Path,
        outbox: Path | None,
        policy: h.Policy,
        random_numbers: random.Random,
    ) -> None:
        super().__init__(name, dialer, policy=policy, random_numbers=random_numbers)
        self.title = f"the client of {name}"
        self.link = link
        self._store = store
        self._command, self._folder, self._log, self._outbox = command, folder, log, outbox
        self._seed = random_numbers.getrandbits(32)
        self._online = asyncio.Event()
        self._process: ProcessGroup | None = None
        self._listening: asyncio.Task[None] | None = None
        self._end_expected = False
        # A program counts from 1 again when it is started again.
        self._connections = self._connections_before = 0
        self._attempts_before: dict[str, int] = {}
        self._begun: set[tuple[str, int]] = set()
        self._open: dict[tuple[str, int], None] = {}

    # -- its life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the program; with an outbox it goes on with what was not settled.

        Raises:
            ClientError: it cannot be started.
        """
        self._end_expected = False
        self._connections_before = self._connections
        self._attempts_before = {message.id: message.attempts for message in self.messages}
        try:
            self._process = ProcessGroup(self._command, log=self._log, cwd=self._folder, pipes=True)
        except HarnessError as error:
            raise ClientError(f"the client of {self.name} cannot be started: {error}") from error
        lines = await self._process.output(_LONGEST_LINE_BYTES)
        self._listening = asyncio.create_task(self._listen(self._process, lines))
        protocol = self._dialer.protocol
        self._tell(
            Start(
                name=self.name,
                run=self._dialer.run,
                port=self.link.port,
                transport=self._dialer.transport,
                path=protocol.path,
                namespace=protocol.namespace,
                event=protocol.event,
                policy=self.policy,
                ack_timeout_seconds=protocol.ack_timeout_seconds,
                outbox=str(self._outbox) if self._outbox is not None else None,
                seed=self._seed,
            )
        )

    async def close(self) -> None:
        """Kill the program, and record what that leaves open."""
        self._end_expected = True
        if self._process is not None:
            await self._process.kill()
        if self._listening is not None:
            await self._listening
        self._process = self._listening = None

    def _tell(self, command: Start | Post) -> None:
        if self._process is not None:
            self._process.write(_encode(command) + b"\n")

    async def _listen(self, process: ProcessGroup, lines: asyncio.StreamReader) -> None:
        try:
            while line := await lines.readline():
                self._hear(_decoder.decode(line))
        except (msgspec.MsgspecError, ValueError) as error:
            self._fail(f"told what its protocol does not know: {error}")
            await process.kill()
        process.close_pipes()
        if not self._end_expected:
            self._fail(f"{ending(await process.wait())}; its last lines:\n{process.last_log_lines()}")
        self._ended()

    def _fail(self, reason: str) -> None:
        self._dialer.failed(self.title, reason)

    # -- what it tells -------------------------------------------------------------------------------------------

    def _hear(self, event: Told) -> None:
        """Take over what happened, under the numbers of this run and at the time of its arrival."""
        changes: dict[str, object] = {"time": self._recorder.now()}
        if isinstance(event, h.Connected | h.ConnectFailed | h.Disconnected):
            self._connections = self._connections_before + event.connection
            changes["connection"] = self._connections
        elif isinstance(event, h.Attempt):
            changes["connection"] = self._connections_before + event.connection
        if isinstance(event, h.Attempt | h.Ok | h.Fail | h.Info):
            number = self._attempts_before.get(event.message, 0) + event.attempt
            changes["attempt"] = number
            if isinstance(event, h.Attempt) == ((event.message, number) in self._begun):
                raise ValueError(f"attempt {event.attempt} of {event.message} has to begin once, and before it ends")
            self._begun.add((event.message, number))
        event = msgspec.structs.replace(event, **changes)
        if not isinstance(event, h.Connected | h.ConnectFailed | h.Disconnected | h.Failed):
            self._message(event.message)
        self._recorder.record(event)
        self._apply(event)

    def _apply(self, event: Told) -> None:
        match event:
            case h.Connected():
                self._online.set()
                return
            case h.Disconnected():
                self._online.clear()
                return
            case h.ConnectFailed() | h.Failed():
                return
        message = self._message(event.message)
        match event:
            case h.Attempt():
                message.attempts = message.emissions = event.attempt
                message.attempted.set()
                if not self.asks_nothing:
                    self._open[event.message, event.attempt] = None
            case h.Ok() | h.Info() | h.Fail():
                self._open.pop((event.message, event.attempt), None)
                message.acknowledged |= isinstance(event, h.Ok) and not event.late
            case h.Settled():
                message.settled = True
        if message.settled and message.attempts and not any(message.id == identity for identity, _ in self._open):
            message.done.set()

    def _message(self, identity: str) -> Message:
        found = next((message for message in self.messages if message.id == identity), None)
        if found is None:
            raise ValueError(f"{identity} is not a message that it was given")
        return found

    def _ended(self) -> None:
        """Record what the end of the program leaves open; without an outbox nothing more will be done about it."""
        record, now = self._recorder.record, self._recorder.now
        reason = "the client's process ended"
        for identity, attempt in self._open:
            record(h.Info(time=now(), message=identity, attempt=attempt, reason=reason))
        self._open.clear()
        if self._online.is_set():
            record(h.Disconnected(time=now(), client=self.name, connection=self._connections, reason=reason))
            self._online.clear()
        for message in self.messages:
            if self._outbox is None or (message.settled and message.attempts):
                message.done.set()

    # -- for schedules -------------------------------------------------------------------------------------------

    def take(self, message: Message) -> None:
        """Have a message emitted, behind those that were taken before."""
        self._tell(Post(message=message.id, content=message.content, offset=message.offset))

    async def online(self) -> None:
        """Wait, without a deadline, until it is connected."""
        await self._online.wait()

    async def connected(self, timeout_seconds: float) -> None:
        """Wait until it is connected.

        Raises:
            WaitTimeout: it was not, by the deadline.
        """
        await waiting.within(self.online(), awaited=f"{self.name} to be connected", timeout_seconds=timeout_seconds)

    @fault("client")
    async def kill(self) -> Acts:
        """Kill it with the message held in its link; started again at the end, with its outbox if it has one."""
        try:
            await self.link.hold("upstream")
            message = yield None
            await message.first_attempt(self._patience_seconds)
            await self.close()
            await self.link.restore()
            if message.acknowledged or await self._store.holds(message):
                raise NotSeen("the message was stored or acknowledged although its link was held")
            yield f"the process group was killed with attempt {message.attempts} of {message.id} held in the link"
        finally:
            await self.link.restore()
            await self.start()

    @fault("client")
    async def freeze(self, seconds: float) -> Acts:
        """Stop it where it stands (SIGSTOP), for `seconds` after its message was stored, and hold its answer longer."""
        assert self._process is not None
        process = self._process
        try:
            await self.link.hold("downstream")
            message = yield None
            await self._store.wait_for(message)
            before = message.attempts
            await process.pause()
            await waiting.pause(seconds)
            process.resume()
            await waiting.until(
                lambda: message.attempts > before,
                awaited=f"another attempt of {message.id}",
                timeout_seconds=self._patience_seconds,
            )
            yield f"stopped for {seconds:g} s after attempt {before} was stored, and then sent {message.id} again"
        finally:
            process.resume()
            await self.link.let_go("downstream")

    def _connection_id(self) -> str:
        return "undefined"  # it is not known in here
