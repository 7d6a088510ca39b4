"""What the lanes of a timeline are about: the times worth showing, and each client with all that it did."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from harness import history as h
from harness.checker import Fate
from harness.report.story import Told
from harness.report.strokes import Interval
from harness.report.text import middle, one_line, times

_SENDERS: Final = 8  # that have a lane of their own, or as many as have an anomaly, up to
_TROUBLED: Final = 20
_RECEIVERS: Final = 4
_NAME: Final = 13


class Client(msgspec.Struct):
    """What is known of one client, or of several that share a lane. Each connection is an interval, as is each wait."""

    names: list[str]
    fates: list[Fate] = []
    connected: list[Interval] = []
    failed: list[float] = []
    received: dict[str | None, list[float]] = {}
    late: list[float] = []

    @property
    def name(self) -> str:
        """The name of the first."""
        return self.names[0]

    @property
    def receptions(self) -> list[float]:
        """When it received something."""
        return [time for times in self.received.values() for time in times]

    @property
    def troubled(self) -> bool:
        """Whether an attempt was not acknowledged."""
        return any(attempt.outcome != "ok" for fate in self.fates for attempt in fate.attempts)

    def waits(self, end: float) -> Iterator[Interval]:
        """From when a message was handed over until it was settled, if it ever was."""
        for fate in self.fates:
            yield fate.invoked, end if fate.settled_at is None else fate.settled_at


class Chosen(msgspec.Struct, frozen=True):
    """The clients that are drawn, and a note on each kind that is not or not alone."""

    clients: list[Client]
    notes: list[str]


def window(told: Told, besides: Iterable[float]) -> Interval:
    """From the first message or fault to the last thing that happened to one, and all of some other times."""
    shown = [event.time for event in told.history if _concerns_traffic(event, told)] + list(besides)
    return (min(shown), max(shown)) if shown else (told.history.events[0].time, told.history.events[-1].time)


def _concerns_traffic(event: h.AnyEvent, told: Told) -> bool:
    match event:
        case h.FaultBegan() | h.FaultEnded() | h.Bitten() | h.ServerExited(expected=False) | h.Failed():
            return True
        case h.Invoke() | h.Attempt() | h.Ok() | h.Info() | h.Fail() | h.Settled():
            message: str | None = event.message
        case h.Received():
            message = h.identity_in(told.fates.started.run, event.content)
        case _:
            return False
    fate = told.fates.messages.get(message or "")
    return fate is not None and fate.sender != h.MARKER


def between(changes: Sequence[tuple[float, bool]], begin: float, end: float) -> list[Interval]:
    """The intervals in which something was on: what ends first was on from `begin`, what never ends is until `end`."""
    found: list[Interval] = []
    since: float | None = begin if changes and not changes[0][1] else None
    for time, on in changes:
        if on and since is None:
            since = time
        elif not on and since is not None:
            found.append((since, time))
            since = None
    return found if since is None else [*found, (since, max(since, end))]


def gather(told: Told, begin: float, end: float) -> dict[str, Client]:
    """Every client by its name, senders first, with what it did in a run that is shown from `begin` to `end`."""
    clients: dict[str, Client] = {}
    comings: dict[str, list[tuple[float, bool]]] = defaultdict(list)

    def of(name: str) -> Client:
        return clients.setdefault(name, Client([name]))

    for fate in told.fates.messages.values():
        of(fate.sender).fates.append(fate)
    for event in told.history:
        match event:
            case h.Connected() | h.Disconnected():
                comings[event.client].append((event.time, isinstance(event, h.Connected)))
            case h.ConnectFailed():
                of(event.client).failed.append(event.time)
            case h.Receiving():
                of(event.receiver)
            case h.Received():
                message = h.identity_in(told.fates.started.run, event.content)
                of(event.receiver).received.setdefault(message, []).append(event.time)
            case h.Ok(late=True):
                of(told.fates.messages[event.message].sender).late.append(event.time)
            case _:
                pass
    for name, changes in comings.items():
        of(name).connected = between(changes, begin, end)
    return clients


def choose(known: dict[str, Client], told: Told, marked: set[str | None]) -> Chosen:
    """Senders, then receivers; where there are too many, those with anomalies, with bites, with trouble come first.

    Args:
        known: all clients.
        told: the run.
        marked: the clients with an anomaly; the sender of the message that ends a run is drawn only if it is one.
    """
    receivers = [known[name] for name in told.fates.receivers if not known[name].fates]
    only_receive = {client.name for client in receivers}
    others = [client for client in known.values() if client.name not in only_receive]
    senders = [client for client in others if client.name != h.MARKER or client.name in marked]
    bitten = {told.fates.messages[bite.message].sender for bite in told.fates.bites}

    def weight(client: Client) -> tuple[bool, bool, bool]:
        return client.name in marked, client.name in bitten, client.troubled

    room = max(_SENDERS, min(_TROUBLED, sum(client.name in marked for client in senders)))
    first = sorted(senders, key=weight, reverse=True)[:room]
    alone, together = _parted(senders, {client.name for client in first})
    shown = sorted(receivers, key=weight, reverse=True)[:_RECEIVERS]
    notes = []
    if together:
        names = ", ".join(middle(one_line(client.name), _NAME) for client in together[:_TROUBLED])
        more = ", …" if len(together) > _TROUBLED else ""
        notes.append(f"{times(len(together), 'sender')} in one lane, without their connections: {names}{more}")
        alone.append(_united(together))
    if len(receivers) > len(shown):
        notes.append(f"{times(len(receivers) - len(shown), 'receiver')} not drawn")
    return Chosen(alone + shown, notes)


def _parted(clients: Sequence[Client], names: set[str]) -> tuple[list[Client], list[Client]]:
    return [c for c in clients if c.name in names], [c for c in clients if c.name not in names]


def _united(clients: Sequence[Client]) -> Client:
    return Client(
        [name for client in clients for name in client.names],
        fates=[fate for client in clients for fate in client.fates],
        late=[time for client in clients for time in client.late],
    )
