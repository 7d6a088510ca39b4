"""Run folders made by hand: histories of every kind of verdict, judged by the real checker."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness import history as h
from harness import repeat
from harness.history import History
from harness.outcome import Outcome
from harness.report.run import Omitted, Plan, Preflight, TestedTarget
from harness.scenario import CONTROLS, Declared, Result, decide, worst_of

RUN = "20260131-120000"
TOKEN = "r7"  # noqa: S105 - the token that begins each message's identity


class Script:
    """Writes one history, a tenth of a second between two events."""

    def __init__(self, role: h.Role = "claim", control: str | None = None, **claims: Any) -> None:
        self.events: list[h.AnyEvent] = []
        self._time = 0.0
        self._sequences: dict[str, int] = {}
        self._rows = 0
        started: dict[str, Any] = {"guarantee": "exactly-once", "order": "total", "receivers": "exactly-once"}
        self.add(
            h.Started,
            run=TOKEN,
            scenario="hand-written",
            role=role,
            control=control,
            expected=CONTROLS[control].expected if control else None,
            client="python",
            transport="polling",
            seed=7,
            target="reference",
            **(started | claims),
        )
        self.add(h.ServerStarted, pid=4242)
        self.add(h.Receiving, receiver="bob")
        self.add(h.Connected, client="alice", connection=1)

    def add(self, event: Callable[..., h.AnyEvent], /, **fields: Any) -> None:
        """Append an event."""
        self.events.append(event(time=round(self._time, 6), **fields))
        self._time += 0.1

    def post(self, body: str = "hello", sender: str = "alice", policy: h.Policy = "persistent") -> str:
        """Hand a message to its sender and begin its first attempt."""
        sequence = self._sequences[sender] = self._sequences.get(sender, 0) + 1
        message = h.message_id(TOKEN, sender, sequence)
        content = f"{body} {message}"
        self.add(h.Invoke, message=message, sender=sender, sequence=sequence, content=content, policy=policy)
        self.attempt(message, 1)
        return message

    def attempt(self, message: str, number: int, connection: int = 1) -> None:
        """Begin an attempt."""
        self.add(h.Attempt, message=message, attempt=number, offset=f"offset-{message}", connection=connection)

    def acknowledge(self, message: str, number: int = 1) -> None:
        """Answer an attempt and settle its message."""
        self.add(h.Ok, message=message, attempt=number, late=False)
        self.add(h.Settled, message=message, outcome="acknowledged")

    def unanswered(self, message: str, number: int = 1, *, timed_out: bool = False) -> None:
        """End an attempt without an answer."""
        reason = "no acknowledgement in 1 s" if timed_out else "transport close"
        self.add(h.Info, message=message, attempt=number, reason=reason, timed_out=timed_out)

    def sent(self, message: str) -> str:
        """The content of a message, as it was handed over; nothing for one that never was."""
        return next((e.content for e in self.events if isinstance(e, h.Invoke) and e.message == message), "")

    def receive(self, message: str) -> None:
        """Let the receiver get a message."""
        self.add(h.Received, receiver="bob", server_offset=1, content=self.sent(message))

    def send(self, body: str = "hello", sender: str = "alice") -> str:
        """A message that arrives, everywhere, at its first attempt."""
        message = self.post(body, sender)
        self.acknowledge(message)
        self.receive(message)
        return message

    def fault(self, message: str, name: str = "lose_acknowledgement") -> None:
        """A fault bites a message's first attempt, heals, and the sender connects again."""
        self.add(h.FaultBegan, number=1, fault=name, kind="link", on="alice")
        evidence = "its row is readable while none of its attempts is answered"
        self.add(h.Bitten, number=1, fault=name, message=message, seen=True, evidence=evidence)
        self.unanswered(message)
        self.add(h.Disconnected, client="alice", connection=1, reason="transport close")
        self.add(h.FaultEnded, number=1)
        self.add(h.Connected, client="alice", connection=2)

    def row(self, message: str, content: str | None = None) -> None:
        """A row of the final read."""
        self._rows += 1
        stored = self.sent(message) if content is None else content
        self.add(h.Row, id=self._rows, client_offset=f"offset-{message}", content=stored)

    def finish(self, rows: Sequence[str]) -> History:
        """The final read, and the end."""
        self.add(h.Drained, complete=True)
        for message in rows:
            self.row(message)
        self.add(h.Finished)
        return self.history()

    def history(self) -> History:
        """What has been written."""
        return History(self.events)


