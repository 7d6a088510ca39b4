"""Over polling `disconnect()` does not return before the pending poll does."""

import asyncio
import sys
import time
from pathlib import Path

import socketio

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where common.py is, unless it is here
from common import Bench, main, say


async def schedule(bench: Bench) -> tuple[bool, str]:
    """Connect and disconnect, over each transport."""
    # With the defaults (25 s and 20 s) it takes 30 s.
    port = await bench.server("--ping-interval", "3", "--ping-timeout", "1")
    websocket = await seconds_to_disconnect(port, "websocket")
    polling = await seconds_to_disconnect(port, "polling")
    return websocket < 0.5 and polling > 2, f"websocket {websocket:.2f} s, polling {polling:.2f} s"


async def seconds_to_disconnect(port: int, transport: str) -> float:
    """How long it takes."""
    client = socketio.AsyncClient(handle_sigint=False)
    await client.connect(f"http://127.0.0.1:{port}", transports=[transport])
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await client.disconnect()
    took = time.monotonic() - began
    say(f"{transport}: disconnect() took {took:.2f} s")
    return took


if __name__ == "__main__":
    main(schedule, title=__doc__, seconds=30)
