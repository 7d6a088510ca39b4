"""What a scenario declares, which runs that makes on a target, and how the runs become one verdict.

A scenario is an async function, its schedule, under the `scenario` decorator. Times variants, clients and
transports it makes cases; a case is one pytest item. A case runs each control with its null and then the claim,
and its result is a pure function of the histories that these runs leave.
"""

import random
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from harness import checker, coverage, node, repeat, target, trace
from harness import history as h
from harness.checker import Anomaly, Judgement, Kind, VerdictWord
from harness.clients.client import TRANSPORTS
from harness.clients.kinds import KINDS
from harness.errors import HarnessError
from harness.history import History
from harness.outcome import Outcome, outcomes
from harness.repeat import Repeated
from harness.steps import Step
from harness.target import Controls, Target

ATTRIBUTE = "__midemit_scenario__"

_POSITION = re.compile(r"[0-9]+(\.\.[0-9]+)?|[0-9]+\+[0-9]*|\+[0-9]+", re.ASCII)
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Control(msgspec.Struct, frozen=True):
    """The schedule with a protection off.

    Another policy of the sender, no outbox, receivers that forget their offset, a server of the target's own, a store
    that leaves out the call which commits and reports it as done (`lies`); also one on another target, or with another
    client. `expected` is the anomaly that it must show on the bitten
    message. Where `exactly` is given, it must show these kinds of anomalies and no others. A schedule that needs luck
    is tried up to `tries` times. `order` is what it is judged by, where that is not what its target claims. A schedule
    whose traffic shows the anomaly without any fault has no null.
    """

    name: str
    expected: Kind | Literal["none"]
    policy: h.Policy = "persistent"
    server: str | None = None
    outbox: bool = True
    forgets: bool = False
    lies: bool = False
    target: str | None = None
    client: str | None = None
    exactly: tuple[Kind, ...] | None = None
    tries: int = 1
    order: h.Order | None = None
    has_null: bool = True


CONTROLS = {
    control.name: control
    for control in (
        Control("once", "lost", policy="once"),
        Control("new-offset", "duplicate", policy="new-offset"),
        Control("without_unique", "duplicate", server="without_unique"),
        Control("without_outbox", "silent_drop", outbox=False),
        Control("without_offset", "repeated", forgets=True),
        Control("without_commit", "lost", lies=True),
        # What the tutorial says of the client's own ways; the last of them needs a fault that it shows nothing without.
        Control("fire-and-forget", "lost", policy="fire-and-forget"),
        Control("resend", "reordered", policy="resend"),
        Control("resend-without_unique", "duplicate", policy="resend", server="without_unique"),
        Control("retries", "false_failure", policy="retries=3"),
    )
}

# How many anomalies of another pair are told in full.
_FOUND = 5

PAIRS = ("tutorial", "stock")
"""The names of controls that are another pair of client and server; what such a one must show, its scenario says."""

# What senders do unless the schedule says otherwise, by what the target claims.
_CLAIM_POLICY: dict[h.Guarantee, h.Policy] = {
    "exactly-once": "persistent",
    "at-least-once": "persistent",
    "at-most-once": "once",
}

# The transports that a scenario runs over unless it says otherwise.
_BY_DEFAULT = ("websocket", "polling")

Schedule = Callable[..., Awaitable[None]]


class Scenario(msgspec.Struct, frozen=True):
    """A declared scenario; see `scenario`.

    One with a `target` or `clients` of its own does not ask what the user has chosen. `label` is then its whole id,
    `item` the name of its pytest item, and `title` what the report calls it, where these are not made of its family and
    its function.
    """

    schedule: Schedule
    family: str
    controls: tuple[Control, ...]
    variants: dict[str, dict[str, Any]]
    order: tuple[h.Order, ...] | None = None
    crash_point: str | None = None
    switch: str | None = None
    transports: tuple[str, ...] = _BY_DEFAULT
    policy: h.Policy | None = None
    guarantee: h.Guarantee | None = None
    linux: bool = False
    traces: bool = False
    partitions: bool = False
    server: str | None = None
    target: str | None = None
    clients: tuple[str, ...] = ()
    label: str | None = None
    item: str | None = None
    title: str | None = None
    sweep: bool = False
    pairs: bool = False
    soak: bool = False
    long_over: tuple[str, ...] = ()


