"""A random schedule as data: which fault hits a message of which sender, and how many more of its messages go before.

What is drawn depends on nothing but the seed, the target and the senders, so that a seed replays it; a file holds what
was drawn, so that it can be replayed without its seed, and shortened.
"""

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from harness.errors import HarnessError, reason
from harness.fault import Fault
from harness.target import Target

if TYPE_CHECKING:
    from harness.system import AnySender, System

FILE: Final = "schedule.jsonl"
"""The name of a schedule beside the history of its run."""

# So that it costs each sender little to have gone before, and nobody knows where a fault comes.
_MOST_BEFORE = 5


class AckTimeouts(msgspec.Struct, frozen=True):
    """A duration that scales with the target's ack timeout."""

    ack_timeouts: float


Value = int | float | str | AckTimeouts


class Step(msgspec.Struct, frozen=True):
    """One fault of a schedule: `sender` sends `after` messages, and the next one meets it.

    `fault` is a name in `FAULTS`, `arguments` what it is made with, but for the link.
    """

    sender: str
    after: int
    fault: str
    arguments: dict[str, Value] = {}


class Schedule(msgspec.Struct, frozen=True):
    """So many senders, all of them sending, and the faults that come one after the other."""

    senders: int
    steps: tuple[Step, ...]


class Offer(NamedTuple):
    """A fault that can be drawn.

    `draw` makes its arguments; it acts on a link where it is `linked`. `needs` says whether a target offers it.
    """

    draw: Callable[[random.Random], dict[str, Value]]
    linked: bool = False
    needs: Callable[[Target], bool] = lambda _: True


def _timeouts(least: float, most: float, name: str = "seconds") -> Callable[[random.Random], dict[str, Value]]:
    return lambda numbers: {name: AckTimeouts(round(numbers.uniform(least, most), 2))}


def _directed(least: float, most: float) -> Callable[[random.Random], dict[str, Value]]:
    return lambda numbers: {
        "direction": numbers.choice(("upstream", "downstream")),
        "seconds": AckTimeouts(round(numbers.uniform(least, most), 2)),
    }


def _nothing(_: random.Random) -> dict[str, Value]:
    return {}


def _is_linux(_: Target) -> bool:
    return sys.platform == "linux"


def _does_not_acknowledge(target: Target) -> bool:
    return target.controls.without_acknowledgement is not None


# Those that bite whatever the others send, and however quick the server is: where bytes are counted downstream,
# somebody's broadcast would be counted, and a server that ends what it has begun answers a message that is on its way.
FAULTS: Final[Mapping[str, Offer]] = {
    "link.flap": Offer(lambda numbers: {"times": numbers.randint(1, 3)}),
    "link.cut_inside": Offer(lambda numbers: {"at": round(numbers.random(), 2)}),
    "link.refuse": Offer(_timeouts(0.3, 1.2)),
    "link.reset": Offer(_nothing),
    "link.cut_handshake": Offer(
        lambda numbers: {"direction": numbers.choice(("upstream", "downstream")), "count": numbers.randint(1, 100)}
    ),
    "link.lose_acknowledgement": Offer(_nothing),
    "link.blackhole": Offer(_directed(0.5, 1.5)),
    "link.freeze": Offer(_directed(0.5, 1.5)),
    "link.silence": Offer(_timeouts(0.5, 1.5)),
    "link.latency": Offer(
        lambda numbers: {"direction": "downstream", "milliseconds": AckTimeouts(round(numbers.uniform(1.1, 1.5), 2))}
    ),
    "link.slices": Offer(lambda _: {"size_bytes": 16, "pause_ms": AckTimeouts(0.15)}),
    "server.kill_now": Offer(_nothing),
    "server.kill_mid_emit": Offer(_nothing, linked=True),
    "server.kill_after_commit": Offer(_nothing, linked=True),
    "server.pause": Offer(_timeouts(0.3, 1.5), linked=True),
    "server.restart_while_held": Offer(_timeouts(0.1, 1.0, "slow_seconds"), linked=True),
    "server.restart_in_vain": Offer(lambda numbers: {"times": numbers.randint(1, 2)}, linked=True),
    "server.move": Offer(_nothing, linked=True),
    "server.forget_acknowledgements": Offer(lambda _: {"sends": 1}, linked=True, needs=_does_not_acknowledge),
    "store.lock": Offer(
        lambda numbers: {
            "seconds": AckTimeouts(round(numbers.uniform(0.2, 1.5), 2)),
            "mode": numbers.choice(("IMMEDIATE", "EXCLUSIVE")),
        }
    ),
    "store.lock_repeatedly": Offer(lambda numbers: {"times": numbers.randint(2, 3), "seconds": AckTimeouts(0.4)}),
    "store.full": Offer(_timeouts(0.3, 1.2), needs=_is_linux),
    "server.lose_write_permission": Offer(_timeouts(0.3, 1.0), linked=True, needs=_is_linux),
    "client.kill": Offer(_nothing),
    "client.freeze": Offer(_timeouts(1.1, 1.5)),
}


