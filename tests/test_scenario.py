"""What a scenario declares, the runs that makes on a target, and how these runs become one verdict."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import history as h
from harness import node
from harness import scenario as s
from harness.errors import HarnessError, TargetError
from harness.history import History
from harness.repeat import Repeated
from harness.system import _started
from harness.target import Claims, Controls, Protocol, Server, Store, Target, load
from tests.histories import Script


def target(
    *,
    guarantee: h.Guarantee = "exactly-once",
    order: h.Order = "total",
    without_unique: bool = True,
    without_acknowledgement: bool = True,
    crash_points: Mapping[str, dict[str, str]] | None = None,
) -> Target:
    """A target with these claims and controls."""
    return Target(
        schema=1,
        name="reference",
        server=Server(command=["{python}", "--port", "{port}", "--database", "{database}"]),
        protocol=Protocol(event="chat message"),
        store=Store(kind="sqlite", location="{database}", rows="SELECT"),
        claims=Claims(guarantee=guarantee, order=order),
        controls=Controls(
            without_unique=["{python}", "--without-unique"] if without_unique else None,
            without_acknowledgement=["{python}", "--mute"] if without_acknowledgement else None,
        ),
        crash_points=dict(crash_points or {}),
        path=Path("/nowhere/target.toml"),
    )


async def schedule(system: object, **parameters: object) -> None:
    """A schedule that does nothing."""


def declared(
    *,
    family: str = "lock",
    controls: tuple[str, ...] = (),
    variants: Mapping[str, Mapping[str, object]] | None = None,
    **options: Any,
) -> s.Scenario:
    """A declared scenario."""

    async def own(system: object, **parameters: object) -> None:
        """A schedule of its own: the declaration is kept on the function."""

    s.scenario(family=family, controls=controls, variants=variants, **options)(own)
    found = getattr(own, s.ATTRIBUTE)
    assert isinstance(found, s.Scenario)
    return found


def case(of: s.Scenario, variant: str = "", *, on: Target | None = None, client: str = "python") -> s.Case:
    """One case of a scenario."""
    return s.Case(of, variant, client, "websocket", on or target())


def asked_of(of: s.Case, on: Target) -> s.Case:
    """The same case on another target."""
    return msgspec.structs.replace(of, target=on)


def cases(of: s.Scenario) -> list[s.Case]:
    """Its cases with the harness's own client on one target."""
    return list(s.cases(of, ["python"], [target()]))


# -- cases and runs ----------------------------------------------------------------------------------------------


def test_decorated_schedule_stays_the_function_it_was() -> None:
    """Declaring a scenario returns the schedule itself, with the declaration on it."""
    assert s.scenario(family="baseline")(schedule) is schedule
    found = getattr(schedule, s.ATTRIBUTE)
    assert (found.schedule, found.family, found.controls) == (schedule, "baseline", ())


def test_case_has_an_id_of_family_variant_client_and_transport() -> None:
    """Each variant over each transport is a case, with its id in that order."""
    lock = declared(variants={"long": {}, "short": {}})
    assert [each.id for each in cases(lock)] == [
        "lock-long-python-websocket",
        "lock-short-python-websocket",
        "lock-long-python-polling",
        "lock-short-python-polling",
    ]


def test_case_without_variants_has_none_in_its_id() -> None:
    """A scenario without variants has one case for each transport."""
    assert [each.id for each in cases(declared())] == ["lock-python-websocket", "lock-python-polling"]


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]])
def test_scenario_has_cases_over_the_transports_that_it_names(transports: list[str]) -> None:
    """A scenario whose fault means something over one transport only is run over that one."""
    found = cases(declared(variants={"long": {}, "short": {}}, transports=transports))
    assert [(each.variant, each.transport) for each in found] == [
        (variant, transport) for transport in transports for variant in ("long", "short")
    ]


def test_scenario_by_hand_has_what_the_decorator_gives_without_options() -> None:
    """What is not said of a scenario is the same whether it is decorated or made."""
    decorated = declared()
    assert decorated == s.Scenario(decorated.schedule, "lock", (), {"": {}})


def test_ids_of_a_scenario_are_unique() -> None:
    """No two cases share an id."""
    ids = [each.id for each in cases(declared(variants={"a": {}, "b": {}, "c": {}}))]
    assert len(set(ids)) == len(ids) == 6


def test_unknown_control_is_refused_when_it_is_declared() -> None:
    """A misspelled control is an error at import, and no control that silently never runs."""
    with pytest.raises(HarnessError, match=r"scenario schedule: controls: expected some of once, .*, got \['onse'\]"):
        s.scenario(family="lock", controls=["onse"])(schedule)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"family": "a/../b"}, "family: expected lower-case letters"),
        ({"family": ""}, "family: expected lower-case letters"),
        ({"variants": {}}, "variants: expected names with their parameters"),
        ({"variants": {"A b": {}}}, "variants: expected lower-case letters"),
        ({"transports": "websocket"}, "transports: expected some of websocket, polling, upgrade, got 'websocket'"),
        ({"transports": ["pigeon"]}, "transports: expected some of websocket, polling"),
        ({"order": "total"}, "order: expected some of total, sender"),
        ({"switch": "nope"}, "switch: expected some of without_unique"),
        ({"policy": "yolo"}, "policy: expected some of persistent"),
        ({"guarantee": "maybe"}, "guarantee: expected some of at-most-once"),
        ({"clients": ["ruby"]}, "clients: expected some of python, node"),
    ],
)
def test_declaration_that_makes_no_sense_is_refused(given: dict[str, Any], problem: str) -> None:
    """What would be a wrong id, a folder elsewhere or a case that never runs is refused where it is declared."""
    with pytest.raises(HarnessError, match=f"^scenario schedule: {problem}"):
        s.scenario(**{"family": "lock", **given})(schedule)


def test_each_control_runs_after_its_null_and_the_claim_comes_last() -> None:
    """A case runs null and control of each of its controls, in the order declared, and then the claim."""
    runs = s.runs(case(declared(controls=("new-offset", "without_unique"))))
    assert [(run.folder, run.role, run.policy, run.server) for run in runs] == [
        ("null-new-offset", "null", "new-offset", None),
        ("control-new-offset", "control", "new-offset", None),
        ("null-without_unique", "null", "persistent", "without_unique"),
        ("control-without_unique", "control", "persistent", "without_unique"),
        ("claim", "claim", "persistent", None),
    ]


