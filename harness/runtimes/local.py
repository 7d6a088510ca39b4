"""Servers and Toxiproxy as process groups of this machine."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness import ports, waiting
from harness.errors import TargetError
from harness.fault import NotSeen
from harness.forks import Forks, ForkServer
from harness.install import locate
from harness.process import Process, ProcessGroup, unprivileged
from harness.runtimes import HELD, Address, Wanted
from harness.target import Target, of_machine
from harness.toxiproxy import LOOPBACK, Toxiproxy

# What a server that was just killed still had open is gone within milliseconds.
_PORT_TIMEOUT_SECONDS = 1.0


class Local:
    """This machine.

    Args:
        folder: takes the logs of programs that fork servers.
    """

    name = "local"

    def __init__(self, folder: Path) -> None:
        self._forks = Forks(folder)

    def environment(self) -> dict[str, str]:
        """What runs here needs no words."""
        return {}

    async def toxiproxy(self, log: Path) -> Toxiproxy:
        """A process of the server that is found on this machine, or installed."""
        return await Toxiproxy.start(await asyncio.to_thread(locate), log)

    async def host(self, target: Target, directory: Path) -> "LocalHost":
        """Its servers are processes of this machine, forks where it offers that; they may write wherever we may."""
        del directory
        if not target.server.command:
            raise TargetError(f"the target {target.name} is an image, and has no command here: add --runtime docker")
        return LocalHost(target, self._forks.of(target))

    async def close(self) -> None:
        """End the programs that fork."""
        await self._forks.close()


class LocalHost:
    """Where the servers of one run are process groups.

    Args:
        target: what they are.
        forks: what starts them, where the target offers that.
    """

    env: Mapping[str, str] = {}

    def __init__(self, target: Target, forks: ForkServer | None = None) -> None:
        self.placeholders: Mapping[str, str] = of_machine()
        self.command: Sequence[str] = target.server.command
        self._target = target
        self._forks = forks

    @property
    def forks(self) -> bool:
        """Whether its starts are forks."""
        return self._forks is not None

    @contextlib.contextmanager
    def from_nothing(self) -> Iterator[None]:
        """Each start within is one of the command."""
        forks, self._forks = self._forks, None
        try:
            yield
        finally:
            self._forks = forks

    def path(self, here: Path) -> Path:
        """The same."""
        return here.resolve()

    async def address(self) -> Address:
        """A port of 127.0.0.1 that no other run has."""
        reservation = ports.reserve()
        return Address(reservation.port, reservation.port, LOOPBACK, reservation.release)

    async def require_free(self, address: Address) -> None:
        """What answers on the port from now on has to be this server, and not somebody else's program."""
        try:
            await waiting.until(
                lambda: _is_free(address.port), awaited="a free port", timeout_seconds=_PORT_TIMEOUT_SECONDS
            )
        except waiting.WaitTimeout:
            raise TargetError(f"another program listens on port {address.port}") from None

    async def start(self, wanted: Wanted, *, log: Path, on_exit: Callable[[int], None]) -> Process:
        """Start it in a process group of its own, or have it forked."""
        prefix = unprivileged() if wanted.unprivileged else ()
        if self._forks is not None and not prefix:
            leader = await self._forks.fork(wanted.command, env=wanted.env, log=log, held=wanted.held)
            return ProcessGroup(wanted.command, log=log, on_exit=on_exit, leader=leader)
        command = [*prefix, *(HELD if wanted.held else ()), *wanted.command]
        return ProcessGroup(command, cwd=self._target.folder, env=wanted.env, log=log, on_exit=on_exit)

    async def accepts(self, address: Address, process: Process) -> bool:
        """Whether a connection can be made to the port."""
        del process
        return await _accepts(address.port)

    def hint(self, address: Address, process: Process) -> str:
        """Its last lines say it all."""
        del address, process
        return ""

    @contextlib.asynccontextmanager
    async def taken(self, address: Address) -> AsyncIterator[None]:
        """We listen on the port ourselves."""
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the server before are left
            taken.bind((LOOPBACK, address.port))
            taken.listen()
            yield

    @contextlib.asynccontextmanager
    async def partitioned(self) -> AsyncIterator[None]:
        """That is for containers."""
        raise NotSeen("a process of this machine cannot be taken from its network")
        yield


def _is_free(port: int) -> bool:
    """Whether nobody listens on the port. It is bound and not listened on: nobody can connect meanwhile."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


async def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(probe, (LOOPBACK, port))
        except OSError:
            return False
        # Where nobody listens, and the port lies in the range of outgoing connections, one of these can be given the
        # port that it calls: TCP then connects it with itself.
        return bool(probe.getsockname() != probe.getpeername())
