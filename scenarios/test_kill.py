"""The server is killed while it handles a message."""

from harness.scenario import scenario
from harness.sweeps import TEXT, syscalls
from harness.system import System


@scenario(family="kill", controls=["once"], variants={"mid-emit": {}}, transports=["websocket", "polling", "upgrade"])
async def test_message_in_flight_at_a_kill_is_stored_once(system: System) -> None:
    """A message that has left its sender when the server is killed is stored once, after the restart."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.kill_mid_emit(alice.link)) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="kill",
    controls=["without_commit"],
    variants={"answered": {}},
    transports=["websocket"],
    clients=["python"],
    traces=True,
    sweep=True,
)
async def test_message_acknowledged_before_a_kill_is_stored_once(system: System) -> None:
    """A message whose sender has its acknowledgement when the server is killed is there after the restart."""
    alice = await syscalls.prepared(system)
    await syscalls.of_message(system, alice)  # so that it is known which call commits
    await syscalls.afresh(system, alice)

    async with system.inject(system.calls.kill_answered()) as fault:
        message = alice.post(TEXT)
        await fault.bitten(message)
    await alice.finished(message)

    await alice.send()


@scenario(
    family="crash",
    controls=["new-offset", "without_unique"],
    variants={"after-commit": {}},
    transports=["websocket"],
)
async def test_message_committed_before_a_kill_is_stored_once(system: System) -> None:
    """A server killed between its commit and its acknowledgement has stored the message: its resend adds nothing."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.kill_after_commit(alice.link)) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()


@scenario(
    family="crash",
    controls=["new-offset", "without_unique"],
    variants={"point": {}},
    transports=["websocket"],
    crash_point="after_commit",
)
async def test_message_committed_before_a_crash_is_stored_once(system: System) -> None:
    """A server that dies by itself between its commit and its broadcast has stored the message, once."""
    alice = await system.sender("alice")
    await alice.send()

    async with system.inject(system.server.crash("after_commit")) as fault:
        message = alice.post()
        await fault.bitten(message)

    await alice.send()
