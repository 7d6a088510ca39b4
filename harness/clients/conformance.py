"""Whether a program keeps to PROTOCOL.md: each rule drives it against the real reference server."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from harness import history as h
from harness import ports, waiting
from harness.clients import protocol as p
from harness.errors import HarnessError, ending
from harness.install import locate
from harness.process import ProcessGroup
from harness.store import SQLiteStore, StoredRow
from harness.toxiproxy import Proxy, Toxiproxy

E = TypeVar("E", bound=p.Told)

EVENT = "chat message"

# For what comes within milliseconds, and what has to come "at once", on a machine with other work.
_DEADLINE_SECONDS = 6.0
_AT_ONCE_SECONDS = 1.5
# An ack timeout that plays no part, and one that does.
_LONG_SECONDS = 30.0
_SHORT_SECONDS = 0.3
# How long to look for what must not come.
_QUIET_SECONDS = 0.3
_PATH = "/socket.io"
_ROWS = "SELECT id, client_offset, content FROM messages ORDER BY id"
_BODY = 'Grüße, 世界 \U0001f30d "\\ \u2028 ' + "x" * 20_000


@dataclass(frozen=True)
class Finding:
    """What became of one rule.

    Args:
        rule: its name.
        held: whether the program keeps to it; also where it need not, and lacks what it is about.
        detail: what the rule says, or how it was broken, or what is lacking.
        seen: the last lines that the program told, and those of its standard error.
        lacks: whether the program does not offer what the rule is about.
    """

    rule: str
    held: bool
    detail: str
    seen: str
    lacks: bool = False


class Broken(Exception):
    """The program does not do what the page says."""


class NotOffered(Exception):
    """The program does not know this policy, or does not tell this; it need not."""


# -- pure: what was told -----------------------------------------------------------------------------------------


def read(lines: Sequence[bytes]) -> tuple[list[p.AnyTold], list[str]]:
    """Sort lines into what the protocol knows and, in short, what it does not."""
    told: list[p.AnyTold] = []
    nonsense = []
    for line in lines:
        try:
            told.append(p.decode_told(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            nonsense.append(f"{line[:120]!r} ({error})")
    return told, nonsense


@dataclass
class _Reader:
    """Follows what one program tells, and says where it contradicts itself.

    Where its attempts do not ask for an acknowledgement (`asks`), they need not end.
    """

    asks: bool = True
    tries: int = 0
    open: int | None = None
    begun: dict[str, int] = field(default_factory=dict)
    under_way: dict[tuple[str, int], int] = field(default_factory=dict)
    acknowledged: set[tuple[str, int]] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)

    def contradiction(self, event: p.AnyTold) -> str | None:
        match event:
            case p.Connected() | p.ConnectFailed():
                return self._tried(event)
            case p.Disconnected():
                if event.connection != self.open:
                    return f"the connection {event.connection} is not open"
                self.open = None
            case p.Attempt():
                return self._attempted(event)
            case p.Ok() | p.Info() | p.Fail():
                return self._ended(event)
            case p.Settled():
                return self._settled(event)
            case p.Invoke() if event.message in self.begun:
                return "an attempt of it was told before"
        return None

    def _tried(self, event: p.Connected | p.ConnectFailed) -> str | None:
        if self.open is not None:
            return f"the connection {self.open} is still open"
        self.tries += 1
        if event.connection != self.tries:
            return f"this is try number {self.tries}"
        if isinstance(event, p.Connected):
            self.open = event.connection
            # Those of an older connection have ended with it.
            for (message, attempt), connection in self.under_way.items() if self.asks else ():
                return f"attempt {attempt} of {message}, on connection {connection}, has not ended"
        return None

    def _attempted(self, event: p.Attempt) -> str | None:
        if event.connection not in (0, self.open):
            return f"the connection {event.connection} is not open"
        self.begun[event.message] = self.begun.get(event.message, 0) + 1
        if event.attempt != self.begun[event.message]:
            return f"this is attempt {self.begun[event.message]} of the message"
        self.under_way[event.message, event.attempt] = event.connection
        return None

    def _ended(self, event: p.Ok | p.Info | p.Fail) -> str | None:
        which = event.message, event.attempt
        if not 0 < event.attempt <= self.begun.get(event.message, 0):
            return "this attempt has not begun"
        late = self.under_way.pop(which, None) is None
        if not isinstance(event, p.Ok):
            return "this attempt has ended before" if late else None
        if which in self.acknowledged:
            return "this attempt was acknowledged before"
        self.acknowledged.add(which)
        if event.late != late:
            return "this attempt had ended before" if late else "this attempt had not ended before"
        return None

    def _settled(self, event: p.Settled) -> str | None:
        if event.message in self.settled:
            return "the message has settled before"
        self.settled.add(event.message)
        if event.outcome == "handed-over":
            # Nothing has to end of it: it may ask for no acknowledgement.
            return None
        if event.outcome == "acknowledged" and not any(message == event.message for message, _ in self.acknowledged):
            return "no attempt of it was acknowledged"
        return None


def contradiction(told: Sequence[p.AnyTold], *, asks: bool = True) -> str | None:
    """Where one program's lines contradict each other or the page, if they do.

    Args:
        told: all of its lines, in their order.
        asks: whether its attempts ask for an acknowledgement; else they need not end.
    """
    reader = _Reader(asks)
    for event in told:
        if (why := reader.contradiction(event)) is not None:
            return f"{_text(event)}: {why}"
    return None


def _text(event: p.AnyTold) -> str:
    text = p.encode(event).decode()
    return text if len(text) <= 200 else f"{text[:100]}…{text[-90:]}"


# -- what it is tried with ---------------------------------------------------------------------------------------


class Program:
    """The program under test, once started; `told` is what it has told. The policy `known` it has to know."""

    def __init__(self, process: ProcessGroup, connect: Mapping[str, object], known: str = "persistent") -> None:
        self.process = process
        self.told: list[p.AnyTold] = []
        self.nonsense: list[str] = []
        self._connect = connect
        self._known = known
        self._listening: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Begin to hear what it tells."""
        lines = await self.process.output(p.LONGEST_LINE_BYTES)
        self._listening = asyncio.create_task(self._listen(lines))

    async def _listen(self, lines: asyncio.StreamReader) -> None:
        try:
            while line := await lines.readline():
                told, nonsense = read([line])
                self.told += told
                self.nonsense += nonsense
        except ValueError:
            self.nonsense.append(f"a line of more than {p.LONGEST_LINE_BYTES:,} bytes")

    async def close(self) -> None:
        """Kill it, and hear the rest."""
        await self.process.kill()
        if self._listening is not None:
            await self._listening
        self.process.close_pipes()

    @property
    def seen(self) -> str:
        """The last lines that it told, and those of its standard error."""
        told = "\n".join(map(_text, self.told[-12:])) or "(it told nothing)"
        if self.process.log.exists() and self.process.log.stat().st_size:
            told += f"\nits standard error ends with:\n{self.process.last_log_lines()}"
        return told

    def say(self, **command: object) -> None:
        """Tell it what to do."""
        self.process.write(p.encode(command) + b"\n")

    def connect(self) -> None:
        """Have it connect."""
        self.say(**self._connect)

    def post(self, number: int, body: str = "body", offset: str | None = "") -> str:
        """Have it emit a message; an offset of its own unless another is given. Returns its identity."""
        message = f"{self._connect['run']}-alice-{number:04d}"
        own = f"{message}-offset" if offset == "" else offset
        self.say(command="post", message=message, content=f"{message} {body}", offset=own)
        return message

    def all(self, kind: type[E], **fields: object) -> list[E]:
        """What it told of a kind."""
        return [
            event
            for event in self.told
            if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
        ]

    async def tells(
        self, kind: type[E], count: int = 1, timeout_seconds: float = _DEADLINE_SECONDS, **fields: object
    ) -> E:
        """Wait until it has told something that often; returns the last.

        Raises:
            Broken: it has not, by the deadline, or has ended, or has told what is no line of the protocol.
            NotOffered: it told that it does not know the policy.
        """
        what = " ".join([f"`{kind.__name__.lower()}`", *(f"{name} {value!r}" for name, value in fields.items())])

        def found() -> list[E]:
            if self.nonsense:
                raise Broken(f"it told {self.nonsense[0]}")
            if (errors := self.all(p.Error)) and kind is not p.Error and self._connect["policy"] != self._known:
                raise NotOffered(errors[0].reason)
            return self.all(kind, **fields)[count - 1 : count]

        def heard() -> list[E] | bool:
            # Its end is looked at before its lines: when it is over, those are all there.
            over = self._listening is not None and self._listening.done()
            return found() or over

        with contextlib.suppress(waiting.WaitTimeout):
            await waiting.until(heard, awaited=what, timeout_seconds=timeout_seconds, interval_seconds=0.002)
        if events := found():
            return events[0]
        times = f" {count} times" if count > 1 else ""
        if self._listening is not None and self._listening.done():
            with contextlib.suppress(waiting.WaitTimeout):
                await waiting.within(self.process.wait(), awaited="its end", timeout_seconds=_AT_ONCE_SECONDS)
        if self.process.exit_status is not None:
            raise Broken(f"it {ending(self.process.exit_status)} before it told {what}{times}")
        raise Broken(f"it did not tell {what}{times} within {timeout_seconds:g} s")

    async def ends(self) -> int:
        """Wait until it has ended by itself; returns its exit status.

        Raises:
            Broken: it has not, by the deadline.
        """
        try:
            return await waiting.within(self.process.wait(), awaited="its end", timeout_seconds=_DEADLINE_SECONDS)
        except waiting.WaitTimeout as error:
            raise Broken(f"it does not end: {error}") from None