# -- histories ---------------------------------------------------------------------------------------------------


def claim(**claims: Any) -> History:
    """A message whose acknowledgement is lost is resent and stored once."""
    script = Script(**claims)
    before = script.send("before")
    during = script.post("during")
    script.fault(during)
    script.attempt(during, 2, connection=2)
    script.acknowledge(during, 2)
    script.receive(during)
    after = script.send("after")
    return script.finish([before, during, after])


def broken_claim(*kinds: str, body: str = "during") -> History:
    """A history with a fault that shows the named anomalies."""
    script = Script()
    before = script.send("before")
    during = script.post(body)
    script.fault(during)
    script.attempt(during, 2, connection=2)
    if "stuck" not in kinds:
        script.acknowledge(during, 2)
    if "missed" not in kinds and "lost" not in kinds:
        script.receive(during)
    if "repeated" in kinds:
        script.receive(during)
    if "crashed" in kinds:
        script.add(h.ServerExited, status=1, expected=False, reason="exit status 1")
    messages = [before, *([] if "lost" in kinds else [during] * (2 if "duplicate" in kinds else 1))]
    if "stuck" not in kinds:
        messages.append(script.send("after"))
    if "reordered" in kinds:
        messages[-2:] = messages[:-3:-1]
    if "corrupted" in kinds:
        script.row(during, f"{during} dur")
        messages.remove(during)
    if "unexpected" in kinds:
        script.add(h.Row, id=99, client_offset=f"{TOKEN}-mallory-0001", content="never posted")
    return script.finish(messages)


def lost_everything(count: int) -> History:
    """So many messages, all acknowledged, none stored."""
    script = Script(receivers="none")
    for number in range(count):
        script.acknowledge(script.post(f"body {number}"))
    return script.finish([])


def control(name: str) -> History:
    """A control that shows its anomaly on the bitten message."""
    script = Script("control", name)
    before = script.send("before")
    during = script.post("during", policy=CONTROLS[name].policy)
    script.fault(during)
    if CONTROLS[name].expected == "lost":
        script.add(h.Settled, message=during, outcome="handed-over")
        return script.finish([before, script.send("after")])
    script.attempt(during, 2, connection=2)
    script.acknowledge(during, 2)
    return script.finish([before, during, during, script.send("after")])


def null(name: str, *, timed_out: bool = False) -> History:
    """A control's traffic without the fault."""
    script = Script("null", name)
    messages = [script.send("before"), script.send("during")]
    if timed_out:
        slow = script.post("slow")
        script.unanswered(slow, timed_out=True)
        script.attempt(slow, 2)
        script.acknowledge(slow, 2)
        script.receive(slow)
        messages.append(slow)
    return script.finish(messages)


def idle() -> History:
    """A run in which nothing was acknowledged."""
    return Script().finish([])


def failed() -> History:
    """A run in which something around the traffic failed."""
    script = Script()
    script.add(h.Failed, where="toxiproxy", reason="the control plane answers 503")
    return script.history()


def interrupted() -> History:
    """A run that ended before its final read."""
    script = Script()
    script.send("before")
    return script.history()


def resisting(name: str) -> History:
    """A control on a target that knows the resend by something else: one row, acknowledged."""
    script = Script("control", name)
    before = script.send("before")
    during = script.post("during", policy=CONTROLS[name].policy)
    script.fault(during)
    script.attempt(during, 2, connection=2)
    script.acknowledge(during, 2)
    script.receive(during)
    return script.finish([before, during, script.send("after")])


def encoded(history: History) -> bytes:
    """A history as it is saved."""
    return b"".join(msgspec.json.encode(event) + b"\n" for event in history)


