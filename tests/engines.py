"""The Docker engine of this machine, for tests: whether there is one, with which images, and what is on it."""

import contextlib
import gc
import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import docker.errors
import pytest
from docker import DockerClient

from harness import engine
from harness.runtimes import Images
from harness.runtimes.containers import Containers
from tests.standins import tar_of

# The official ones, or what stands for them where no registry can be reached.
_IMAGES = (Images(), Images("midemit-ci-toxiproxy:1", "midemit-ci-server:1"))


def _is_there(client: DockerClient, image: str) -> bool:
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        return False
    return True


def _found() -> tuple[Images, str | None]:
    with warnings.catch_warnings():  # the library leaves a socket that it cannot connect to the garbage collection
        warnings.simplefilter("ignore", ResourceWarning)
        lack = engine.lack()
        gc.collect()
    if lack is not None:
        return Images(), lack
    with contextlib.closing(engine.connect()) as client:
        for images in _IMAGES:
            if all(_is_there(client, image) for image in images):
                return images, None
    return Images(), f"there are neither the images {_IMAGES[0]} nor {_IMAGES[1]}"


IMAGES, LACK = _found()
needed = pytest.mark.skipif(LACK is not None, reason=str(LACK))
"""A test that needs an engine, and images."""

OPTIONS = ["--runtime", "docker", "--image-toxiproxy", IMAGES.toxiproxy, "--image-server", IMAGES.server]
"""What has pytest run scenarios there."""


@contextlib.contextmanager
def connected() -> Iterator[DockerClient]:
    """A client of the engine."""
    with contextlib.closing(engine.connect()) as client:
        yield client


@contextlib.asynccontextmanager
async def runtime(name: str = "test") -> AsyncIterator[Containers]:
    """A runtime, closed at the end; nothing of it may be left then."""
    containers = Containers(engine.connect(), name, IMAGES, links=2)
    label = f"{engine.OWNER}={engine.owner()}"
    try:
        yield containers
    finally:
        await containers.close()
    with connected() as client:
        assert labelled(client, label, f"{engine.RUN}={name}") == []


def labelled(client: DockerClient, *labels: str) -> list[str]:
    """The containers, networks and volumes that have all of these labels, as `container NAME`."""
    only: dict[str, str | list[str] | bool] = {"label": list(labels)}
    found: dict[str, list[Any]] = {
        "container": client.containers.list(all=True, filters=only, ignore_removed=True),
        "network": client.networks.list(filters=only),
        "volume": client.volumes.list(filters=only),
    }
    return [f"{kind} {thing.name}" for kind, things in found.items() for thing in things]


@contextlib.contextmanager
def things(client: DockerClient, name: str, labels: dict[str, str], command: Sequence[str] = ()) -> Iterator[list[str]]:
    """A container, a network and a volume with labels, as `container NAME`; a container with a command runs.

    What is left of them is removed at the end.
    """
    made: list[Any] = []
    try:
        own: dict[str, Any] = {"entrypoint": list(command)} if command else {}
        made.append(client.containers.create(IMAGES.server, name=name, labels=labels, init=True, **own))
        if command:
            made[0].start()
        made.append(client.networks.create(name, labels=labels))
        made.append(client.volumes.create(name, labels=labels))
        yield [f"{kind} {name}" for kind in ("container", "network", "volume")]
    finally:
        for thing in made:
            with contextlib.suppress(docker.errors.NotFound):
                thing.remove(force=True) if thing is made[0] else thing.remove()


def present(client: DockerClient, name: str) -> list[str]:
    """Which of the things with that name are there."""
    every: dict[str, list[Any]] = {
        "container": client.containers.list(all=True, filters={"name": name}, ignore_removed=True),
        "network": client.networks.list(filters={"name": name}),
        "volume": client.volumes.list(filters={"name": name}),
    }
    return [f"{kind} {name}" for kind, found in every.items() if name in [thing.name for thing in found]]


@contextlib.contextmanager
def forwarder(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A process that passes on what is said to the engine: its address, and it, to be killed."""
    path = folder / "engine.sock"
    command = [sys.executable, "-c", _FORWARD, str(path), engine.address().removeprefix("unix://")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"listens\n"
            yield f"unix://{path}", process
        finally:
            process.kill()


_FORWARD = """
import asyncio, sys

async def copy(reader, writer):
    try:
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
        writer.write_eof()
    except OSError:
        pass

async def passed_on(reader, writer):
    engine_reader, engine_writer = await asyncio.open_unix_connection(sys.argv[2])
    await asyncio.gather(copy(reader, engine_writer), copy(engine_reader, writer))
    writer.close()
    engine_writer.close()

async def main():
    async with await asyncio.start_unix_server(passed_on, sys.argv[1]) as server:
        print("listens", flush=True)
        await server.serve_forever()

asyncio.run(main())
"""


def load(client: DockerClient, name: str, architecture: str) -> None:
    """Have an image, of next to nothing, that says it is for some architecture."""
    layer = tar_of({"empty": b""}, "w")
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    config = {"architecture": architecture, "os": "linux", "config": {}, "rootfs": rootfs}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    members = {"layer.tar": layer, "config.json": config, "manifest.json": manifest}
    client.images.load(
        tar_of({path: of if isinstance(of, bytes) else json.dumps(of).encode() for path, of in members.items()}, "w")
    )
