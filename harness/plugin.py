"""The pytest plugin: options, scenarios as items, one line for each, the report and the gate's exit status."""

import argparse
import asyncio
import contextlib
import datetime
import fcntl
import itertools
import math
import os
import platform
import random
import secrets
import shlex
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import history as h
from harness import node, reaper, repeat, report, resources, scenario, shrink, soaking, steps, system, target
from harness.clients.kinds import KINDS
from harness.errors import HarnessError, TargetError, reason
from harness.interrupt import Interrupts
from harness.report import run as run_folder
from harness.report import summary, terminal
from harness.report.text import times
from harness.runtimes import LINKS, Images, Runtime
from harness.runtimes.local import Local
from harness.scenario import Case, Declared, Result, Run, Soak
from harness.steps import Schedule
from harness.toxiproxy import Toxiproxy

_MAXIMUM_SEED = 2**32
_TARGET, _CLIENT = "reference", "python"
_PLUGIN = ("-p", __name__)
# A sweep has hundreds of cases; each takes a few hundredths of a second, and more on a machine that is busy.
_SWEEP_TIMEOUTS = 5
_SWEEP_BUDGET = "20s"
_IMAGES = {
    "toxiproxy": "the image of Toxiproxy",
    "server": "that of servers whose targets name none; the default one is built where it is missing",
}
_BEFORE_A_SOAK = {
    "null": "first some messages without a fault, which must show nothing",
    "control": "then some with faults and without protection, which must show what faults can do",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the harness's options."""
    group = parser.getgroup("midemit", "fault injection for Socket.IO")
    group.addoption(
        "--target",
        action="append",
        default=None,
        metavar="PATH_OR_NAME",
        help="the system under test: a target.toml, its folder, or the name of a shipped target; several are tried one "
        "beside the other (default: reference)",
    )
    group.addoption(
        "--client",
        action="append",
        default=None,
        choices=list(KINDS),
        help="the client that speaks with it; several are tried one beside the other (default: python)",
    )
    group.addoption("--seed", type=int, default=None, help="repeat the random choices of a run (default: a new seed)")
    group.addoption(
        "--repeat",
        type=repeat.count,
        default=1,
        metavar="N",
        help="run each scenario N times, each time with another seed, and report the worst (default: 1)",
    )
    group.addoption(
        "--toxiproxy-url", default=None, metavar="URL", help="use this running Toxiproxy instead of one of our own"
    )
    group.addoption(
        "--runtime",
        choices=["local", "docker"],
        default="local",
        help="where servers and Toxiproxy run: as processes of this machine, or in containers (default: local)",
    )
    for name, image in Images()._asdict().items():
        group.addoption(
            f"--image-{name}",
            default=image,
            metavar="IMAGE",
            help=f"with --runtime docker, {_IMAGES[name]} (default: {image})",
        )
    group.addoption(
        "--reports",
        type=_writable,
        default=None,
        metavar="FOLDER",
        help="where reports are written (default: reports)",
    )
    group.addoption(
        "--case",
        action=_Once,
        default=None,
        metavar="ID",
        help="run this one case of a sweep, or these, and nothing else: wire/up/37, wire/up/0..71",
    )
    group.addoption(
        "--shares",
        type=repeat.count,
        default=1,
        metavar="N",
        help="have each sweep run as that many scenarios, so that the workers of -n can have one each (default: 1)",
    )
    group.addoption(
        "--sweep-budget",
        type=_budget,
        default=None,
        metavar="SECONDS",
        help="how long each sweep of pairs may go on, `60s` say, or `full` for all of them; the next run goes on from "
        f"there (default: {_SWEEP_BUDGET})",
    )
    group.addoption(
        "--soak",
        type=soaking.option,
        default=None,
        metavar="DURATION",
        help="run nothing but a continuous stream with one random fault after the other for that long, `90s`, `10m` or "
        "`2h`; or the steps of a schedule.jsonl that an earlier one has left",
    )
    group.addoption(
        "--senders",
        type=_senders,
        default=None,
        metavar="N",
        help=f"how many senders a soak has (default: {soaking.SENDERS})",
    )
    group.addoption(
        "--scenario-timeout",
        type=_seconds,
        default=None,
        metavar="SECONDS",
        help="a scenario that takes longer, with its controls, is an error "
        f"(default: {system.SCENARIO_TIMEOUT_SECONDS:g}, or as many ack timeouts of the target; for a sweep five times "
        "as long)",
    )


class _Once(argparse.Action):
    """Takes an option that means nothing twice: pytest would forget the first."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if getattr(namespace, self.dest) not in (None, values):
            parser.error(f"argument {option_string}: give one; cases in a row are wire/up/0..71")
        setattr(namespace, self.dest, values)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")


def _senders(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 1 <= (senders := int(text)) <= system.MOST_SENDERS:
            return senders
    raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 to {system.MOST_SENDERS}")


def _budget(text: str) -> str:
    """`full`, or a number of seconds above 0."""
    if text != "full":
        _seconds(text.removesuffix("s"))
    return text


def _writable(folder: str) -> str:
    """A folder that can be written, or made; said while pytest reads its options, before anything has run."""
    there = resources.nearest(Path(folder))
    if not resources.is_open(there):
        raise argparse.ArgumentTypeError(f"{folder} cannot be written: {there} is not a folder that is open to you")
    return folder


class Settings(msgspec.Struct, frozen=True):
    """What all processes of one pytest run share."""

    folder: str
    seed: int
    command: str
    process: int


class ScenarioError(Exception):
    """A scenario that is not kept; the text is what there is to say about it."""


class Gate:
    """One process's part in a run: plans, runs cases, and keeps one Toxiproxy and one event loop for them."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.settings = settings
        self.folder = Path(settings.folder)
        self.own_target = config.getoption("--target") is not None
        self._target_options: list[str] = config.getoption("--target") or [_TARGET]
        self.targets = [target.load(option) for option in self._target_options]
        self.clients: list[str] = list(dict.fromkeys(config.getoption("--client") or [_CLIENT]))
        self.only: str | None = config.getoption("--case")
        self.shares = _shares(config)
        self.spaces: dict[str, str] = {}
        self.soak = _wish(config)
        budget: str = config.getoption("--sweep-budget") or _SWEEP_BUDGET
        self._budget_seconds = None if budget == "full" else float(budget.removesuffix("s"))
        self.not_offered: list[run_folder.Omitted] = []
        self.missing: list[run_folder.Omitted] = []
        self._config = config
        self._repeat: int = config.getoption("--repeat")
        self._toxiproxy_url: str | None = config.getoption("--toxiproxy-url")
        self._timeout_seconds: float = config.getoption("--scenario-timeout") or (
            system.SCENARIO_TIMEOUT_SECONDS * max(1.0, *(on.protocol.ack_timeout_seconds for on in self.targets))
        )
        self._interrupts = config.stash[_INTERRUPTS]
        self._runner = asyncio.Runner()
        self._toxiproxy: Toxiproxy | None = None
        self._runtime = self._chosen_runtime()

    def _chosen_runtime(self) -> Runtime:
        """Where everything runs; of containers, the first process of a run sees that all is there."""
        if self._config.getoption("--runtime") == "local":
            if self._images != Images():
                raise HarnessError("--image-… says what runs in containers: add --runtime docker, or leave it out")
            for option, on in zip(self._target_options, self.targets, strict=True):
                if not on.server.command:
                    raise TargetError(f"the target {option} is an image and has no command: add --runtime docker")
            return Local(self.folder)
        if self._toxiproxy_url is not None:
            raise HarnessError("--toxiproxy-url and --runtime docker: its Toxiproxy is a container; leave one out")
        from harness import engine  # takes as long as all else together to import, and few runs need it
        from harness.runtimes.containers import Containers

        links = LINKS if self.soak is None else self.soak.senders + LINKS
        containers = Containers(engine.connect(), self.folder.name, self._images, links)
        if not _is_worker(self._config):
            containers.require(self.targets)
        return containers

    @property
    def _images(self) -> Images:
        return Images(*(self._config.getoption(f"--image-{name}") for name in Images._fields))

    def _options_of_runtime(self) -> list[str]:
        """The options that say where everything runs."""
        if self._runtime.name == "local":
            return []
        chosen = [(name, image) for name, image in self._images._asdict().items() if image != getattr(Images(), name)]
        return ["--runtime", self._runtime.name, *(word for name, of in chosen for word in (f"--image-{name}", of))]

    # -- the plan ------------------------------------------------------------------------------------------------

    def not_asked(self, case: Case) -> str | None:
        """Why a case asks nothing of what the user has chosen, or None when it does."""
        if case.scenario.target is not None and self.own_target:
            return f"it has a target of its own ({case.target.name}): leave out --target"
        if case.scenario.partitions and self._runtime.name == "local":
            return "it takes the server from its network, which only a container has: add --runtime docker"
        return scenario.not_offered(case)

    def plan(self, items: "list[ScenarioItem]") -> None:
        """Write down what is going to run, unless another process of this run already has.

        Raises:
            HarnessError: two scenarios would write to one folder, or none can be written.
        """
        path = self.folder / "plan.json"
        if path.exists():
            return
        known: dict[str, ScenarioItem] = {}
        for item in items:
            twin = known.setdefault(item.case.id, item)
            if twin is not item:
                raise HarnessError(f"two scenarios have the id {item.case.id}: {twin.nodeid} and {item.nodeid}")
        plan = run_folder.Plan(
            run=self.folder.name,
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            target=_tested(self.targets),
            claims=msgspec.to_builtins(self.targets[0].claims) if len(self.targets) == 1 else {},
            seed=self.settings.seed,
            planned=[self._declare(item, self._again(self.settings.seed)) for item in items],
            not_offered=self.not_offered,
            missing=self.missing,
            command=self.settings.command,
            environment=self._environment(items),
            repeat=self._repeat,
        )
        run_folder.make(self.folder, may_exist=True)
        run_folder.write_atomically(path, msgspec.json.encode(plan))

    def _declare(self, item: "ScenarioItem", again: list[str]) -> Declared:
        """What is known of a scenario, or of one repetition, before it runs."""
        file, _, name = item.nodeid.partition("::")  # relative to the root, which need not be where the user is
        here = os.path.relpath(self._config.rootpath / file, self._config.invocation_params.dir)
        case, options = item.case, list(again)
        if self._config.getoption("--client"):
            options += [word for client in self.clients for word in ("--client", client)]
        if self._toxiproxy_url is not None:
            options += ["--toxiproxy-url", self._toxiproxy_url]
        options += self._options_of_runtime()
        targets = self._target_options if case.scenario.target is None else []
        own = [option for option, on in zip(self._target_options, self.targets, strict=True) if on is case.target]
        loaded = ["pytest", *(_PLUGIN if __name__ in self._config.invocation_params.args else ())]
        replay = [*loaded, f"{here}::{name}", *options, *(word for of in targets for word in ("--target", of))]
        replay_case = [*loaded, here, *options, *(word for of in own for word in ("--target", of)), "--case"]
        if self.only is not None:
            replay += ["--case", self.only]
        if case.share != (1, 1):
            replay += ["--shares", str(self.shares)]
        if self.soak is not None:
            replay += ["--soak", self._config.getoption("--soak"), "--senders", str(self.soak.senders)]
        controls = {run.control.name: run.control for run in scenario.runs(case) if run.control is not None}
        return Declared(
            id=case.id,
            family=case.scenario.family,
            client=case.client,
            transport=case.transport,
            title=item.title,
            nodeid=item.nodeid,
            replay=shlex.join(replay),
            replay_case=shlex.join(replay_case) if case.scenario.sweep else "",
            controls=list(controls),
            target=case.target.name,
            share=case.share,
            without_null=[name for name, control in controls.items() if not control.has_null],
        )

    def _again(self, seed: int) -> list[str]:
        """The options that replay a scenario with all of its repetitions."""
        return ["--seed", str(seed), *(["--repeat", str(self._repeat)] if self._repeat > 1 else [])]

    def _environment(self, items: "list[ScenarioItem]") -> dict[str, str]:
        packages = ("midemit", "python-socketio", "python-engineio", "aiohttp", "toxiproxy-python")
        return {
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{package: version(package) for package in packages},
            **(node.versions() if any(run.needs_node for item in items for run in scenario.runs(item.case)) else {}),
            "toxiproxy": self._toxiproxy_url or "2.12.0",
            **self._runtime.environment(),
        }

    # -- the runs ------------------------------------------------------------------------------------------------

    def preflight(self) -> str | None:
        """Why no scenario can run on this target, found out once in a run; None when they can.

        Raises:
            HarnessError: that cannot be written down.
        """
        path = self.folder / "preflight.json"
        try:
            lock = (self.folder / ".preflight.lock").open("w")
        except OSError as error:
            raise HarnessError(f"cannot write to the run folder {self.folder}: {reason(error)}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return msgspec.json.decode(path.read_bytes(), type=run_folder.Preflight).error
            found = self._obstacle(self.folder / "preflight")
            run_folder.write_atomically(path, msgspec.json.encode(run_folder.Preflight(found)))
            return found

    def _obstacle(self, folder: Path) -> str | None:
        try:
            run_folder.make(folder, may_exist=True)  # it is there when a process was killed in it
            self._interrupts.run(self._runner, self._preflight(folder))
        except HarnessError as error:
            return str(error)
        return None

    async def _preflight(self, folder: Path) -> None:
        resources.require(folder)
        for on in self.targets:
            if on.needs_node and node.lack() is not None:
                continue  # its scenarios are listed as missing
            place = folder / on.name
            run_folder.make(place, may_exist=True)
            await system.preflight(on, await self._running_toxiproxy(), self._runtime, place)

    def run(self, item: "ScenarioItem") -> Result:
        """Run a case as often as it is planned, and leave its verdict in its folder: of several, the worst.

        Raises:
            HarnessError: it cannot be written.
        """
        folder = self.folder / item.case.id
        declared = self._declare(item, self._again(self.settings.seed))
        if self._repeat == 1:
            return self._run_once(declared, item.case, folder, self.settings.seed)
        _begin(folder, declared)
        seeds = repeat.seeds(self.settings.seed, self._repeat)
        result = scenario.worst_of(self._repetitions(item, folder, seeds), seeds, self._repeat)
        run_folder.write_atomically(folder / "verdict.json", msgspec.json.encode(result))
        return result

    def _repetitions(self, item: "ScenarioItem", folder: Path, seeds: Sequence[int]) -> list[Result]:
        """Run every repetition, whatever came of those before, for as long as anything can run at all."""
        results: list[Result] = []
        for number, seed in enumerate(seeds, start=1):
            place = folder / repeat.folder(number, len(seeds))
            results.append(self._run_once(self._declare(item, ["--seed", str(seed)]), item.case, place, seed))
            if results[-1].verdict == "error" and number < len(seeds) and self._is_unusable(place):
                break
        return results

    def _is_unusable(self, place: Path) -> bool:
        """Whether Toxiproxy or the target is what failed: then not even one message can be sent and read back."""
        return self._obstacle(place / "preflight") is not None

    def _run_once(self, declared: Declared, case: Case, folder: Path, seed: int) -> Result:
        """Run a case once and leave its histories and its verdict in `folder`."""
        _begin(folder, declared)
        began = time.monotonic()
        failure = None
        try:
            self._interrupts.run(self._runner, self._perform(case, folder, seed))
        except HarnessError as error:
            failure = str(error)
        seconds = time.monotonic() - began
        try:
            result = scenario.decide(declared, run_folder.load_histories(folder), seconds)
        except HarnessError as error:  # a damaged history: of what was told by a client that does not keep order, say
            failure = failure or str(error)
            result = scenario.decide(declared, {}, seconds)
        if failure is not None:
            result.verdict, result.why = "error", failure
        path = folder / "verdict.json"
        run_folder.write_atomically(path, msgspec.json.encode(result))
        if result.verdict == "broken":  # which is said whatever becomes of looking for less
            try:
                self._interrupts.run(self._runner, self._reduce(case, result, folder, seed))
            except HarnessError as error:
                result.why += f"; what it takes could not be found out: {error}"
            run_folder.write_atomically(path, msgspec.json.encode(result))
        return result

    async def _perform(self, case: Case, folder: Path, seed: int) -> None:
        deadline = time.monotonic() + self._timeout_of(case)
        for run in self._budgeted(case):
            if (left := deadline - time.monotonic()) <= 0:
                break  # the run before says so
            if run.trial > 1 and scenario.is_needless(run, run_folder.load_histories(folder)):
                continue
            if self.soak is not None:
                self.tell(f"soak: {_BEFORE_A_SOAK.get(run.role, 'it begins')}")
            await self._perform_run(case, run, folder / run.folder, seed, left)

    async def _perform_run(self, case: Case, run: Run, place: Path, seed: int, timeout_seconds: float) -> None:
        run_folder.make(place)
        toxiproxy = await self._running_toxiproxy()
        await system.perform(case, run, toxiproxy, self._runtime, place, seed, timeout_seconds)

    async def _reduce(self, case: Case, result: Result, folder: Path, seed: int) -> None:
        """Look for less that breaks the claim, too, where that can be done."""
        if (pair := scenario.broken_pair(result)) is not None and case.only is None:
            await self._shrink(case, pair, result, folder, seed)
        elif case.scenario.soak:
            await self._shrink_soak(case, result, folder, seed)

    async def _shrink(self, case: Case, pair: str, result: Result, folder: Path, seed: int) -> None:
        """Try simpler cases than a pair that breaks the claim, and say which is the simplest that does, too."""
        numbers = itertools.count(1)
        self.tell(f"{case.space}/{pair}: it broke; now looking for less that does")

        async def breaks(candidate: str) -> bool:
            place = folder / "smaller" / f"{next(numbers):02}"
            run = msgspec.structs.replace(scenario.runs(case)[-1], only=candidate)
            await self._perform_run(case, run, place, seed, self._timeout_seconds)
            does = scenario.has_broken_case(place)
            self.tell(f"{case.space}/{candidate}: {'yes' if does else 'no'}")
            return does

        result.smallest = f"{result.replay_case} {case.space}/{await shrink.smallest(pair, breaks)}"

    async def _shrink_soak(self, case: Case, result: Result, folder: Path, seed: int) -> None:
        """Try shorter schedules than the one that broke the claim, and write the shortest that does, too."""
        kinds = scenario.broken_by(folder / "claim")
        taken = steps.load(folder / "claim" / steps.FILE)
        numbers = itertools.count(1)
        self.tell(f"soak: it broke; now looking for the smallest schedule that shows {' or '.join(sorted(kinds))}")

        async def breaks(candidate: Schedule) -> bool:
            place = folder / "smaller" / f"{next(numbers):02}"
            run = msgspec.structs.replace(
                scenario.runs(case)[-1],
                parameters={"senders": candidate.senders},
                soak=Soak(math.inf, self._judged, candidate.steps),
            )
            await self._perform_run(case, run, place, seed, self._timeout_of(case))
            shows = soaking.shows(place, kinds, candidate)
            size = f"{times(candidate.senders, 'sender')}, {times(len(candidate.steps), 'step')}"
            self.tell(f"soak:   {size}: {'yes' if shows else 'no'}")
            return shows

        found = await soaking.smallest(taken, system.steps_of_last_part(taken), breaks)
        if found is None:
            result.why += "; on a new system neither its last part nor what came before showed that again"
            return
        path = folder / "test_smallest.py"
        soaking.write_scenario(path, found, kinds=sorted(kinds), found_by=result.replay, transport=case.transport)
        options = [word for option in self._target_options for word in ("--target", option)]
        options += [word for client in self.clients for word in ("--client", client)]
        # It is not where the project's `conftest.py` loads the plugin, and need not be in the project at all.
        result.smallest = shlex.join(["pytest", *_PLUGIN, terminal.shown(path), *options])

    async def _judged(self, history: Path) -> h.Soaked | None:
        return await soaking.judged(history, self.tell)

    def tell(self, line: str) -> None:
        """Say how far something is that takes long, where there is a terminal: a worker of pytest-xdist has none."""
        manager = self._config.pluginmanager
        reporter, capture = manager.get_plugin("terminalreporter"), manager.get_plugin("capturemanager")
        if reporter is not None and not _is_worker(self._config):
            with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
                reporter.ensure_newline()
                reporter.write_line(line)

    def _timeout_of(self, case: Case) -> float:
        if self.soak is not None:
            return _SWEEP_TIMEOUTS * self._timeout_seconds + self.soak.seconds
        if not case.scenario.sweep:
            return self._timeout_seconds
        return (
            math.inf if self._budget_seconds is None else self._timeout_seconds * _SWEEP_TIMEOUTS + self._budget_seconds
        )

    def _budgeted(self, case: Case) -> Iterator[Run]:
        """The runs of a case; the claim's goes through pairs as long as it may, from where the last run has ended."""
        progress = self.folder.parent / "sweeps" / f"{case.id}-{case.target.name}.json"
        for run in scenario.runs(case):
            if run.role == "claim" and case.has_budget:
                run = msgspec.structs.replace(run, budget_seconds=self._budget_seconds, progress=progress)
            if run.role == "claim" and self.soak is not None:
                run = msgspec.structs.replace(run, soak=Soak(self.soak.seconds, self._judged, self.soak.steps))
            yield run

    async def _running_toxiproxy(self) -> Toxiproxy:
        """The Toxiproxy of this process; in the place of one of ours that is dead or stuck, a new one."""
        if self._toxiproxy is not None and self._toxiproxy.owned and not await self._toxiproxy.is_usable():
            await self._toxiproxy.stop()
            self._toxiproxy = None
        if self._toxiproxy is None:
            if self._toxiproxy_url is not None:
                self._toxiproxy = await Toxiproxy.use(self._toxiproxy_url)
            else:
                self._toxiproxy = await self._runtime.toxiproxy(self.folder / f"toxiproxy-{os.getpid()}.log")
        return self._toxiproxy

    def close(self) -> list[str]:
        """Stop what this process started; what could not be, and why: there is a report all the same."""
        problems = []
        for stop in (*([self._toxiproxy.stop] if self._toxiproxy is not None else []), self._runtime.close):
            try:
                self._interrupts.run(self._runner, stop())
            except HarnessError as error:
                problems.append(str(error))
        self._runner.close()
        return problems


def _shares(config: pytest.Config) -> int:
    """In how many parts each sweep is gone through.

    Raises:
        UsageError: the options make no sense.
    """
    shares: int = config.getoption("--shares")
    if shares > 1 and config.getoption("--case") is not None:
        raise pytest.UsageError("--shares is for whole sweeps, and --case for some cases of one: choose one")
    return shares


def _wish(config: pytest.Config) -> soaking.Wish | None:
    """What the options ask for.

    Raises:
        UsageError: they make no sense.
    """
    soak, senders = config.getoption("--soak"), config.getoption("--senders")
    if soak is None:
        if senders is not None:
            raise pytest.UsageError("--senders is for --soak")
        return None
    if config.getoption("--case") is not None:
        raise pytest.UsageError("--soak and --case ask for different things: choose one")
    try:
        return soaking.wish(soak, senders)
    except HarnessError as error:
        raise pytest.UsageError(f"--soak: {error}") from None


def _tested(targets: Sequence[target.Target]) -> run_folder.TestedTarget:
    return run_folder.TestedTarget(", ".join(on.name for on in targets), ", ".join(str(on.path) for on in targets))


def _begin(folder: Path, declared: Declared) -> None:
    """Make the folder of a scenario, or of one repetition."""
    run_folder.make(folder)
    run_folder.write_atomically(folder / "scenario.json", msgspec.json.encode(declared))


_GATE = pytest.StashKey[Gate]()
_INTERRUPTS = pytest.StashKey[Interrupts]()
_SETTINGS = pytest.StashKey[Settings]()
_NO_PLAN = pytest.StashKey[str]()
_CLOSING = pytest.StashKey[list[str]]()


class ScenarioItem(pytest.Item):
    """One case of a scenario, with its whole verdict."""

    def __init__(self, *, case: Case, title: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case
        self.title = title

    def runtest(self) -> None:
        """Run the case.

        Raises:
            ScenarioError: it is not kept.
        """
        gate = self.config.stash[_GATE]
        result = gate.run(self)
        self.user_properties.append(("midemit", terminal.line(result)))
        if result.verdict == "not offered":
            pytest.skip(result.why)
        if result.verdict != "kept":
            raise ScenarioError("\n".join(terminal.trouble(gate.folder, result)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what there is to say about a scenario, and a traceback only for a defect of the harness."""
        if isinstance(excinfo.value, ScenarioError | HarnessError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it is."""
        return self.path, None, self.name


def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> Any:
    """Make one item of each case of a scenario."""
    declared = getattr(obj, scenario.ATTRIBUTE, None)
    if not isinstance(declared, scenario.Scenario):
        return None
    gate = collector.config.stash[_GATE]
    if declared.soak != (gate.soak is not None):
        return []
    if gate.soak is not None:
        declared = msgspec.structs.replace(declared, variants={"": {"senders": gate.soak.senders}})
    title = declared.title or (obj.__doc__ or name).strip().splitlines()[0]
    if declared.sweep:
        gate.spaces |= {case.space: case.first_case for case in scenario.cases(declared, gate.clients, gate.targets)}
    items = []
    for case in scenario.cases(declared, gate.clients, gate.targets, gate.only, gate.shares):
        item = ScenarioItem.from_parent(collector, name=f"{declared.item or name}[{case.id}]", case=case, title=title)
        if {case.client, case.transport} & set(declared.long_over):
            item.add_marker("long")
        items.append(item)
    return items


# -- one run, in one or several processes ------------------------------------------------------------------------


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Agree on the folder and the seed of this run, and refuse a target description that is not valid."""
    config.addinivalue_line("markers", "long: a sweep for which not everybody waits")
    config.option.force_short_summary = True  # else pytest says all of each failure a second time where it sees a CI
    # pytest-xdist gives its workers this attribute, and a worker what `pytest_configure_node` put into it.
    of_controller = getattr(config, "workerinput", {}).get("midemit")
    settings = _settings(config) if of_controller is None else msgspec.convert(of_controller, Settings)
    if of_controller is not None:
        reaper.die_with(settings.process)
    config.stash[_SETTINGS] = settings
    config.stash[_INTERRUPTS] = Interrupts()
    config.stash[_INTERRUPTS].listen()
    try:
        config.stash[_GATE] = Gate(config, settings)
    except HarnessError as error:
        if of_controller is None:
            _report_refusal(settings, ", ".join(config.getoption("--target") or [_TARGET]), str(error))
        pytest.exit(str(error), returncode=summary.EXIT_STATUS["error"])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give the signals back."""
    if _INTERRUPTS in config.stash:
        config.stash[_INTERRUPTS].stop_listening()


def _report_refusal(settings: Settings, target_option: str, error: str) -> None:
    """Leave a report of a run that cannot begin: whoever reads `latest` must not find the verdict of the one before."""
    folder = Path(settings.folder)
    plan = run_folder.Plan(
        run=folder.name,
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        target=run_folder.TestedTarget(target_option, target_option),
        claims={},
        seed=settings.seed,
        planned=[],
        command=settings.command,
        environment={},
    )
    folder.mkdir(parents=True)
    run_folder.write_atomically(folder / "plan.json", msgspec.json.encode(plan))
    run_folder.write_atomically(folder / "preflight.json", msgspec.json.encode(run_folder.Preflight(error)))
    report.write(folder)
    report.publish(folder)


def _settings(config: pytest.Config) -> Settings:
    reports = Path(config.getoption("--reports") or config.rootpath / "reports").absolute()
    now = datetime.datetime.now(datetime.UTC)
    seed = config.getoption("--seed")
    return Settings(
        folder=str(reports / f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"),
        seed=seed if seed is not None else random.SystemRandom().randrange(_MAXIMUM_SEED),
        command=shlex.join(["pytest", *config.invocation_params.args]),
        process=os.getpid(),
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist what the processes of this run share."""
    node.workerinput["midemit"] = msgspec.to_builtins(node.config.stash[_SETTINGS])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and list, the selected scenarios that ask nothing of this target, or too much of this machine."""
    gate = config.stash[_GATE]
    offered: list[pytest.Item] = []
    omitted: list[pytest.Item] = []
    for item in items:
        if isinstance(item, ScenarioItem) and (reason := gate.not_asked(item.case)) is not None:
            omitted.append(item)
            gate.not_offered.append(run_folder.Omitted(item.case.id, reason))
        elif isinstance(item, ScenarioItem) and (reason := scenario.missing(item.case)) is not None:
            omitted.append(item)
            gate.missing.append(run_folder.Omitted(item.case.id, reason))
        else:
            offered.append(item)
    if omitted:
        items[:] = offered
        config.hook.pytest_deselected(items=omitted)
    if _is_worker(config):  # what takes longest first: else the others wait at the end for whoever has it
        items.sort(key=lambda item: not (isinstance(item, ScenarioItem) and item.case.scenario.sweep))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the plan; the controller of pytest-xdist has no items and leaves it to its workers."""
    gate = session.config.stash[_GATE]
    scenarios = [item for item in session.items if isinstance(item, ScenarioItem)]
    if gate.only is not None and not scenarios and session.config.getoption("dist", "no") == "no":
        if (example := gate.spaces.get(gate.only.rstrip("/"))) is not None:
            raise pytest.UsageError(f"--case {gate.only}: that is a whole sweep; a case of it has a number: {example}")
        spaces = ", ".join(sorted(gate.spaces)) or "there is no sweep among what is selected"
        raise pytest.UsageError(f"--case {gate.only}: no sweep here has it; the cases here begin with: {spaces}")
    given = session.config.getoption("--sweep-budget") is not None
    if given and scenarios and not any(item.case.has_budget for item in scenarios):
        error = "--sweep-budget is for whole sweeps of pairs, and none is selected"
        if not _is_worker(session.config):
            raise pytest.UsageError(error)
        _refuse(session.config, error)
    if (scenarios or gate.not_offered or gate.missing) and not session.config.getoption("collectonly"):
        try:
            gate.plan(scenarios)
        except HarnessError as error:
            _refuse(session.config, str(error))


def _refuse(config: pytest.Config, error: str) -> None:
    """Let nothing run, and say why in the process that the user started."""
    config.stash[_NO_PLAN] = error
    if _is_worker(config):
        config.workeroutput["midemit"] = error  # type: ignore[attr-defined]  # pytest-xdist's


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear from a worker of pytest-xdist why it could not plan."""
    error = getattr(node, "workeroutput", {}).get("midemit")
    if error is not None:
        node.config.stash[_NO_PLAN] = error


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: Any) -> None:
    """Write down that the worker of pytest-xdist that ran a scenario has died: nobody else knows."""
    config = report.node.config
    with contextlib.suppress(HarnessError):  # no plan, or no room: the scenario has no verdict anyway
        run_folder.note_death(config.stash[_GATE].folder, crashitem, report.node.gateway.id)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run nothing where no scenario can run."""
    if session.config.getoption("collectonly") or not any(isinstance(item, ScenarioItem) for item in session.items):
        return None
    if _NO_PLAN in session.config.stash or not _can_run(session.config):
        session.shouldstop = "no scenario can run"
        return True
    return None


def _can_run(config: pytest.Config) -> bool:
    try:
        return config.stash[_GATE].preflight() is None
    except HarnessError as error:
        _refuse(config, str(error))
        return False


# After pytest-xdist's own: then its workers have ended, and nothing is added to the run folder any more.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Stop what this process started; then, in the process that the user started, report and decide."""
    gate = session.config.stash.get(_GATE, None)
    if gate is None:
        return
    session.config.stash[_INTERRUPTS].ignore()
    closing = [f"not everything could be ended: {problem}" for problem in gate.close()]
    if _is_worker(session.config):
        return
    refused = session.config.stash.get(_NO_PLAN, None)
    if refused is not None:
        closing.append(f"error: {refused}")
    if (gate.folder / "plan.json").exists():
        _report(session, gate.folder, exitstatus, closing)
    if refused is not None:
        session.exitstatus = summary.EXIT_STATUS["error"]
    if closing:
        session.config.stash[_CLOSING] = closing


def _report(session: pytest.Session, folder: Path, exitstatus: int, closing: list[str]) -> None:
    try:
        verdict = report.write(folder)
        loaded = run_folder.load(folder)
        closing += terminal.closing(loaded, verdict)
        report.publish(folder)
    except HarnessError as error:
        closing.append(f"error: {error}")
        session.exitstatus = summary.EXIT_STATUS["error"]
        return
    if loaded.preflight_error is not None or _decides(verdict, exitstatus, session.testsfailed):
        session.exitstatus = verdict.exit_status


def _decides(verdict: summary.Summary, exitstatus: int, failures: int) -> bool:
    """Whether the gate's exit status stands: not for pytest's own codes, nor where only other tests are broken."""
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return True
    others_failed = failures > verdict.planned - verdict.verdicts["kept"]
    return exitstatus == pytest.ExitCode.TESTS_FAILED and (verdict.gate in ("error", "broken") or not others_failed)


# -- the terminal ------------------------------------------------------------------------------------------------


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    """Leave out pytest's own letter or word for a scenario, but for the summary: it has a line of its own."""
    line = _line(report)
    if line is None or report.when != "call":
        return None
    return report.outcome, "", line.split()[0].upper() if _CLOSING in config.stash else ""


class Lines:
    """Prints one line for each scenario, as it ends."""

    def __init__(self, reporter: Any) -> None:
        self._reporter = reporter

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print the line of a scenario that has run."""
        line = _line(report)
        if line and report.when == "call":
            self._reporter.ensure_newline()
            self._reporter.write_line(line)


def _line(report: pytest.TestReport) -> str | None:
    return next((str(value) for name, value in getattr(report, "user_properties", ()) if name == "midemit"), None)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have each scenario's line printed in the process that has the terminal."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not _is_worker(session.config):
        reporter.showfspath = False
        session.config.pluginmanager.register(Lines(reporter), "midemit-lines")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Close with the gate's verdict."""
    if _CLOSING in config.stash:
        terminalreporter.section("midemit")
        for line in config.stash[_CLOSING]:
            terminalreporter.write_line(line)