@pytest.mark.parametrize(
    ("guarantee", "policy"),
    [("exactly-once", "persistent"), ("at-least-once", "persistent"), ("at-most-once", "once")],
)
def test_claim_decides_what_its_senders_do(guarantee: h.Guarantee, policy: h.Policy) -> None:
    """Who claims at most once is sent every message once, all others have it resent."""
    (run,) = s.runs(case(declared(), on=target(guarantee=guarantee)))
    assert (run.folder, run.role, run.control, run.policy) == ("claim", "claim", None, policy)


@pytest.mark.parametrize("guarantee", ["exactly-once", "at-least-once", "at-most-once"])
@pytest.mark.parametrize("policy", ["fire-and-forget", "retries=3", "resend", "once", "pipelined"])
def test_scenario_says_what_the_senders_of_its_claim_do(policy: h.Policy, guarantee: h.Guarantee) -> None:
    """A scenario about a policy has it in the run of its claim, whatever the target claims; controls keep theirs."""
    of = declared(controls=("once", "new-offset", "without_unique"), policy=policy)
    *others, claim = s.runs(case(of, on=target(guarantee=guarantee)))
    assert (claim.role, claim.policy, claim.server) == ("claim", policy, None)
    assert others
    for run in others:
        assert run.control is not None
        assert run.policy == run.control.policy == s.CONTROLS[run.control.name].policy


@pytest.mark.parametrize(
    ("name", "expected", "policy", "server"),
    [
        ("once", "lost", "once", None),
        ("new-offset", "duplicate", "new-offset", None),
        ("without_unique", "duplicate", "persistent", "without_unique"),
        ("without_outbox", "silent_drop", "persistent", None),
        ("fire-and-forget", "lost", "fire-and-forget", None),
        ("resend", "reordered", "resend", None),
        ("resend-without_unique", "duplicate", "resend", "without_unique"),
        ("retries", "false_failure", "retries=3", None),
    ],
)
def test_control_is_a_policy_or_a_server_and_what_it_has_to_show(
    name: str, expected: str, policy: h.Policy, server: str | None
) -> None:
    """Each control runs its own policy or the target's own server, with its null, and names its anomaly."""
    control = s.CONTROLS[name]
    assert (control.expected, control.policy, control.server) == (expected, policy, server)
    null, run, _ = s.runs(case(declared(controls=(name,))))
    assert [(each.folder, each.policy, each.server) for each in (null, run)] == [
        (f"null-{name}", policy, server),
        (f"control-{name}", policy, server),
    ]


def test_every_control_is_known_above() -> None:
    """The table above leaves no control out, but the one of receivers and the one of commits."""
    assert len(s.CONTROLS) == 10


def test_control_of_receivers_runs_where_something_is_promised_to_them() -> None:
    """Receivers that forget their offset threaten only a target that promises them something."""
    of = declared(controls=("without_offset",))
    promises = msgspec.structs.replace(target(), claims=Claims(receivers="exactly-once", replay=True))
    null, control, claim = s.runs(case(of, on=promises))
    assert [run.control.forgets for run in (null, control) if run.control is not None] == [True, True]
    assert (control.policy, claim.control) == ("persistent", None)
    assert s.not_offered(case(of)) == "the target promises receivers nothing"


@pytest.mark.parametrize(
    ("policy", "offered", "server"),
    [
        ("fire-and-forget", True, "without_acknowledgement"),
        ("fire-and-forget", False, None),
        ("persistent", True, None),
    ],
)
def test_server_of_a_scenario_is_for_senders_that_ask_for_nothing(
    policy: h.Policy, offered: bool, server: str | None
) -> None:
    """The control server that a scenario names is run under `fire-and-forget`, where the target has it."""
    of = declared(server="without_acknowledgement", policy=policy, controls=("once",))
    null, control, claim = s.runs(case(of, on=target(without_acknowledgement=offered)))
    assert (null.server, control.server, claim.server) == (None, None, server)


def test_controls_and_nulls_run_with_one_sender() -> None:
    """Where a variant has five senders its controls and nulls have one, and everything else in common with it."""
    of = declared(controls=("once",), variants={"five": {"senders": 5, "hold": 2}, "plain": {"hold": 2}})
    assert [run.parameters for run in s.runs(case(of, "five"))] == [
        {"senders": 1, "hold": 2},
        {"senders": 1, "hold": 2},
        {"senders": 5, "hold": 2},
    ]
    assert [run.parameters for run in s.runs(case(of, "plain"))] == [{"hold": 2}] * 3


@pytest.mark.parametrize(
    ("guarantee", "without_unique", "folders"),
    [
        ("exactly-once", True, ["once", "new-offset", "without_unique"]),
        ("exactly-once", False, ["once", "new-offset"]),
        ("at-least-once", True, ["once"]),
        ("at-most-once", True, ["new-offset", "without_unique"]),
        ("at-most-once", False, ["new-offset"]),
    ],
)
def test_only_controls_that_threaten_the_guarantee_run(
    guarantee: h.Guarantee, without_unique: bool, folders: list[str]
) -> None:
    """A control whose anomaly does not break the guarantee, or that the target does not offer, is not run."""
    of = declared(controls=("once", "new-offset", "without_unique"))
    runs = s.runs(case(of, on=target(guarantee=guarantee, without_unique=without_unique)))
    assert [run.folder for run in runs if run.role == "control"] == [f"control-{name}" for name in folders]
    assert [run.folder for run in runs if run.role == "null"] == [f"null-{name}" for name in folders]
    assert s.not_offered(case(of, on=target(guarantee=guarantee, without_unique=without_unique))) is None


# -- clients and targets -----------------------------------------------------------------------------------------

ELSEWHERE = msgspec.structs.replace(target(), name="elsewhere")


@pytest.mark.parametrize(
    ("clients", "targets", "ids"),
    [
        (["python"], [target()], ["lock-python-websocket"]),
        (["node", "python"], [target()], ["lock-node-websocket", "lock-python-websocket"]),
        (
            ["python"],
            [target(), ELSEWHERE],
            ["lock-python-websocket-reference", "lock-python-websocket-elsewhere"],
        ),
        (
            ["python", "node"],
            [target(), ELSEWHERE],
            [f"lock-{client}-websocket-{on}" for on in ("reference", "elsewhere") for client in ("python", "node")],
        ),
    ],
)
def test_each_client_on_each_target_is_a_case(clients: list[str], targets: list[Target], ids: list[str]) -> None:
    """Several clients are told apart by their names; targets only where there are several."""
    found = list(s.cases(declared(transports=["websocket"]), clients, targets))
    assert [each.id for each in found] == ids
    assert [(each.client, each.target.name) for each in found] == [
        (client, on.name) for on in targets for client in clients
    ]


