"""Receivers: record every broadcast in the order of arrival, and come back with their highest server offset."""

from typing import TYPE_CHECKING

from harness import history as h
from harness.clients.client import Client, Dialer

if TYPE_CHECKING:
    from harness.link import ReceiverLink


class Receiver(Client):
    """A client that listens, on a link of its own. `messages` are the identities that it has heard so far."""

    link: "ReceiverLink"

    def __init__(self, name: str, port: int, dialer: Dialer) -> None:
        self.messages: set[str] = set()
        self._server_offset: int | float | str = 0
        assert dialer.protocol.broadcast is not None
        super().__init__(
            name,
            port,
            dialer,
            handlers={dialer.protocol.broadcast: self._receive},
            auth=lambda: {"serverOffset": self._server_offset},
        )
        dialer.recorder.record(h.Receiving(time=dialer.recorder.now(), receiver=name))

    def _receive(self, *arguments: object) -> None:
        # Plain and without an await: what arrives first is recorded first.
        text, offset = (*arguments, None, None)[:2]
        content = text if isinstance(text, str) else None
        server_offset = offset if isinstance(offset, int | float | str) and not isinstance(offset, bool) else None
        self._recorder.record(
            h.Received(time=self._recorder.now(), receiver=self.name, server_offset=server_offset, content=content)
        )
        if (message := h.identity_in(self._dialer.run, content)) is not None:
            self.messages.add(message)
        self._advance(server_offset)

    def _advance(self, server_offset: int | float | str | None) -> None:
        highest = self._server_offset
        if isinstance(server_offset, int | float) and isinstance(highest, int | float):
            self._server_offset = max(highest, server_offset)
        elif server_offset is not None:
            self._server_offset = server_offset  # text has no order that we know: the latest, as the tutorial does