def scenario(
    *,
    family: str,
    controls: Sequence[str] = (),
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    order: Sequence[h.Order] | None = None,
    crash_point: str | None = None,
    switch: str | None = None,
    transports: Sequence[str] = _BY_DEFAULT,
    policy: h.Policy | None = None,
    guarantee: h.Guarantee | None = None,
    linux: bool = False,
    traces: bool = False,
    partitions: bool = False,
    server: str | None = None,
    clients: Sequence[str] = (),
    target: str | None = None,
    sweep: bool = False,
    pairs: bool = False,
    soak: bool = False,
    long_over: Sequence[str] = (),
) -> Callable[[Schedule], Schedule]:
    """Declare an async function `(system, **parameters)` as a scenario.

    Args:
        family: the first part of its ids.
        controls: names from `CONTROLS`; one of them has to show its anomaly on the message that the fault bit.
        variants: second part of the id -> the parameters that the schedule is called with. Where there is a
            parameter `senders`, controls and nulls are called with 1.
        order: the scenario asks something only of targets that claim one of these orders.
        crash_point: the crash point of the target that it needs.
        switch: the control server of the target that its fault needs.
        transports: over which it runs.
        policy: of the senders in the run of the claim, where it is not what the target's guarantee asks for.
        guarantee: what this policy can keep, where that is less than what the target claims.
        linux: it needs something that only Linux has.
        traces: it traces the server's system calls.
        partitions: it takes the server from its network, which only a container has.
        server: the control server of runs whose senders ask for no acknowledgement, where the target has it.
        clients: those that it runs with, where it needs what others do not have; else the user chooses.
        target: the target that it runs on, by its path or name, where it is about that; else the user chooses.
        sweep: the schedule goes through the cases of a sweep, with nobody else connected: no receivers listen.
        pairs: the cases of the sweep are pairs, of which there are too many: it goes on for as long as the user says.
        soak: the schedule goes on for as long as the user says, and runs only when that was said.
        long_over: the transports over which, and the clients with which, it takes so long that not everybody waits for
            it: there its items have the mark `long`.

    Raises:
        HarnessError: one of these is not what is said here.
    """

    def declare(schedule: Schedule) -> Schedule:
        problem = next(
            _problems(
                family, controls, variants, order, switch, transports, policy, guarantee, server, clients, long_over
            ),
            None,
        )
        if problem is not None:
            raise HarnessError(f"scenario {getattr(schedule, '__name__', schedule)}: {problem}")
        declared = Scenario(
            schedule,
            family,
            tuple(CONTROLS[name] for name in controls),
            {name: dict(parameters) for name, parameters in (variants or {"": {}}).items()},
            tuple(order) if order is not None else None,
            crash_point,
            switch,
            tuple(transports),
            policy,
            guarantee,
            linux,
            traces,
            partitions,
            server,
            target,
            tuple(clients),
            sweep=sweep,
            pairs=pairs,
            soak=soak,
            long_over=tuple(long_over),
        )
        setattr(schedule, ATTRIBUTE, declared)
        return schedule

    return declare


def _problems(
    family: str,
    controls: Sequence[str],
    variants: Mapping[str, Mapping[str, Any]] | None,
    order: Sequence[h.Order] | None,
    switch: str | None,
    transports: Sequence[str],
    policy: h.Policy | None,
    guarantee: h.Guarantee | None,
    server: str | None,
    clients: Sequence[str],
    long_over: Sequence[str],
) -> Iterator[str]:
    """What is wrong with a declaration: what types would say, and what a type checker may not have been asked."""
    for what, names in {"family": [family], "variants": [name for name in variants or {} if name]}.items():
        for name in names:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                yield f"{what}: expected lower-case letters, digits and hyphens, got {name!r}"
    if variants is not None and (not isinstance(variants, Mapping) or not variants):
        yield f"variants: expected names with their parameters, got {variants!r}"
    known: dict[str, tuple[object, tuple[str, ...]]] = {
        "controls": (controls, tuple(CONTROLS)),
        "order": (order, get_args(h.Order)),
        "transports": (transports, tuple(TRANSPORTS)),
        "switch": ((switch,) if switch is not None else None, Controls.__struct_fields__),
        "server": ((server,) if server is not None else None, Controls.__struct_fields__),
        "policy": ((policy,) if policy is not None else None, get_args(h.Policy)),
        "guarantee": ((guarantee,) if guarantee is not None else None, get_args(h.Guarantee)),
        "clients": (clients, tuple(KINDS)),
        "long_over": (long_over, (*TRANSPORTS, *KINDS)),
    }
    for what, (given, words) in known.items():
        if given is not None and (not isinstance(given, list | tuple) or not set(given) <= set(words)):
            yield f"{what}: expected some of {', '.join(words)}, got {given!r}"


