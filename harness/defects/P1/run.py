"""A poll's response is cut in its head: what it carried is lost, and nobody is told."""

import asyncio
import sys
from pathlib import Path

import socketio

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where common.py is, unless it is here
from common import CHAT, Bench, Onlooker, main, say, until


async def schedule(bench: Bench) -> tuple[bool, str]:
    """Six messages for a receiver over polling; the response that carries the third is cut in its head."""
    port = await bench.server()
    link = await bench.toxiproxy()
    received: list[str] = []
    disconnects: list[str] = []
    sender, receiver = (socketio.AsyncClient(handle_sigint=False) for _ in range(2))
    receiver.on(CHAT, lambda content, _offset: received.append(content))
    receiver.on("disconnect", disconnects.append)
    async with Onlooker.between(port) as (wire, wire_port):
        await link.create(wire_port)
        await receiver.connect(f"http://127.0.0.1:{link.port}", transports=["polling"])
        await sender.connect(f"http://127.0.0.1:{port}", transports=["websocket"])
        for number in range(1, 7):
            await until(lambda: wire.poll_pending, "the receiver's next poll")
            polls = wire.polls
            if number == 3:
                head, body = wire.answer
                say(f"the last response had {head} + {body} bytes; this one is cut after {head // 2}")
                await link.add("limit_data", "downstream", bytes=head // 2)
            await sender.call(CHAT, (str(number), f"offset-{number}"), timeout=5)
            if number == 3:
                await until(lambda polls=polls: wire.polls > polls and wire.poll_pending, "the poll that is sent again")
                await link.remove("limit_data")
                say("the same poll was sent again, to a server that has nothing any more")
            else:
                await until(lambda text=str(number): text in received, f"message {number}")
        await asyncio.sleep(0.5)
        stored = bench.rows()
        say(f"stored {stored}, received {received}, disconnect events {disconnects}, connected {receiver.connected}")
        await sender.disconnect()
        hole = stored == list("123456") and received == list("12456") and not disconnects
        return hole, f"stored {len(stored)}, received {','.join(received)}, {len(disconnects)} disconnect events"


if __name__ == "__main__":
    main(schedule, title=__doc__, seconds=30)