def cases(positions: Iterable[int], broken: Container[int] = ()) -> list[Outcome]:
    """The outcomes of cases of a sweep at these positions."""
    return [
        Outcome(f"wire/up/{at}", f"byte {at + 1} of 90", "broken", "duplicate", f"cut after {at}", f"r7-alice-{at:04}")
        if at in broken
        else Outcome(
            f"wire/up/{at}", f"byte {at + 1} of 90", "resent", "sent again", f"cut after {at}", f"r7-bob-{at:04}"
        )
        for at in positions
    ]


# -- run folders -------------------------------------------------------------------------------------------------


def declared(scenario: str, *, family: str = "lock", title: str = "A lock loses nothing.", **fields: Any) -> Declared:
    """A scenario as it is declared."""
    nodeid = f"scenarios/test_{family}.py::test_it[{scenario}]"
    known: dict[str, Any] = {
        "client": "python",
        "transport": "websocket" if scenario.endswith("websocket") else "polling",
        "nodeid": nodeid,
        "replay": f"pytest '{nodeid}' --seed 7",
        "replay_case": f"pytest {nodeid.partition('::')[0]} --seed 7 --case",
        "controls": [],
    }
    return Declared(id=scenario, family=family, title=title, **(known | fields))


class RunBuilder:
    """Writes a run folder, scenario by scenario; `folder` is complete after each call."""

    def __init__(self, folder: Path, **plan: Any) -> None:
        self.folder = folder
        self.planned: list[Declared] = []
        known: dict[str, Any] = {
            "run": RUN,
            "started": "2026-01-31T12:00:00+01:00",
            "target": TestedTarget("reference", "harness/targets/reference/target.toml"),
            "claims": {"guarantee": "exactly-once", "order": "total", "receivers": "exactly-once", "replay": True},
            "seed": 7,
            "not_offered": [],
            "missing": [],
            "command": "pytest scenarios --seed 7",
            "environment": {
                "python": "3.11.7",
                "midemit": "0.1.0",
                "python-socketio": "5.18.1",
                "aiohttp": "3.14.5",
                "toxiproxy": "2.12.0 (go install)",
                "platform": "Linux-6.1-x86_64",
            },
        }
        self._plan = known | plan
        folder.mkdir(parents=True, exist_ok=True)
        self.preflight(None)
        self._write_plan()

    def preflight(self, error: str | None) -> None:
        """Say what came of the message before the first scenario."""
        (self.folder / "preflight.json").write_bytes(msgspec.json.encode(Preflight(error)))

    def omit(self, word: Literal["not_offered", "missing"], scenario: str, reason: str) -> None:
        """Name a scenario that is not planned."""
        self._plan[word] = [*self._plan[word], Omitted(scenario, reason)]
        self._write_plan()

    def plan(self, case: Declared) -> Path:
        """Plan a scenario that does not run; the folder it would have."""
        self.planned.append(case)
        self._write_plan()
        return self.folder / case.id

    def begin(self, case: Declared, histories: Mapping[str, History]) -> Path:
        """Plan a scenario that leaves histories and no verdict; its folder."""
        return _write_histories(self.plan(case), case, histories)

    def run(self, case: Declared, histories: Mapping[str, History], seconds: float = 3.21) -> Result:
        """Plan a scenario that runs to its verdict."""
        return _write_verdict(self.begin(case, histories), decide(case, histories, seconds))

    def repeat(self, case: Declared, *claims: History) -> Result:
        """Plan a scenario whose repetitions, in a run that plans `repeat` of them, leave these histories."""
        case = msgspec.structs.replace(case, controls=["new-offset"])
        others = {"null-new-offset": null("new-offset"), "control-new-offset": control("new-offset")}
        folder, planned = self.begin(case, {}), self._plan["repeat"]
        seeds = repeat.seeds(self._plan["seed"], planned)
        results = []
        for number, history in enumerate(claims, start=1):
            place = folder / repeat.folder(number, planned)
            own = msgspec.structs.replace(case, replay=f"pytest '{case.nodeid}' --seed {seeds[number - 1]}")
            _write_histories(place, own, {**others, "claim": history})
            results.append(_write_verdict(place, decide(own, {**others, "claim": history}, 3.21)))
        return _write_verdict(folder, worst_of(results, seeds, planned))

    def kept(self, scenario: str = "lock-long-python-polling", **fields: Any) -> Result:
        """A scenario that is kept, with a control that bites."""
        case = declared(scenario, controls=["new-offset"], **fields)
        histories = {"null-new-offset": null("new-offset"), "control-new-offset": control("new-offset")}
        return self.run(case, {**histories, "claim": claim()})

    def swept(self, scenario: str, found: list[Outcome], share: tuple[int, int] = (1, 1)) -> Result:
        """A sweep, or a share of one, with these outcomes; it is broken where one of them is, and else kept."""
        family = scenario.partition("-")[0]
        result = self.kept(scenario, family=family, share=share, replay_case=f"pytest test_{family}.py --seed 7 --case")
        verdict: Literal["kept", "broken"] = "kept" if all(each.good for each in found) else "broken"
        result = msgspec.structs.replace(result, outcomes=found, verdict=verdict)
        return _write_verdict(self.folder / scenario, result)

    def broken(self, scenario: str, *kinds: str, **fields: Any) -> Result:
        """A scenario that is broken by the named anomalies."""
        case = declared(scenario, controls=["new-offset"], **fields)
        histories = {"null-new-offset": null("new-offset"), "control-new-offset": control("new-offset")}
        return self.run(case, {**histories, "claim": broken_claim(*kinds)})

    def unproven(self, scenario: str = "lock-idle-python-polling") -> Result:
        """A scenario in which nothing was acknowledged."""
        return self.run(declared(scenario), {"claim": idle()})

    def error(self, scenario: str = "lock-error-python-polling") -> Result:
        """A scenario in which the harness failed."""
        return self.run(declared(scenario), {"claim": failed()})

    def not_offered(self, scenario: str = "ack-lost-python-polling") -> Result:
        """A scenario whose target resists its only control."""
        case = declared(scenario, family="ack", controls=["new-offset"])
        histories = {"null-new-offset": null("new-offset"), "control-new-offset": resisting("new-offset")}
        return self.run(case, {**histories, "claim": claim()})

    def _write_plan(self) -> None:
        plan = Plan(planned=self.planned, **self._plan)
        (self.folder / "plan.json").write_bytes(msgspec.json.encode(plan))