class Case(msgspec.Struct, frozen=True):
    """One point of a scenario on a target: one pytest item.

    `among` tells several targets of one run apart; `only` is the position of the one case of a sweep that is asked for,
    of several in a row, `0..71`, or both of a pair: `12+9`, or `12+` for its first fault alone. `share` is which part
    of how many of its sweep it is, from 1.
    """

    scenario: Scenario
    variant: str
    client: str
    transport: str
    target: Target
    among: str = ""
    only: str | None = None
    share: tuple[int, int] = (1, 1)

    @property
    def id(self) -> str:
        """`family-variant-client-transport`, and the target where there are several; or the scenario's own label.

        Of a share of a sweep with that: `lock-sweep-2of4-python-websocket`.
        """
        number, shares = self.share
        return self._id(f"{number}of{shares}" if shares > 1 else "", self.among)

    @property
    def schedule_id(self) -> str:
        """The same for all shares of a sweep and on all targets."""
        return self._id("", "")

    def _id(self, share: str, among: str) -> str:
        if self.scenario.label is not None:
            return self.scenario.label
        parts = (self.scenario.family, self.variant, share, self.client, self.transport, among)
        return "-".join(part for part in parts if part)

    @property
    def space(self) -> str:
        """What a sweep covers, as the ids of its cases begin: our own client and WebSocket go without saying."""
        unusual = [word for word in (self.client, self.transport) if word not in ("python", "websocket")]
        return f"{'-'.join((self.scenario.family, *unusual))}/{self.variant}"

    @property
    def first_case(self) -> str:
        """The id of a case that every sweep of its kind has."""
        return f"{self.space}/{'0+0' if self.scenario.pairs else '0'}"

    @property
    def has_budget(self) -> bool:
        """Whether it goes on for as long as the user says."""
        return self.scenario.pairs and self.only is None


def cases(
    declared: Scenario, clients: Sequence[str], targets: Sequence[Target], only: str | None = None, shares: int = 1
) -> Iterator[Case]:
    """Every case of a scenario, with the clients and on the targets that the user has chosen, or those of its own.

    With `only`, the id of a case of a sweep, there is none but that sweep, and it has no other. Of a sweep there are as
    many as it is to have `shares`.

    Raises:
        TargetError: a target of its own cannot be read.
    """
    own = [target.load(declared.target)] if declared.target is not None else targets
    for on in own:
        for client in declared.clients or clients:
            for transport in declared.transports:
                for variant in declared.variants:
                    case = Case(declared, variant, client, transport, on, on.name if len(own) > 1 else "")
                    if only is None:
                        parts = shares if declared.sweep else 1
                        yield from (msgspec.structs.replace(case, share=(n, parts)) for n in range(1, parts + 1))
                    elif declared.sweep and _POSITION.fullmatch(position := only.removeprefix(f"{case.space}/")):
                        yield msgspec.structs.replace(case, only=position)


def not_offered(case: Case) -> str | None:
    """Why a case asks nothing of its target, or of its client, or None when it does."""
    declared, asked, claims = case.scenario, case.target, case.target.claims
    if declared.order is not None and claims.order not in declared.order:
        return f"the target claims the order {claims.order!r}; this needs {' or '.join(map(repr, declared.order))}"
    if declared.crash_point is not None and declared.crash_point not in asked.crash_points:
        return f"the target has no crash point {declared.crash_point!r}"
    if declared.switch is not None and getattr(asked.controls, declared.switch) is None:
        return f"the target has no server {declared.switch!r} among its controls"
    if declared.guarantee not in (None, claims.guarantee) and claims.guarantee != "exactly-once":
        return f"the target claims {claims.guarantee!r}; this asks for {declared.guarantee!r}"
    if declared.sweep and case.transport == "upgrade" and KINDS[case.client].command is not None:
        return f"no message waits for an upgrade of the client {case.client}: it sends before that"
    if (policy := _policy(case)) not in KINDS[case.client].policies:
        return f"the client {case.client} has no policy {policy!r}"
    if declared.controls and not _controls(case):
        if any(
            checker.threatens(control.expected, claims.guarantee, claims.order, claims.receivers)
            for control in declared.controls
        ):
            return "the target offers none of its controls"
        if claims.receivers == "none" and {control.expected for control in declared.controls} <= {"repeated"}:
            return "the target promises receivers nothing"
        threats = " or ".join(sorted({repr(control.expected) for control in declared.controls}))
        return f"a message that is {threats} does not break {claims.guarantee!r}"
    return None


