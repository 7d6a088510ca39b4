"""Faults as scopes: what a fault does reads as one straight line, and the end of its scope heals it.

A fault is written as an async generator with two stops:

    try:
        ...                     # arm it
        message = yield None    # the schedule names the message that it posts into the fault
        ...                     # let it act, and look at what shows that it bit that message
        yield "the evidence"
    finally:
        ...                     # heal it

Where the evidence is not there it raises `NotSeen`, or a wait runs into its deadline.
"""

import functools
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from harness.clients.author import Message
from harness.history import FaultKind

Acts = AsyncGenerator[str | None, Message]


class NotSeen(Exception):
    """A fault acted, and nothing shows that it took effect on the message; the text says what was there instead."""


@dataclass
class Fault:
    """A fault that is ready to be injected, once."""

    name: str
    kind: FaultKind
    on: str
    _act: Callable[[], Acts]
    _acts: Acts | None = None

    async def begin(self) -> None:
        """Arm it."""
        self._acts = self._act()
        await anext(self._acts)

    async def bite(self, message: Message) -> str:
        """Let it act on `message` and return the evidence.

        Raises:
            NotSeen: there is none.
            WaitTimeout: a part of it did not come by its deadline.
        """
        assert self._acts is not None
        evidence = await self._acts.asend(message)
        assert evidence is not None
        return evidence

    async def heal(self) -> None:
        """End it, whatever state it is in."""
        if self._acts is not None:
            await self._acts.aclose()


class Disturbed(Protocol):
    """What has faults: a link, a server, a store, a client."""

    @property
    def title(self) -> str:
        """What it is called in the history."""


D = TypeVar("D", bound=Disturbed)
P = ParamSpec("P")


def fault(kind: FaultKind) -> Callable[[Callable[Concatenate[D, P], Acts]], Callable[Concatenate[D, P], Fault]]:
    """Make a method that is written as an async generator return a `Fault`, named after the method."""

    def declare(act: Callable[Concatenate[D, P], Acts]) -> Callable[Concatenate[D, P], Fault]:
        def make(self: D, /, *args: P.args, **kwargs: P.kwargs) -> Fault:
            given = [str(value) for value in (*args, *kwargs.values()) if isinstance(value, int | float | str)]
            name = act.__name__.replace("_", " ") + (f" ({', '.join(given)})" if given else "")
            acts: Any = functools.partial(act, self, *args, **kwargs)
            return Fault(name, kind, self.title, acts)

        make.__doc__ = act.__doc__
        return make

    return declare