def _write_histories(folder: Path, case: Declared, histories: Mapping[str, History]) -> Path:
    folder.mkdir(parents=True)
    (folder / "scenario.json").write_bytes(msgspec.json.encode(case))
    for name, history in histories.items():
        (folder / name).mkdir()
        (folder / name / "history.jsonl").write_bytes(encoded(history))
        (folder / name / "server.log").write_text("listening\n", encoding="utf-8")
    return folder


def _write_verdict(folder: Path, result: Result) -> Result:
    (folder / "verdict.json").write_bytes(msgspec.json.encode(result))
    return result


def write_showcase(folder: Path) -> RunBuilder:
    """A run with one of everything."""
    run = RunBuilder(folder)
    title = "A commit whose acknowledgement is lost is resent, yet stored once, in order."
    for transport in ("websocket", "polling"):
        run.kept(f"acknowledgement-lost-one-python-{transport}", family="acknowledgement-lost", title=title)
        run.kept(f"lock-long-python-{transport}")
    run.broken("kill-mid-emit-python-websocket", "lost", family="kill", title="What a killed server had is not lost.")
    run.broken("pairs-cut-lock-python-polling", "duplicate", "reordered", "missed", "crashed", family="pairs")
    run.broken("pairs-truncated-python-polling", "corrupted", "unexpected", "repeated", family="pairs")
    run.run(
        declared("lock-slow-python-polling", controls=["once"]),
        {"null-once": null("once", timed_out=True), "control-once": control("once"), "claim": claim()},
    )
    run.unproven()
    run.error()
    run.begin(declared("graceful-restart-python-polling", family="graceful-restart"), {"claim": interrupted()})
    run.not_offered()
    run.omit("not_offered", "crash-after-commit-python-polling", "the target has no crash point 'after_commit'")
    run.omit("missing", "kill-docker-python-polling", "there is no Docker on this machine")
    return run
