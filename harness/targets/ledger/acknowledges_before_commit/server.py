"""Mistake: acknowledges before the commit.

The insert was slow on a busy disk and clients complained, so it was moved into a background task. Nobody waits for
that task: when its insert fails on a locked database, or the server is killed first, the client knows nothing.
"""

from ..common import Chat

chat = Chat()


async def chat_message(_sid: str, content: str, client_offset: str) -> None:
    """Acknowledge at once; the database is none of the client's business."""
    chat.start(save(content, client_offset))


async def save(content: str, client_offset: str) -> None:
    """Store the message and tell everybody."""
    if await chat.store(content, client_offset):
        await chat.publish()


if __name__ == "__main__":
    chat.serve(chat_message)