def test_scenario_of_its_own_pair_asks_nobody() -> None:
    """A target and clients of its own stand in the place of those that the user has chosen, under its own label."""
    own = msgspec.structs.replace(
        declared(transports=["websocket"]), target="tutorial-python", clients=("python-stock",), label="P1"
    )
    (found,) = s.cases(own, ["node", "python"], [target(), ELSEWHERE])
    assert (found.id, found.client, found.target.name) == ("P1", "python-stock", "tutorial-python")


@pytest.mark.parametrize(
    ("client", "transport", "space"),
    [
        ("python", "websocket", "wire/up"),
        ("node", "websocket", "wire-node/up"),
        ("python", "polling", "wire-polling/up"),
        ("node", "polling", "wire-node-polling/up"),
    ],
)
def test_case_of_a_sweep_is_asked_for_by_its_id(client: str, transport: str, space: str) -> None:
    """Only the sweep that it is of remains, and every run of it is about that case alone."""
    sweep = s.scenario(family="wire", controls=["once"], variants={"up": {}, "down": {}}, sweep=True)(schedule)
    wire = getattr(sweep, s.ATTRIBUTE)
    (found,) = s.cases(wire, ["python", "node"], [target()], f"{space}/37")
    assert (found.client, found.transport, found.variant, found.space) == (client, transport, "up", space)
    assert [run.only for run in s.runs(found)] == ["37", "37", "37"]


@pytest.mark.parametrize(
    ("pairs", "only", "first", "budget"),
    [(False, None, "wire/up/0", False), (True, None, "wire/up/0+0", True), (True, "3+4", "wire/up/0+0", False)],
)
def test_whole_sweep_of_pairs_has_a_budget(pairs: bool, only: str | None, first: str, budget: bool) -> None:
    """One pair of it has none, as no other sweep has; its cases have two numbers."""
    sweep = declared(family="wire", variants={"up": {}}, transports=["websocket"], sweep=True, pairs=pairs)
    (found,) = s.cases(sweep, ["python"], [target()], only and f"wire/up/{only}")
    assert (found.first_case, found.has_budget) == (first, budget)


def test_share_of_a_sweep_is_a_case_of_its_own() -> None:
    """Each has a name of its own, and the random numbers of the whole; what is no sweep has no shares."""
    sweep = s.scenario(family="lock", controls=["once"], variants={"all": {}}, transports=["websocket"], sweep=True)
    found = list(s.cases(getattr(sweep(schedule), s.ATTRIBUTE), ["python"], [target()], shares=2))
    assert [case.id for case in found] == ["lock-all-1of2-python-websocket", "lock-all-2of2-python-websocket"]
    assert {case.schedule_id for case in found} == {"lock-all-python-websocket"}
    assert [[run.share for run in s.runs(case)] for case in found] == [[(1, 2)] * 3, [(2, 2)] * 3]
    (other,) = s.cases(declared(transports=["websocket"]), ["python"], [target()], shares=2)
    assert (other.id, other.share) == (other.schedule_id, (1, 1))


@pytest.mark.parametrize(
    "only",
    [
        "wire/up",
        "wire/up/",
        "wire/up/-1",
        "wire/up/3x",
        "wire/up/3..",
        "wire/up/..3",
        "wire/up/1+2..3",
        "wire/sideways/3",
        "lock/up/3",
        "",
    ],
)
def test_case_that_no_sweep_has_is_nowhere(only: str) -> None:
    """Neither a sweep that has no such place, nor a scenario that is no sweep."""
    sweep = s.scenario(family="wire", controls=["once"], variants={"up": {}}, sweep=True)(schedule)
    lock = s.scenario(family="lock", controls=["once"], variants={"up": {}})(schedule)
    for each in (sweep, lock):
        assert list(s.cases(getattr(each, s.ATTRIBUTE), ["python"], [target()], only)) == []


def test_nobody_listens_to_a_sweep() -> None:
    """A target that promises receivers something is asked for it by every scenario but sweeps."""
    asking = load("reference")
    for sweep in (True, False):
        claim = s.runs(case(declared(controls=("once",), sweep=sweep), on=asking))[-1]
        assert claim.receivers is not sweep


def test_target_and_clients_of_its_own_can_be_declared() -> None:
    """The id is made as ever; the target that the user has chosen is not in it."""
    (found,) = s.cases(
        declared(transports=["websocket"], target="tutorial-python", clients=["python-stock"]),
        ["node", "python"],
        [target(), ELSEWHERE],
    )
    assert (found.id, found.target.name) == ("lock-python-stock-websocket", "tutorial-python")


def test_target_of_its_own_that_is_not_there_is_an_error() -> None:
    """It is loaded when cases are made."""
    with pytest.raises(TargetError, match="no target description at nowhere-at-all"):
        list(s.cases(msgspec.structs.replace(declared(), target="nowhere-at-all"), ["python"], [target()]))


def test_claim_of_a_policy_that_the_client_lacks_is_not_offered() -> None:
    """A client that cannot send in that way is not asked to."""
    of = declared(policy="pipelined")
    assert s.not_offered(case(of, client="python-stock")) == "the client python-stock has no policy 'pipelined'"
    assert s.not_offered(case(of, client="python")) is None
    assert s.not_offered(case(declared(policy="resend"), client="python-stock")) is None


@pytest.mark.parametrize(
    ("client", "transport", "offered"),
    [
        ("python", "websocket", True),
        ("python", "polling", True),
        ("node", "websocket", True),
        ("node", "polling", True),
        ("python", "upgrade", True),
        ("node", "upgrade", False),
    ],
)
def test_sweep_of_an_upgrade_takes_a_client_that_waits_for_it(client: str, transport: str, offered: bool) -> None:
    """The official client can be used, and sends, before it has upgraded."""
    of = msgspec.structs.replace(case(declared(sweep=True), client=client), transport=transport)
    assert (s.not_offered(of) is None) is offered


