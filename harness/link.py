"""One proxied link between a client and the server, and what can happen to it."""

import asyncio
from typing import Literal

from harness import waiting
from harness.clients.connection import Connection
from harness.clients.sender import Message, Sender
from harness.fault import Acts, NotSeen, fault
from harness.store import SQLiteStore
from harness.toxiproxy import Proxy

Direction = Literal["upstream", "downstream"]


class Link:
    """The way of one client through Toxiproxy. Nobody else's traffic passes it."""

    def __init__(self, name: str, proxy: Proxy, store: SQLiteStore, *, patience_seconds: float) -> None:
        self.title = f"the link of {name}"
        self._proxy = proxy
        self._store = store
        self._patience_seconds = patience_seconds

    @property
    def port(self) -> int:
        """Where the client connects."""
        return self._proxy.port

    # -- what faults are made of ---------------------------------------------------------------------------------

    async def freeze(self, direction: Direction) -> None:
        """Hold every byte in that direction; nothing is lost and the connections stay."""
        await self._add("bandwidth", direction, {"rate": 0})

    async def limit(self, count: int, direction: Direction) -> None:
        """Close each connection after `count` more bytes in that direction."""
        await self._add("limit_data", direction, {"bytes": count})

    async def _add(self, kind: str, direction: Direction, attributes: dict[str, int]) -> None:
        await self._proxy.add_toxic(f"{kind}_{direction}", kind, direction, attributes)

    async def close(self) -> None:
        """Close every connection (FIN) and refuse new ones; what was held or under way is lost."""
        await self._proxy.disable()

    async def restore(self) -> None:
        """Let new connections pass freely; those that are open are closed, and what they held is lost."""
        await self._proxy.renew()

    async def delete(self) -> None:
        """Remove it from Toxiproxy."""
        await self._proxy.delete()


class SenderLink(Link):
    """The link of a sender: its faults bite messages."""

    sender: Sender

    @fault("link")
    async def cut(self) -> Acts:
        """Close the connection and refuse new ones, while the message has no answer."""
        connection = await self.sender.connected(self._patience_seconds)
        try:
            message = yield None
            await self.close()
            await self._closed(connection)
            if message.acknowledged:
                raise NotSeen("the message was acknowledged before the link was cut")
            yield f"the link was cut while {message.id} had no answer"
        finally:
            await self.restore()

    @fault("link")
    async def cut_upstream(self, at: float) -> Acts:
        """Cut inside the frame of the message: `at` 0 after its first byte, 1 before its last, else in between.

        The message sent before has to have had the same length: its length on the wire is the measure.
        """
        connection = await self.sender.idle()
        length = connection.last_unit_bytes
        count = min(max(round(at * length), 1), length - 1)
        try:
            await self.limit(count, "upstream")
            message = yield None
            await self._closed(connection)
            await self.close()  # so that no reconnect sneaks in
            await self._unanswered_and_unstored(message)
            yield f"cut after {count} of {length} bytes with attempt {message.attempts} open, and no row"
        finally:
            await self.restore()

    @fault("link")
    async def lose_acknowledgement(self) -> Acts:
        """Freeze downstream until the message is stored, then cut while frozen: its answer is lost."""
        try:
            await self.freeze("downstream")
            message = yield None
            await self._store.wait_for(message)
            await self.close()
            yield self.stored_unanswered(message)
        finally:
            await self.restore()

    async def _closed(self, connection: Connection) -> None:
        await waiting.within(
            asyncio.shield(connection.closed),
            awaited=f"the connection of {self.sender.name} to be cut",
            timeout_seconds=self._patience_seconds,
        )

    async def _unanswered_and_unstored(self, message: Message) -> None:
        if message.acknowledged:
            raise NotSeen("the message was acknowledged")
        if await self._store.holds(message):
            raise NotSeen("the message was stored")

    def stored_unanswered(self, message: Message) -> str:
        """The evidence of a lost acknowledgement, given that a row of the message is readable."""
        if message.acknowledged:
            raise NotSeen("the message was acknowledged")
        return f"a row is readable, and attempt {message.attempts} is not answered"
