"""Reserved ports: nobody else's while they are reserved, and to be had again afterwards."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from harness import ports
from harness.errors import HarnessError
from harness.ports import Reservation


@pytest.fixture
def reservation() -> Iterator[Reservation]:
    """A reserved port."""
    reserved = ports.reserve()
    yield reserved
    reserved.release()


def only(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Leave no other port to reserve."""
    monkeypatch.setattr(ports, "_FIRST", port)
    monkeypatch.setattr(ports, "_COUNT", 1)
    monkeypatch.setattr(ports, "_TRIES", 5)


def listening(address: str, port: int) -> socket.socket:
    """A server on a port."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen()
    return server


def test_reserved_ports_differ() -> None:
    """No two reservations have the same port."""
    reserved = [ports.reserve() for _ in range(100)]
    for each in reserved:
        each.release()
    assert len({each.port for each in reserved}) == 100


def test_reserved_port_is_below_those_of_outgoing_connections(reservation: Reservation) -> None:
    """A reserved port is none that the kernel gives to a client while the server is down."""
    assert 1024 < reservation.port < 32768


def test_server_can_listen_on_a_reserved_port_again_and_again(reservation: Reservation) -> None:
    """A reservation does not stand in the way of the server that it is for, also when it restarts."""
    for _ in range(3):
        with (
            closing(listening("127.0.0.1", reservation.port)) as server,
            closing(socket.create_connection(("127.0.0.1", reservation.port), timeout=5)),
        ):
            server.accept()[0].close()


def test_reserved_port_is_not_given_again(reservation: Reservation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port stays reserved though nothing listens on it, and the error says which ports there are."""
    only(monkeypatch, reservation.port)
    text = rf"no free port on 127\.0\.0\.1 between {reservation.port} and {reservation.port} in 5 tries"
    with pytest.raises(HarnessError, match=text):
        ports.reserve()


def test_released_port_can_be_had_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that was given back is given again, and releasing it twice does no harm."""
    first = ports.reserve()
    first.release()
    first.release()
    only(monkeypatch, first.port)
    second = ports.reserve()
    second.release()
    assert second.port == first.port


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - what some servers do
def test_port_in_use_is_not_given(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port on which somebody listens, on this or on every address, is never reserved, and nothing is left behind."""
    reserved = ports.reserve()
    with closing(listening(address, reserved.port)):
        reserved.release()
        only(monkeypatch, reserved.port)
        with pytest.raises(HarnessError, match="no free port"):
            ports.reserve()
    again = ports.reserve()
    again.release()
    assert again.port == reserved.port


PROGRAM = """
import sys
from harness import ports
ports._COUNT = 300
reserved = [ports.reserve() for _ in range(100)]
print(*(each.port for each in reserved), flush=True)
sys.stdin.read()
"""


def test_processes_that_reserve_at_once_never_collide() -> None:
    """Two processes that reserve ports from few at the same time get different ones."""
    with (
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=-1, stdout=-1, text=True) as one,
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=-1, stdout=-1, text=True) as other,
    ):
        assert one.stdout is not None
        assert other.stdout is not None
        reserved = one.stdout.readline().split() + other.stdout.readline().split()
        # Both hold their ports until both have been heard.
        one.communicate("", timeout=30)
        other.communicate("", timeout=30)
    assert len(reserved) == len(set(reserved)) == 200


def test_reservation_ends_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed gives back its ports without doing anything."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline().split()[0])
        only(monkeypatch, port)
        with pytest.raises(HarnessError):
            ports.reserve()
        holder.kill()
    again = ports.reserve()
    again.release()
    assert again.port == port
