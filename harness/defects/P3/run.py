"""The handshake's response is cut in its body while a client reconnects over polling: it never connects again."""

import asyncio
import sys
from pathlib import Path

import socketio

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where common.py is, unless it is here
from common import Bench, Onlooker, main, say, until


async def schedule(bench: Bench) -> tuple[bool, str]:
    """A client loses its connection, and the response to its next handshake is cut in its body, once."""
    port = await bench.server()
    link = await bench.toxiproxy()
    connects: list[bool] = []
    disconnects: list[str] = []
    # A short delay between the tries, only to save time.
    client = socketio.AsyncClient(handle_sigint=False, reconnection_delay=0.1, reconnection_delay_max=0.2)
    client.on("connect", lambda: connects.append(True))
    client.on("disconnect", disconnects.append)
    async with Onlooker.between(port) as (wire, wire_port):
        await link.create(wire_port)
        await client.connect(f"http://127.0.0.1:{link.port}", transports=["polling"])
        await until(lambda: wire.poll_pending, "the client's next poll")
        head, body = wire.handshake
        say(f"a handshake's response has {head} + {body} bytes; the next one is cut after {head + body // 2}")
        handshakes = wire.handshakes
        await link.enable(enabled=False)
        await until(lambda: disconnects, "the disconnect")
        await link.add("limit_data", "downstream", bytes=head + body // 2)
        await link.enable(enabled=True)
        await until(lambda: wire.handshakes > handshakes, "the next handshake")
        await asyncio.sleep(0.1)
        await link.remove("limit_data")
        say("the link is whole again")
        handshakes = wire.handshakes
        await asyncio.sleep(5)
        tries = wire.handshakes - handshakes
        say(f"5 s later: {tries} more tries, {len(connects) - 1} reconnects, connected {client.connected}")
        again = socketio.AsyncClient(handle_sigint=False)
        await again.connect(f"http://127.0.0.1:{link.port}", transports=["websocket"])
        say(f"another client through the same link: connected {again.connected}")
        await again.disconnect()
        dead = not client.connected and not tries and len(connects) == 1
        return dead, f"{tries} tries and {len(connects) - 1} reconnects in 5 s"


if __name__ == "__main__":
    main(schedule, title=__doc__, seconds=30)
