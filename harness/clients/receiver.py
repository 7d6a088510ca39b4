"""Receivers: record every broadcast in the order of arrival, and come back with their highest server offset."""

import contextlib
from typing import TYPE_CHECKING

from harness import history as h
from harness import waiting
from harness.clients.author import Message, patience_seconds
from harness.clients.client import Client, Cursor, Dialer, server_offset

if TYPE_CHECKING:
    from harness.link import ReceiverLink


async def patiently_heard(messages: set[str], message: Message, dialer: Dialer) -> None:
    """Wait until a message is among those that were received, or for as long as a sender has patience."""
    with contextlib.suppress(waiting.WaitTimeout):
        await waiting.until(
            lambda: message.id in messages,
            awaited=f"{message.id} to be received",
            timeout_seconds=patience_seconds(dialer),
        )


class Receiver(Client):
    """A client that listens, on a link of its own. `messages` are the identities that it has heard so far.

    For controls, one that `forgets` comes back without its offset.
    """

    link: "ReceiverLink"

    def __init__(self, name: str, port: int, dialer: Dialer, *, forgets: bool = False) -> None:
        self.messages: set[str] = set()
        self._cursor = Cursor()
        assert dialer.protocol.broadcast is not None
        super().__init__(
            name,
            port,
            dialer,
            handlers={dialer.protocol.broadcast: self._receive},
            auth=Cursor().auth if forgets else self._cursor.auth,
        )
        dialer.recorder.record(h.Receiving(time=dialer.recorder.now(), receiver=name))

    async def heard(self, message: Message) -> None:
        """Wait until it has received a message; where that does not come, the schedule goes on."""
        await patiently_heard(self.messages, message, self._dialer)

    def forget(self) -> None:
        """Forget what it has heard; what it hears from now on begins with saying that it listens."""
        super().forget()
        self.messages.clear()
        self._recorder.record(h.Receiving(time=self._recorder.now(), receiver=self.name))

    def _receive(self, *arguments: object) -> None:
        # Plain and without an await: what arrives first is recorded first.
        text, offset = arguments[0] if arguments else None, server_offset(arguments)
        content = text if isinstance(text, str) else None
        self._recorder.record(
            h.Received(time=self._recorder.now(), receiver=self.name, server_offset=offset, content=content)
        )
        if (message := h.identity_in(self._dialer.run, content)) is not None:
            self.messages.add(message)
        self._cursor.advance(offset)