def missing(case: Case) -> str | None:
    """What a case needs that this machine does not have, or None."""
    if case.scenario.linux and sys.platform != "linux":
        return "it needs Linux"
    if case.scenario.traces and (lack := trace.lack()) is not None:
        return lack
    if any(run.needs_node for run in runs(case)):
        return node.lack()
    return None


def _controls(case: Case) -> tuple[Control, ...]:
    claims = case.target.claims
    return tuple(
        control
        for control in case.scenario.controls
        if control.exactly is not None
        or (
            checker.threatens(control.expected, claims.guarantee, claims.order, claims.receivers)
            and (control.server is None or getattr(case.target.controls, control.server) is not None)
            and control.policy in KINDS[control.client or case.client].policies
        )
    )


def _policy(case: Case) -> h.Policy:
    return case.scenario.policy or _CLAIM_POLICY[case.target.claims.guarantee]


class Soak(msgspec.Struct, frozen=True):
    """How long a soak goes on, and what it does if that is not to be drawn.

    `judged` is called with the history of each part that has ended: what was soaked then, or None when it ends there.
    """

    seconds: float
    judged: Callable[[Path], Awaitable[h.Soaked | None]]
    steps: tuple[Step, ...] | None = None


class Run(msgspec.Struct, frozen=True):
    """One run of a case: on a system of its own, with a history of its own.

    `space`, `only` and `share` say which cases of a sweep it goes through; see `Case`. `budget_seconds` is how long it
    may go through pairs, None for all of them, and `progress` the file that says how many were tried before. Only the
    claim of a soak has a `soak`.
    """

    role: h.Role
    control: Control | None
    policy: h.Policy
    server: str | None
    parameters: dict[str, Any]
    client: str
    target: Target
    trial: int = 1
    receivers: bool = False
    space: str = ""
    only: str | None = None
    share: tuple[int, int] = (1, 1)
    budget_seconds: float | None = None
    progress: Path | None = None
    soak: Soak | None = None

    @property
    def folder(self) -> str:
        """The name of its folder in the scenario's folder."""
        again = f"-try-{self.trial}" if self.trial > 1 else ""
        return self.role if self.control is None else f"{self.role}-{self.control.name}{again}"

    @property
    def needs_node(self) -> bool:
        """Whether its client or its server runs on the harness's own Node packages."""
        return KINDS[self.client].needs_node or self.target.needs_node


def runs(case: Case) -> list[Run]:
    """The runs of a case, in their order: each control's null, the control, at last the claim."""
    parameters = case.scenario.variants[case.variant]
    alone = {**parameters, "senders": 1} if "senders" in parameters else parameters
    planned = []
    for control in _controls(case):
        on = target.load(control.target) if control.target is not None else case.target
        client = control.client or case.client
        server = control.server or _server(case.scenario, on, control.policy)
        if control.has_null:
            planned.append(Run("null", control, control.policy, server, alone, client, on))
        planned += [
            Run("control", control, control.policy, server, alone, client, on, trial)
            for trial in range(1, control.tries + 1)
        ]
    policy = _policy(case)
    server = _server(case.scenario, case.target, policy)
    receivers = not case.scenario.sweep and case.target.claims.receivers != "none"
    claim = Run("claim", None, policy, server, parameters, case.client, case.target, receivers=receivers)
    asked = {"space": case.space, "only": case.only, "share": case.share}
    return [msgspec.structs.replace(run, **asked) for run in (*planned, claim)]


def _server(declared: Scenario, on: Target, policy: h.Policy) -> str | None:
    """The server that a scenario wants for senders which ask for no acknowledgement, where the target has it."""
    wanted = declared.server if policy == "fire-and-forget" else None
    return wanted if wanted is not None and getattr(on.controls, wanted) is not None else None


