"""What every sender is to a schedule: it makes messages, hands them over in their order, and waits for them."""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from harness import history as h
from harness import waiting
from harness.clients import content
from harness.clients.client import Dialer
from harness.errors import HarnessError

Offsets = Literal["random", "counter"]


class SeenConnection(Protocol):
    """What schedules and faults see of a sender's connection, whatever client it is of.

    Attributes:
        number: its place among the client's connections, from 1.
        recovered: whether the server has restored the session of the one before.
        closed: set, with the reason, when it has ended in any way.
    """

    number: int
    recovered: bool
    closed: asyncio.Future[str]

    @property
    def is_open(self) -> bool:
        """Whether nothing has ended it yet."""

    @property
    def bytes_sent(self) -> int:
        """How many bytes of messages were handed to the system so far, over all its TCP connections."""

    @property
    def bytes_by_wire(self) -> list[tuple[int, int]]:
        """How many bytes were handed to the system so far, and how many came from it, for each TCP connection."""

    @property
    def last_unit_bytes(self) -> int:
        """The length on the wire of the last WebSocket frame or POST request (with its headers)."""

    @property
    def poll_pending(self) -> bool:
        """Whether the next poll is on the wire (over WebSocket there are none: always)."""

    @property
    def is_websocket(self) -> bool | None:
        """Whether it is one over WebSocket, from its beginning or since its upgrade; None where nobody tells."""

    @property
    def cut(self) -> str:
        """What a cut has hit, in words."""


@dataclass(eq=False)
class Message:
    """One logical message, as its sender knows it.

    `attempted` is set when its first attempt has begun, `done` when its sender will do nothing more about it, `heard`
    when its broadcast has come back to its sender. It is `forgotten` when nobody asks any more what becomes of it.
    `emitted_on` is the connection of its last attempt, which had sent `bytes_before` until then; `answer_seconds` are
    the times from an attempt to its acknowledgement, late ones too. `offset` is None until its client has made one.
    """

    id: str
    content: str
    offset: str | None
    attempts: int = 0
    emissions: int = 0
    emitted_on: SeenConnection | None = None
    bytes_before: int = 0
    answer_seconds: list[float] = field(default_factory=list)
    acknowledged: bool = False
    settled: bool = False
    forgotten: bool = False
    attempted: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def first_attempt(self, timeout_seconds: float) -> None:
        """Wait until its first attempt has begun.

        Raises:
            WaitTimeout: it had not, by the deadline.
        """
        await waiting.within(self.attempted.wait(), awaited=f"an attempt of {self.id}", timeout_seconds=timeout_seconds)

    async def done_within(self, seconds: float) -> bool:
        """Wait until its sender will do nothing more about it, for so long; whether that is so."""
        with contextlib.suppress(waiting.WaitTimeout):
            await waiting.within(self.done.wait(), awaited=f"{self.id} to be done", timeout_seconds=seconds)
        return self.done.is_set()


