"""Mistake: sends the next message before the one before it has settled.

Each message has a task of its own that sends it until it is acknowledged, which made the client faster. A message
that has to be sent again arrives behind those that were posted after it.
"""

from ..client import Client, Post


async def deliver(client: Client, post: Post) -> None:
    """Have a message sent until it is acknowledged, and wait for nothing."""

    async def insist() -> None:
        while not await client.attempt(post):
            pass
        client.settle(post)

    client.spawn(insist())


if __name__ == "__main__":
    Client(deliver).run()