def is_needless(run: Run, histories: Mapping[str, History]) -> bool:
    """Whether a further try of a control has nothing to add to those before it."""
    return run.trial > 1 and run.control is not None and _tried(run.control.name, histories).verdict != "silent"


def seed_of(seed: int, schedule_id: str, run: Run) -> random.Random:
    """The random numbers of one run: the same for the same seed, schedule and run, on any machine."""
    return random.Random(f"{seed}/{schedule_id}/{run.folder}")


# -- results -----------------------------------------------------------------------------------------------------


class ControlResult(msgspec.Struct):
    """What a control showed, and its null. `shown` are the anomalies on messages that the fault bit.

    Of another pair of client and server, `shown` are all, and `found` says the first of them in full.
    """

    name: str
    expected: str
    shown: list[str]
    verdict: Literal["bites", "silent", "not offered", "error"]
    null: Literal["clean", "dirty", "error", "none"]
    why: str
    found: list[str] = []


class Declared(msgspec.Struct):
    """What is known of a case before it runs; `scenario.json` in its folder.

    `replay_case` replays a case of a sweep: its id is what the command lacks. `share` is which part of how many of its
    sweep it is.
    """

    id: str
    family: str
    client: str
    transport: str
    title: str
    nodeid: str
    replay: str
    controls: list[str]
    replay_case: str = ""
    without_null: list[str] = []
    target: str = ""
    share: tuple[int, int] = (1, 1)


class Result(msgspec.Struct, omit_defaults=True):
    """The verdict on a case; `verdict.json` in its folder.

    `not offered` is a case whose target resists every control by being better: nothing is proven, nothing accused.
    Of a case that ran several times it is the worst verdict, with the `seconds` of all. `smallest` is what a pair of
    faults that breaks the claim was reduced to.
    """

    id: str
    family: str
    client: str
    transport: str
    title: str
    nodeid: str
    verdict: VerdictWord | Literal["not offered"]
    why: str
    counts: dict[str, int]
    anomalies: list[Anomaly]
    reported: list[Anomaly]
    bites: list[h.Bitten]
    controls: list[ControlResult]
    recovery_seconds: float | None
    worst_delay_seconds: float | None
    seconds: float
    replay: str
    repeated: Repeated | None = None
    target: str = ""
    outcomes: list[Outcome] = []
    coverage: str = ""
    smallest: str = ""
    replay_case: str = ""
    share: tuple[int, int] = (1, 1)


def decide(declared: Declared, histories: Mapping[str, History], seconds: float) -> Result:
    """Make one verdict of the histories of a case.

    Args:
        declared: the case.
        histories: folder of a run (`claim`, `control-once`, `null-once`) -> its history, as far as there are any.
        seconds: how long the case took.
    """
    controls = [
        _control_result(name, histories, has_null=name not in declared.without_null) for name in declared.controls
    ]
    claim = checker.judge(histories["claim"]) if "claim" in histories else None
    verdict, why = _combine(claim, controls)
    if verdict == "kept" and claim and coverage.is_soak_without_faults(histories["claim"], claim):
        verdict, why = "unproven", "no fault acted: nothing was tried"
    return Result(
        **{name: getattr(declared, name) for name in ("id", "family", "client", "transport", "title", "nodeid")},
        verdict=verdict,
        why=why,
        counts=claim.counts if claim else {},
        anomalies=claim.broken_by if claim else [],
        reported=claim.reported if claim else [],
        bites=claim.bites if claim else [],
        controls=controls,
        recovery_seconds=claim.recovery_seconds if claim else None,
        worst_delay_seconds=claim.worst_delay_seconds if claim else None,
        seconds=round(seconds, 3),
        replay=declared.replay,
        replay_case=declared.replay_case,
        target=declared.target,
        share=declared.share,
        outcomes=outcomes(histories["claim"], claim) if claim else [],
        coverage=coverage.said(histories["claim"], claim) if claim else "",
    )


def broken_pair(result: Result) -> str | None:
    """The positions of the first pair of a sweep that breaks the claim, if one does."""
    broken = (outcome.case for outcome in result.outcomes if outcome.kind == "broken" and "+" in outcome.case)
    return next((case.rpartition("/")[2] for case in broken), None)


