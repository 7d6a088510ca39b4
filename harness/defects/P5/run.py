"""A `ping_interval` with a fraction is advertised as 0: clients take an idle connection for dead."""

import asyncio
import json
import sys
from pathlib import Path

import aiohttp
import socketio

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where common.py is, unless it is here
from common import Bench, main, say


async def schedule(bench: Bench) -> tuple[bool, str]:
    """Two servers, whose intervals differ by a tenth of a second; an idle client on each."""
    whole, fraction = await asyncio.gather(idle(bench, "1"), idle(bench, "0.9"))
    zero = fraction[0] == 0 and fraction[1] > 0
    seen = f"interval 1 s: {whole[0]} ms advertised, {whole[1]} disconnects; 0.9 s: {fraction[0]} ms, {fraction[1]}"
    return whole == (1000, 0) and zero, seen


async def idle(bench: Bench, ping_interval: str) -> tuple[int, int]:
    """The interval that is advertised, and how often an idle client loses its connection in 4 s."""
    port = await bench.server("--ping-interval", ping_interval, "--ping-timeout", "0.4")
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as session, session.get(f"{url}/socket.io/?EIO=4&transport=polling") as answer:
        advertised = json.loads((await answer.text())[1:])
    disconnects: list[str] = []
    client = socketio.AsyncClient(handle_sigint=False, reconnection_delay=0.1, reconnection_delay_max=0.1)
    client.on("disconnect", disconnects.append)
    await client.connect(url, transports=["websocket"])
    await asyncio.sleep(4)
    seen = len(disconnects)
    await client.shutdown()
    interval = advertised["pingInterval"]
    say(f"ping_interval={ping_interval}: {interval} ms advertised, {seen} disconnects in 4 s: {disconnects[:seen]}")
    return interval, seen


if __name__ == "__main__":
    main(schedule, title=__doc__, seconds=30)
