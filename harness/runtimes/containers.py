"""Servers and Toxiproxy as containers of the Docker engine of this machine.

One Toxiproxy container serves a process of the harness, with the ports of its links published on 127.0.0.1. The servers
of that process run in a second one's network, the pod's, one after the other, as containers run in a pod of Kubernetes:
so a port whose server is dead refuses at once, as on a machine, and a server that starts needs no network of its own.
The two are on a network of their own; a partition takes the pod from it.

Each container of a server sees the run's own directory, where the store is, at the same path as the harness does. The
command of a target that names no image runs in the image of the harness, with the harness's own code, Node packages and
the target's folder at the same paths, read-only.
"""

import asyncio
import contextlib
import functools
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker.errors
import docker.types
from docker import DockerClient

import harness
from harness import engine, node, reaper, waiting
from harness.engine import called
from harness.errors import HarnessError, brief
from harness.ports import Pool
from harness.process import PRIVILEGES, Process, descendants
from harness.runtimes import HELD, LINKS, SERVER, Address, Images, Wanted, server_image
from harness.runtimes.container import Container
from harness.runtimes.network import Network
from harness.target import Container as TargetContainer
from harness.target import Target, of_machine
from harness.toxiproxy import LOOPBACK, Launched, PortTaken, Toxiproxy, size_bytes

# A server has one, and another one when it moves.
_SERVER_PORTS = 4
_START_TIMEOUT_SECONDS = 10.0
_PROC = Path("/proc")
# Within a network of its own; what is published is on 127.0.0.1.
_ANY = "0.0.0.0"  # noqa: S104
_LISTENS = "0A"
# What a variable is called whose value is not to be in a log.
_SECRET = re.compile("PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|PRIVATE|API_?KEY", re.IGNORECASE)
# What a pod runs stands by, on a port that no server wants.
_POD_PORT = 65_535
_PACKAGE = Path(harness.__file__).resolve().parent