def has_broken_case(folder: Path) -> bool:
    """Whether a case of the sweep that was left in a folder breaks what is claimed; of dry runs nothing is asked.

    Raises:
        HarnessError: its history cannot be read.
    """
    history = h.SavedHistory(folder / "history.jsonl")
    return any(outcome.kind == "broken" for outcome in outcomes(history, checker.judge(history)))


def broken_by(folder: Path) -> set[Kind]:
    """The kinds of anomalies by which the run that was left in a folder breaks what is claimed.

    Raises:
        HarnessError: its history cannot be read.
    """
    judgement = checker.judge(h.SavedHistory(folder / "history.jsonl"))
    return {anomaly.kind for anomaly in judgement.broken_by}


def worst_of(results: Sequence[Result], seeds: Sequence[int], planned: int) -> Result:
    """Make one verdict of a case's repetitions: that of the worst, with the longest recovery and delay of all.

    Args:
        results: of the repetitions that ran, at least one, in their order.
        seeds: of the repetitions.
        planned: how many repetitions there should have been.
    """
    verdicts = [result.verdict for result in results]
    worst = repeat.worst(verdicts)
    return msgspec.structs.replace(
        results[worst],
        recovery_seconds=_largest(result.recovery_seconds for result in results),
        worst_delay_seconds=_largest(result.worst_delay_seconds for result in results),
        seconds=round(sum(result.seconds for result in results), 3),
        repeated=Repeated(planned, worst + 1, seeds[worst], repeat.tally(verdicts)),
    )


def _largest(seconds: Iterable[float | None]) -> float | None:
    return max((each for each in seconds if each is not None), default=None)


def _combine(
    claim: Judgement | None, controls: Sequence[ControlResult]
) -> tuple[VerdictWord | Literal["not offered"], str]:
    for control in controls:
        if control.verdict == "error" or control.null == "error":
            return "error", f"control {control.name}: {control.why}"
    if claim is None:
        return "error", "the run of the claim left no history"
    if claim.verdict in ("error", "broken"):
        return claim.verdict, claim.why
    for control in controls:
        if control.null == "dirty":
            return "unproven", f"control {control.name}: {control.why}"
    if claim.verdict == "unproven":
        return "unproven", claim.why
    if not controls and claim.bites:
        return "unproven", "a fault acted, and no control is declared that shows what it threatens"
    if not controls or any(control.verdict == "bites" for control in controls):
        return "kept", claim.why
    if all(control.verdict == "not offered" for control in controls):
        return "not offered", f"the target resists every control: {controls[0].why}"
    silent = next(control for control in controls if control.verdict == "silent")
    return "unproven", f"no control bites: {silent.name}: {silent.why}"


def _control_result(name: str, histories: Mapping[str, History], *, has_null: bool) -> ControlResult:
    tried = _tried(name, histories)
    if not has_null:
        return tried
    null_word, null_why = _null(histories.get(f"null-{name}"))
    return msgspec.structs.replace(tried, null=null_word, why=null_why or tried.why)


def _tried(name: str, histories: Mapping[str, History]) -> ControlResult:
    """What a control showed: of several tries the first that is not silent, or else the last."""
    folders = (f"control-{name}", *(f for f in histories if f.startswith(f"control-{name}-try-")))
    tries = [_shown(name, histories[folder]) for folder in folders if folder in histories]
    if not tries:
        expected = CONTROLS[name].expected if name in CONTROLS else ""
        return ControlResult(name, expected, [], "error", "none", "the control left no history")
    result = next((tried for tried in tries if tried.verdict != "silent"), tries[-1])
    if result.verdict == "silent" and len(tries) > 1:
        return msgspec.structs.replace(result, why=f"{result.why} (in {len(tries)} tries)")
    return result


