"""More than 16 packets in one polling payload: all of them are dropped, and the sender is not told."""

import asyncio
import sys
from pathlib import Path

import socketio

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where common.py is, unless it is here
from common import CHAT, Bench, main, say


async def schedule(bench: Bench) -> tuple[bool, str]:
    """A burst of 16 emits, and one of 17."""
    port = await bench.server()
    sixteen = await burst(bench, port, 16)
    seventeen = await burst(bench, port, 17)
    return (sixteen, seventeen) == (16, 0), f"16 emits: {sixteen} rows; 17 emits: {seventeen} rows"


async def burst(bench: Bench, port: int, count: int) -> int:
    """How many of so many emits are stored."""
    disconnects: list[str] = []
    acknowledged: list[bool] = []
    client = socketio.AsyncClient(handle_sigint=False)
    client.on("disconnect", disconnects.append)
    await client.connect(f"http://127.0.0.1:{port}", transports=["polling"])
    await asyncio.sleep(0.3)
    for number in range(count):
        message = (f"{number + 1} of {count}", f"offset-{number + 1}-of-{count}")
        await client.emit(CHAT, message, callback=lambda *_: acknowledged.append(True))
    await asyncio.sleep(1.5)
    rows = len([content for content in bench.rows() if content.endswith(f"of {count}")])
    told = f"{len(acknowledged)} acknowledgements, connected {client.connected}, disconnect events {disconnects}"
    say(f"{count} emits returned normally: {rows} rows, {told}")
    return rows


if __name__ == "__main__":
    main(schedule, title=__doc__, seconds=30)
