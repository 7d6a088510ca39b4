"""Clients that are programs of their own: started, told what to do, and what they tell recorded as it arrives."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from harness import history as h
from harness import waiting
from harness.clients import protocol as p
from harness.clients.author import Author, Message, Offsets, patience_seconds
from harness.clients.client import RECONNECT_DELAYS_SECONDS, TRANSPORTS, Dialer, last_failure
from harness.clients.receiver import patiently_heard
from harness.errors import ClientError, HarnessError, ending
from harness.fault import Acts, NotSeen, fault
from harness.process import ProcessGroup
from harness.store import SQLiteStore

if TYPE_CHECKING:
    from harness.link import ReceiverLink, SenderLink


# How much of a line that nobody understands is told.
_LONGEST_QUOTE = 200
# Of so many forgotten messages a late answer may still come.
_REMEMBERED = 100


@dataclass(frozen=True)
class Program:
    """How a driver is started.

    Args:
        command: the program, see PROTOCOL.md.
        folder: where it runs.
        log: where its standard error goes.
        outbox: the file in which it keeps what is not settled, or None: then a kill makes it forget.
        env: added to the environment.
    """

    command: Sequence[str]
    folder: Path
    log: Path
    outbox: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class DriverConnection:
    """A connection of a driver, as far as it is told of."""

    cut = "the connection"

    def __init__(self, number: int, recovered: bool) -> None:
        self.number = number
        self.recovered = recovered
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.bytes_sent = 0
        self.bytes_received = 0
        self.last_unit_bytes = 0
        self.poll_pending = True
        self.is_websocket: bool | None = None

    @property
    def is_open(self) -> bool:
        """Whether nothing has ended it yet."""
        return not self.closed.done()

    @property
    def bytes_by_wire(self) -> list[tuple[int, int]]:
        """As if there were one TCP connection, which is so over WebSocket."""
        return [(self.bytes_sent, self.bytes_received)]


class Driver:
    """One client in a program of its own, and the next one after each kill; its connections are recorded here.

    Args:
        name: of the client.
        dialer: how it reaches the target.
        port: of its link.
        program: how it is started.
        policy: the way of sending.
        style: what it does with broadcasts; by default what goes with its way of sending.
        seed: for what it has to draw.
        hear: called with what it tells of messages and broadcasts.
        ended: called when the program has ended in any way.

    Attributes:
        connection: the one that is open, if one is.
        latest: the last one that was made, open or not.
        connect_failures: why each try to connect failed that did.
        endings: why each connection ended that did.
    """

    def __init__(
        self,
        name: str,
        dialer: Dialer,
        port: int,
        program: Program,
        *,
        policy: h.Policy,
        style: p.Style | None = None,
        seed: int,
        hear: Callable[[p.AnyTold], None],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.title = f"the client of {name}"
        self.connection: DriverConnection | None = None
        self.latest: DriverConnection | None = None
        self.connect_failures: list[str] = []
        self.endings: list[str] = []
        self._dialer = dialer
        self._recorder = dialer.recorder
        self._port = port
        self._program = program
        self._policy: h.Policy = policy
        self._style: p.Style = style or _style(policy)
        self._seed = seed
        self._hear_more = hear
        self._tell_end = ended
        self._online = asyncio.Event()
        self._over = asyncio.Event()
        self._told_nothing: asyncio.Task[None] | None = None
        self._process: ProcessGroup | None = None
        self._listening: asyncio.Task[None] | None = None
        self._end_expected = False
        # A program counts from 1 again when it is started again.
        self._numbers_before = self._number = 0
        # What it tells of the wire before it tells that a connection can be used.
        self._wire: p.Wire | None = None

    # -- its life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the program and have it connect; with an outbox it goes on with what was not settled.

        Raises:
            ClientError: it cannot be started.
        """
        program = self._program
        self._end_expected = False
        self._over.clear()
        self._numbers_before = self._number
        try:
            self._process = ProcessGroup(
                program.command, log=program.log, cwd=program.folder, env=program.env, pipes=True
            )
        except HarnessError as error:
            raise ClientError(f"{self.title} cannot be started: {error}") from error
        lines = await self._process.output(p.LONGEST_LINE_BYTES)
        self._listening = asyncio.create_task(self._listen(self._process, lines))
        self._told_nothing = asyncio.create_task(self._expect_something())
        if self._dialer.protocol.broadcast is not None:
            self.tell(p.Receive(broadcast=self._dialer.protocol.broadcast, style=self._style))
        self.connect()

    def connect(self) -> None:
        """Have it connect, for the first time or after it was told to stay away."""
        protocol = self._dialer.protocol
        self.tell(
            p.Connect(
                name=self.name,
                run=self._dialer.run,
                port=self._port,
                transports=TRANSPORTS[self._dialer.transport],
                path=protocol.path,
                namespace=protocol.namespace,
                event=protocol.event,
                policy=self._policy,
                ack_timeout_seconds=protocol.ack_timeout_seconds,
                reconnect_delay_seconds=RECONNECT_DELAYS_SECONDS,
                outbox=str(self._program.outbox) if self._program.outbox is not None else None,
                seed=self._seed,
            )
        )

    def tell(self, command: p.AnyCommand) -> None:
        """Tell it what to do; nothing while it is dead."""
        if self._process is not None:
            self._process.write(p.encode(command) + b"\n")

    async def _expect_something(self) -> None:
        await waiting.pause(patience_seconds(self._dialer))
        self._told_nothing = None
        self.fail("it hangs: it was told to connect, and tells nothing of it")
        self._give_up()

    def _give_up(self) -> None:
        """Nothing is to be expected of it any more: who waits for it need not."""
        self._end_expected = True
        self._over.set()
        self._online.set()

    def _hears(self) -> None:
        if self._told_nothing is not None:
            self._told_nothing.cancel()
            self._told_nothing = None

    async def close(self) -> None:
        """Kill the program, and record what that leaves open."""
        self._hears()
        self._end_expected = True
        if self._process is not None:
            await self._process.kill()
        if self._listening is not None:
            await self._listening
        self._process = self._listening = None

    @property
    def process(self) -> ProcessGroup:
        """The program that runs."""
        if self._process is None:
            raise NotSeen(f"{self.title} is not running")
        return self._process

    async def online(self) -> DriverConnection:
        """Wait, without a deadline, until it is connected.

        Raises:
            ClientError: it has failed by itself.
        """
        while self.connection is None or not self.connection.is_open:
            await self._online.wait()
            if self._over.is_set():
                raise ClientError(f"{self.title} has failed by itself")
        return self.connection

    async def connected(self, timeout_seconds: float) -> DriverConnection:
        """Wait until it is connected.

        Raises:
            WaitTimeout: it was not, by the deadline.
            ClientError: it has failed by itself.
        """
        return await waiting.within(
            self.online(),
            awaited=f"{self.title} to be connected",
            timeout_seconds=timeout_seconds,
            last_seen=lambda: last_failure(self.connect_failures),
        )

    def forget(self) -> None:
        """Forget how its connections ended, and how tries to connect failed."""
        self.connect_failures.clear()
        self.endings.clear()

    def fail(self, reason: str) -> None:
        """Say that it failed by itself."""
        self._dialer.failed(self.title, reason)

    # -- what it tells -------------------------------------------------------------------------------------------

    async def _listen(self, process: ProcessGroup, lines: asyncio.StreamReader) -> None:
        line = b""
        try:
            while line := await lines.readline():
                self._hears()
                self._hear(p.decode_told(line))
        except (msgspec.MsgspecError, ValueError) as error:
            said = line.decode(errors="replace").strip()[:_LONGEST_QUOTE]
            self.fail(f"told what its protocol does not know: {error}, in {said!r}")
            self._give_up()
            await process.kill()
        process.close_pipes()
        if not self._end_expected:
            self.fail(f"{ending(await process.wait())}; its last lines:\n{process.last_log_lines()}")
            self._give_up()
        self._closed("the client's process ended")
        self._tell_end()

    def _hear(self, told: p.AnyTold) -> None:
        record, now = self._recorder.record, self._recorder.now
        match told:
            case p.Connected():
                number = self._use(told.connection)
                self.connection = self.latest = DriverConnection(number, told.recovered)
                self._take_wire(self._wire)
                self._online.set()
                record(h.Connected(time=now(), client=self.name, connection=number, recovered=told.recovered))
            case p.ConnectFailed():
                number = self._use(told.connection)
                self.connect_failures.append(told.reason)
                record(h.ConnectFailed(time=now(), client=self.name, connection=number, reason=told.reason))
            case p.Disconnected():
                if self.connection is None or self.connection.number != self._numbers_before + told.connection:
                    raise ValueError(f"connection {told.connection} has ended, which was not open")
                self._closed(told.reason)
            case p.Wire():
                self._wire = told
                self._take_wire(told)
            case p.Error():
                self.fail(told.reason)
                self._give_up()
            case _:
                self._hear_more(told)

    def _use(self, number: int) -> int:
        """The number of a connection in this run; each is used once, in their order."""
        if self.connection is not None:
            raise ValueError(f"connection {number} begins before the end of connection {self.connection.number}")
        if self._numbers_before + number <= self._number:
            raise ValueError(f"the number {number} of a connection is told for the second time")
        self._number = self._numbers_before + number
        return self._number

    def _take_wire(self, wire: p.Wire | None) -> None:
        connection = self.connection
        if wire is not None and connection is not None and connection.number == self._numbers_before + wire.connection:
            connection.bytes_sent, connection.bytes_received = wire.sent, wire.received
            connection.poll_pending, connection.is_websocket = wire.poll_pending, wire.websocket

    def _closed(self, reason: str) -> None:
        self._wire = None
        connection, self.connection = self.connection, None
        if not self._over.is_set():
            self._online.clear()
        if connection is not None:
            event = h.Disconnected(
                time=self._recorder.now(), client=self.name, connection=connection.number, reason=reason
            )
            self._recorder.record(event)
            self.endings.append(reason)
            connection.closed.set_result(reason)

    def number_of(self, connection: int) -> int:
        """The number that one of its connections has in this run."""
        return self._numbers_before + connection