def _shown(name: str, control: History) -> ControlResult:
    judgement = checker.judge(control)
    bitten = {bite.message for bite in judgement.bites if bite.seen}
    unseen = next((bite for bite in judgement.bites if not bite.seen), None)
    expected, exactly = control.started.expected, control.started.exactly
    shown: list[str] = list(
        dict.fromkeys(a.kind for a in judgement.anomalies if exactly is not None or a.message in bitten)
    )
    verdict: Literal["bites", "silent", "not offered", "error"]
    if judgement.verdict == "error":
        verdict, why = "error", judgement.why
    elif exactly is not None:
        problem = _differs(shown, exactly, judgement.bites)
        verdict, why = (
            ("silent", f"no longer reproduces: {problem}") if problem else ("bites", _exactly(shown, control.started))
        )
    elif expected in shown:
        verdict, why = "bites", f"{expected}, on the bitten message"
    elif _resists(checker.fold(control), bitten):
        verdict, why = "not offered", "the second attempt of the bitten message was acknowledged, and there is one row"
    elif expected in ("lost", "reordered") and _outwaits(checker.fold(control), bitten):
        verdict, why = "not offered", "the target kept the bitten message until the store could be written again"
    else:
        why = f"it did not show {expected} on the bitten message"
        verdict, why = "silent", f"{why}; the fault was not seen to bite: {unseen.evidence}" if unseen else why
    expected = _listed(exactly) if exactly is not None else expected or ""
    full = judgement.anomalies[:_FOUND] if exactly is not None else []
    found = [f"{anomaly.kind} {anomaly.message or 'the server'}: {anomaly.detail}" for anomaly in full]
    return ControlResult(name, expected, shown, verdict, "none", why, found)


def shown_by_pair(controls: Sequence[ControlResult]) -> str | None:
    """What another pair of client and server showed that had to, in short: `tutorial shows lost`."""
    if not controls or controls[0].name not in PAIRS or controls[0].verdict != "bites":
        return None
    return f"{controls[0].name} " + (f"shows {controls[0].expected}" if controls[0].expected != "none" else "holds")


def _differs(shown: Sequence[str], exactly: Sequence[str], bites: Sequence[h.Bitten]) -> str | None:
    """In what a control that has to show exactly these anomalies does not, or None."""
    unseen = next((bite for bite in bites if not bite.seen), None)
    if set(shown) != set(exactly):
        return f"it showed {_listed(shown)}, not {_listed(exactly)}"
    if unseen is not None:
        return f"the fault was not seen to bite: {unseen.evidence}"
    if not exactly and not bites:
        return "nothing shows that its fault bit"
    return None


def _exactly(kinds: Sequence[str], started: h.Started) -> str:
    pair = f"{started.client} and {started.target}"
    return f"{pair} showed {_listed(kinds)}, and nothing else" if kinds else f"{pair} showed no anomaly: it holds"


def _listed(kinds: Sequence[str]) -> str:
    return " and ".join(kinds) or "none"


def _resists(fates: checker.Fates, bitten: set[str]) -> bool:
    """Whether the target is better than the control assumes: it knew the resend by something else."""
    hit = [fates.messages[message] for message in bitten]
    return bool(hit) and all(
        len(fate.rows) == 1 and any(a.number > 1 and a.outcome == "ok" for a in fate.attempts) for fate in hit
    )


def _outwaits(fates: checker.Fates, bitten: set[str]) -> bool:
    """Whether the target is more patient than the control assumes: it stored later what was sent only once."""
    by_the_store = {bite.message for bite in fates.bites if bite.seen and fates.kinds[bite.number] == "store"}
    hit = [fates.messages[message] for message in bitten]
    return bool(hit) and all(
        fate.message in by_the_store and len(fate.rows) == 1 and len(fate.attempts) == 1 for fate in hit
    )


def _null(history: History | None) -> tuple[Literal["clean", "dirty", "error"], str]:
    if history is None:
        return "error", "its null left no history"
    judgement = checker.judge(history)
    if judgement.verdict == "error":
        return "error", f"its null failed: {judgement.why}"
    timed_out = any(isinstance(event, h.Info) and event.timed_out for event in history)
    if timed_out:
        return "dirty", (
            "without any fault an acknowledgement came later than the ack timeout: raise "
            "protocol.ack_timeout_seconds, or give the machine less to do"
        )
    # An order that nobody claims need not be kept, unless that is what the control has to show.
    unclaimed = {"reordered", "misordered"} - {history.started.expected, *(history.started.exactly or ())}
    shown = [*judgement.broken_by, *(a for a in judgement.reported if a.kind not in unclaimed)]
    if shown:
        first = shown[0]
        return "dirty", f"without any fault it shows {first.kind}: {first.detail}"
    if judgement.verdict != "kept":
        return "dirty", f"without any fault: {judgement.why}"
    return "clean", ""