class Containers:
    """The Docker engine of this machine.

    Args:
        client: of the engine.
        run: what the run is called.
        images: of Toxiproxy, and of commands.
        links: how many can be open at once.
    """

    name = "docker"

    def __init__(self, client: DockerClient, run: str, images: Images, links: int = LINKS) -> None:
        self._client = client
        self._labels = {engine.OWNER: engine.owner(), engine.RUN: run}
        self._name = f"midemit-{secrets.token_hex(4)}"
        self.images = images
        self._links = links
        self._release_links: Callable[[], None] = lambda: None
        self._numbers = iter(range(1, 2**31))
        self._network: Network | None = None
        self._pods: list[Pod] = []
        self._held = f"{engine.address()} {engine.OWNER}={self._labels[engine.OWNER]}"

    # -- what is there -------------------------------------------------------------------------------------------

    def require(self, targets: Sequence[Target]) -> None:
        """Have everything there before anything starts: images for this machine, and nothing of runs that are gone.

        Raises:
            HarnessError: an image is missing and cannot be pulled or built, or is for another machine.
        """
        engine.clean(self._client)
        images = {self.images.toxiproxy: "--image-toxiproxy"}
        for target in targets:
            if (own := target.container) is None:
                images[self.images.server] = "--image-server"
            else:
                _require_given(target, own)
                images[own.image] = "container.image"
        for image, given_by in images.items():
            self._require_image(image, given_by)

    def _require_image(self, name: str, given_by: str) -> None:
        try:
            image = called(f"look for the image {name}", lambda: self._client.images.get(name))
        except docker.errors.ImageNotFound:
            image = self._obtained(name, given_by)
        built_for = image.attrs["Architecture"]
        here = self._version["Arch"]
        if built_for != here:
            raise HarnessError(
                f"the image {name} is for {built_for}, and this machine is {here}: build it, or pull it with "
                f"`docker pull --platform linux/{here} {name}`, or name another one ({given_by})"
            )

    @functools.cached_property
    def _version(self) -> dict[str, Any]:
        """What the engine says of itself."""
        return dict(called("say what it is", self._client.version))

    def _obtained(self, name: str, given_by: str) -> Any:
        if name == SERVER:
            return server_image.build(self._client, name)
        try:
            return called(f"pull the image {name}", lambda: self._client.images.pull(name))
        except (HarnessError, docker.errors.NotFound) as error:
            raise HarnessError(
                f"there is no image {name} on this machine, and it cannot be pulled ({brief(str(error))}): check its "
                f"name ({given_by}), `docker login` to its registry if that is yours, or build it"
            ) from error

    def command_of(self, image: str) -> tuple[list[str], list[str]]:
        """The entry point and the command of an image."""
        config = called("look at an image", lambda: self._client.images.get(image)).attrs["Config"]
        return config.get("Entrypoint") or [], config.get("Cmd") or []

    def environment(self) -> dict[str, str]:
        """The engine and the images."""
        images = self.images._asdict().items()
        ids = {name: self._image_id(image) for name, image in images}
        return {
            "runtime": f"docker {self._version['Version']}",
            **{f"image of {name}": f"{of} ({ids[name]})" for name, of in images},
        }

    def _image_id(self, name: str) -> str:
        try:
            return str(called("look at an image", lambda: self._client.images.get(name)).short_id)
        except docker.errors.ImageNotFound:
            return "not needed"

    # -- Toxiproxy -----------------------------------------------------------------------------------------------

    async def toxiproxy(self, log: Path) -> Toxiproxy:
        """A container of the official image, which listens on as many published ports as there can be links."""
        network = await self._on_network()
        links = await asyncio.to_thread(Pool, self._links)

        async def launch(port: int) -> Launched:
            before = size_bytes(log)
            container = await self.launched(
                self.images.toxiproxy,
                ["-host", _ANY, "-port", str(port)],
                log=log,
                environment={"LOG_LEVEL": "debug"},  # it logs the requests that it answers
                ports={f"{each}/tcp": (LOOPBACK, each) for each in (port, *links.ports)},
                network=network.name,
                networking_config=network.at(network.toxiproxy),
            )
            return Launched(container, before, network.toxiproxy)

        try:
            started = await Toxiproxy.launched(launch, self.images.toxiproxy, links.reserve)
        except BaseException:
            links.release()
            raise
        self._release_links()  # of one before, which has ended
        self._release_links = links.release
        return started

    # -- servers -------------------------------------------------------------------------------------------------

    async def host(self, target: Target, directory: Path) -> "ContainerHost":
        """Its servers run in a pod of this process, and may write in that directory."""
        if os.geteuid() == 0:
            await asyncio.to_thread(directory.chmod, 0o777)  # an image can have a user of its own
        return ContainerHost(self, target, directory)

    async def pod(self, port: int | None) -> "Pod":
        """A pod where a server can listen: on that port, or on one that it is told."""
        for pod in self._pods:
            if pod.port == port and pod.has_room:
                return pod
        network = await self._on_network()
        pool = await asyncio.to_thread(Pool, 1 if port is not None else _SERVER_PORTS)
        ip = network.next_address()
        inside = [port] if port is not None else pool.ports
        container = await self.launched(
            self.images.toxiproxy,  # any command that stands by: this image is there
            ["-host", LOOPBACK, "-port", str(_POD_PORT)],
            log=Path(os.devnull),
            ports={f"{own}/tcp": (LOOPBACK, out) for own, out in zip(inside, pool.ports, strict=True)},
            network=network.name,
            networking_config=network.at(ip),
        )
        self._pods.append(Pod(container, network, ip, pool, port))
        return self._pods[-1]

    async def launched(
        self,
        image: str,
        command: Sequence[str],
        *,
        log: Path,
        on_exit: Callable[[int], None] = lambda _: None,
        secrets: Sequence[str] = (),
        **options: Any,
    ) -> Container:
        """Create a container with our labels, and start it.

        Raises:
            PortTaken: somebody has one of its ports.
            HarnessError: the engine does not do it; the text says why.
        """
        name = f"{self._name}-{next(self._numbers)}"
        create = functools.partial(
            # Under the engine's init: a first process of a container cannot stop or kill itself.
            self._client.containers.create,
            image,
            list(command),
            name=name,
            init=True,
            labels=self._labels,
            **options,
        )
        try:
            container = await asyncio.to_thread(called, f"create a container of {image}", create)
        except docker.errors.NotFound as error:
            raise HarnessError(f"there is no image {image}: {brief(str(error))}") from error
        try:
            await asyncio.to_thread(called, f"start a container of {image}", container.start)
            await asyncio.to_thread(called, "look at a container", container.reload)
            init = container.attrs["State"]["Pid"]
            await waiting.until(
                lambda: any(descendants(init)) or not init or not (_PROC / str(init)).exists(),
                awaited=f"a container of {image} to begin",
                timeout_seconds=_START_TIMEOUT_SECONDS,
                interval_seconds=0.001,
            )
        except (HarnessError, waiting.WaitTimeout, docker.errors.NotFound) as error:
            with contextlib.suppress(HarnessError, docker.errors.NotFound):
                await asyncio.to_thread(called, "remove a container", functools.partial(container.remove, force=True))
            if "port is already allocated" in str(error) or "address already in use" in str(error):
                raise PortTaken(str(error)) from error
            raise HarnessError(str(error)) from error
        return Container(container, init, log=log, on_exit=on_exit, secrets=secrets)

    # -- the network ---------------------------------------------------------------------------------------------

    async def _on_network(self) -> "Network":
        if self._network is None:
            # From the first thing on: whatever is on the engine when this process dies is found by its label.
            reaper.hold("engine", self._held)
            self._network = await asyncio.to_thread(Network.create, self._client, self._name, self._labels)
        return self._network

    async def close(self) -> None:
        """Remove every container and the network."""
        try:
            for pod in self._pods:
                await pod.close()
            if self._network is not None:
                await asyncio.to_thread(self._network.remove)
            reaper.release("engine", self._held)
        finally:
            self._release_links()
            self._client.close()


