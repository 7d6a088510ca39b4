"""Where servers and Toxiproxy run: in process groups of this machine (`local`), or in containers (`containers`).

This is the boundary: nothing above it knows which.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from harness.process import Process
from harness.target import Target
from harness.toxiproxy import Toxiproxy

TOXIPROXY = "ghcr.io/shopify/toxiproxy:2.12.0"
"""The official image of the release that the harness knows the ways of."""

SERVER = "midemit-server:1"
"""The image in which the commands of targets run that name no image; built from the Dockerfile beside the reference."""

LINKS = 32
"""So many links can be open at once unless a run needs more: each is a published port, which takes the engine 50 ms."""


HELD = ("sh", "-c", 'kill -STOP $$; exec "$@"', "sh")
"""Stands before a command that is to be held: stops itself, and then becomes what its arguments say."""


class Images(NamedTuple):
    """The images of Toxiproxy, and of commands of targets that name none."""

    toxiproxy: str = TOXIPROXY
    server: str = SERVER


@dataclass(frozen=True)
class Address:
    """Where a server listens: the `port` that it is told, and how others reach it.

    Here that is `published`, a port of 127.0.0.1; for Toxiproxy it is `port` on `host`.
    """

    port: int
    published: int
    host: str
    release: Callable[[], None]


@dataclass(frozen=True)
class Wanted:
    """A start of a server: its command and what is added to its environment, both filled.

    `held` has it stand before its first call, until `resume`. `unprivileged` has permission bits bind it, also as root.
    An empty command is that of its image.
    """

    command: Sequence[str]
    env: Mapping[str, str]
    held: bool = False
    unprivileged: bool = False


class Host(Protocol):
    """Where the servers of one run are started, one after the other."""

    @property
    def forks(self) -> bool:
        """Whether its starts are forks."""

    @property
    def placeholders(self) -> Mapping[str, str]:
        """What stands for programs in commands: `{python}` and `{node_modules}`."""

    @property
    def command(self) -> Sequence[str]:
        """What starts the target's server here, with its placeholders; empty where that is its image's to know."""

    @property
    def env(self) -> Mapping[str, str]:
        """What the target's servers are given in their environment here, with its placeholders."""

    def path(self, here: Path) -> Path:
        """What its servers call a file of this machine, in the run's directory."""

    async def address(self) -> Address:
        """An address that no other server has.

        Raises:
            HarnessError: there is none.
        """

    async def require_free(self, address: Address) -> None:
        """See that nobody listens there.

        Raises:
            TargetError: somebody does.
        """

    async def start(self, wanted: Wanted, *, log: Path, on_exit: Callable[[int], None]) -> Process:
        """Start a server; `on_exit` is called in the event loop, with its exit status, when it has ended.

        Raises:
            HarnessError: it cannot be started; the text says why.
        """

    async def accepts(self, address: Address, process: Process) -> bool:
        """Whether the server that was started accepts connections there."""

    def hint(self, address: Address, process: Process) -> str:
        """The likely cause, and what helps, of a server that does not get ready, as a sentence; else nothing."""

    def from_nothing(self) -> AbstractContextManager[None]:
        """Each start within is one of the command, whatever the target offers."""

    def taken(self, address: Address) -> AbstractAsyncContextManager[None]:
        """Somebody else listens there in the scope; who connects is not answered, and cut off at the end."""

    def partitioned(self) -> AbstractAsyncContextManager[None]:
        """The servers have no network in the scope. What travels is lost, and connections stay.

        Raises:
            NotSeen: they cannot be taken from it.
        """


class Runtime(Protocol):
    """Where everything of one process of the harness runs; `close` it in the event loop in which it was used."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    def environment(self) -> dict[str, str]:
        """What a report says of it, as names and versions; nothing of this machine."""

    async def toxiproxy(self, log: Path) -> Toxiproxy:
        """Start a Toxiproxy of our own.

        Args:
            log: takes its output.

        Raises:
            ToxiproxyError: it does not start.
            HarnessError: there is none, or another one is in use.
        """

    async def host(self, target: Target, directory: Path) -> Host:
        """Where the servers of a run are started.

        Args:
            target: what they are.
            directory: of the run's own, where the store is; they may write there.

        Raises:
            HarnessError: they cannot run here.
        """

    async def close(self) -> None:
        """End what stands by."""