def _style(policy: h.Policy) -> p.Style:
    """Who sends as the tutorial's page does receives like it, too."""
    return "tutorial" if policy.startswith("tutorial") else "hardened"


class DriverSender(Author):
    """Makes messages here and has another program emit them; what that tells is recorded as it arrives.

    Args:
        name: lower-case letters.
        dialer: of the run.
        link: its own.
        store: where its faults look for rows.
        program: how the driver is started.
        policy: see `Sender`.
        random_numbers: of the run.
        offsets: see `Sender`.
    """

    def __init__(
        self,
        name: str,
        dialer: Dialer,
        link: "SenderLink",
        store: SQLiteStore,
        program: Program,
        *,
        policy: h.Policy,
        random_numbers: random.Random,
        offsets: Offsets = "random",
    ) -> None:
        super().__init__(name, dialer, policy=policy, random_numbers=random_numbers, offsets=offsets)
        self.link = link
        link.sender = self
        self._store = store
        self._keeps = program.outbox is not None
        self._driver = Driver(
            name,
            dialer,
            link.port,
            program,
            policy=policy,
            seed=random_numbers.getrandbits(32),
            hear=self._hear,
            ended=self._forget_open,
        )
        self.title = self._driver.title
        self.connect_failures = self._driver.connect_failures
        # A program counts attempts from 1 again when it is started again.
        self._attempts_before: dict[str, int] = {}
        self._begun: dict[tuple[str, int], float] = {}
        self._open: dict[tuple[str, int], None] = {}
        self._unheard: dict[str, asyncio.Task[None]] = {}

    # -- its life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the program; with an outbox it goes on with what was not settled.

        Raises:
            ClientError: it cannot be started.
        """
        self._attempts_before = {message.id: message.attempts for message in self.messages}
        await self._driver.start()

    async def close(self) -> None:
        """Kill the program, and record what that leaves open."""
        self._hear_no_more()
        await self._driver.close()

    async def online(self) -> DriverConnection:
        """Wait, without a deadline, until it is connected."""
        return await self._driver.online()

    async def connected(self, timeout_seconds: float) -> DriverConnection:
        """Wait until it is connected.

        Raises:
            WaitTimeout: it was not, by the deadline.
        """
        return await self._driver.connected(timeout_seconds)

    @property
    def has_upgraded(self) -> bool:
        """Whether it has a connection, and that is one over WebSocket.

        Raises:
            NotSeen: its program does not tell.
        """
        connection = self._driver.connection
        if connection is not None and connection.is_websocket is None:
            raise NotSeen(f"{self.title} does not tell whether its connection is a WebSocket")
        return connection is not None and bool(connection.is_websocket)

    @property
    def latest(self) -> DriverConnection | None:
        """The last connection that it has made, open or not."""
        return self._driver.latest

    def disconnect(self) -> None:
        """Have the user go away, until `connect`."""
        self._driver.tell(p.Disconnect())

    def connect(self) -> None:
        """Have the user come back."""
        self._driver.connect()

    # -- what it tells -------------------------------------------------------------------------------------------

    def _hear(self, told: p.AnyTold) -> None:
        """Take over what happened, under the numbers of this run and at the time of its arrival."""
        match told:
            case p.Received():
                self._hear_of(told.content)
                return
            case p.Attempt() | p.Ok() | p.Info() | p.Fail() | p.Invoke() | p.Settled():
                message = self._message(told.message)
                if message.forgotten:
                    return
            case _:
                raise ValueError(f"{told} is not a thing to tell of a sender")
        match told:
            case p.Invoke():
                message.offset = told.offset
                if (watch := self._unheard.pop(message.id, None)) is not None:
                    watch.cancel()
            case p.Attempt():
                self._begin(message, told)
            case p.Ok() | p.Info() | p.Fail():
                self._end(message, told)
            case p.Settled():
                message.settled = True
                self._recorder.record(h.Settled(time=self._recorder.now(), message=message.id, outcome=told.outcome))
        if message.settled and message.attempts and not any(message.id == identity for identity, _ in self._open):
            message.done.set()

    def _begin(self, message: Message, told: p.Attempt) -> None:
        number = self._attempts_before.get(message.id, 0) + told.attempt
        if (message.id, number) in self._begun:
            raise ValueError(f"attempt {told.attempt} of {message.id} begins a second time")
        connection = self._driver.connection
        now = self._recorder.now()
        self._begun[message.id, number] = now
        self._recorder.record(
            h.Attempt(
                time=now,
                message=message.id,
                attempt=number,
                offset=told.offset,
                connection=self._driver.number_of(told.connection) if told.connection else 0,
            )
        )
        message.attempts = message.emissions = number
        message.emitted_on, message.bytes_before = connection, connection.bytes_sent if connection else 0
        message.attempted.set()
        if not self.asks_nothing:
            self._open[message.id, number] = None

    def _end(self, message: Message, told: p.Ok | p.Info | p.Fail) -> None:
        number = self._attempts_before.get(message.id, 0) + told.attempt
        if (began := self._begun.get((message.id, number))) is None:
            raise ValueError(f"attempt {told.attempt} of {message.id} ends before it begins")
        now = self._recorder.now()
        self._open.pop((message.id, number), None)
        match told:
            case p.Ok():
                self._recorder.record(h.Ok(time=now, message=message.id, attempt=number, late=told.late))
                message.answer_seconds.append(now - began)
                message.acknowledged |= not told.late
                connection = self._driver.connection
                if connection is not None and connection is message.emitted_on:
                    connection.last_unit_bytes = connection.bytes_sent - message.bytes_before
            case p.Info():
                info = h.Info(
                    time=now, message=message.id, attempt=number, reason=told.reason, timed_out=told.timed_out
                )
                self._recorder.record(info)
            case p.Fail():
                message.emissions -= 1
                self._recorder.record(h.Fail(time=now, message=message.id, attempt=number, reason=told.reason))

    def forget(self) -> None:
        """Forget its messages, all of which are done, but for the last: late answers come of recent messages."""
        known = self.messages[-_REMEMBERED:]
        super().forget()
        self._driver.forget()
        self._known = {message.id: message for message in known}
        self._attempts_before.clear()
        self._begun.clear()

    def _message(self, identity: str) -> Message:
        if (found := self._known.get(identity)) is None:
            raise ValueError(f"{identity} is not a message that it was given")
        return found

    def _forget_open(self) -> None:
        """Record what the end of the program leaves open; without an outbox nothing more will be done about it."""
        record, now = self._recorder.record, self._recorder.now
        for identity, attempt in self._open:
            record(h.Info(time=now(), message=identity, attempt=attempt, reason="the client's process ended"))
        self._open.clear()
        self._hear_no_more()
        self._give_up_memory()

    def _give_up_memory(self) -> None:
        for message in self.messages:
            if not self._keeps or (message.settled and message.attempts):
                message.done.set()

    def _hear_no_more(self) -> None:
        for watch in self._unheard.values():
            watch.cancel()
        self._unheard.clear()

    # -- for schedules -------------------------------------------------------------------------------------------

    def take(self, message: Message) -> None:
        """Have a message emitted, behind those that were taken before."""
        self._driver.tell(p.Post(message=message.id, content=message.content, offset=message.offset))
        self._unheard[message.id] = asyncio.create_task(self._expect_invoke(message.id))

    async def _expect_invoke(self, message: str) -> None:
        await waiting.pause(patience_seconds(self._dialer))
        self._unheard.pop(message, None)
        self._driver.fail(f"it hangs: it was given {message}, and tells nothing of it")

    @fault("client")
    async def reload(self) -> Acts:
        """Reload its page with the message held in its link: what is in memory is gone, and it connects anew."""
        try:
            await self.link.hold("upstream")
            message = yield None
            await message.first_attempt(self._patience_seconds)
            connection = await self.connected(self._patience_seconds)
            self._driver.tell(p.Reload())
            await waiting.within(
                asyncio.shield(connection.closed),
                awaited=f"{self.name} to leave its page",
                timeout_seconds=self._patience_seconds,
            )
            await self.link.restore()
            self._give_up_memory()
            if message.acknowledged or await self._store.holds(message):
                raise NotSeen("the message was stored or acknowledged although its link was held")
            yield f"the page was reloaded with {message.id} held in the link"
        finally:
            await self.link.restore()

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
            await self.close()  # where nothing was there to be hit it lives, and a second one would speak beside it
            await self.start()

    @fault("client")
    async def freeze(self, seconds: float) -> Acts:
        """Stop it where it stands (SIGSTOP), for `seconds` after its message was stored, and hold its answer longer."""
        process = self._driver.process
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

    def _counted(self, sequence: int) -> Literal[None]:
        return None  # the program makes it, and tells


class DriverReceiver:
    """A receiver whose client is another program. `messages` are the identities that it has heard so far."""

    link: "ReceiverLink"

    def __init__(
        self, name: str, port: int, dialer: Dialer, program: Program, policy: h.Policy, style: p.Style | None = None
    ) -> None:
        self.name = name
        self.messages: set[str] = set()
        self._dialer = dialer
        self._recorder = dialer.recorder
        self._driver = Driver(name, dialer, port, program, policy=policy, style=style, seed=0, hear=self._receive)
        self._recorder.record(h.Receiving(time=self._recorder.now(), receiver=name))

        self.connect_failures, self.endings = self._driver.connect_failures, self._driver.endings

    async def start(self) -> None:
        """Start the program.

        Raises:
            ClientError: it cannot be started.
        """
        await self._driver.start()

    async def close(self) -> None:
        """Kill the program."""
        await self._driver.close()

    async def online(self) -> DriverConnection:
        """Wait, without a deadline, until it is connected."""
        return await self._driver.online()

    async def connected(self, timeout_seconds: float) -> DriverConnection:
        """Wait until it is connected.

        Raises:
            WaitTimeout: it was not, by the deadline.
        """
        return await self._driver.connected(timeout_seconds)

    async def heard(self, message: Message) -> None:
        """Wait until it has received a message; where that does not come, the schedule goes on."""
        await patiently_heard(self.messages, message, self._dialer)

    def forget(self) -> None:
        """Forget what it has heard; what it hears from now on begins with saying that it listens."""
        self._driver.forget()
        self.messages.clear()
        self._recorder.record(h.Receiving(time=self._recorder.now(), receiver=self.name))

    def _receive(self, told: p.AnyTold) -> None:
        if not isinstance(told, p.Received):
            raise ValueError(f"{told} is not a thing to tell of a receiver")  # noqa: TRY004 - of a protocol, not a type
        self._recorder.record(
            h.Received(
                time=self._recorder.now(),
                receiver=self.name,
                server_offset=told.server_offset,
                content=told.content,
            )
        )
        if (message := h.identity_in(self._dialer.run, told.content)) is not None:
            self.messages.add(message)