def drawn(target: Target, senders: Sequence[str], programs: Sequence[str], numbers: random.Random) -> Iterator[Step]:
    """A schedule without an end: every fault that the target offers once, in any order, then all of them again.

    Args:
        target: which is tried.
        senders: the names of those whose messages can meet any fault but that of a client.
        programs: those that are programs of their own; a `client` fault needs one.
        numbers: what it is drawn from.
    """
    offered = [name for name, offer in FAULTS.items() if offer.needs(target)]
    if not programs:
        offered = [name for name in offered if not name.startswith("client.")]
    while True:
        numbers.shuffle(offered)
        for name in offered:
            hit = programs if name.startswith("client.") else senders
            sender, after = numbers.choice(hit), numbers.randint(1, _MOST_BEFORE)
            yield Step(sender, after, name, FAULTS[name].draw(numbers))


def made(step: Step, system: "System", sender: "AnySender") -> Fault:
    """The fault of a step.

    Raises:
        HarnessError: there is none with such arguments, or not for such a sender.
    """
    kind, _, name = step.fault.partition(".")
    on = {"link": sender.link, "server": system.server, "store": system.store, "client": sender}[kind]
    try:
        make: Callable[..., Fault] = getattr(on, name)
    except AttributeError:
        raise HarnessError(f"{step.fault} on {step.sender}: it is no program of its own") from None
    linked = [sender.link] if FAULTS[step.fault].linked else []
    return make(*linked, **{key: _scaled(key, value, system) for key, value in step.arguments.items()})


def _scaled(name: str, value: Value, system: "System") -> object:
    if not isinstance(value, AckTimeouts):
        return value
    seconds = system.seconds(value.ack_timeouts)
    return round(1000 * seconds) if _is_milliseconds(name) else seconds


def _is_milliseconds(name: str) -> bool:
    return name.endswith(("_ms", "milliseconds"))


# -- on disk -----------------------------------------------------------------------------------------------------


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    senders: int


def begin(path: Path, senders: int) -> None:
    """Begin the file of a schedule, one JSON line for the number of senders and one for each step.

    Raises:
        HarnessError: it cannot be written.
    """
    _write(path, "wb", _Head(senders))


def append(path: Path, step: Step) -> None:
    """Add a step.

    Raises:
        HarnessError: it cannot be written.
    """
    _write(path, "ab", step)


def _write(path: Path, mode: str, line: _Head | Step) -> None:
    try:
        with path.open(mode) as file:
            file.write(msgspec.json.encode(line) + b"\n")
    except OSError as error:
        raise HarnessError(f"cannot write the schedule {path}: {reason(error)}") from error