class Pod:
    """A container whose network the servers of a process have, one after the other."""

    def __init__(self, container: Container, network: Network, ip: str, pool: Pool, port: int | None) -> None:
        self.container = container
        self.network = network
        self.ip = ip
        self.port = port
        self._pool = pool

    @property
    def has_room(self) -> bool:
        """Whether another server can listen here."""
        return self._pool.has_room

    @property
    def mode(self) -> str:
        """The network mode of a container that shares its network."""
        return f"container:{self.container.id}"

    def address(self) -> Address:
        """Where no other server listens."""
        published = self._pool.reserve()
        port = published.port if self.port is None else self.port
        return Address(port, published.port, self.ip, published.release)

    async def close(self) -> None:
        """Remove it."""
        await self.container.kill()
        self._pool.release()


class ContainerHost:
    """Where the servers of one run are containers.

    Args:
        runtime: what starts them.
        target: what they are.
        directory: of the run.
    """

    forks = False

    def __init__(self, runtime: Containers, target: Target, directory: Path) -> None:
        self._runtime = runtime
        self._target = target
        self._directory = directory
        self._addressed: Pod | None = None
        self.placeholders: Mapping[str, str] = {**of_machine(), "{python}": "python3", "{host}": _ANY}
        own = target.container
        self.command: Sequence[str] = own.command if own is not None else target.server.command
        self.env: Mapping[str, str] = own.environment if own is not None else {}

    @contextlib.contextmanager
    def from_nothing(self) -> Iterator[None]:
        """Each start is one of the command anyway."""
        yield

    def path(self, here: Path) -> Path:
        """In a volume, where that is in the container; else the same."""
        volumes = self._target.container.volumes if self._target.container is not None else {}
        for inside, place in volumes.items():
            if "{folder}" in place and here.is_relative_to(there := self._here(place)):
                return Path(inside) / here.relative_to(there)
        return here

    def _here(self, place: str) -> Path:
        return (self._target.folder / place.replace("{folder}", str(self._directory))).resolve()

    async def address(self) -> Address:
        """A port of a pod, where the server is from now on."""
        own = self._target.container
        self._addressed = await self._runtime.pod(own.port if own is not None else None)
        return self._addressed.address()

    @property
    def _pod(self) -> Pod:
        assert self._addressed is not None
        return self._addressed

    async def require_free(self, address: Address) -> None:
        """Nobody else is in the pod."""

    async def start(self, wanted: Wanted, *, log: Path, on_exit: Callable[[int], None]) -> Process:
        """A container of the target's image, or of the harness's with the target's command."""
        held = HELD if wanted.held else ()
        options: dict[str, Any] = {} if os.geteuid() == 0 else {"user": f"{os.geteuid()}:{os.getegid()}"}
        mounts = [_mount(self._directory, self._directory, writable=True)]
        environment, passed = dict(wanted.env), {}
        if (own := self._target.container) is None:
            image, command = self._runtime.images.server, []
            options |= {"entrypoint": [*held, *wanted.command], "working_dir": str(self._target.folder)}
            environment["PYTHONPATH"] = str(_PACKAGE.parent)
            places = {_PACKAGE, self._target.folder, *([node.modules_folder()] if self._target.needs_node else [])}
            mounts += [_mount(place, place) for place in sorted(places) if not _is_within(place, places - {place})]
        else:
            image, command = own.image, list(wanted.command)
            if held:
                entrypoint, of_image = await asyncio.to_thread(self._runtime.command_of, image)
                options["entrypoint"], command = [*held, *entrypoint], command or of_image
            passed = {name: os.environ[name] for name in own.pass_environment if name in os.environ}
            mounts += [self._volume(Path(inside), place) for inside, place in own.volumes.items()]
        return await self._runtime.launched(
            image,
            command,
            log=log,
            on_exit=on_exit,
            secrets=(*passed.values(), *(value for name, value in environment.items() if _SECRET.search(name))),
            environment={**environment, **passed},
            mounts=mounts,
            network_mode=self._pod.mode,
            cap_drop=list(PRIVILEGES) if wanted.unprivileged else None,
            **options,
        )

    def _volume(self, inside: Path, place: str) -> Any:
        return _mount(self._here(place), inside, writable="{folder}" in place)

    async def accepts(self, address: Address, process: Process) -> bool:
        """Whether somebody listens on the port in the pod.

        A connection would not tell: the engine accepts it before anybody listens.
        """
        del process
        return bool(_listening(self._pod.container.pid, address.port) - _LOOPBACKS)

    def hint(self, address: Address, process: Process) -> str:
        """What goes wrong with images."""
        printed = process.log.read_text(errors="replace").lower()
        listening = _listening(self._pod.container.pid, address.port)
        if listening - _LOOPBACKS:
            return f"It listens, and does not do what server.ready = {self._target.server.ready!r} waits for."
        if listening:
            return (
                "It listens on the loopback of its container, where nobody else reaches it: have it listen on 0.0.0.0, "
                "which is what {host} stands for in a container."
            )
        if "exec format error" in printed:
            return "Its image has a program for another processor: build or pull it for this machine's."
        if any(words in printed for words in _NOT_WRITABLE):
            return (
                "It cannot write where it wants to: in a container only the run's own directory, {folder}, can be "
                f"written, here {self._directory}; give it that for its store, or mount it there (container.volumes)."
            )
        own = self._target.container
        if own is not None and own.port is not None and process.exit_status is None:
            return f"Nothing listens on port {own.port} in its container: is container.port right?"
        return ""

    @contextlib.asynccontextmanager
    async def taken(self, address: Address) -> AsyncIterator[None]:
        """Another container of the pod listens there."""
        other = await self._runtime.launched(
            self._runtime.images.toxiproxy,
            ["-host", _ANY, "-port", str(address.port)],
            log=Path(os.devnull),
            network_mode=self._pod.mode,
        )
        try:
            await waiting.until(
                lambda: bool(_listening(other.pid, address.port)),
                awaited=f"the port {address.port} to be taken",
                timeout_seconds=_START_TIMEOUT_SECONDS,
            )
            yield
        finally:
            await other.kill()

    @contextlib.asynccontextmanager
    async def partitioned(self) -> AsyncIterator[None]:
        """The pod is taken from its network, and comes back with the address that it had."""
        pod = self._pod
        await asyncio.to_thread(pod.network.disconnect, pod.container.id)
        try:
            yield
        finally:
            await asyncio.to_thread(pod.network.connect, pod.container.id, pod.ip)


