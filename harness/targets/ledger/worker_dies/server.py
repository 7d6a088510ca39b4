"""Mistake: one error ends the worker that stores everything.

Messages go through a queue to a single worker, for their order. Its loop has no `except`: the first error of the
database ends the task, and as somebody holds the task, not even the log says so. The handlers wait for ever.
"""

import asyncio

from ..common import Chat, insert_once

chat = Chat()


class Worker:
    """Stores messages in the order in which they were put into its queue."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[str, str, asyncio.Future[bool]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def store(self, content: str, client_offset: str) -> bool:
        """Queue a message and wait until it is stored; False when its offset is another message's."""
        self._task = self._task or asyncio.create_task(self._work())
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((content, client_offset, stored))
        return await stored

    async def _work(self) -> None:
        while True:
            content, client_offset, stored = await self._queue.get()
            stored.set_result(await chat.run(insert_once, content, client_offset))


worker = Worker()


async def chat_message(_sid: str, content: str, client_offset: str) -> object:
    """Store the message, tell everybody, acknowledge."""
    stored = await worker.store(content, client_offset)
    await chat.publish()
    return None if stored else chat.sio.not_handled


if __name__ == "__main__":
    chat.serve(chat_message)