def load(path: Path) -> Schedule:
    """Read a schedule.

    Raises:
        HarnessError: it cannot be read, or a line is no step; the text names it.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise HarnessError(f"cannot read the schedule {path}: {reason(error)}") from error
    taken: list[Step] = []
    try:
        head = msgspec.json.decode(lines[0] if lines else b"", type=_Head)
        taken.extend(map(_step, lines[1:]))
    except (msgspec.MsgspecError, ValueError) as error:
        number = len(taken) + 2 if lines[1:] else 1
        raise HarnessError(f"{path}, line {number}: not of a schedule: {error}") from error
    return Schedule(head.senders, tuple(taken))


def _step(line: bytes) -> Step:
    step = msgspec.json.decode(line, type=Step)
    if step.fault not in FAULTS:
        raise ValueError(f"there is no fault {step.fault!r}; there are {', '.join(FAULTS)}")
    if step.after < 0:
        raise ValueError("`after` is below 0")
    return step


# -- as a scenario -----------------------------------------------------------------------------------------------

_SCENARIO = '''\
"""{title}

Found by:
{found}
"""

from harness.scenario import scenario
from harness.streaming import TEXT, streaming
from harness.system import System


@scenario(family="soak-found", controls=["once"], transports=["{transport}"])
async def test_smallest_schedule_of_a_soak(system: System) -> None:
    """{title}"""
    everyone = await system.crowd({senders})
    ({names}) = everyone
    async with streaming(everyone) as turns:
{steps}'''

_STEP = """\
        async with turns({sender}):
{before}            await {sender}.send(TEXT)
            fault = {fault}
            async with system.inject(fault) as acting:
                message = {sender}.post(TEXT)
                await acting.bitten(message)
            await {sender}.finished(message)
"""


def as_scenario(schedule: Schedule, names: Sequence[str], *, title: str, found: str, transport: str) -> str:
    """A schedule as the text of a scenario file that can be run.

    Args:
        schedule: with or without steps.
        names: of its senders.
        title: a sentence on it.
        found: the command that found it.
        transport: over which it runs.
    """
    return _SCENARIO.format(
        title=title,
        found=found,
        transport=transport,
        senders=schedule.senders,
        names="".join(f"{name}, " for name in names).rstrip() if len(names) == 1 else ", ".join(names),
        steps="\n".join(map(_lines, schedule.steps)) or "        pass  # it takes no fault\n",
    )


def _lines(step: Step) -> str:
    before = f"            await {step.sender}.send_many({step.after})\n" if step.after else ""
    return _STEP.format(sender=step.sender, before=before, fault=_call(step))


def _call(step: Step) -> str:
    """The expression that makes the fault of a step, as a schedule has it."""
    kind, _, name = step.fault.partition(".")
    on = {"link": f"{step.sender}.link", "client": step.sender}.get(kind, f"system.{kind}")
    linked = [f"{step.sender}.link"] if FAULTS[step.fault].linked else []
    arguments = [f"{name}={_expression(name, value)}" for name, value in step.arguments.items()]
    return f"{on}.{name}({', '.join([*linked, *arguments])})"


def _expression(name: str, value: Value) -> str:
    if not isinstance(value, AckTimeouts):
        return msgspec.json.encode(value).decode()
    seconds = f"system.seconds(ack_timeouts={value.ack_timeouts!r})"
    return f"round(1000 * {seconds})" if _is_milliseconds(name) else seconds


def among(steps: Sequence[Step], names: Sequence[str]) -> tuple[Step, ...]:
    """The same steps, by as many senders as there are names; where that is enough, each by another as before."""
    hit = dict.fromkeys(step.sender for step in steps if not _hits_a_program(step))
    places = {sender: names[place % len(names)] for place, sender in enumerate(hit)}
    return tuple(
        msgspec.structs.replace(step, sender=names[-1] if _hits_a_program(step) else places[step.sender])
        for step in steps
    )


def _hits_a_program(step: Step) -> bool:
    return step.fault.startswith("client.")