def _require_given(target: Target, own: TargetContainer) -> None:
    """See that what its container is to be given is here."""
    for name in own.pass_environment:
        if name not in os.environ:
            raise HarnessError(
                f"{target.path}: key `container.pass_environment`: {name} is not set in your environment"
            )
    for inside, place in own.volumes.items():
        if "{folder}" not in place and not (target.folder / place).exists():
            raise HarnessError(
                f"{target.path}: key `container.volumes`: there is no {(target.folder / place).resolve()}, "
                f"which is to be {inside} in the container"
            )


def _is_within(place: Path, others: set[Path]) -> bool:
    return any(place.is_relative_to(other) for other in others)


def _mount(here: Path, inside: Path, *, writable: bool = False) -> Any:
    return docker.types.Mount(str(inside), str(here), type="bind", read_only=not writable)


# As the kernel writes them.
_LOOPBACKS = {"0100007F", "00000000000000000000000001000000"}
_NOT_WRITABLE = ("unable to open database", "readonly database", "read-only file system", "permission denied", "eacces")


def _listening(pid: int, port: int) -> set[str]:
    """The addresses at which anybody listens on a port in the network of a process, as the kernel writes them."""
    found = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / f"{pid}/net/{name}").read_text().splitlines()[1:]:
                local, state = line.split()[1], line.split()[3]
                address, _, number = local.rpartition(":")
                if state == _LISTENS and int(number, 16) == port:
                    found.add(address)
    return found
