"""The client's way back is closed: refused, reset, or cut in the handshake."""

from typing import Literal

from harness.scenario import scenario
from harness.system import System


@scenario(family="refuse", controls=["once"], transports=["websocket"])
async def test_messages_posted_while_connections_are_refused_are_stored_once(system: System) -> None:
    """Messages that are posted during three ack timeouts without a connection are stored once, in order, afterwards."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.refuse(system.seconds(ack_timeouts=3))) as fault:
        message = alice.post()
        for _ in range(4):
            alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(family="reset", controls=["once"], transports=["websocket"])
async def test_message_of_a_client_whose_reconnect_is_reset_is_stored_once(system: System) -> None:
    """A client that is reset (RST) when it comes back comes back again, and its message is stored once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.reset()) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="handshake",
    controls=["once"],
    variants={"request": {"direction": "upstream"}, "response": {"direction": "downstream"}},
    transports=["websocket"],
)
async def test_message_of_a_client_whose_handshake_after_a_restart_is_cut_is_stored_once(
    system: System, direction: Literal["upstream", "downstream"]
) -> None:
    """A client whose first handshake with the restarted server is cut comes back again; its message is stored once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(alice.link.cut_handshake(direction, 10)) as handshake:
        async with system.inject(system.server.restart()) as restart:
            message = alice.post()
            await restart.bitten(message)
        await handshake.bitten(message)

    await alice.send()
