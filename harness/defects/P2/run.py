"""A poll's response is cut in its body: the client stays "connected" for ever, hears nothing, and its emits vanish."""

import asyncio
import sys
from pathlib import Path

import socketio

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where common.py is, unless it is here
from common import CHAT, Bench, Onlooker, main, say, until


async def schedule(bench: Bench) -> tuple[bool, str]:
    """One message for a client over polling, whose response is cut in its body; then everything works again."""
    # A short heartbeat, so that the server gives the client up in seconds and not in most of a minute.
    port = await bench.server("--ping-interval", "1", "--ping-timeout", "1")
    link = await bench.toxiproxy()
    received: list[str] = []
    disconnects: list[str] = []
    other, client = (socketio.AsyncClient(handle_sigint=False) for _ in range(2))
    client.on(CHAT, lambda content, _offset: received.append(content))
    client.on("disconnect", disconnects.append)
    async with Onlooker.between(port) as (wire, wire_port):
        await link.create(wire_port)
        await client.connect(f"http://127.0.0.1:{link.port}", transports=["polling"])
        await other.connect(f"http://127.0.0.1:{port}", transports=["websocket"])
        await until(lambda: wire.poll_pending, "the client's next poll")
        await other.call(CHAT, ("before", "offset-1"), timeout=5)
        await until(lambda: "before" in received and wire.poll_pending, "the first message and the next poll")
        head, body = wire.answer
        say(f"the last response had {head} + {body} bytes; the next one is cut after {head + body // 2}")
        await link.add("limit_data", "downstream", bytes=head + body // 2)
        await other.call(CHAT, ("cut", "offset-2"), timeout=5)
        await until(lambda: not wire.poll_pending, "the response")
        await asyncio.sleep(0.2)
        await link.remove("limit_data")
        polls = wire.polls
        await asyncio.sleep(4)  # twice as long as the server waits for a client
        since = wire.polls - polls
        say(f"4 s later: connected {client.connected}, disconnect events {disconnects}, polls since {since}")
        await client.emit(CHAT, ("emitted", "offset-3"))
        await client.emit(CHAT, ("emitted again", "offset-4"))
        await other.call(CHAT, ("after", "offset-5"), timeout=5)
        await asyncio.sleep(1)
        stored = bench.rows()
        say(f"two emits returned normally; stored {stored}, received {received}, connected {client.connected}")
        await other.disconnect()
        dead = client.connected and not disconnects and received == ["before"] and stored == ["before", "cut", "after"]
        return (
            dead,
            f"connected {client.connected}, stored {stored}, received {received}, {len(disconnects)} disconnect events",
        )


if __name__ == "__main__":
    main(schedule, title=__doc__, seconds=30)