class Bench:
    """A reference server behind a link, and the programs that a rule starts; `run` is the token of its messages."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        link: Proxy,
        store: SQLiteStore,
        run: str,
        policy: h.Policy,
        cwd: Path | None,
    ) -> None:
        self._cwd = cwd or folder
        self._run = run
        self._policy = policy
        self.link = link
        self.programs: list[Program] = []
        self.folder = folder
        self._asks: list[bool] = []
        self._command, self._env = command, env
        self._store = store
        self._before: list[StoredRow] = []

    async def begin(self) -> None:
        """Take the rows that there are for those of others."""
        self._before = await self._store.rows()

    async def program(
        self,
        policy: str | None = None,
        *,
        ack_timeout_seconds: float = _LONG_SECONDS,
        transports: Sequence[str] = ("websocket",),
        outbox: Path | None = None,
        receive: str | None = None,
        connect: bool = True,
    ) -> Program:
        """Start it; by default it is told to connect, and to send as in the rules that are about no policy."""
        policy = policy or self._policy
        process = ProcessGroup(self._command, log=self.folder / "program.log", cwd=self._cwd, env=self._env, pipes=True)
        program = Program(
            process,
            {
                "command": "connect",
                "name": "alice",
                "run": self._run,
                "port": self.link.port,
                "transports": transports,
                "path": _PATH,
                "namespace": "/",
                "event": EVENT,
                "policy": policy,
                "ack_timeout_seconds": ack_timeout_seconds,
                "reconnect_delay_seconds": [0.01, 0.08],
                "outbox": str(outbox) if outbox is not None else None,
                "seed": 1,
            },
            self._policy,
        )
        self.programs.append(program)
        self._asks.append(policy != "fire-and-forget")
        await program.listen()
        if receive is not None:
            program.say(command="receive", broadcast=EVENT, style=receive)
        if connect:
            program.connect()
        return program

    async def rows(self, count: int) -> list[StoredRow]:
        """Wait for so many rows, and whether more come.

        Raises:
            Broken: there are not so many.
        """

        async def new() -> list[StoredRow]:
            return (await self._store.rows())[len(self._before) :]

        async def enough() -> bool:
            return len(await new()) >= count

        with contextlib.suppress(waiting.WaitTimeout):
            await waiting.until(enough, awaited=f"{count} rows", timeout_seconds=_DEADLINE_SECONDS)
        await waiting.pause(_QUIET_SECONDS)
        rows = await new()
        if len(rows) != count:
            offsets = [row.client_offset for row in rows]
            raise Broken(f"the server stored {len(rows)} messages, not {count}: {offsets}")
        return rows

    async def stored(self) -> list[StoredRow]:
        """What is stored now."""
        return (await self._store.rows())[len(self._before) :]

    async def hold_answers(self) -> None:
        """Let nothing more come back from the server until the link is renewed."""
        await self.link.add_toxic("hold", "timeout", "downstream", {"timeout": 0})

    async def close(self) -> None:
        """End what runs, and leave the link as it was."""
        for program in self.programs:
            await program.close()
        await self.link.renew()

    def contradiction(self) -> str | None:
        """Where a program has contradicted itself."""
        found = (contradiction(each.told, asks=asks) for each, asks in zip(self.programs, self._asks, strict=True))
        return next((why for why in found if why), None)


Test = Callable[[Bench], Awaitable[None]]


@dataclass(frozen=True)
class Rule:
    """What a program has to do, and how that is tried.

    Args:
        name: of the rule.
        says: what it asks for.
        test: raises `Broken` or `NotOffered`.
        server: the switch of the reference server that it is tried with, if any.
    """

    name: str
    says: str
    test: Test
    server: str | None = None


RULES: list[Rule] = []


def _rule(name: str, says: str, server: str | None = None) -> Callable[[Test], Test]:
    def add(test: Test) -> Test:
        RULES.append(Rule(name, says, test, server))
        return test

    return add


def _require(condition: bool, broken: str) -> None:
    if not condition:
        raise Broken(broken)


# -- the rules ---------------------------------------------------------------------------------------------------


@_rule("connects", "tells `connected` with number 1")
async def _connects(bench: Bench) -> None:
    program = await bench.program()
    connected = await program.tells(p.Connected)
    _require(connected.connection == 1, f"its first connection has the number {connected.connection}")


@_rule("invoke", "tells `invoke` at once, connected or not")
async def _invoke(bench: Bench) -> None:
    program = await bench.program()
    await program.tells(p.Connected)
    message = program.post(1)
    invoke = await program.tells(p.Invoke, timeout_seconds=_AT_ONCE_SECONDS, message=message)
    _require(invoke.offset == f"{message}-offset", f"it tells an offset that it was not given: {invoke.offset!r}")
    await bench.link.disable()
    await program.tells(p.Disconnected)
    await program.tells(p.Invoke, timeout_seconds=_AT_ONCE_SECONDS, message=program.post(2))


@_rule("acknowledged", "emits once, tells `attempt`, `ok` and `settled`; the text arrives as it is", "--without-unique")
async def _acknowledged(bench: Bench) -> None:
    program = await bench.program()
    messages = [program.post(number, body) for number, body in enumerate((_BODY, "", "short"), start=1)]
    for message in messages:
        await program.tells(p.Settled, message=message, outcome="acknowledged")
        _require(len(program.all(p.Attempt, message=message)) == 1, f"it did not tell one attempt of {message}")
        _require(len(program.all(p.Ok, message=message, late=False)) == 1, f"it did not tell one `ok` of {message}")
    rows = await bench.rows(3)
    for row, message, body in zip(rows, messages, (_BODY, "", "short"), strict=True):
        _require(row.client_offset == f"{message}-offset", f"the server stored {message} as {row.client_offset!r}")
        _require(row.content == f"{message} {body}", f"the server stored another text for {message}")


@_rule("polling", "the same over polling, and with an upgrade", "--without-unique")
async def _polling(bench: Bench) -> None:
    for number, transports in enumerate((["polling"], ["polling", "websocket"]), start=1):
        program = await bench.program(transports=transports)
        await program.tells(p.Settled, message=program.post(number), outcome="acknowledged")
    await bench.rows(2)


@_rule("null-offset", "makes an offset of its own where none is given, and tells it")
async def _null_offset(bench: Bench) -> None:
    program = await bench.program(connect=False)
    await bench.link.disable()
    program.connect()
    await program.tells(p.ConnectFailed)
    first = await program.tells(p.Invoke, message=program.post(1, offset=None))
    _require(first.offset == "undefined-0", f"without a connection its offset is {first.offset!r}, not 'undefined-0'")
    await bench.link.renew()
    await program.tells(p.Settled, message=first.message)
    second = await program.tells(p.Invoke, message=program.post(2, offset=None))
    identity, _, counter = second.offset.rpartition("-")
    _require(
        counter == "1" and identity not in ("", "undefined"), f"the next, while connected, has the offset {second}"
    )
    await program.tells(p.Settled, message=second.message)
    offsets = [row.client_offset for row in await bench.rows(2)]
    _require(offsets == [first.offset, second.offset], f"the server stored {offsets}")


@_rule("disconnect", "`disconnect` closes and stays away, with what was posted in memory; `connect` comes back")
async def _disconnect(bench: Bench) -> None:
    program = await bench.program()
    await program.tells(p.Connected)
    program.say(command="disconnect")
    await program.tells(p.Disconnected, connection=1)
    message = program.post(1)
    await program.tells(p.Invoke, message=message)
    await waiting.pause(_QUIET_SECONDS)
    _require(not program.all(p.Connected, connection=2), "it did not stay away")
    program.connect()
    await program.tells(p.Connected, connection=2)
    await program.tells(p.Settled, message=message, outcome="acknowledged")
    await bench.rows(1)


@_rule("cut", "tells the end of a connection and of its attempts, comes back, and sends again until it is acknowledged")
async def _cut(bench: Bench) -> None:
    program = await bench.program()
    await program.tells(p.Settled, message=program.post(1))
    await bench.hold_answers()
    message = program.post(2)
    await program.tells(p.Attempt, message=message, attempt=1)
    await bench.rows(2)
    await bench.link.renew()
    await program.tells(p.Disconnected, connection=1)
    ended = await program.tells(p.Info, message=message, attempt=1)
    _require(not ended.timed_out, "it calls the end of the connection a timeout")
    again = await program.tells(p.Attempt, message=message, attempt=2)
    _require(again.connection > 1, f"it tells its second attempt on connection {again.connection}")
    _require(again.offset == f"{message}-offset", f"its second attempt has the offset {again.offset!r}")
    await program.tells(p.Ok, message=message, attempt=2, late=False)
    await program.tells(p.Settled, message=message, outcome="acknowledged")
    await bench.rows(2)


@_rule("refused", "tells every try that fails, with a reason, and goes on to try")
async def _refused(bench: Bench) -> None:
    program = await bench.program()
    await program.tells(p.Connected)
    await bench.link.disable()
    failed = await program.tells(p.ConnectFailed, count=3)
    _require(bool(failed.reason), "it gives no reason")
    await bench.link.renew()
    await program.tells(p.Connected, count=2)


@_rule(
    "persistent",
    "sends again after each ack timeout; a late acknowledgement is told with `late`",
    "--without-acknowledgement",
)
async def _persistent(bench: Bench) -> None:
    program = await bench.program("persistent", ack_timeout_seconds=_SHORT_SECONDS)
    message = program.post(1)
    program.post(2)
    await program.tells(p.Attempt, message=message, attempt=3)
    timed_out = program.all(p.Info, message=message, timed_out=True)
    _require(len(timed_out) == 2, f"at the third attempt it had told {len(timed_out)} of 2 ack timeouts")
    _require(not program.all(p.Settled), "it settled a message without an acknowledgement")
    _require({each.message for each in program.all(p.Attempt)} == {message}, "it has more than one message in flight")


@_rule("retries=3", "four attempts, then it tells `gave-up`, and the next message follows", "--without-acknowledgement")
async def _retries(bench: Bench) -> None:
    program = await bench.program("retries=3", ack_timeout_seconds=_SHORT_SECONDS)
    first, second = program.post(1), program.post(2)
    await program.tells(p.Attempt, message=second)
    attempts, infos = program.all(p.Attempt, message=first), program.all(p.Info, message=first, timed_out=True)
    _require((len(attempts), len(infos)) == (4, 4), f"it told {len(attempts)} attempts and {len(infos)} ack timeouts")
    settled = program.all(p.Settled, message=first)
    _require([each.outcome for each in settled] == ["gave-up"], f"it told {settled} before the next message")


@_rule("tutorial", "four attempts, then silence, and the next message follows", "--without-acknowledgement")
async def _tutorial(bench: Bench) -> None:
    program = await bench.program("tutorial", ack_timeout_seconds=_SHORT_SECONDS)
    first, second = program.post(1), program.post(2)
    await program.tells(p.Attempt, message=second)
    attempts, infos = program.all(p.Attempt, message=first), program.all(p.Info, message=first, timed_out=True)
    _require((len(attempts), len(infos)) == (4, 4), f"it told {len(attempts)} attempts and {len(infos)} ack timeouts")
    _require(not program.all(p.Settled), "it settled a message that nobody is told of")


@_rule("fire-and-forget", "told as handed over at the post; what is told as an attempt is sent, and nothing else")
async def _fire_and_forget(bench: Bench) -> None:
    program = await bench.program("fire-and-forget")
    await program.tells(p.Connected)
    first = program.post(1)
    await program.tells(p.Settled, message=first, outcome="handed-over")
    await program.tells(p.Attempt, message=first)
    await bench.rows(1)  # nothing else says that it arrived
    await bench.link.disable()
    await program.tells(p.Disconnected)
    away = program.post(2)
    await program.tells(p.Settled, message=away, outcome="handed-over")
    await bench.link.renew()
    await program.tells(p.Connected, count=2)
    last = program.post(3)
    await program.tells(p.Attempt, message=last)
    failed = {event.message for event in program.all(p.Fail)}
    sent = [event.message for event in program.all(p.Attempt) if event.message not in failed]
    offsets = [row.client_offset for row in await bench.rows(len(sent))]
    _require(offsets == [f"{message}-offset" for message in sent], f"it sent {sent}, the server stored {offsets}")


@_rule("once", "told as handed over at the post, sent once, dropped while there is no connection", "--without-unique")
async def _once(bench: Bench) -> None:
    program = await bench.program("once")
    await program.tells(p.Connected)
    first = program.post(1)
    await program.tells(p.Settled, message=first, outcome="handed-over")
    await program.tells(p.Ok, message=first, attempt=1)
    await bench.link.disable()
    await program.tells(p.Disconnected)
    away = program.post(2)
    await program.tells(p.Settled, message=away, outcome="handed-over")
    await bench.link.renew()
    await program.tells(p.Connected, count=2)
    await program.tells(p.Ok, message=program.post(3), attempt=1)
    offsets = [row.client_offset for row in await bench.rows(2)]
    _require(f"{away}-offset" not in offsets, "it sent what was posted while there was no connection")


@_rule("new-offset", "sends again with a fresh offset")
async def _new_offset(bench: Bench) -> None:
    program = await bench.program("new-offset")
    await program.tells(p.Settled, message=program.post(1))
    await bench.hold_answers()
    message = program.post(2)
    await bench.rows(2)
    await bench.link.renew()
    await program.tells(p.Settled, message=message, outcome="acknowledged")
    offsets = {event.offset for event in program.all(p.Attempt, message=message)}
    _require(len(offsets) == len(program.all(p.Attempt, message=message)) > 1, f"it told the offsets {sorted(offsets)}")
    rows = {row.client_offset for row in await bench.rows(1 + len(offsets))}
    _require(offsets <= rows, f"it told the offsets {sorted(offsets)}, which are not those that the server stored")


@_rule("pipelined", "several in flight, each sent once; `gave-up` without an answer", "--without-acknowledgement")
async def _pipelined(bench: Bench) -> None:
    program = await bench.program("pipelined", ack_timeout_seconds=_SHORT_SECONDS)
    await program.tells(p.Connected)
    messages = [program.post(number) for number in range(1, 10)]
    await program.tells(p.Attempt, count=8)
    _require(not program.all(p.Settled), "it does not have eight in flight")
    for message in messages:
        await program.tells(p.Settled, message=message, outcome="gave-up")
        _require(len(program.all(p.Attempt, message=message)) == 1, f"it did not send {message} once")


@_rule("resend", "several in flight, each sent again until it is acknowledged", "--without-acknowledgement")
async def _resend(bench: Bench) -> None:
    program = await bench.program("resend", ack_timeout_seconds=_SHORT_SECONDS)
    await program.tells(p.Connected)
    for message in [program.post(number) for number in (1, 2)]:
        await program.tells(p.Attempt, message=message, attempt=2)
        await program.tells(p.Info, message=message, attempt=1, timed_out=True)
    _require(not program.all(p.Settled), "it settled a message without an acknowledgement")


async def _receiving(bench: Bench, style: str) -> None:
    receiver, sender = await bench.program(receive=style), await bench.program()
    expected: list[tuple[str, int]] = []

    async def receives() -> None:
        for content, _ in expected[:]:
            await receiver.tells(p.Received, content=content)

    async def send(numbers: Sequence[int]) -> None:
        before = len(await bench.stored())
        for number in numbers:
            await sender.tells(p.Settled, message=sender.post(number))
        rows = (await bench.stored())[before:]
        expected.extend((row.content or "", int(row.id or 0)) for row in rows)

    await receiver.tells(p.Connected)
    await send([1, 2])
    await receives()
    receiver.say(command="disconnect")
    await receiver.tells(p.Disconnected)
    await send([3])  # it comes when the receiver says which it had
    if style == "forgetful":
        expected[:0] = expected[:2]  # those it had, told a second time
    receiver.connect()
    await receiver.tells(p.Connected, count=2)
    await receives()
    await send([4])
    await receives()
    await waiting.pause(_QUIET_SECONDS)
    own = {content for content, _ in expected}
    got = [(event.content, event.server_offset) for event in receiver.all(p.Received) if event.content in own]
    _require(got == expected, f"it received {got}, the server has {expected}")


@_rule("receive-hardened", "tells broadcasts in order, each once, and comes back with the highest offset")
async def _receive_hardened(bench: Bench) -> None:
    await _receiving(bench, "hardened")


@_rule("receive-tutorial", "tells broadcasts in order, and comes back with the latest offset")
async def _receive_tutorial(bench: Bench) -> None:
    await _receiving(bench, "tutorial")


@_rule("receive-forgetful", "tells broadcasts in order, and after a return every one again")
async def _receive_forgetful(bench: Bench) -> None:
    await _receiving(bench, "forgetful")


@_rule("outbox", "a message that was told with `invoke` outlives a SIGKILL, and one that has settled is not sent again")
async def _outbox(bench: Bench) -> None:
    file = bench.folder / "outbox"
    program = await bench.program(outbox=file)
    await program.tells(p.Settled, message=program.post(1))
    await bench.link.disable()
    await program.tells(p.Disconnected)
    messages = [program.post(2), program.post(3)]
    for message in messages:
        await program.tells(p.Invoke, message=message)
    await program.close()
    await bench.link.renew()
    second = await bench.program(outbox=file)
    for message in messages:
        await second.tells(p.Settled, message=message, outcome="acknowledged")
    sent = [event.message for event in second.all(p.Attempt)]
    _require(sent == messages, f"started again, it sent {sent}, not {messages}")
    await bench.rows(3)


@_rule("reload", "`reload` forgets what is in memory, reads the outbox again, and counts on")
async def _reload(bench: Bench) -> None:
    for kept, number in ((False, 1), (True, 3)):
        program = await bench.program(outbox=bench.folder / "reload.jsonl" if kept else None)
        await program.tells(p.Connected)
        await bench.link.disable()
        await program.tells(p.Disconnected)
        message = program.post(number)
        await program.tells(p.Invoke, message=message)
        await program.tells(p.ConnectFailed)
        tries = len(program.all(p.Connected)) + len(program.all(p.ConnectFailed))
        program.say(command="reload")
        await bench.link.renew()
        again = await program.tells(p.Connected, count=2)
        _require(again.connection > tries, f"after the reload it counts its connections from {again.connection}")
        await program.tells(p.Settled, message=program.post(number + 1))
        sent = bool(program.all(p.Attempt, message=message))
        _require(
            sent == kept, f"it {'sent' if sent else 'forgot'} {message}, {'with' if kept else 'without'} an outbox"
        )


@_rule(
    "reload-midway", "a `reload` tells the end of the connection, and of an attempt that was under way, before the next"
)
async def _reload_midway(bench: Bench) -> None:
    program = await bench.program()
    await program.tells(p.Connected)
    await bench.hold_answers()
    message = program.post(1)
    await program.tells(p.Attempt, message=message)
    await bench.rows(1)
    program.say(command="reload")
    await program.tells(p.Disconnected, connection=1)
    await bench.link.renew()
    again = await program.tells(p.Connected, count=2)
    ended = [*program.all(p.Info, message=message, attempt=1), *program.all(p.Disconnected, connection=1)]
    _require(len(ended) == 2, f"before {_text(again)} it told {ended}")


@_rule("stop", "`stop` closes the connection and exits with status 0")
async def _stop(bench: Bench) -> None:
    program = await bench.program()
    await program.tells(p.Connected)
    program.say(command="stop")
    status = await program.ends()
    _require(status == 0, f"it {ending(status)}")


@_rule("end-of-input", "ends when its standard input does")
async def _end_of_input(bench: Bench) -> None:
    program = await bench.program()
    await program.tells(p.Connected)
    program.process.close_input()
    await program.ends()


@_rule("bad-command", "answers what it does not know with `error`")
async def _bad_command(bench: Bench) -> None:
    program = await bench.program()
    await program.tells(p.Connected)
    program.say(command="sing")
    await program.tells(p.Error)


@_rule("wire", "tells how many bytes were sent on a connection, and whether the next poll is on the wire")
async def _wire(bench: Bench) -> None:
    for first, transports in ((1, ["websocket"]), (4, ["polling"])):
        program = await bench.program(transports=transports)
        await program.tells(p.Settled, message=program.post(first))
        await waiting.pause(_QUIET_SECONDS)
        if not program.all(p.Wire):
            raise NotOffered("it does not tell `wire`: it cannot be cut at a byte, nor held mid-emit")
        lengths = []
        for number in (first + 1, first + 2):
            before = program.all(p.Wire)[-1].sent
            await program.tells(p.Settled, message=program.post(number, "x" * 100))
            await waiting.pause(_QUIET_SECONDS)
            lengths.append(program.all(p.Wire)[-1].sent - before)
        _require(lengths[0] == lengths[1] > 100, f"it tells {lengths} bytes for two messages of the same length")
        _require(program.all(p.Wire)[-1].poll_pending, "its next poll is not on the wire")


@_rule("wire-upgrade", "tells on `wire` whether its connection is a WebSocket by now")
async def _wire_upgrade(bench: Bench) -> None:
    for first, transports in ((1, ["websocket"]), (2, ["polling"]), (3, ["polling", "websocket"])):
        program = await bench.program(transports=transports)
        await program.tells(p.Settled, message=program.post(first))
        await waiting.pause(_QUIET_SECONDS)
        told = [wire.websocket for wire in program.all(p.Wire)]
        if None in told or not told:
            raise NotOffered("it does not tell its transport: what is cut during an upgrade is not proven")
        over = " and ".join(transports)
        _require(told[-1] is ("websocket" in transports), f"connected over {over} it tells {told[-1]}")


# -- running them ------------------------------------------------------------------------------------------------


async def check(
    command: Sequence[str],
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    rules: Sequence[Rule] | None = None,
    policy: h.Policy = "persistent",
    cwd: Path | None = None,
    report: Callable[[Finding], None] = lambda _: None,
) -> list[Finding]:
    """Try a program against each rule, one after the other.

    Args:
        command: how it is started.
        folder: where logs and databases go.
        env: added to its environment.
        rules: those to try; all of them unless told otherwise. Two more are judged by what it told in all of them.
        policy: its way of sending in the rules that are about none: another one for a program without `persistent`.
        cwd: where the program runs; by default in a folder of each rule.
        report: called with each finding, as it comes.

    Raises:
        HarnessError: there is no Toxiproxy, or the reference server or the program cannot be started.
    """
    asked = RULES if rules is None else rules
    findings, contradictions, nonsense, told = [], [], [], False
    async with AsyncExitStack() as undo:
        toxiproxy = await Toxiproxy.start(await asyncio.to_thread(locate), folder / "toxiproxy.log")
        undo.push_async_callback(toxiproxy.stop)
        servers = {flag: await undo.enter_async_context(_server(flag, folder)) for flag in {r.server for r in asked}}
        for number, rule in enumerate(asked):
            port, store = servers[rule.server]
            own = folder / rule.name
            own.mkdir()
            link = await toxiproxy.proxy(f"midemit-conformance-{number}", port)
            bench = Bench(command, env or {}, own, link, store, f"{number:08x}", policy, cwd)
            findings.append(await _tried(rule, bench))
            report(findings[-1])
            contradictions.append(bench.contradiction())
            nonsense += [line for program in bench.programs for line in program.nonsense]
            told = told or any(program.told for program in bench.programs)
            await link.delete()
    why = next(filter(None, contradictions), None)
    order = why or ("what it tells does not contradict itself" if told else "it told nothing")
    findings.append(Finding("order", why is None and told, order, ""))
    says = f"it told {nonsense[0]}" if nonsense else "tells nothing but lines of the protocol" if told else order
    findings.append(Finding("lines", not nonsense and told, says, "\n".join(nonsense[:12])))
    for finding in findings[-2:]:
        report(finding)
    return findings


async def _tried(rule: Rule, bench: Bench) -> Finding:
    held, lacks, detail = True, False, rule.says
    try:
        await bench.begin()
        await rule.test(bench)
    except Broken as broken:
        held, detail = False, f"{broken} ({rule.says})"
    except NotOffered as missing:
        lacks, detail = True, str(missing)
    finally:
        await bench.close()
    return Finding(rule.name, held, detail, bench.programs[-1].seen if bench.programs else "", lacks)


@contextlib.asynccontextmanager
async def _server(flag: str | None, folder: Path) -> AsyncIterator[tuple[int, SQLiteStore]]:
    """A reference server that is ready, with its port and its store."""
    reservation = ports.reserve()
    name = (flag or "plain").strip("-")
    database = folder / f"{name}.sqlite"
    command = [sys.executable, "-m", "harness.targets.reference", "--port", str(reservation.port)]
    process = ProcessGroup(
        [*command, "--database", str(database), *([flag] if flag else [])], log=folder / f"{name}.log"
    )
    try:
        await waiting.until(
            lambda: _answers(process, reservation.port),
            awaited="the reference server",
            timeout_seconds=20.0,
            interval_seconds=0.02,
        )
        yield (
            reservation.port,
            SQLiteStore(database, _ROWS, run="", patience_seconds=_DEADLINE_SECONDS, server_pids=lambda: ()),
        )
    finally:
        await process.kill()
        reservation.release()


async def _answers(process: ProcessGroup, port: int) -> bool:
    if process.exit_status is not None:
        raise HarnessError(f"the reference server does not start:\n{process.last_log_lines()}")
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
