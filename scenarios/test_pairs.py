"""Two faults at once, or one in the recovery from the other."""

from collections.abc import Callable

from harness.fault import Fault
from harness.scenario import scenario
from harness.system import AnySender, System

TEXT = "as long as the other"

Make = Callable[[System, AnySender], Fault]

# Faults that keep a message from the store, or its answer from the sender, for as long as they act.
KEEPING: dict[str, Make] = {
    "lock": lambda system, _: system.store.lock(system.seconds(ack_timeouts=0.5)),
    "full": lambda system, _: system.store.full(system.seconds(ack_timeouts=0.5)),
    "blackhole": lambda system, alice: alice.link.blackhole("upstream", system.seconds(ack_timeouts=0.5)),
    "deafness": lambda system, alice: alice.link.blackhole("downstream", system.seconds(ack_timeouts=0.5)),
    "pause": lambda system, alice: system.server.pause(alice.link, system.seconds(ack_timeouts=0.5)),
}
# Faults that end the connection of a message that has no answer.
ENDING: dict[str, Make] = {
    "cut": lambda _, alice: alice.link.cut(),
    "kill": lambda system, _: system.server.kill_now(),
    "restart": lambda system, _: system.server.restart(),
}
# Which of them overlap, by what a weaker sender then shows.
LOSING = ("lock-cut", "lock-kill", "lock-restart", "blackhole-cut", "blackhole-kill", "blackhole-restart")
LOSING_ON_LINUX = ("full-cut",)
DOUBLING = ("deafness-cut", "deafness-kill", "deafness-restart", "pause-cut")


async def meet(system: System, pair: str) -> None:
    """Have a message meet both faults of a pair; the one that keeps it is over first."""
    keeping, _, ending = pair.partition("-")
    alice = await system.sender("alice")
    await alice.send()

    async with (
        system.inject(ENDING[ending](system, alice)) as end,
        system.inject(KEEPING[keeping](system, alice)) as keep,
    ):
        message = alice.post()
        await keep.bitten(message)
        await end.bitten(message)

    await alice.send()


@scenario(
    family="pair",
    controls=["once"],
    variants={pair: {"pair": pair} for pair in LOSING},
    transports=["websocket"],
)
async def test_message_cut_off_while_it_is_kept_from_the_store_is_stored_once(system: System, pair: str) -> None:
    """A message that could not be stored, and whose connection then ends, is stored once."""
    await meet(system, pair)


@scenario(
    family="pair",
    controls=["once"],
    variants={pair: {"pair": pair} for pair in LOSING_ON_LINUX},
    transports=["websocket"],
    linux=True,
)
async def test_message_cut_off_while_the_disk_is_full_is_stored_once(system: System, pair: str) -> None:
    """A message that found no space, and whose connection then ends, is stored once."""
    await meet(system, pair)


@scenario(
    family="pair",
    controls=["new-offset"],
    variants={pair: {"pair": pair} for pair in DOUBLING},
    transports=["websocket"],
)
async def test_message_cut_off_while_its_answer_is_kept_is_stored_once(system: System, pair: str) -> None:
    """A message that the server has, or will have, and whose connection ends before the answer, is stored once."""
    await meet(system, pair)


@scenario(family="pair", controls=["once"], variants={"cut-restart": {}}, transports=["websocket"])
async def test_message_cut_mid_emit_before_a_restart_is_stored_once(system: System) -> None:
    """A server that restarts before the cut-off client is back gets its message again, and stores it once."""
    alice = await system.sender("alice")
    await alice.send(TEXT)

    async with system.inject(alice.link.cut_inside(0.5)) as cut:
        message = alice.post(TEXT)
        await cut.bitten(message)
        async with system.inject(system.server.restart()) as restart:
            await restart.bitten(message)

    await alice.send()
