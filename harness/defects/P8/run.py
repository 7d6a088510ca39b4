"""The body of a POST is cut after what arrives of it first, and answered with "ok"."""

import asyncio
import sys
from pathlib import Path

import socketio

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where common.py is, unless it is here
from common import CHAT, Bench, Onlooker, main, say, until


async def schedule(bench: Bench) -> tuple[bool, str]:
    """Messages over polling: a small one; the same in TCP segments; and a large one without any disturbance."""
    port = await bench.server()
    link = await bench.toxiproxy()
    disconnects: list[str] = []
    acknowledged: list[str] = []
    client = socketio.AsyncClient(handle_sigint=False)
    client.on("disconnect", disconnects.append)

    async def emit(name: str, length: int) -> None:
        content = name.ljust(length, ".")
        await client.emit(CHAT, (content, f"offset-{name}"), callback=lambda *_: acknowledged.append(name))
        await asyncio.sleep(1.5)
        stored = [row.rstrip(".") for row in bench.rows()]
        say(f"{name} ({length} characters): stored {name in stored}, acknowledged {name in acknowledged}")

    async with Onlooker.between(port) as (wire, wire_port):
        await link.create(wire_port)
        await client.connect(f"http://127.0.0.1:{link.port}", transports=["polling"])
        await until(lambda: wire.poll_pending, "the first poll")
        await emit("whole", 2000)
        await link.add("slicer", "upstream", average_size=500, size_variation=0, delay=20_000)
        await emit("sliced", 2000)
        await link.remove("slicer")
        await emit("large", 600_000)  # less than what the server allows, 1 MB
        await emit("last", 2000)
    stored = [row.rstrip(".") for row in bench.rows()]
    say(f"stored {stored}, acknowledged {acknowledged}, disconnect events {disconnects}, POSTs answered {wire.posts}")
    return (
        stored == acknowledged == ["whole", "last"] and not disconnects,
        f"emitted whole, sliced, large, last; stored {', '.join(stored)}; {len(disconnects)} disconnect events",
    )


if __name__ == "__main__":
    main(schedule, title=__doc__, seconds=30)
