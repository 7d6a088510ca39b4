"""One proxied link between a client and the server, and what can happen to it."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Literal

from harness import waiting
from harness.clients.author import Author, Message, SeenConnection
from harness.clients.driver import DriverReceiver
from harness.clients.receiver import Receiver
from harness.fault import Acts, NotSeen, fault
from harness.runtimes import Address
from harness.store import SQLiteStore
from harness.toxiproxy import Proxy, Toxic

Direction = Literal["upstream", "downstream"]

_LONGEST_REASON = 80


class Link:
    """The way of one client through Toxiproxy. Nobody else's traffic passes it."""

    def __init__(self, name: str, proxy: Proxy, store: SQLiteStore, *, patience_seconds: float) -> None:
        self.name = name
        self.title = f"the link of {name}"
        self._proxy = proxy
        self._store = store
        self._patience_seconds = patience_seconds

    @property
    def port(self) -> int:
        """Where the client connects."""
        return self._proxy.port

    # -- what faults are made of ---------------------------------------------------------------------------------

    async def hold(self, direction: Direction) -> None:
        """Hold every byte in that direction; nothing is lost and the connections stay."""
        await self._proxy.add_toxic(*_hold(direction))

    async def let_go(self, direction: Direction) -> None:
        """Deliver what is held in that direction, on the same connections."""
        await self._proxy.remove_toxic(_hold(direction).name)

    async def close(self) -> None:
        """Close every connection (FIN) and refuse new ones; what was held or under way is lost."""
        await self._proxy.disable()

    async def restore(self, *toxics: Toxic) -> None:
        """Let new connections pass, freely or with these toxics; those that are open are closed (FIN)."""
        await self._proxy.renew(toxics)

    async def lead_to(self, address: Address) -> None:
        """Lead to another address from now on; connections that are open are closed (FIN)."""
        await self._proxy.renew(upstream_port=address.port, upstream_host=address.host)

    async def delete(self) -> None:
        """Remove it from Toxiproxy."""
        await self._proxy.delete()

    async def _closed(self, connection: SeenConnection) -> None:
        await waiting.within(
            asyncio.shield(connection.closed),
            awaited=f"the connection of {self.name} to be cut",
            timeout_seconds=self._patience_seconds,
        )


def _held(*, stored: bool) -> str:
    return "held the message" if stored else "did not hold the message"


def _hold(direction: Direction, rate: int = 0) -> Toxic:
    return Toxic(f"hold_{direction}", "bandwidth", direction, {"rate": rate})


# As if it were not there: a rate in KB a second, a limit in bytes.
_FREE = 2**30


def _limit(count: int, direction: Direction) -> Toxic:
    return Toxic(f"limit_{direction}", "limit_data", direction, {"bytes": count})


Phase = Literal["before", "during", "after"]
Cut = Literal["never", "under", "behind"]
_CUT: Mapping[Cut, str] = {"under": "under the lock", "behind": "when it was over"}