def test_control_of_a_policy_that_the_client_lacks_is_not_run() -> None:
    """The other controls remain; without any the case is not offered."""
    both, one = (
        declared(controls=("once", "new-offset"), policy="resend"),
        declared(controls=("new-offset",), policy="resend"),
    )
    folders = [run.folder for run in s.runs(case(both, client="python-stock"))]
    assert folders == ["null-once", "control-once", "claim"]
    assert s.not_offered(case(both, client="python-stock")) is None
    assert s.not_offered(case(one, client="python-stock")) == "the target offers none of its controls"
    assert s.not_offered(case(one, client="node")) is None


PAIR = s.Control(
    "tutorial",
    "silent_drop",
    policy="tutorial",
    exactly=("silent_drop",),
    target="tutorial-node",
    client="node",
    order="sender",
)


def paired(control: s.Control = PAIR) -> s.Scenario:
    """A scenario whose control is another pair."""
    return msgspec.structs.replace(declared(), controls=(control,))


def test_control_can_be_another_pair() -> None:
    """It and its null run with its own client on its own target, the claim as the user has chosen."""
    *others, claim = s.runs(case(paired()))
    assert [(run.folder, run.client, run.target.name) for run in others] == [
        ("null-tutorial", "node", "tutorial-node"),
        ("control-tutorial", "node", "tutorial-node"),
    ]
    assert (claim.folder, claim.client, claim.target.name) == ("claim", "python", "reference")
    # It is run whatever threatens the guarantee: what it has to show is said.
    modest = case(paired(msgspec.structs.replace(PAIR, exactly=())), on=target(guarantee="at-most-once"))
    assert [run.role for run in s.runs(modest)] == ["null", "control", "claim"]


def test_order_of_a_control_overrides_what_its_target_claims() -> None:
    """A control is judged by the order that it names; its claim by that of the target."""
    of = case(paired())
    assert [_started(of, run, "token", 1).order for run in s.runs(of)] == ["sender", "sender", "total"]
    plain = case(paired(msgspec.structs.replace(PAIR, order=None)))
    assert [_started(plain, run, "token", 1).order for run in s.runs(plain)] == ["sequential", "sequential", "total"]


def test_schedule_without_a_null_has_none() -> None:
    """Its traffic shows the anomaly without any fault."""
    assert [run.folder for run in s.runs(case(paired(msgspec.structs.replace(PAIR, has_null=False))))] == [
        "control-tutorial",
        "claim",
    ]


def test_schedule_that_needs_luck_is_tried_again() -> None:
    """Each try has a folder, and random numbers, of its own; the null is run once."""
    runs = s.runs(case(paired(msgspec.structs.replace(PAIR, tries=3))))
    folders = ["null-tutorial", "control-tutorial", "control-tutorial-try-2", "control-tutorial-try-3", "claim"]
    assert [run.folder for run in runs] == folders
    assert len({tuple(numbers(7, "a", run)) for run in runs}) == 5


@pytest.mark.parametrize(
    ("client", "control", "lack", "missing"),
    [
        ("python", None, "no Node", None),
        ("node", None, "no Node", "no Node"),
        ("node", None, None, None),
        ("python", PAIR, "no Node", "no Node"),
        ("python", PAIR, None, None),
        ("python", msgspec.structs.replace(PAIR, target="tutorial-python", client="python-stock"), "no Node", None),
    ],
)
def test_case_that_needs_node_is_missing_it(
    client: str, control: s.Control | None, lack: str | None, missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its client, its target or a control's needs Node; what does not, is not missing anything."""
    monkeypatch.setattr(node, "lack", lambda: lack)
    of = paired(control) if control is not None else declared()
    assert s.missing(case(of, client=client)) == missing


def test_target_that_runs_on_node_is_missing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on the harness's own packages needs Node, whoever its client is."""
    monkeypatch.setattr(node, "lack", lambda: "no Node")
    assert s.missing(case(declared(), on=load("hardened-node"))) == "no Node"


# -- what is not offered -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("controls", "guarantee", "why"),
    [
        (("once",), "exactly-once", None),
        (("once",), "at-least-once", None),
        (("once",), "at-most-once", "a message that is 'lost' does not break 'at-most-once'"),
        (("new-offset",), "exactly-once", None),
        (("new-offset",), "at-most-once", None),
        (("new-offset",), "at-least-once", "a message that is 'duplicate' does not break 'at-least-once'"),
        (("new-offset", "without_unique"), "at-least-once", "that is 'duplicate' does not break 'at-least-once'"),
        (("once", "new-offset"), "at-least-once", None),
        (("once", "new-offset"), "at-most-once", None),
        ((), "at-most-once", None),
    ],
)
def test_family_that_threatens_nothing_is_not_offered(
    controls: tuple[str, ...], guarantee: h.Guarantee, why: str | None
) -> None:
    """A case none of whose controls can break the target's guarantee is not offered, with the reason."""
    found = s.not_offered(case(declared(controls=controls), on=target(guarantee=guarantee)))
    assert found is None if why is None else why in (found or "")


def test_case_whose_only_control_the_target_lacks_is_not_offered() -> None:
    """A target without a control of its own is not asked for what only that control could show."""
    of = case(declared(controls=("without_unique",)))
    assert s.not_offered(asked_of(of, target(without_unique=False))) == "the target offers none of its controls"
    assert s.not_offered(of) is None


def test_case_for_another_order_is_not_offered() -> None:
    """A scenario about an order is asked only of targets that claim it."""
    of = case(declared(order=("sender", "total")))
    assert s.not_offered(asked_of(of, target(order="sender"))) is None
    assert s.not_offered(asked_of(of, target(order="total"))) is None
    for order in ("sequential", "none"):
        why = f"the target claims the order '{order}'; this needs 'sender' or 'total'"
        assert s.not_offered(asked_of(of, target(order=order))) == why


def test_case_for_a_crash_point_is_not_offered_without_it() -> None:
    """A scenario about a crash point is asked only of targets that have it."""
    of = case(declared(crash_point="after_commit"))
    assert s.not_offered(of) == "the target has no crash point 'after_commit'"
    assert s.not_offered(asked_of(of, target(crash_points={"after_commit": {"CRASH": "{message}"}}))) is None


