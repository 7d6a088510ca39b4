"""Mistake: sends messages that nobody has posted.

So that the others see who is there, the client says hello whenever it connects. It does so as any message is sent, with
an identity from the same generator, and the server keeps it as what its user has said.
"""

from ..client import Client, Post

FIRST_OF_ITS_OWN = 9001


async def deliver(client: Client, post: Post) -> None:
    """Send a message until it is acknowledged."""
    while not await client.attempt(post):
        pass
    client.settle(post)


async def say_hello(client: Client, connection: int) -> None:
    """Send a message of the client's own."""
    identity = f"{client.run_token}-{client.name}-{FIRST_OF_ITS_OWN + connection}"
    await client.emit(f"{identity} {client.name} is here {identity}", identity)


if __name__ == "__main__":
    Client(deliver, on_connect=say_hello).run()
