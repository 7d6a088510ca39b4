"""A real browser with a page of a report, told what to do over its own protocol."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from tests.systems import soon

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The keys that a strip or a table knows, with the number by which a browser scrolls.
_KEYS = {"End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Tab:
    """The one page that the browser shows."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; what it answers."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        answer = await self._until(lambda told: told.get("id") == number)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def show(self, page: Path) -> None:
        """Go to a file and wait until it is there."""
        await self.call("Page.enable")
        await self.call("Page.navigate", url=page.as_uri())
        await self._until(lambda told: told.get("method") == "Page.loadEventFired")

    async def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while not wanted(told := await self._socket.receive_json()):
            pass
        return dict(told)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression on the page; a promise is awaited."""
        called = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in called, called
        return called["result"].get("value")

    async def press(self, *keys: str) -> None:
        """Press and release keys, one after the other."""
        for key in keys:
            for kind in ("rawKeyDown", "keyUp"):
                await self.call(
                    "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key]
                )

    async def tap(self, selector: str) -> None:
        """Touch the middle of an element with a finger, for a moment."""
        where = await self.evaluate(
            f"(() => {{ const element = document.querySelector({selector!r});"
            " element.scrollIntoView({block: 'center'}); const box = element.getBoundingClientRect();"
            " return {x: box.x + box.width / 2, y: box.y + box.height / 2}; })()"
        )
        await self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[where])
        await self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


@contextlib.asynccontextmanager
async def browsing(page: Path, profile: Path, width: int = 390, height: int = 800) -> AsyncIterator[Tab]:
    """A browser that shows a file, without a window, as wide and high (in CSS pixels) as a phone or what is said."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        address = await soon(_address(process))
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://{address}/json/list") as answer,
            http.ws_connect((await answer.json())[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket,
        ):
            tab = Tab(socket)
            await tab.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            await tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
            await tab.show(page)
            yield tab
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async for line in process.stderr:
        if found := re.search(rb"listening on ws://([^/]+)/", line):
            return found[1].decode()
    raise AssertionError("the browser has ended")
