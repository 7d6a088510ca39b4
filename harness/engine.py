"""The Docker engine of this machine: whether there is one that will do, and what the harness has on it.

The harness reads the processes and the database of a server in a container with the kernel that runs them, and its
clients call published ports. So the engine has to be one of this machine, not of another and not in a virtual machine.
"""

import contextlib
import errno
import functools
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import docker
import docker.errors
import requests
from docker import DockerClient

from harness.errors import HarnessError, brief, root_cause

T = TypeVar("T")

_TIMEOUT_SECONDS = 60
# A worker has few calls at once; each server's end is waited for, and its log followed, by one more.
_CONNECTIONS = 32
_INSTALL = (
    "install one (Debian, Ubuntu: `apt-get install docker.io`; others: https://docs.docker.com/engine/install/) and "
    "start it (`systemctl start docker`, or `dockerd` by hand)"
)

OWNER = "midemit.owner"
"""The label of everything that the harness has on an engine: the process it belongs to, as `owner` has it."""

RUN = "midemit.run"
"""The label that names the run, as its folder is called."""


def address() -> str:
    """Where the engine is: what `DOCKER_HOST` says, or the socket where one of this machine listens."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def connect() -> DockerClient:
    """A client of the engine.

    Raises:
        HarnessError: there is none, it may not be used, or it is not of this machine; the text says what helps.
    """
    _require_address()
    try:
        client = docker.from_env(timeout=_TIMEOUT_SECONDS, max_pool_size=_CONNECTIONS)
    except docker.errors.DockerException as error:
        raise HarnessError(_why_not(error)) from error
    try:
        told = client.info()
    except (docker.errors.DockerException, requests.RequestException) as error:
        client.close()
        raise HarnessError(_why_not(error)) from error
    if told.get("KernelVersion") != platform.release() or told.get("OSType") != "linux":
        client.close()
        raise HarnessError(
            f"the Docker engine runs on another kernel ({told.get('OperatingSystem')}, {told.get('KernelVersion')}; "
            f"here: {platform.system()} {platform.release()}): on another machine, or in a virtual machine as with "
            "Docker Desktop. There the harness can neither lock the database nor see the server's processes; use an "
            "engine of this machine, which has to run Linux"
        )
    return client


def _require_address() -> None:
    try:
        parts = urlsplit(address())
        usable = parts.scheme in ("unix", "tcp", "http", "https") and (parts.scheme == "unix" or parts.port is not None)
    except ValueError:  # no port, or no host, though it looks like one
        usable = False
    if not usable:
        raise HarnessError(f"DOCKER_HOST is {address()}, and the harness can use unix:///PATH or tcp://127.0.0.1:PORT")
    if parts.scheme != "unix" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise HarnessError(
            f"DOCKER_HOST is {address()}, an engine on another machine: the harness has to reach published ports on "
            "127.0.0.1 and the database file. Unset DOCKER_HOST to use the engine of this machine"
        )


def _why_not(error: Exception) -> str:
    """Of an engine that does not answer."""
    where, told = address(), root_cause(error)
    if urlsplit(where).scheme != "unix":
        return f"no Docker engine answers at {where}: {brief(told)}"
    if told == os.strerror(errno.EACCES):  # of the socket, or of a folder above it
        return (
            f"you may not use the Docker engine at {where} (permission denied): join its group, "
            "`sudo usermod -aG docker $USER`, and log in anew"
        )
    why = f", though there is a socket ({brief(told)})" if Path(urlsplit(where).path).exists() else ""
    return f"no Docker engine answers at {where}{why}: {_INSTALL}"


@functools.cache
def lack() -> str | None:
    """Why containers cannot be used on this machine, with what helps, or None when they can."""
    try:
        connect().close()
    except HarnessError as error:
        return str(error)
    return None


def version() -> str:
    """What the engine says that it is.

    Raises:
        HarnessError: there is none that can be used.
    """
    with contextlib.closing(connect()) as client:
        return str(client.version()["Version"])


def called(doing: str, call: Callable[[], T]) -> T:
    """What a call of the engine gives.

    Raises:
        HarnessError: it refuses, or does not answer any more.
        docker.errors.NotFound: what it is about is not there.
    """
    try:
        return call()
    except docker.errors.NotFound:
        raise
    except docker.errors.APIError as error:
        raise HarnessError(f"the Docker engine cannot {doing}: {brief(error.explanation or str(error))}") from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise HarnessError(
            f"the Docker engine does not answer any more, asked to {doing} ({type(error).__name__}); see that it runs "
            "(`docker info`), and run again"
        ) from error


# --- whose is what ----------------------------------------------------------------------------------------------


def owner(pid: int | None = None) -> str:
    """A process, this one by default, as no other process is ever called on this machine: id, start and boot."""
    pid = pid or os.getpid()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{pid}-{_started(pid)}-{boot}"


def _started(pid: int) -> str:
    """When a process has started, in ticks since the boot; nothing when it is gone, or only not yet waited for."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if told[0] in "ZX" else told[19]


# As `owner` calls a process: what is called otherwise has our label by somebody else's hand, and is theirs.
_OWNER = re.compile(r"([0-9]{1,9})-[0-9]+-[0-9a-f-]{36}", re.ASCII)


def _is_gone(named: str) -> bool:
    """Whether that is a process as `owner` has it, and runs no more."""
    found = _OWNER.fullmatch(named)
    return found is not None and owner(int(found[1])) != named


def leftovers(client: DockerClient) -> Iterator[tuple[str, Any]]:
    """What a process of the harness that is gone has left on the engine: kind and thing, in the order of removing.

    Nothing without the harness's label, and nothing of a process that runs.

    Raises:
        HarnessError: the engine does not answer.
    """
    kinds: tuple[tuple[str, Callable[[], list[Any]]], ...] = (
        ("container", lambda: client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True)),
        ("network", lambda: client.networks.list(filters={"label": OWNER})),
        ("volume", lambda: client.volumes.list(filters={"label": OWNER})),
    )
    for kind, found in kinds:
        for thing in called(f"list its {kind}s", found):
            if _is_gone(_labels(thing).get(OWNER, "")):
                yield kind, thing


def _labels(thing: Any) -> dict[str, str]:
    return thing.attrs.get("Labels") or thing.attrs.get("Config", {}).get("Labels") or {}


def clean(client: DockerClient) -> list[str]:
    """Remove what is left of runs that are gone; what was removed, as `container NAME`.

    Raises:
        HarnessError: the engine does not answer, or refuses.
    """
    removed = []
    for kind, thing in list(leftovers(client)):
        options = {"force": True, "v": True} if kind == "container" else {}
        try:
            called(f"remove the {kind} {thing.name}", functools.partial(thing.remove, **options))
        except docker.errors.NotFound:  # somebody else was sooner
            continue
        except HarnessError as error:
            if "already in progress" not in str(error):  # somebody else is at it
                raise
            continue
        removed.append(f"{kind} {thing.name}")
    return removed
