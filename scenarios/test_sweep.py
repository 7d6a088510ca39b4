"""Every byte of a message's exchange is cut once, and the server killed at every system call: nothing is left to luck.

`pytest scenarios/test_sweep.py --case wire/up/37` runs one case.
"""

from typing import Literal

from harness.calls import Error
from harness.link import Direction
from harness.scenario import scenario
from harness.sweeps import locks, pairs, syscalls, wire
from harness.system import System


@scenario(family="wire", controls=["once"], variants={"up": {}}, sweep=True, long_over=["polling"])
async def test_message_that_is_cut_at_any_byte_on_its_way_is_stored_once(system: System) -> None:
    """A connection that ends after any number of a message's bytes: the message is sent again, and stored once."""
    await wire.every_byte(system, "upstream")


@scenario(family="wire", controls=["new-offset"], variants={"down": {}}, sweep=True, long_over=["polling"])
async def test_message_that_is_cut_at_any_byte_of_its_answer_is_stored_once(system: System) -> None:
    """A connection that ends after any number of bytes of the answer: the message is sent again, and stored once."""
    await wire.every_byte(system, "downstream")


@scenario(
    family="wire-stream",
    controls=["once"],
    variants={"up": {}},
    transports=["websocket"],
    sweep=True,
    long_over=["node"],
)
async def test_stream_that_is_cut_at_any_byte_is_stored_once(system: System) -> None:
    """A connection that ends after any number of bytes of several messages, while others send: each is stored once."""
    await wire.every_byte_of_a_stream(system)


@scenario(
    family="wire-stream",
    controls=["new-offset"],
    variants={"down": {}},
    transports=["websocket"],
    # Another does not stay away until the fault is over: its way back fits into as many bytes as all that comes.
    clients=["python"],
    sweep=True,
)
async def test_stream_whose_answers_are_cut_at_any_byte_is_stored_once(system: System) -> None:
    """A connection that ends after any number of bytes of what comes while others send: each message is stored once."""
    await wire.every_byte_of_the_answers_to_a_stream(system)


@scenario(
    family="wire-connect",
    controls=["once"],
    variants={"up": {"direction": "upstream"}, "down": {"direction": "downstream"}},
    transports=["websocket", "polling", "upgrade"],
    sweep=True,
    long_over=["polling", "upgrade", "node"],
)
async def test_message_that_waits_for_a_handshake_which_is_cut_at_any_byte_is_stored_once(
    system: System, direction: Direction
) -> None:
    """A way back that ends after any number of bytes of its handshake: the next one carries the message."""
    await wire.every_byte_of_a_handshake(system, direction)


@scenario(
    family="syscall",
    controls=["once"],
    variants={"kill": {"action": "kill"}, "eio": {"action": "EIO"}, "enospc": {"action": "ENOSPC"}},
    transports=["websocket"],
    clients=["python"],  # the space is the server's: who sends makes no difference to it
    traces=True,
    sweep=True,
)
async def test_message_at_any_system_call_of_which_the_server_dies_or_fails_is_stored_once(
    system: System, action: Literal["kill"] | Error
) -> None:
    """A server that is killed at any call by which it handles a message, or whose store fails there."""
    await syscalls.every_call(system, action)


@scenario(
    family="syscall",
    controls=["new-offset"],
    variants={"recovery": {}},
    transports=["websocket"],
    clients=["python"],
    traces=True,
    sweep=True,
    long_over=["websocket"],
)
async def test_message_of_a_server_that_dies_at_any_system_call_of_its_recovery_is_stored_once(system: System) -> None:
    """A server that is killed while it handles a message, and again at any call of the start that follows."""
    await syscalls.every_call_of_a_recovery(system)


@scenario(
    family="lock",
    controls=["once"],
    variants={"sweep": {}},
    transports=["websocket"],
    clients=["python"],
    sweep=True,
)
async def test_message_of_a_store_that_is_locked_at_any_time_is_stored_once(system: System) -> None:
    """A store that is locked before, during or after an insert, for any time."""
    await locks.every_lock(system, ["never"])


@scenario(
    family="lock",
    controls=["once", "new-offset"],
    variants={"cut": {}},
    transports=["websocket"],
    clients=["python"],
    sweep=True,
    long_over=["websocket"],
)
async def test_message_of_a_store_that_is_locked_at_any_time_with_a_cut_is_stored_once(system: System) -> None:
    """A store that is locked before, during or after an insert, for any time, and a cut under the lock or behind it."""
    await locks.every_lock(system, ["under", "behind"])


@scenario(
    family="pairs",
    controls=["once"],
    variants={"up-wire": {}},
    transports=["websocket"],
    sweep=True,
    pairs=True,
    long_over=["websocket"],
)
async def test_message_that_is_cut_at_any_byte_and_cut_again_is_stored_once(system: System) -> None:
    """A second cut on the way back from the first, after any number of bytes."""
    await pairs.cut_and_cut(system, "upstream")


@scenario(
    family="pairs",
    controls=["new-offset"],
    variants={"down-wire": {}},
    transports=["websocket"],
    sweep=True,
    pairs=True,
    long_over=["websocket"],
)
async def test_message_whose_answer_is_cut_at_any_byte_and_cut_again_is_stored_once(system: System) -> None:
    """A second cut on the way back from the first, in the answer, after any number of bytes."""
    await pairs.cut_and_cut(system, "downstream")


@scenario(
    family="pairs",
    controls=["once"],
    variants={"up-lock": {}},
    transports=["websocket"],
    sweep=True,
    pairs=True,
    long_over=["websocket"],
)
async def test_message_that_is_cut_at_any_byte_and_meets_a_lock_is_stored_once(system: System) -> None:
    """A lock that is held when the message comes again, for less and for more than the ack timeout."""
    await pairs.cut_and_lock(system, "upstream")


@scenario(
    family="pairs",
    controls=["new-offset"],
    variants={"down-lock": {}},
    transports=["websocket"],
    sweep=True,
    pairs=True,
    long_over=["websocket"],
)
async def test_message_whose_answer_is_cut_at_any_byte_and_meets_a_lock_is_stored_once(system: System) -> None:
    """A lock that is held when the message comes again that is stored, for less and for more than the ack timeout."""
    await pairs.cut_and_lock(system, "downstream")


@scenario(
    family="pairs",
    controls=["once"],
    variants={"up-kill": {}},
    transports=["websocket"],
    traces=True,
    sweep=True,
    pairs=True,
    long_over=["websocket"],
)
async def test_message_that_is_cut_at_any_byte_and_whose_server_dies_at_any_call_is_stored_once(system: System) -> None:
    """A kill at any system call when the message comes again."""
    await pairs.cut_and_kill(system, "upstream")


@scenario(
    family="pairs",
    controls=["new-offset"],
    variants={"down-kill": {}},
    transports=["websocket"],
    traces=True,
    sweep=True,
    pairs=True,
    long_over=["websocket"],
)
async def test_message_whose_answer_is_cut_at_any_byte_and_whose_server_dies_at_any_call_is_stored_once(
    system: System,
) -> None:
    """A kill at any system call when the message comes again that is stored."""
    await pairs.cut_and_kill(system, "downstream")


@scenario(
    family="pairs",
    controls=["new-offset"],
    variants={"kill-kill": {}},
    transports=["websocket"],
    traces=True,
    sweep=True,
    pairs=True,
    long_over=["websocket"],
)
async def test_message_whose_server_dies_at_any_call_and_at_any_call_of_its_recovery_is_stored_once(
    system: System,
) -> None:
    """A kill at any system call, and another at any of the start that follows."""
    await pairs.kill_and_kill(system)