def test_case_whose_control_shows_a_wrong_order_needs_an_order() -> None:
    """Where no order is claimed a message that is stored out of order threatens nothing."""
    of = case(declared(controls=("resend",)))
    for order in ("sequential", "sender", "total"):
        assert s.not_offered(asked_of(of, target(order=order))) is None
    why = "a message that is 'reordered' does not break 'exactly-once'"
    assert s.not_offered(asked_of(of, target(order="none"))) == why


@pytest.mark.parametrize("guarantee", ["exactly-once", "at-least-once", "at-most-once"])
def test_case_whose_control_shows_a_false_failure_is_offered_to_everybody(guarantee: h.Guarantee) -> None:
    """A sender that is told of a failure that is none is something to show under every guarantee."""
    assert s.not_offered(case(declared(controls=("retries",)), on=target(guarantee=guarantee, order="none"))) is None


@pytest.mark.parametrize("switch", ["without_unique", "without_acknowledgement"])
def test_case_whose_fault_needs_a_server_of_the_targets_own_is_not_offered_without_it(switch: str) -> None:
    """A fault that runs a switched-off server is asked only of targets that have one."""
    of = case(declared(switch=switch))
    assert s.not_offered(of) is None
    why = f"the target has no server {switch!r} among its controls"
    assert s.not_offered(asked_of(of, target(**{switch: False}))) == why  # type: ignore[arg-type]
    other = {"without_unique", "without_acknowledgement"} - {switch}
    assert s.not_offered(asked_of(of, target(**dict.fromkeys(other, False)))) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "claimed", "offered"),
    [
        (None, "exactly-once", True),
        (None, "at-least-once", True),
        (None, "at-most-once", True),
        ("at-most-once", "exactly-once", True),
        ("at-most-once", "at-most-once", True),
        ("at-most-once", "at-least-once", False),
        ("at-least-once", "exactly-once", True),
        ("at-least-once", "at-least-once", True),
        ("at-least-once", "at-most-once", False),
        ("exactly-once", "exactly-once", True),
        ("exactly-once", "at-least-once", False),
        ("exactly-once", "at-most-once", False),
    ],
)
def test_case_that_asks_for_less_is_offered_to_who_claims_it(
    asked: h.Guarantee | None, claimed: h.Guarantee, offered: bool
) -> None:
    """Who claims exactly once keeps both halves of it; who claims one half is not asked for the other."""
    found = s.not_offered(case(declared(guarantee=asked), on=target(guarantee=claimed)))
    assert found == (None if offered else f"the target claims {claimed!r}; this asks for {asked!r}")


