"""The upgrade to WebSocket is cut inside its probe: the server answers every poll with nothing, at once, for ever."""

import asyncio
import sys
import time
from pathlib import Path

import socketio

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where common.py is, unless it is here
from common import CHAT, Bench, Onlooker, main, say, until


async def schedule(bench: Bench) -> tuple[bool, str]:
    """A client connects and upgrades; its connection is cut inside the probe, once."""
    port = await bench.server()
    link = await bench.toxiproxy()
    received: list[str] = []
    disconnects: list[str] = []
    other, client = (socketio.AsyncClient(handle_sigint=False) for _ in range(2))
    client.on(CHAT, lambda content, _offset: received.append(content))
    client.on("disconnect", disconnects.append)
    async with Onlooker.between(port) as (wire, wire_port):
        await link.create(wire_port)
        await other.connect(f"http://127.0.0.1:{link.port}")
        await until(lambda: other.transport() == "websocket", "an upgrade that is not cut")
        await other.disconnect()
        await other.connect(f"http://127.0.0.1:{port}", transports=["websocket"])
        before = wire.upgrade_bytes
        # The probe is a frame of 12 bytes. The digits of the time in the requests' URLs can be one or two fewer.
        say(f"up to the end of the request for the upgrade a client sends {before} bytes; it is cut after {before + 5}")
        await link.add("limit_data", "upstream", bytes=before + 5)
        wire.let_in_one()  # the connections after it are to be whole
        # With `wait=True` the Python client gives up after a second; the server does the same to one that does not.
        await client.connect(f"http://127.0.0.1:{link.port}", wait=False)
        await until(lambda: wire.waiting, "the connection of the first poll after the upgrade has failed")
        await link.remove("limit_data")
        wire.let_in_all()
        polls, began = wire.polls, time.monotonic()
        await other.call(CHAT, ("for everybody", "offset-1"), timeout=5)
        await asyncio.sleep(3)
        rate = (wire.polls - polls) / (time.monotonic() - began)
        say(f"the link is whole again; for 3 s the client polled {rate:.0f} times a second, and received {received}")
        say(f"connected to its namespace {client.get_sid() is not None}, disconnect events {disconnects}")
        await other.disconnect()
        deaf = rate > 5 and not received and client.get_sid() is None
        return deaf, f"{rate:.0f} polls a second, received {len(received)} of 1 messages, never connected"


if __name__ == "__main__":
    main(schedule, title=__doc__, seconds=30)