class Author:
    """Makes the messages of one sender; how they are emitted is for others to say.

    Args:
        name: lower-case letters.
        dialer: of the run.
        policy: that of the sender, see there.
        random_numbers: of the run.
        offsets: `random` (a UUID) or `counter`: the connection's id and a counter, as in the tutorial.

    Attributes:
        messages: all that were posted, in their order, but for those that were forgotten.
        posted: how many that were, those among them.
        connect_failures: why each try to connect failed that did.
    """

    connect_failures: list[str]

    def __init__(
        self,
        name: str,
        dialer: Dialer,
        *,
        policy: h.Policy,
        random_numbers: random.Random,
        offsets: Offsets = "random",
    ) -> None:
        self.name = name
        self.policy: h.Policy = policy
        self.messages: list[Message] = []
        self.posted = 0
        self._dialer = dialer
        self._recorder = dialer.recorder
        # Of its own, and other numbers for new offsets: neither the other senders nor how often messages have to be
        # sent again may change what the next message is.
        self._random = random.Random(random_numbers.getrandbits(64))
        self._random_again = random.Random(random_numbers.getrandbits(64))
        self._bodies = content.Bodies(self._random, dialer.content)
        self._offsets = offsets
        self._patience_seconds = patience_seconds(dialer)
        self._known: dict[str | None, Message] = {}

    def post(self, text: str | None = None) -> Message:
        """Hand over a message and return at once.

        Args:
            text: its body, to have messages of equal length; else it is drawn from the seed.

        Raises:
            HarnessError: the text cannot be sent.
        """
        _check(text)
        self.posted = sequence = self.posted + 1
        identity = h.message_id(self._dialer.run, self.name, sequence)
        own = self._bodies.wrap(identity, self._bodies.deal()) if text is None else content.content(identity, text)
        counts = self._offsets == "counter"
        message = Message(identity, own, self._counted(sequence) if counts else self._offset(identity, self._random))
        self.messages.append(message)
        self._known[identity] = message
        self._recorder.record(
            h.Invoke(
                time=self._recorder.now(),
                message=identity,
                sender=self.name,
                sequence=sequence,
                content=own,
                policy=self.policy,
            )
        )
        self.take(message)
        return message

    async def send(self, text: str | None = None) -> Message:
        """Wait for a connection, post a message and wait until nothing more will be done about it.

        Neither wait lasts longer than the sender's patience, and neither raises then: the schedule goes on, and
        what did not settle is in the history. A sender that has lost its patience once does not wait again.
        """
        await self._patiently(self.online())
        message = self.post(text)
        await self.finished(message)
        return message

    async def finished(self, message: Message) -> None:
        """Wait until nothing more will be done about a message, with the patience of `send`."""
        await self._patiently(message.done.wait())

    async def send_many(self, count: int) -> None:
        """Send messages one after the other."""
        for _ in range(count):
            await self.send()

    @property
    def asks_nothing(self) -> bool:
        """Whether it never asks for an acknowledgement, so that only the store can tell what arrived."""
        return self.policy == "fire-and-forget"

    def forget(self) -> None:
        """Forget its messages, all of which are done; what is still told of them changes nothing."""
        for message in self.messages:
            message.forgotten = True
        self.messages.clear()
        self._known.clear()
        self._patience_seconds = patience_seconds(self._dialer)

    @property
    def unsettled(self) -> int:
        """How many of its messages have not settled."""
        return sum(not message.settled for message in self.messages)

    async def idle(self, *, downstream: bool = False) -> SeenConnection:
        """Wait until nothing of its own travels upstream, so that bytes can be counted from here; or `downstream`.

        The last thing that comes back of a message is the own broadcast; over polling each answer is followed by
        another poll. A server that does not broadcast to the sender is given one ack timeout to do so.

        Raises:
            WaitTimeout: it is not connected, or its next poll does not come.
        """
        connection = await self.connected(patience_seconds(self._dialer))
        counted = downstream or self._dialer.transport != "websocket"
        if counted and self._dialer.protocol.broadcast and self.messages and self._may_be_stored(self.messages[-1]):
            last = self.messages[-1].heard
            awaited, seconds = "the own broadcast", self._ack_timeout_seconds
            with contextlib.suppress(waiting.WaitTimeout):
                if self._dialer.transport == "websocket":
                    await waiting.within(last.wait(), awaited=awaited, timeout_seconds=seconds)
                else:
                    # The next poll follows it, and nothing tells when that has got through the link: what there is for
                    # it is the pause between two looks.
                    await waiting.until(last.is_set, awaited=awaited, timeout_seconds=seconds)
        if not connection.poll_pending:
            await waiting.until(
                lambda: connection.poll_pending or not connection.is_open,
                awaited=f"the next poll of {self.name}",
                timeout_seconds=self._ack_timeout_seconds,
                interval_seconds=0.001,
            )
        return connection

    def _may_be_stored(self, message: Message) -> bool:
        return message.acknowledged or not message.done.is_set() or self.asks_nothing

    @property
    def polls(self) -> bool:
        """Whether its connections are polling, and stay so."""
        return self._dialer.transport == "polling"

    @property
    def upgrades(self) -> bool:
        """Whether its connections begin with polling, and are to go on with WebSocket."""
        return self._dialer.transport == "upgrade"

    @property
    def has_upgraded(self) -> bool:
        """Whether it has a connection, and that is one over WebSocket.

        Raises:
            NotSeen: it cannot be known.
        """
        raise NotImplementedError

    @property
    def latest(self) -> SeenConnection | None:
        """The last connection that it has made, open or not."""
        raise NotImplementedError

    async def dropped_within(self, seconds: float) -> bool:
        """Wait until its connection has ended by itself, for so long; whether it has."""
        connection = await self.connected(patience_seconds(self._dialer))
        await asyncio.wait((connection.closed,), timeout=seconds)
        return connection.closed.done()

    async def left(self, message: Message) -> int:
        """Wait until the last attempt of a message has left a connection that was idle; returns its bytes so far.

        Raises:
            WaitTimeout: it does not.
        """

        def bytes_sent() -> int:
            return message.emitted_on.bytes_sent - message.bytes_before if message.emitted_on is not None else 0

        return await waiting.until(
            bytes_sent, awaited=f"{message.id} to leave its sender", timeout_seconds=patience_seconds(self._dialer)
        )

    def has_heard(self, message: Message) -> bool:
        """Whether the broadcast of its own message has come back to it."""
        return message.heard.is_set()

    def _hear_of(self, content: str | None) -> None:
        """Take note of a broadcast."""
        if (message := self._known.get(h.identity_in(self._dialer.run, content))) is not None:
            message.heard.set()

    @property
    def _ack_timeout_seconds(self) -> float:
        return self._dialer.protocol.ack_timeout_seconds

    def take(self, message: Message) -> None:
        """Have a message emitted, behind those that were taken before."""
        raise NotImplementedError

    def disconnect(self) -> None:
        """Have the user go away, until `connect`."""
        raise NotImplementedError

    def stay_away(self) -> bool:
        """Have it not come back by itself when its connection ends, until `connect`; whether it does as it is told."""
        return False

    def halt(self) -> asyncio.Event | None:
        """Have it wait in its next handshake, when its session is open and before it asks for its namespace.

        Until `connect`. Gives what is set then, or None where it does not do as it is told.
        """
        return None

    def connect(self) -> None:
        """Have the user come back."""
        raise NotImplementedError

    async def online(self) -> object:
        """Wait, without a deadline, until it is connected."""
        raise NotImplementedError

    async def connected(self, timeout_seconds: float) -> SeenConnection:
        """Wait until it is connected.

        Raises:
            WaitTimeout: it was not, by the deadline.
        """
        raise NotImplementedError

    def _counted(self, sequence: int) -> str | None:
        """The offset that the client makes of its connection's id and a counter, where it is known in here."""
        raise NotImplementedError

    async def _patiently(self, event: Awaitable[object]) -> None:
        try:
            await waiting.within(event, awaited="the sender", timeout_seconds=self._patience_seconds)
        except waiting.WaitTimeout:
            self._patience_seconds = 0

    def _offset(self, identity: str, random_numbers: random.Random) -> str:
        return f"{identity}-{uuid.UUID(int=random_numbers.getrandbits(128), version=4)}"


def _check(text: str | None) -> None:
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise HarnessError(f"a message cannot say {text!r}: {error.reason} at character {error.start}") from None


def patience_seconds(dialer: Dialer) -> float:
    """How long to wait, without any progress, for what may never come: ten ack timeouts, and at least 5 s."""
    return max(5.0, 10 * dialer.protocol.ack_timeout_seconds)
