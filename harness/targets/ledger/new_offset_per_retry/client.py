"""Mistake: makes a new offset for each try.

The offset is made where the message is emitted, so that nobody has to keep it, and the code that tries again calls that
function again. The server is told of a message that it does not know.
"""

import uuid

from ..client import Client, Post


async def deliver(client: Client, post: Post) -> None:
    """Send a message until it is acknowledged."""
    while not await client.attempt({**post, "offset": str(uuid.uuid4())}):
        pass
    client.settle(post)


if __name__ == "__main__":
    Client(deliver).run()
