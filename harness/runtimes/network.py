"""A network for containers, with addresses that we choose."""

import contextlib
import functools
import ipaddress
from collections.abc import Mapping
from typing import Any

import docker.errors
import docker.types
from docker import DockerClient

from harness.engine import called
from harness.errors import HarnessError

# Somebody else can have a subnet that was free a moment ago.
_SUBNET_TRIES = 10


class Network:
    """A network of its own, with addresses that we choose, so that one that leaves it can come back to its own."""

    def __init__(self, network: Any, subnet: ipaddress.IPv4Network) -> None:
        self.name: str = network.name
        self._network = network
        self._addresses = (str(host) for host in list(subnet.hosts())[1:])  # the first is the gateway's
        self.toxiproxy = self.next_address()

    def next_address(self) -> str:
        """One that nobody has."""
        return next(self._addresses)

    @classmethod
    def create(cls, client: DockerClient, name: str, labels: Mapping[str, str]) -> "Network":
        """Create it with a subnet that the engine finds free: only where that was asked for can one ask for addresses.

        Raises:
            HarnessError: the engine has none.
        """
        create = functools.partial(client.networks.create, name, labels=dict(labels))
        for _ in range(_SUBNET_TRIES):
            found = called("create a network", create)
            called("look at a network", found.reload)
            subnet = ipaddress.IPv4Network(found.attrs["IPAM"]["Config"][0]["Subnet"])
            called("remove a network", found.remove)
            small = ipaddress.IPv4Network((subnet.network_address, max(24, subnet.prefixlen)))
            pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=str(small))])
            try:
                return cls(called("create a network", functools.partial(create, ipam=pool)), small)
            except HarnessError as error:  # somebody else was sooner
                if "overlaps" not in str(error):
                    raise
        raise HarnessError(f"no subnet is free for a Docker network in {_SUBNET_TRIES} tries: `docker network prune`")

    def at(self, address: str) -> dict[str, Any]:
        """What has a container created there."""
        return {self.name: docker.types.EndpointConfig("1.41", ipv4_address=address)}

    def connect(self, container: str, address: str) -> None:
        """Have a container there."""
        called("connect a container to its network", lambda: self._network.connect(container, ipv4_address=address))

    def disconnect(self, container: str) -> None:
        """Take a container from it, at once."""
        called("take a container from its network", lambda: self._network.disconnect(container, force=True))

    def remove(self) -> None:
        """Remove it."""
        with contextlib.suppress(docker.errors.NotFound):
            called("remove a network", self._network.remove)
