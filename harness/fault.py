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
import inspect
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, get_args, get_origin, get_type_hints

from harness.clients.author import Message
from harness.errors import HarnessError
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
    _bitten: bool = False

    async def begin(self) -> None:
        """Arm it.

        Raises:
            HarnessError: it has been injected before.
        """
        if self._acts is not None:
            raise HarnessError(f"the fault {self.name} is injected twice: make a fault for each scope")
        self._acts = self._act()
        await anext(self._acts)

    async def bite(self, message: Message) -> str:
        """Let it act on `message` and return the evidence.

        Raises:
            NotSeen: there is none.
            WaitTimeout: a part of it did not come by its deadline.
            HarnessError: it has acted on a message before.
        """
        assert self._acts is not None
        if self._bitten:
            raise HarnessError(f"the fault {self.name} has been bitten already: a fault bites one message, once")
        self._bitten = True
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
    """Make a method that is written as an async generator return a `Fault`, named after the method.

    Its numbers have to be above 0, of the type that it says, and its words among those that it says; a number may also
    be its default, and an `at`, a place, lies between 0 and 1. Anything else is refused when the fault is made.
    """

    def declare(act: Callable[Concatenate[D, P], Acts]) -> Callable[Concatenate[D, P], Fault]:
        signature = inspect.signature(act)

        def make(self: D, /, *args: P.args, **kwargs: P.kwargs) -> Fault:
            _check(act, signature, signature.bind(self, *args, **kwargs).arguments)
            given = [str(value) for value in (*args, *kwargs.values()) if isinstance(value, int | float | str)]
            name = act.__name__.replace("_", " ") + (f" ({', '.join(given)})" if given else "")
            acts: Any = functools.partial(act, self, *args, **kwargs)
            return Fault(name, kind, self.title, acts)

        make.__doc__ = act.__doc__
        return make

    return declare


def _check(act: Callable[..., Acts], signature: inspect.Signature, given: Mapping[str, object]) -> None:
    hints = get_type_hints(act)
    for name, value in given.items():
        problem = _problem(name, value, hints.get(name), signature.parameters[name].default)
        if problem is not None:
            raise HarnessError(f"fault {act.__name__}: {name} has to be {problem}, got {value!r}")


def _problem(name: str, value: Any, kind: Any, default: object) -> str | None:
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else "one of " + ", ".join(map(repr, get_args(kind)))
    if kind not in (int, float):
        return None if not isinstance(kind, type) or isinstance(value, kind) else f"a {kind.__name__}"
    types = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, types):
        return "a whole number" if kind is int else "a number"
    if name == "at":
        return None if 0 <= value <= 1 else "from 0 to 1"
    return None if value == default or (value > 0 and math.isfinite(value)) else "a number above 0"