# -- what this machine lacks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("linux", "platform", "lacks"),
    [
        (True, "linux", None),
        (True, "darwin", "it needs Linux"),
        (True, "win32", "it needs Linux"),
        (False, "linux", None),
        (False, "darwin", None),
    ],
)
def test_case_that_needs_linux_is_missing_it_elsewhere(
    linux: bool, platform: str, lacks: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only Linux has is missing on another system, whatever the target offers."""
    monkeypatch.setattr(sys, "platform", platform)
    of = case(declared(linux=linux))
    assert s.missing(of) == lacks
    assert s.not_offered(of) is None


# -- seeds -------------------------------------------------------------------------------------------------------


def numbers(seed: int, case_id: str, run: s.Run) -> list[float]:
    """The first random numbers of a run."""
    random_numbers = s.seed_of(seed, case_id, run)
    return [random_numbers.random() for _ in range(3)]


def test_seed_repeats_a_run() -> None:
    """The same seed, case and run give the same numbers, today and on any machine."""
    claim = s.runs(case(declared()))[-1]
    assert numbers(7, "lock-python-polling", claim) == numbers(7, "lock-python-polling", claim)
    assert numbers(7, "lock-python-polling", claim)[0] == pytest.approx(0.3825985948829007)


def test_each_seed_case_and_run_has_numbers_of_its_own() -> None:
    """Another seed, another case or another run gives other numbers."""
    null, control, claim = s.runs(case(declared(controls=("once",))))
    drawn = [
        numbers(7, "a", claim),
        numbers(8, "a", claim),
        numbers(7, "b", claim),
        numbers(7, "a", null),
        numbers(7, "a", control),
    ]
    assert len({tuple(each) for each in drawn}) == len(drawn)


# -- the histories of runs ---------------------------------------------------------------------------------------


def kept() -> History:
    """A run in which the fault bit and nothing was harmed."""
    script = Script()
    before = script.send()
    script.fault()
    during = script.post()
    script.attempt(during)
    script.info(during)
    script.bitten(during)
    script.healed()
    script.attempt(during)
    script.acknowledge(during)
    script.rows(before, during, script.send())
    return script.finished()


def lost_during_the_fault(*, bitten: bool = True, seen: bool = True) -> History:
    """A run that lost a message, the one that the fault was seen to bite or another one."""
    script = Script()
    before = script.send()
    script.fault()
    during = script.post(policy="once")
    script.attempt(during)
    script.info(during)
    script.settle(during, "handed-over")
    script.bitten(during if bitten else before, seen=seen)
    script.healed()
    script.rows(before, script.send())
    return script.finished()


def doubled_during_the_fault(rows: int = 2, *, acknowledged: bool = True) -> History:
    """A run in which the bitten message was attempted twice and stored `rows` times."""
    script = Script()
    before = script.send()
    script.fault()
    during = script.post(policy="new-offset")
    script.attempt(during)
    script.info(during)
    script.bitten(during)
    script.healed()
    script.attempt(during)
    if acknowledged:
        script.acknowledge(during)
    else:
        script.info(during)
        script.settle(during, "gave-up")
    script.rows(before, *[during] * rows, script.send())
    return script.finished()


def outwaited(kind: h.FaultKind) -> History:
    """A control whose bitten message was stored after all, though it was sent only once."""
    script = Script()
    before = script.send()
    script.fault()
    script.events[-1] = msgspec.structs.replace(script.events[-1], kind=kind)
    during = script.post(policy="once")
    script.attempt(during)
    script.bitten(during)
    script.healed()
    script.info(during)
    script.settle(during, "handed-over")
    script.rows(before, during, script.send())
    return script.finished()


def silent(*, seen: bool = True) -> History:
    """A control under which the bitten message was neither lost nor doubled, without a second attempt."""
    script = Script()
    before = script.send()
    script.fault()
    during = script.send()
    script.bitten(during, seen=seen)
    script.healed()
    script.rows(before, during, script.send())
    return script.finished()


def quiet(*, timed_out: bool = False, lost: bool = False, foreign: bool = False) -> History:
    """A run without a fault."""
    script = Script(role="null")
    posted = script.post()
    if timed_out:
        script.attempt(posted)
        script.info(posted, timed_out=True)
    script.attempt(posted)
    script.acknowledge(posted)
    if not lost:
        script.rows(posted)
    if foreign:
        script.row("somebody else's")
    return script.finished()


def nothing_sent() -> History:
    """A run without a fault in which nobody said anything."""
    return Script(role="null").finished()


def failed() -> History:
    """A run around which something failed."""
    script = Script()
    script.failed()
    return script.history()


def interrupted() -> History:
    """A run that ended too early."""
    return Script().history()


def resent_while_disconnected() -> History:
    """A run in which an attempt ended with its connection, which is no ack timeout."""
    script = Script(role="null")
    posted = script.post()
    script.attempt(posted)
    script.info(posted, timed_out=False)
    script.attempt(posted)
    script.acknowledge(posted)
    script.rows(posted)
    return script.finished()


def decided(controls: list[str], histories: Mapping[str, History | None]) -> s.Result:
    """The verdict on a case with these controls and histories; None is a run that left none."""
    of = s.Declared("lock-python-polling", "lock", "python", "polling", "A lock.", "x.py::t", "pytest x", controls)
    left = {folder: expecting(folder, history) for folder, history in histories.items() if history is not None}
    return s.decide(of, left, 1.23456)


def expecting(folder: str, history: History) -> History:
    """The history of a control or a null, which begins with what its control has to show."""
    name = folder.removeprefix("control-").removeprefix("null-")
    if name not in s.CONTROLS:
        return history
    return History([msgspec.structs.replace(history.started, expected=s.CONTROLS[name].expected), *history.events[1:]])


def one_control(
    *, control: History | None, null: History | None, claim: History | None = None, name: str = "once"
) -> s.Result:
    """The verdict on a case with one control and a claim that is kept unless it is given."""
    return decided([name], {"claim": claim or kept(), f"control-{name}": control, f"null-{name}": null})


# -- controls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "control", "shown", "verdict"),
    [
        pytest.param("once", lost_during_the_fault(), ["lost"], "bites", id="lost on the bitten message"),
        pytest.param("once", lost_during_the_fault(bitten=False), [], "silent", id="lost on another message"),
        pytest.param("once", lost_during_the_fault(seen=False), [], "silent", id="lost, and the bite was not seen"),
        pytest.param("once", silent(), [], "silent", id="nothing happened"),
        pytest.param("once", outwaited("store"), [], "not offered", id="the server waited until it could store it"),
        pytest.param("once", outwaited("link"), [], "silent", id="stored although its link was cut"),
        pytest.param("once", silent(seen=False), [], "silent", id="nothing happened, and no bite"),
        pytest.param("once", doubled_during_the_fault(), ["duplicate"], "silent", id="another anomaly"),
        pytest.param("new-offset", doubled_during_the_fault(), ["duplicate"], "bites", id="duplicate"),
        pytest.param("new-offset", doubled_during_the_fault(3), ["duplicate"], "bites", id="stored three times"),
        pytest.param("new-offset", doubled_during_the_fault(1), [], "not offered", id="resent and stored once"),
        pytest.param("new-offset", doubled_during_the_fault(0), ["lost"], "silent", id="resent and lost"),
        pytest.param(
            "new-offset",
            doubled_during_the_fault(1, acknowledged=False),
            ["false_failure"],
            "silent",
            id="stored once, and the second attempt was not acknowledged",
        ),
        pytest.param("new-offset", silent(), [], "silent", id="no second attempt"),
        pytest.param("without_unique", doubled_during_the_fault(), ["duplicate"], "bites", id="server's own switch"),
        pytest.param("once", failed(), [], "error", id="the run failed"),
        pytest.param("once", interrupted(), [], "error", id="the run was interrupted"),
        pytest.param("once", None, [], "error", id="no history"),
    ],
)
def test_control_is_judged_by_the_bitten_message(
    name: str, control: History | None, shown: list[str], verdict: str
) -> None:
    """A control bites when its anomaly is on the message that the fault was seen to bite, and by nothing else."""
    (found,) = one_control(name=name, control=control, null=quiet()).controls
    assert (found.name, found.shown, found.verdict, found.null) == (name, shown, verdict, "clean")
    assert found.expected == ("lost" if name == "once" else "duplicate")
    assert found.why


def test_control_without_a_bite_says_what_was_seen_instead() -> None:
    """A silent control whose fault was not seen to bite says so."""
    (found,) = one_control(control=silent(seen=False), null=quiet()).controls
    assert "not seen to bite: its row was never readable" in found.why


@pytest.mark.parametrize(
    ("null", "word", "why"),
    [
        pytest.param(quiet(), "clean", "", id="clean"),
        pytest.param(quiet(foreign=True), "clean", "", id="rows of others"),
        pytest.param(resent_while_disconnected(), "clean", "", id="a resend that is no timeout"),
        pytest.param(quiet(lost=True), "dirty", "it shows lost", id="an anomaly"),
        pytest.param(quiet(timed_out=True), "dirty", "raise protocol.ack_timeout_seconds", id="an ack timeout"),
        pytest.param(
            quiet(timed_out=True, lost=True),
            "dirty",
            "raise protocol.ack_timeout_seconds",
            id="a timeout explains more",
        ),
        pytest.param(nothing_sent(), "dirty", "no message was acknowledged", id="nothing acknowledged"),
        pytest.param(failed(), "error", "its null failed: toxiproxy", id="failed"),
        pytest.param(interrupted(), "error", "interrupted", id="interrupted"),
        pytest.param(None, "error", "its null left no history", id="no history"),
    ],
)
def test_null_has_to_show_nothing(null: History | None, word: str, why: str) -> None:
    """The traffic of a control without the fault shows nothing, or it is dirty and says how to help."""
    (found,) = one_control(control=lost_during_the_fault(), null=null).controls
    assert found.null == word
    assert (why in found.why) if why else found.why == "lost, on the bitten message"


def test_reported_anomaly_makes_a_null_dirty() -> None:
    """An anomaly that breaks no claim still shows that the traffic alone does what the fault is blamed for."""
    script = Script(guarantee="at-least-once", role="null")
    posted = script.send()
    script.rows(posted, posted)
    (found,) = one_control(control=lost_during_the_fault(), null=script.finished()).controls
    assert found.null == "dirty"


BITES, RESISTED, SILENT = lost_during_the_fault(), doubled_during_the_fault(1), silent()
BROKEN = lost_during_the_fault()
UNPROVEN = silent(seen=False)

# -- controls that have to show exactly their anomalies ----------------------------------------------------------


def pair_shows(
    history: History | None, *exactly: str, tries: Mapping[str, History] | None = None, has_null: bool = True
) -> s.ControlResult:
    """What is said of a control that is another pair."""
    of = s.Declared("A1", "defect", "node", "websocket", "A cut.", "x.py::t", "pytest x", ["tutorial"])
    of = msgspec.structs.replace(of, without_null=[] if has_null else ["tutorial"])
    histories = {"claim": kept(), **({"null-tutorial": quiet()} if has_null else {})}
    tried = {**({"control-tutorial": history} if history is not None else {}), **(tries or {})}
    for folder, each in tried.items():
        begun = msgspec.structs.replace(each.started, expected=exactly[0] if exactly else "none", exactly=exactly)
        histories[folder] = History([begun, *each.events[1:]])
    (found,) = s.decide(of, histories, 1).controls
    return found


@pytest.mark.parametrize(
    ("history", "exactly", "verdict", "why"),
    [
        (lost_during_the_fault(), ["lost"], "bites", "python and reference showed lost, and nothing else"),
        (lost_during_the_fault(bitten=False), ["lost"], "bites", "python and reference showed lost, and nothing else"),
        (silent(), [], "bites", "python and reference showed no anomaly: it holds"),
        (lost_during_the_fault(), [], "silent", "no longer reproduces: it showed lost, not none"),
        (lost_during_the_fault(), ["duplicate"], "silent", "no longer reproduces: it showed lost, not duplicate"),
        (
            lost_during_the_fault(),
            ["lost", "reordered"],
            "silent",
            "no longer reproduces: it showed lost, not lost and reordered",
        ),
        (silent(), ["lost"], "silent", "no longer reproduces: it showed none, not lost"),
        (
            lost_during_the_fault(seen=False),
            ["lost"],
            "silent",
            "no longer reproduces: the fault was not seen to bite: its row was never readable",
        ),
        (
            silent(seen=False),
            [],
            "silent",
            "no longer reproduces: the fault was not seen to bite: its row was never readable",
        ),
        (quiet(), [], "silent", "no longer reproduces: nothing shows that its fault bit"),
    ],
)
def test_pair_has_to_show_exactly_its_anomalies(history: History, exactly: list[str], verdict: str, why: str) -> None:
    """Not less, not more, on any message, and with a fault that was seen to bite."""
    found = pair_shows(history, *exactly)
    assert (found.verdict, found.why, found.null) == (verdict, why, "clean")
    assert found.expected == (" and ".join(exactly) or "none")


@pytest.mark.parametrize(
    ("first", "second", "verdict", "why"),
    [
        (BITES, None, "bites", "python and reference showed lost, and nothing else"),
        (SILENT, BITES, "bites", "python and reference showed lost, and nothing else"),
        (SILENT, SILENT, "silent", "no longer reproduces: it showed none, not lost (in 2 tries)"),
        (SILENT, failed(), "error", "toxiproxy: it does not answer"),
        (failed(), BITES, "error", "toxiproxy: it does not answer"),
    ],
)
def test_first_try_that_is_not_silent_counts(first: History, second: History | None, verdict: str, why: str) -> None:
    """A try that bites is enough, one that fails is an error, and only when all are silent the control is."""
    found = pair_shows(first, "lost", tries={"control-tutorial-try-2": second} if second is not None else {})
    assert (found.verdict, found.why) == (verdict, why)


def test_try_after_one_that_bites_is_needless() -> None:
    """The first try, the null and the claim are always needed."""
    null, first, second, claim = s.runs(case(paired(msgspec.structs.replace(PAIR, expected="lost", tries=2))))

    def left(history: History) -> dict[str, History]:
        started = msgspec.structs.replace(history.started, expected="lost", exactly=("lost",))
        return {"control-tutorial": History([started, *history.events[1:]])}

    assert s.is_needless(second, left(BITES))
    assert s.is_needless(second, left(failed()))
    assert not s.is_needless(second, left(SILENT))
    assert not any(s.is_needless(run, left(BITES)) for run in (null, first, claim))


def test_control_without_a_null_is_not_asked_for_one() -> None:
    """Where none is planned none is missed; where one is, its lack is an error."""
    assert pair_shows(BITES, "lost", has_null=False).null == "none"
    assert one_control(control=BITES, null=None).verdict == "error"


# -- verdicts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "null", "claim", "verdict"),
    [
        pytest.param(BITES, quiet(), kept(), "kept", id="kept"),
        pytest.param(BITES, quiet(), BROKEN, "broken", id="broken"),
        pytest.param(BITES, quiet(), UNPROVEN, "unproven", id="claim unproven"),
        pytest.param(BITES, quiet(), failed(), "error", id="claim failed"),
        pytest.param(BITES, quiet(), interrupted(), "error", id="claim interrupted"),
        pytest.param(SILENT, quiet(), kept(), "unproven", id="no control bites"),
        pytest.param(SILENT, quiet(), BROKEN, "broken", id="broken outweighs a silent control"),
        pytest.param(SILENT, quiet(), UNPROVEN, "unproven", id="both unproven"),
        pytest.param(RESISTED, quiet(), kept(), "not offered", id="the target resists"),
        pytest.param(RESISTED, quiet(), BROKEN, "broken", id="broken outweighs a target that resists"),
        pytest.param(RESISTED, quiet(), UNPROVEN, "unproven", id="unproven outweighs a target that resists"),
        pytest.param(BITES, quiet(lost=True), kept(), "unproven", id="dirty null"),
        pytest.param(BITES, quiet(lost=True), BROKEN, "broken", id="broken outweighs a dirty null"),
        pytest.param(BITES, quiet(lost=True), UNPROVEN, "unproven", id="dirty null and claim unproven"),
        pytest.param(BITES, failed(), kept(), "error", id="null failed"),
        pytest.param(BITES, failed(), BROKEN, "error", id="an error of the null outweighs broken"),
        pytest.param(failed(), quiet(), kept(), "error", id="control failed"),
        pytest.param(failed(), quiet(), BROKEN, "error", id="an error of the control outweighs broken"),
        pytest.param(failed(), quiet(lost=True), UNPROVEN, "error", id="error outweighs unproven"),
        pytest.param(None, quiet(), kept(), "error", id="control without a history"),
        pytest.param(BITES, None, kept(), "error", id="null without a history"),
    ],
)
def test_claim_control_and_null_make_one_verdict(
    control: History | None, null: History | None, claim: History, verdict: str
) -> None:
    """Error outweighs broken, broken outweighs unproven, and kept needs a control that bites and a clean null."""
    result = one_control(control=control, null=null, claim=claim)
    assert result.verdict == verdict
    assert result.why


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (doubled_during_the_fault(), doubled_during_the_fault(), "kept"),
        (doubled_during_the_fault(), SILENT, "kept"),
        (SILENT, doubled_during_the_fault(), "kept"),
        (RESISTED, doubled_during_the_fault(), "kept"),
        (SILENT, SILENT, "unproven"),
        (RESISTED, SILENT, "unproven"),
        (SILENT, RESISTED, "unproven"),
        (RESISTED, RESISTED, "not offered"),
        (doubled_during_the_fault(), failed(), "error"),
        (failed(), doubled_during_the_fault(), "error"),
    ],
)
def test_one_of_two_controls_has_to_bite(first: History, second: History, verdict: str) -> None:
    """One control that bites is enough, one that fails is an error, and only where all are resisted none is offered."""
    names = ["new-offset", "without_unique"]
    histories = {"claim": kept()} | {f"null-{name}": quiet() for name in names}
    controls = {f"control-{name}": control for name, control in zip(names, (first, second), strict=True)}
    assert decided(names, histories | controls).verdict == verdict


def test_one_dirty_null_is_unproven_though_another_control_bites() -> None:
    """Every null has to be clean, also that of a control that another one makes unnecessary."""
    names = ["new-offset", "without_unique"]
    histories = {"claim": kept(), "null-new-offset": quiet(), "null-without_unique": quiet(timed_out=True)}
    result = decided(names, histories | {f"control-{name}": doubled_during_the_fault() for name in names})
    assert result.verdict == "unproven"
    assert "control without_unique" in result.why
    assert "raise protocol.ack_timeout_seconds" in result.why


@pytest.mark.parametrize(("claim", "verdict"), [(quiet(), "kept"), (BROKEN, "broken"), (UNPROVEN, "unproven")])
def test_case_without_controls_is_its_claim(claim: History, verdict: str) -> None:
    """Where no control is declared and no fault acts the claim alone decides; it can be broken in any case."""
    assert decided([], {"claim": claim}).verdict == verdict


def test_fault_without_a_control_proves_nothing() -> None:
    """What a fault threatens has to be shown: a fault that does nothing would be as green."""
    result = decided([], {"claim": kept()})
    assert (result.verdict, result.why) == (
        "unproven",
        "a fault acted, and no control is declared that shows what it threatens",
    )


def test_case_whose_claim_left_no_history_is_an_error() -> None:
    """A case that did not come to its claim is an error, with its controls in the result."""
    result = decided(["once"], {"control-once": BITES, "null-once": quiet()})
    assert (result.verdict, result.why) == ("error", "the run of the claim left no history")
    assert [control.verdict for control in result.controls] == ["bites"]
    assert (result.counts, result.anomalies, result.bites) == ({}, [], [])


def test_result_carries_the_worst_delay_of_the_claim() -> None:
    """A result has the longest time to an acknowledgement in its claim, and none where nothing was acknowledged."""
    result = one_control(control=BITES, null=quiet(), claim=kept())
    assert result.worst_delay_seconds is not None
    assert result.worst_delay_seconds > (result.recovery_seconds or 0) > 0
    assert decided([], {"claim": nothing_sent()}).worst_delay_seconds is None
    assert decided([], {}).worst_delay_seconds is None


def test_claim_that_recovers_too_slowly_is_broken() -> None:
    """Where the target claims a recovery time its verdict is broken by that, with a control that bites and without."""
    slow = kept()
    claimed = History([msgspec.structs.replace(slow.started, recovery_seconds=0.001), *slow.events[1:]])
    for result in (one_control(control=BITES, null=quiet(), claim=claimed), decided([], {"claim": claimed})):
        assert result.verdict == "broken"
        assert [anomaly.kind for anomaly in result.anomalies] == ["slow_recovery"]


def test_result_carries_the_claim_and_what_was_declared() -> None:
    """A result has the claim's counts, anomalies, bites and recovery time, and says what case it is."""
    result = one_control(control=BITES, null=quiet(), claim=BROKEN)
    assert (result.id, result.family, result.client, result.transport) == (
        "lock-python-polling",
        "lock",
        "python",
        "polling",
    )
    assert (result.title, result.nodeid, result.replay, result.seconds) == ("A lock.", "x.py::t", "pytest x", 1.235)
    assert [anomaly.kind for anomaly in result.anomalies] == ["lost"]
    assert result.reported == []
    assert (result.counts["sent"], result.counts["stored"]) == (3, 2)
    assert [bite.seen for bite in result.bites] == [True]
    assert result.recovery_seconds is not None
    assert "lost" in result.why


# -- repetitions -------------------------------------------------------------------------------------------------


def test_repetitions_have_the_verdict_of_the_worst() -> None:
    """Of several results the first of the worst stands, with its number and seed; the seconds are those of all."""
    results = [decided([], {"claim": claim}) for claim in (quiet(), BROKEN, UNPROVEN, BROKEN)]
    worst = s.worst_of(results, [20, 21, 22, 23], 4)
    assert (worst.verdict, worst.anomalies, worst.counts) == ("broken", results[1].anomalies, results[1].counts)
    assert worst.repeated == Repeated(4, 2, 21, {"broken": 2, "unproven": 1, "kept": 1})
    assert worst.seconds == 4.94
    assert results[1].repeated is None


def test_repetitions_that_are_all_kept_are_kept() -> None:
    """Then the first repetition stands for all."""
    worst = s.worst_of([decided([], {"claim": quiet()})] * 3, [20, 21, 22], 3)
    assert (worst.verdict, worst.repeated) == ("kept", Repeated(3, 1, 20, {"kept": 3}))
