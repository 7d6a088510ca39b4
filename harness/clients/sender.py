"""Senders: an ordered outbox, a policy for emissions without an answer, and a record of every attempt."""

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from socketio.exceptions import BadNamespaceError
from tenacity import AsyncRetrying, RetryCallState, retry_if_result

from harness import history as h
from harness.clients.author import Author, Message, Offsets
from harness.clients.client import Client, Cursor, Dialer, server_offset
from harness.clients.connection import Connection

if TYPE_CHECKING:
    from harness.link import SenderLink

IN_FLIGHT = 8
"""How many messages a `pipelined` sender has under way at most."""


class Sender(Client, Author):
    """A client that emits messages, in the order in which they are posted.

    Policies (the official JavaScript client's, but for the first two and the last two):

    * `persistent`: one in flight, emitted again until it is acknowledged.
    * `pipelined`: up to 8 in flight, each emitted once; its sender is told when there was no answer.
    * `retries=N`: one in flight, emitted at most N + 1 times; then its sender is told that it failed, and the next
      one follows. What was never emitted uses no try.
    * `resend`: an acknowledgement with a timeout, emitted again until it comes; any number in flight.
    * `fire-and-forget`: a plain emit without an acknowledgement, kept while disconnected; counts as handed over.
    * `once`: emitted once, when it is posted, dropped while disconnected; counts as handed over.
    * `new-offset`: `persistent`, but every attempt gets a fresh offset.

    Args:
        name: lower-case letters.
        dialer: how it reaches the target.
        link: its own.
        policy: see above.
        random_numbers: of the run.
        offsets: `random` (a UUID) or `counter`: the connection's id and a counter, as in the tutorial.
    """

    def __init__(
        self,
        name: str,
        dialer: Dialer,
        link: "SenderLink",
        *,
        policy: h.Policy,
        random_numbers: random.Random,
        offsets: Offsets = "random",
    ) -> None:
        Author.__init__(self, name, dialer, policy=policy, random_numbers=random_numbers, offsets=offsets)
        self.link = link
        link.sender = self
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)
        broadcast = dialer.protocol.broadcast
        self._cursor = Cursor()
        Client.__init__(
            self,
            name,
            link.port,
            dialer,
            handlers={broadcast: self._hear} if broadcast else {},
            auth=self._cursor.auth,
        )
        if policy != "once":
            self._start(self._work())

    def take(self, message: Message) -> None:
        """Have a message emitted, behind those that were taken before."""
        if self.policy in ("once", "fire-and-forget"):
            self._settle(message, "handed-over")
        if self.policy == "once":
            self._start(self._emit_once(message, self.connection))
        else:
            self._outbox.put_nowait(message)

    def forget(self) -> None:
        """Forget its messages, and how its connections ended."""
        Author.forget(self)
        Client.forget(self)

    def _hear(self, *arguments: object) -> None:
        text = arguments[0] if arguments else None
        self._hear_of(text if isinstance(text, str) else None)
        self._cursor.advance(server_offset(arguments))

    # -- policies ------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            message = await self._outbox.get()
            match self.policy:
                case "fire-and-forget":
                    await self._hand_over(message)
                case "pipelined":
                    await self._in_flight.acquire()
                    self._start(self._emit_pipelined(message, await self.online()))
                case "resend":
                    self._start(self._resend(message, await self.online()))
                case _:
                    await self._insist(message)

    async def _insist(self, message: Message) -> None:
        """Emit it until it is acknowledged, or as often as the policy allows; nothing else is under way meanwhile."""
        tries = _tries(self.policy)

        def spent(_: RetryCallState) -> bool:
            return tries is not None and message.emissions >= tries

        retrying = AsyncRetrying(
            retry=retry_if_result(lambda acknowledged: not acknowledged),
            stop=spent,
            retry_error_callback=lambda _: False,
        )
        self._conclude(message, acknowledged=await retrying(self._attempt_online, message))

    async def _attempt_online(self, message: Message) -> bool:
        return await self._attempt(message, await self.online())

    async def _emit_pipelined(self, message: Message, connection: Connection) -> None:
        try:
            acknowledged = await self._attempt(message, connection)
        finally:
            self._in_flight.release()
        self._conclude(message, acknowledged=acknowledged)

    async def _resend(self, message: Message, connection: Connection) -> None:
        if not await self._attempt(message, connection):
            await self._insist(message)
        else:
            self._conclude(message, acknowledged=True)

    def _conclude(self, message: Message, *, acknowledged: bool) -> None:
        self._settle(message, "acknowledged" if acknowledged else "gave-up")
        message.done.set()

    async def _hand_over(self, message: Message) -> None:
        while not message.emissions:
            await self._emit(message, await self.online(), None)
        message.done.set()

    async def _emit_once(self, message: Message, connection: Connection | None) -> None:
        await self._attempt(message, connection)
        message.done.set()

    async def _attempt(self, message: Message, connection: Connection | None) -> bool:
        """Emit a message once and wait for its acknowledgement, the ack timeout or the end of the connection."""
        record, now = self._recorder.record, self._recorder.now
        number = message.attempts + 1
        began = now()
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        over = False

        def acknowledge(*_: object) -> None:
            if message.forgotten:
                return
            record(h.Ok(time=now(), message=message.id, attempt=number, late=over))
            message.answer_seconds.append(now() - began)
            if not over:
                message.acknowledged = True
                answered.set_result(None)

        if not await self._emit(message, connection, acknowledge) or connection is None:
            return False
        await asyncio.wait(
            (answered, connection.closed), timeout=self._ack_timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if answered.done():
            return True
        over = True
        timed_out = connection.is_open
        reason = f"no answer in {self._ack_timeout_seconds:g} s" if timed_out else connection.closed.result()
        record(h.Info(time=now(), message=message.id, attempt=number, reason=reason, timed_out=timed_out))
        return False

    async def _emit(
        self, message: Message, connection: Connection | None, acknowledge: Callable[..., None] | None
    ) -> bool:
        """Begin an attempt; whether it left.

        Nothing suspends in here, so messages leave in the order in which their attempts begin.
        """
        record, now = self._recorder.record, self._recorder.now
        message.attempts += 1
        number = message.attempts
        again = number > 1 and self.policy == "new-offset"
        offset = self._offset(message.id, self._random_again) if again else message.offset
        assert offset is not None  # one of ours has it from the post on
        record(
            h.Attempt(
                time=now(),
                message=message.id,
                attempt=number,
                offset=offset,
                connection=connection.number if connection else 0,
            )
        )
        message.emitted_on, message.bytes_before = connection, connection.bytes_sent if connection else 0
        message.attempted.set()
        try:
            if connection is None:
                raise BadNamespaceError("not connected")
            await connection.emit(self._dialer.protocol.event, (message.content, offset), acknowledge)
        except BadNamespaceError as error:
            record(h.Fail(time=now(), message=message.id, attempt=number, reason=str(error)))
            return False
        message.emissions += 1
        return True

    @property
    def has_upgraded(self) -> bool:
        """Whether it has a connection, and that is one over WebSocket."""
        return self.connection is not None and self.connection.is_websocket

    @property
    def latest(self) -> Connection | None:
        """The last connection that it has made, open or not."""
        return self._latest

    def offset_at(self, count: int) -> str:
        """The tutorial's offset of a message before which there were `count`: the connection's id and a counter."""
        return f"{self.connection.sid if self.connection is not None else 'undefined'}-{count}"

    def _counted(self, sequence: int) -> str:
        return self.offset_at(sequence - 1)

    def _settle(self, message: Message, outcome: Literal["acknowledged", "handed-over", "gave-up"]) -> None:
        message.settled = True
        self._recorder.record(h.Settled(time=self._recorder.now(), message=message.id, outcome=outcome))


def _tries(policy: h.Policy) -> int | None:
    """How often a message is emitted at most, or None for as often as it takes."""
    name, _, retries = policy.partition("=")
    return int(retries) + 1 if name == "retries" else None