class SenderLink(Link):
    """The link of a sender: its faults bite messages.

    What the peers see of each fault, and what proves its bite, is in docs/faults.md.
    """

    sender: Author

    @fault("link")
    async def cut(self) -> Acts:
        """Close the connection and refuse new ones, while the message has no answer."""
        connection = await self.sender.connected(self._patience_seconds)
        try:
            message = yield None
            await self.close()
            await self._closed(connection)
            _require_unanswered(message, "the link was cut")
            yield f"the link was cut while {message.id} had no answer"
        finally:
            await self.restore()

    @fault("link")
    async def cut_after(self, count: int, direction: Direction) -> Acts:
        """Close the connection after exactly `count` bytes of the message, or of what comes back of it.

        Its sender does not come back before the end.
        """
        connection = await self.sender.idle(downstream=direction == "downstream")
        async with self._limited(connection, count, direction) as (let_in, cut):
            message = yield None
            await let_in(message)
            await cut()
            if direction == "downstream":
                await self._store.wait_for(message)
                _require_unanswered(message, "the link was cut")
            else:
                await self._require_unstored(message)
            where = f"{connection.cut} was cut after {_bytes(count)} {direction}"
            yield f"{where} with {_open(message)}, {_row(direction)}"

    @fault("link")
    async def cut_at(self, direction: Direction, shortest: int, longest: int, count: int = 0, before: int = 0) -> Acts:
        """Close the connection after exactly `count` more bytes in that direction; the next one passes.

        An exchange has `shortest` to `longest` bytes on the TCP connection that has more of it. A cut before the
        message's last byte upstream leaves no row, one downstream of a WebSocket a row; behind the longest exchange
        nothing is cut. Of a stream of messages, `before` is how many bytes those before the message have.
        """
        connection = await self.sender.idle(downstream=True)
        own = connection.last_unit_bytes
        async with self._limited(connection, count, direction) as (let_in, cut):
            message = yield None
            await let_in(message)
            if count > shortest and await self._passes(connection, message):
                yield f"nothing was cut: the exchange had less than {_bytes(count)} {direction}, {_answer(message)}"
                return
            await cut()
            answer = _answer(message)
            if count > longest:
                # A poll that follows may come before anybody has seen that the exchange is over.
                if direction == "upstream" and self.sender.polls and message.acknowledged:
                    yield f"nothing was cut of the exchange, but a poll behind it, after {_bytes(count)}, {answer}"
                    return
                raise NotSeen(f"the connection was cut, and no exchange had more than {_bytes(longest)} {direction}")
            stored = await self._store.holds(message)
            if stored and direction == "upstream" and count - before < own:
                raise NotSeen("the message was stored")
            # Over polling the request that brings the message is answered before anybody has looked at it.
            if not stored and direction == "downstream" and connection.is_websocket:
                raise NotSeen("the message was not stored: what was cut was not its answer")
            yield f"{connection.cut} was cut after {_bytes(count)} {direction}, {answer}"

    @fault("link")
    async def cut_among(self, length: int, count: int = 0) -> Acts:
        """Close the connection after exactly `count` more bytes downstream, whosever they are; the next one passes.

        The message is the one that is under way then. All that is to come has `length` bytes; behind them nothing is
        cut.
        """
        connection = await self.sender.idle(downstream=True)
        async with self._limited(connection, count, "downstream") as (_, cut):
            message = yield None
            if count > length and await self._passes(connection, message):
                yield f"nothing was cut: all that came had less than {_bytes(count)} downstream, {_answer(message)}"
                return
            await cut()
            if count > length:
                raise NotSeen(f"the connection was cut, and no more than {_bytes(length)} downstream were to come")
            yield f"{connection.cut} was cut after {_bytes(count)} downstream, {_answer(message)}"

    @fault("link")
    async def cut_twice(self, direction: Direction, first: int = 0, second: int = 0) -> Acts:
        """Close the connection after `first` more bytes in that direction, and the way back after `second` upstream.

        The next passes. Upstream there is no row of the message between the two cuts, it has to be longer than the
        first; downstream there is one, and no answer.
        """
        connection = await self.sender.idle(downstream=True)
        try:
            with self._away() as obeys:
                await self._proxy.add_toxic(*_limit(first, direction))
                message = yield None
                await self._cut(connection, obeys=obeys)
                _require_unanswered(message, "the second cut")
                stored = await self._store.holds(message)
                if stored is not (direction == "downstream"):
                    raise NotSeen(f"the message was {'stored' if stored else 'not stored'}")
                await self.restore(_limit(second, "upstream"))
            await self._first(self._failed_try(), self._next_closed(), self._over(message))
            row = "its row" if stored else "no row"
            once = f"{connection.cut} was cut after {_bytes(first)} {direction}, {row} was there"
            if message.done.is_set():
                yield f"{once}, and nothing was cut again: the way back and the message had no {_bytes(second)}"
                return
            yield f"{once}, and the way back was cut after {_bytes(second)}"
        finally:
            await self.restore()

    async def _next_closed(self) -> None:
        await self._closed(await self.sender.connected(self._patience_seconds))

    async def _passes(self, connection: SeenConnection, message: Message) -> bool:
        """Wait until the connection has ended, or the exchange of a message is over; whether the connection lives."""
        await self._first(self._closed(connection), self._over(message))
        return connection.is_open

    async def _over(self, message: Message) -> None:
        await message.done.wait()
        await self.sender.idle(downstream=True)

    @fault("store")
    async def lock_and_cut(self, taken: Phase, seconds: float = 0, cut: Cut = "never") -> Acts:
        """Have somebody lock the store before, during or after the insert of the message, for `seconds`.

        During it is when the message has left its sender, and before the link lets it through. And cut the connection:
        while it is locked, or when it is locked no more.
        """
        await self.sender.idle()
        async with contextlib.AsyncExitStack() as healing:
            if cut != "never":
                healing.push_async_callback(self.restore)
            held = await healing.enter_async_context(contextlib.AsyncExitStack())
            holding = await healing.enter_async_context(contextlib.AsyncExitStack())
            if taken == "before":
                rows = await held.enter_async_context(self._store.locked())
            if taken == "during":
                await self.hold("upstream")
                holding.push_async_callback(self.let_go, "upstream")
            message = yield None
            await message.first_attempt(self._patience_seconds)
            if taken == "after":
                await self._store.wait_for(message)
            if taken == "during":
                await self.sender.left(message)
            if taken != "before":
                rows = await held.enter_async_context(self._store.locked())
            await holding.aclose()
            await waiting.pause(seconds)
            stored = self._store.is_in(await asyncio.to_thread(rows), message)
            if cut == "under":
                await self.close()
            await held.aclose()
            if cut == "behind":
                await self.close()
            if stored is not (taken == "after"):
                raise NotSeen(f"the store was locked {taken} the insert, and it {_held(stored=stored)}")
            where = f"locked {taken} the insert for {seconds:g} s, when it {_held(stored=stored)}"
            yield f"the store was {where}" + (f"; the connection was cut {_CUT[cut]}" if cut != "never" else "")

    @fault("link")
    async def cut_inside(self, at: float) -> Acts:
        """Cut inside the frame of the message: `at` 0 after its first byte, 1 before its last, else in between.

        The message sent before has to have had the same length: its length on the wire is the measure.
        """
        connection = await self.sender.idle()
        length = connection.last_unit_bytes
        count = min(max(round(at * length), 1), length - 1)
        async with self._limited(connection, count, "upstream") as (let_in, cut):
            message = yield None
            await let_in(message)
            await cut()
            await self._require_unstored(message)
            yield f"{connection.cut} was cut after {count} of {length} bytes with {_open(message)}, and no row"

    @fault("link")
    async def cut_long_frames(self, count: int, times: int) -> Acts:
        """Close each connection after `count` bytes upstream: a handshake and short frames pass, a long one does not.

        Until the message has been cut `times` times. The connection that is there is closed first.
        """
        try:
            await self.refresh(_limit(count, "upstream"))
            message = yield None
            await waiting.until(
                lambda: message.attempts >= times,
                awaited=f"attempt {times} of {message.id}",
                timeout_seconds=self._patience_seconds,
            )
            connection = message.emitted_on
            assert connection is not None
            await self._closed(connection)
            await self._require_unstored(message)
            yield f"{_times(times)} a connection was cut after {_bytes(count)}, within {message.id}, and no row"
        finally:
            await self.restore()

    @fault("link")
    async def cut_ways_back(self, count: int, direction: Direction, seconds: float) -> Acts:
        """Cut, and cut each connection after `count` bytes in that direction, for `seconds` after the message came.

        What is longer than that does not get through: a handshake, an upgrade, a long message.
        """
        connection = await self.sender.idle()
        try:
            await self._cut_and_limit(connection, count, direction)
            message = yield None
            await waiting.pause(seconds)
            await self._require_unstored(message)
            where = f"{_bytes(count)} {direction}"
            yield f"no way back had more than {where} while {message.id} waited for {seconds:g} s, and no row"
        finally:
            await self.restore()

    @fault("link")
    async def cut_probe(self, count: int, seconds: float) -> Acts:
        """Cut, and cut the upgrade of the way back after `count` bytes upstream, which have to end within its probe.

        The limit goes `seconds` later, and what is open then stays open.
        """
        connection = await self.sender.connected(self._patience_seconds)
        limited = True
        try:
            await self._cut_and_limit(connection, count, "upstream")
            await waiting.pause(seconds)
            await self._proxy.remove_toxic(_limit(count, "upstream").name)
            limited = False
            message = yield None
            await waiting.pause(seconds)
            if self.sender.has_upgraded:
                raise NotSeen("the upgrade went through")
            yield f"the upgrade was cut after {_bytes(count)}, {seconds:g} s before {message.id} was posted"
        finally:
            if limited:
                await self.restore()

    async def _cut_and_limit(self, connection: SeenConnection, count: int, direction: Direction) -> None:
        """Cut a connection, and when that has ended let others come, each for so many bytes.

        Until then nobody may come: where a new link is there soon enough, some clients send the poll again that was
        cut, and do not notice.
        """
        await self.close()
        await self._closed(connection)
        await self.restore(_limit(count, direction))

    @fault("link")
    async def silence(self, seconds: float) -> Acts:
        """Drop every byte in both directions of a connection that was just made, for `seconds` after the message left.

        Both ends have just heard from each other: their heartbeats will not notice sooner than they can.
        """
        try:
            await self.refresh()
            for direction in ("upstream", "downstream"):
                await self._proxy.add_toxic(f"silence_{direction}", "timeout", direction, {"timeout": 0})
            message = yield None
            await self._silent(message, "upstream", seconds)
            yield f"both directions were dropped for {seconds:g} s with {_open(message)}, and no row"
        finally:
            await self.restore()

    @fault("link")
    async def lose_acknowledgement(self) -> Acts:
        """Hold downstream until the message is stored, then cut while it is held: its answer is lost."""
        try:
            await self.hold("downstream")
            message = yield None
            await self._store.wait_for(message)
            await self.close()
            yield stored_unanswered(message)
        finally:
            await self.restore()

    @fault("link")
    async def flap(self, times: int) -> Acts:
        """Cut the connection that many times; the first time with the message held in the link."""
        connection = await self.sender.idle()
        try:
            await self.hold("upstream")
            message = yield None
            await self.sender.left(message)
            await self.close()
            await self._closed(connection)
            await self._require_unstored(message)
            await self.restore()
            for _ in range(times - 1):
                connection = await self.sender.connected(self._patience_seconds)
                await self.restore()
                await self._closed(connection)
            again = f", then {_times(times - 1)} more" if times > 1 else ""
            yield f"the link was cut with attempt 1 of {message.id} held in it, and no row{again}"
        finally:
            await self.restore()

    @fault("link")
    async def refuse(self, seconds: float) -> Acts:
        """Close the connection and refuse new ones, for `seconds` after the message was posted."""
        connection = await self.sender.connected(self._patience_seconds)
        try:
            await self.close()
            await self._closed(connection)
            message = yield None
            before = len(self.sender.connect_failures)
            await waiting.pause(seconds)
            refused = self.sender.connect_failures[before:]
            if not refused:
                raise NotSeen("no try to connect failed while the link refused connections")
            await self._require_unstored(message)
            yield f"{len(refused)} tries to connect were refused while {message.id} waited ({refused[0]})"
        finally:
            await self.restore()

    @fault("link")
    async def reset(self) -> Acts:
        """Cut with the message held in the link, and reset (RST) every connection that is opened from then on."""
        await self.sender.idle()
        try:
            await self.hold("upstream")
            message = yield None
            await self.sender.left(message)
            await self.restore(Toxic("reset", "reset_peer", "upstream", {"timeout": 0}))
            refused = await self._failed_connect(message)
            yield f"a new connection was reset while {message.id} waited ({refused})"
        finally:
            await self.restore()

    @fault("link")
    async def cut_handshake(
        self,
        direction: Direction,
        count: int = 0,
        shortest: int | None = None,
        longest: int | None = None,
        opening: int | None = None,
    ) -> Acts:
        """Cut with the message held in the link, and the next handshakes after `count` bytes in that direction.

        Where `longest` is given, of a handshake, and `count` is more, the next one has to get through; from `shortest`
        on it may or may not, as behind its last byte. A count is one of each TCP connection. Where `opening` is given,
        so many bytes of the next handshake are those that open its session, and get through if `count` is not less;
        what is left of `count` is counted from there on, anew on each TCP connection.
        """
        connection = await self.sender.idle()
        try:
            await self.hold("upstream")
            message = yield None
            await self.sender.left(message)
            failed = await self._way_back(connection, count, direction, opening)
            if self.sender.latest is connection:
                await self._require_unstored(message)
            if longest is not None and count > longest:
                if failed is not None:
                    raise NotSeen(f"a handshake of more than {_bytes(longest)} {direction} was cut ({failed})")
                yield f"nothing was cut: a handshake has {_bytes(longest)} {direction}, or less"
                return
            if failed is None and (shortest is None or count < shortest):
                raise NotSeen(f"the handshake got through: it had less than {_bytes(count)} {direction}")
            behind = f", the {opening} that open its session among them" if opening is not None else ""
            where = f"a handshake was cut after {_bytes(count)} {direction}{behind} while {message.id} waited"
            yield where + (f" ({failed})" if failed is not None else "")
        finally:
            await self._begin_anew()

    async def _way_back(
        self, connection: SeenConnection, count: int, direction: Direction, opening: int | None
    ) -> str | None:
        """Cut a connection, and those that follow after `count` bytes in that direction, see `cut_handshake`.

        Returns why the first try to come back failed, or None when there is a connection as it should be.
        """
        before = len(self.sender.connect_failures)
        if opening is None or count < opening:
            await self._begin_anew(_limit(count, direction))
        else:
            await self._begin_anew()
            await self._open_session(_limit(count - opening, direction))

        def failure() -> str | None:
            return next((why for why in self.sender.connect_failures[before:] if not _is_refusal(why)), None)

        await waiting.until(
            lambda: failure() is not None or self.sender.latest is not connection,
            awaited=f"a try of {self.sender.name} to connect",
            timeout_seconds=self._patience_seconds,
            last_seen=lambda: self.sender.connect_failures[before:],
            interval_seconds=0.001,
        )
        latest = self.sender.latest
        if latest is not connection and self.sender.upgrades and latest is not None and not latest.is_websocket:
            return "it was not upgraded"
        return failure()

    async def _open_session(self, limit: Toxic) -> None:
        """Have the sender, who begins to come back, open a session, and what follows be limited.

        Raises:
            NotSeen: it does not wait for that.
        """
        if (opened := self.sender.halt()) is None:
            raise NotSeen(f"{self.name} does not wait when its session is open")
        await waiting.within(
            opened.wait(), awaited=f"a session of {self.name} to be open", timeout_seconds=self._patience_seconds
        )
        await self._proxy.add_toxic(*limit)
        self.sender.connect()

    async def _begin_anew(self, *toxics: Toxic) -> None:
        """Let new connections pass, freely or with these toxics; its sender has noticed the end of what it had."""
        latest = self.sender.latest
        with self._away() as obeys:
            if self.sender.polls and not obeys and latest is not None:
                # A poll that is cut where a new link is there soon enough some clients send again, and do not notice.
                await self.close()
                await self._closed(latest)
            await self.restore(*toxics)
            if obeys:
                latest = self.sender.latest  # a try that was under way may have ended well before that
            if latest is not None:
                await self._closed(latest)

    # -- what only the limit can tell ----------------------------------------------------------------------------

    async def cuts_handshake(self, count: int, direction: Direction, opening: int | None = None) -> bool:
        """Whether no connection can be made while each ends after `count` bytes in that direction, see `cut_handshake`.

        Raises:
            WaitTimeout: its sender is not connected, or does not come back.
        """
        connection = await self.sender.idle(downstream=True)
        try:
            return await self._way_back(connection, count, direction, opening) is not None
        finally:
            await self._begin_anew()

    async def cuts_message(self, text: str, count: int, direction: Direction) -> bool:
        """Whether the exchange of a message is cut where each TCP connection ends after `count` more bytes that way.

        Raises:
            WaitTimeout: its sender is not connected, or is not done with the message.
        """
        connection = await self.sender.idle(downstream=True)
        async with self._limited(connection, count, direction) as (let_in, _):
            message = self.sender.post(text)
            await let_in(message)
            passes = await self._passes(connection, message)
        await self.sender.finished(message)
        return not passes

    @fault("link")
    async def blackhole(self, direction: Direction, seconds: float) -> Acts:
        """Drop every byte in that direction while the connection stays, for `seconds` after the message left."""
        await self.sender.idle()
        try:
            await self._proxy.add_toxic(f"blackhole_{direction}", "timeout", direction, {"timeout": 0})
            message = yield None
            await self._silent(message, direction, seconds)
            yield f"the {direction} was dropped for {seconds:g} s with {_open(message)}, {_row(direction)}"
        finally:
            await self.restore()

    @fault("link")
    async def freeze(self, direction: Direction, seconds: float) -> Acts:
        """Hold every byte in that direction for `seconds` after the message left, then deliver all of them."""
        connection = await self.sender.idle()
        held = False
        try:
            await self.hold(direction)
            held = True
            message = yield None
            await self._silent(message, direction, seconds)
            yield f"the {direction} was held for {seconds:g} s with {_open(message)}, {_row(direction)}"
        finally:
            if held and connection.is_open:
                await self.let_go(direction)
            else:
                await self.restore()

    @fault("link")
    async def latency(self, direction: Direction, milliseconds: int) -> Acts:
        """Deliver every byte in that direction later, in order, until the message has been answered so late."""
        try:
            await self._proxy.add_toxic("latency", "latency", direction, {"latency": milliseconds})
            message = yield None
            answer_seconds = await self._answered(message)
            if answer_seconds * 1000 < milliseconds:
                raise NotSeen(f"the answer came after {answer_seconds:.3f} s, sooner than the delay")
            yield f"attempt 1 of {message.id} was answered after {answer_seconds:.3f} s"
        finally:
            await self.restore()

    @fault("link")
    async def slices(self, size_bytes: int, pause_ms: int) -> Acts:
        """Deliver what is sent in pieces of at most that size with pauses between, until the message is answered."""
        await self.sender.idle()
        attributes = {"average_size": size_bytes, "delay": pause_ms * 1000}  # Toxiproxy counts it in microseconds
        try:
            await self._proxy.add_toxic("slices", "slicer", "upstream", attributes)
            message = yield None
            connection = await self.sender.connected(self._patience_seconds)
            answer_seconds = await self._answered(message)
            # Of its own request only: over polling, a poll can have left between the message and what was before it.
            length = connection.last_unit_bytes
            # A request can be sent in two pieces, head and body, and between those there is no pause.
            least_seconds = (length // size_bytes - 2) * pause_ms / 1000
            if answer_seconds < least_seconds:
                raise NotSeen(f"{_bytes(length)} were answered after {answer_seconds:.3f} s, sooner than their pauses")
            yield f"attempt 1 of {message.id} ({_bytes(length)}) was answered after {answer_seconds:.3f} s"
        finally:
            await self.restore()

    @contextlib.asynccontextmanager
    async def _limited(
        self, connection: SeenConnection, count: int, direction: Direction
    ) -> AsyncIterator[tuple[Callable[[Message], Awaitable[None]], Callable[[], Awaitable[None]]]]:
        """Have a connection cut behind `count` more bytes; none takes its place in the scope.

        Gives what lets a message in, as its first bytes, and what waits for the cut. Over polling nothing tells when
        the poll that was sent before has got through, which else would be counted in place of the message: the link
        holds the message until it is let in. That poll may be cut as well, on its own TCP connection.
        """
        limit, holds = _limit(count, direction), direction == "upstream" and self.sender.polls

        async def let_in(message: Message) -> None:
            if holds:
                await self.sender.left(message)
                await self._proxy.change_toxic(limit)
                # Not removed: that can block Toxiproxy for 5 s, as behind the limit nobody takes what is left.
                await self._proxy.change_toxic(_hold("upstream", rate=_FREE))

        async def cut() -> None:
            await self._cut(connection, obeys=obeys)

        with self._away() as obeys:
            try:
                if holds:
                    await self.hold("upstream")
                    # Behind what holds: to be added later it would let go of the message, which would pass it by.
                    await self._proxy.add_toxic(*_limit(_FREE, "upstream"))
                else:
                    await self._proxy.add_toxic(*limit)
                yield let_in, cut
            finally:
                # Where nothing is open and nobody comes, the limit is all that is left.
                if obeys and not holds and not connection.is_open:
                    await self._proxy.remove_toxic(limit.name)
                else:
                    await self.restore()
                    await self._closed(connection)

    async def _cut(self, connection: SeenConnection, *, obeys: bool) -> None:
        """Wait until a connection was cut; a sender that may come back by itself is refused, and has not been back.

        That is so when a try to connect was refused, and no other connection was made before it: what it tells has an
        order.

        Raises:
            NotSeen: it has come back before it could be refused.
        """
        failures = len(self.sender.connect_failures)
        await self._closed(connection)
        if obeys:
            return
        await self.close()
        closed = len(self.sender.connect_failures)
        await waiting.until(
            # What a container publishes is accepted, and then ended. But of two tries the second began after the first.
            lambda: (
                any(map(_is_refusal, self.sender.connect_failures[failures:]))
                or len(self.sender.connect_failures) > closed + 1
            ),
            awaited=f"{self.name} to be refused",
            timeout_seconds=self._patience_seconds,
        )
        if self.sender.latest is not connection:
            raise NotSeen(f"{self.name} came back before it was refused")

    async def refresh(self, *toxics: Toxic) -> None:
        """Close the connection, and wait for the next, whose heartbeats begin anew; with these toxics, if any.

        Raises:
            WaitTimeout: it does not come.
        """
        connection = await self.sender.connected(self._patience_seconds)
        with self._away():
            await self.restore(*toxics)
            await self._closed(connection)
        await self.sender.connected(self._patience_seconds)

    @contextlib.contextmanager
    def _away(self) -> Iterator[bool]:
        """Have its sender not come back in the scope, and at once behind it; gives whether it does as it is told."""
        obeys = self.sender.stay_away()
        try:
            yield obeys
        finally:
            if obeys:
                self.sender.connect()

    # -- what bites are told by ----------------------------------------------------------------------------------

    async def _first(self, *events: Coroutine[None, None, object]) -> None:
        """Wait for the first of them; the others are not waited for any more."""
        tasks = [asyncio.create_task(event) for event in events]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _silent(self, message: Message, direction: Direction, seconds: float) -> None:
        """See that nothing of a message came through for `seconds`, or all but its answer."""
        if direction == "downstream":
            await self._store.wait_for(message)
        else:
            await self.sender.left(message)
        await waiting.pause(seconds)
        if direction == "downstream":
            _require_unanswered(message, "the time was over")
        else:
            await self._require_unstored(message)

    async def _failed_connect(self, message: Message) -> str:
        """Wait for a try to connect that was not refused, and begins and fails from now on; returns why it did."""
        reason = await self._failed_try()
        await self._require_unstored(message)
        return reason

    async def _failed_try(self) -> str:
        before = len(self.sender.connect_failures)

        def failure() -> str | None:
            # The first may have begun before, and ended with the old proxy; while the link is made anew it is refused.
            others = self.sender.connect_failures[before + 1 :]
            return next((reason for reason in others if not _is_refusal(reason)), None)

        reason = await waiting.until(
            failure,
            awaited=f"a try of {self.sender.name} to connect to fail",
            timeout_seconds=self._patience_seconds,
            last_seen=lambda: self.sender.connect_failures[-1:],
        )
        assert reason is not None  # `until` returns only what is true
        return reason[:_LONGEST_REASON]

    async def _answered(self, message: Message) -> float:
        """Wait for the answer of the first attempt, however late; returns the seconds that it took."""
        await waiting.until(
            lambda: message.answer_seconds,
            awaited=f"an acknowledgement of {message.id}, late or not",
            timeout_seconds=self._patience_seconds,
        )
        return message.answer_seconds[0]

    async def _require_unstored(self, message: Message) -> None:
        _require_unanswered(message, "the fault was over")
        if await self._store.holds(message):
            raise NotSeen("the message was stored")


class ReceiverLink(Link):
    """The link of a receiver: its faults bite messages that the receiver should get."""

    receiver: Receiver | DriverReceiver

    @fault("link")
    async def cut_return(self, count: int) -> Acts:
        """Cut, and cut the first way back after `count` bytes downstream: within what the receiver has missed."""
        try:
            await self.close()
            yield None
            receiver = self.receiver
            failures, endings = len(receiver.connect_failures), len(receiver.endings)
            await self.restore(_limit(count, "downstream"))

            def cut() -> str | None:
                others = (reason for reason in receiver.connect_failures[failures:] if not _is_refusal(reason))
                return next(itertools.chain(others, receiver.endings[endings:]), None)

            reason = await waiting.until(
                cut,
                awaited=f"{self.receiver.name} to be cut on its way back",
                timeout_seconds=self._patience_seconds,
            )
            yield f"{self.receiver.name} was cut after {_bytes(count)} of its way back ({reason})"
        finally:
            await self.restore()

    @fault("link")
    async def cut_and_recover(self) -> Acts:
        """Hold downstream until the message is stored, and cut; the next connection has to be a recovered session."""
        held = False
        try:
            await self.hold("downstream")
            held = True
            message = yield None
            connection = await self.receiver.connected(self._patience_seconds)
            await self._store.wait_for(message)
            if message.id in self.receiver.messages:
                raise NotSeen(f"{self.receiver.name} received it")
            await self.restore()
            held = False
            await self._closed(connection)
            if not (await self.receiver.connected(self._patience_seconds)).recovered:
                raise NotSeen(f"the server did not restore the session of {self.receiver.name}")
            yield f"{self.receiver.name} was cut before {message.id} reached it, and its session was recovered"
        finally:
            if held:
                await self.restore()

    @fault("link")
    async def cut_poll(self, count: int, seconds: float) -> Acts:
        """Cut the response to the pending poll after `count` bytes; the message has to be what it carries.

        The limit goes `seconds` after the message was stored, and what is open then stays open.
        """
        connection = await self.receiver.connected(self._patience_seconds)
        await waiting.until(
            lambda: connection.poll_pending,
            awaited=f"the next poll of {self.receiver.name}",
            timeout_seconds=self._patience_seconds,
        )
        limited = False
        try:
            await self._proxy.add_toxic(*_limit(count, "downstream"))
            limited = True
            message = yield None
            await self._store.wait_for(message)
            await waiting.pause(seconds)
            if message.id in self.receiver.messages:
                raise NotSeen(f"{self.receiver.name} received it")
            yield f"the response to the poll of {self.receiver.name} was cut after {_bytes(count)} of {message.id}"
        finally:
            if limited:
                await self._proxy.remove_toxic(_limit(count, "downstream").name)

    @fault("link")
    async def cut_behind(self) -> Acts:
        """Cut the connection when the receiver has got the message; it comes back at the end."""
        try:
            message = yield None
            connection = await self.receiver.connected(self._patience_seconds)
            await waiting.until(
                lambda: message.id in self.receiver.messages,
                awaited=f"{self.receiver.name} to receive {message.id}",
                timeout_seconds=self._patience_seconds,
            )
            await self.close()
            await self._closed(connection)
            yield f"{self.receiver.name} was cut when it had received {message.id}"
        finally:
            await self.restore()


def _is_refusal(reason: str) -> bool:
    """Whether nobody listened, in the words of asyncio or of Node."""
    return "Connect call failed" in reason or "ECONNREFUSED" in reason


def stored_unanswered(message: Message) -> str:
    """The evidence of a lost acknowledgement, given that a row of the message is readable."""
    if message.acknowledged:
        raise NotSeen("the message was acknowledged")
    return f"a row is readable, and {_open(message)} is not answered"


def _require_unanswered(message: Message, what: str) -> None:
    if message.acknowledged:
        raise NotSeen(f"the message was acknowledged before {what}")


def _answer(message: Message) -> str:
    return f"attempt {message.attempts} of {message.id} " + ("acknowledged" if message.acknowledged else "open")


def _open(message: Message) -> str:
    return f"attempt {message.attempts} of {message.id} open"


def _bytes(count: int) -> str:
    return f"{count} byte" if count == 1 else f"{count} bytes"


def _times(count: int) -> str:
    return f"{count} time" if count == 1 else f"{count} times"


def _row(direction: Direction) -> str:
    return "and its row is there" if direction == "downstream" else "and no row"
