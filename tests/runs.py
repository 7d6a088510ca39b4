"""Runs pytest as a user does, in a process of its own, and insists that nothing is left of it but its reports.

Every process of a run inherits a mark in its environment, and makes its temporary directories in a folder of the
run's own: so what is left of it is found, whoever started it and whatever else goes on on the machine.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import reaper, waiting
from harness.history import History
from harness.report.run import load_histories

PROJECT = Path(__file__).resolve().parent.parent
# Generous, for a machine with other work: nothing here takes half as long on one that has nothing else to do.
TIMEOUT_SECONDS = 120.0
# A project of somebody else, with scenarios that are as quick as can be.
CONFIGURATION = """
[pytest]
addopts = -p harness.plugin --import-mode=importlib
"""
HEAD = """
import asyncio, os, pathlib, signal, sqlite3
from harness.scenario import scenario
"""
KEPT = '''
@scenario(family="kept", variants={"one": {}, "two": {}})
async def test_kept(system):
    """Every message arrives."""
    await (await system.sender("alice")).send_many(3)
'''
_MARK = "MIDEMIT_TEST_RUN"


def project(folder: Path, *parts: str) -> Path:
    """Write a project with one file for each part."""
    folder.mkdir(exist_ok=True)
    (folder / "pytest.ini").write_text(CONFIGURATION)
    for number, part in enumerate(parts):
        (folder / f"test_{number}.py").write_text(HEAD + part)
    return folder


@dataclass(frozen=True)
class Ran:
    """What a finished run left: its exit status, what it printed, its reports."""

    status: int
    output: str
    reports: Path

    @property
    def folder(self) -> Path:
        """The run folder that `latest` names."""
        return (self.reports / "latest").resolve()

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`."""
        summary = json.loads((self.folder / "summary.json").read_text())
        assert isinstance(summary, dict)
        return summary

    @property
    def scenarios(self) -> dict[str, dict[str, Any]]:
        """The scenarios of `summary.json`, by id."""
        return {scenario["id"]: scenario for scenario in self.summary["scenarios"]}

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict of each planned scenario."""
        return {name: scenario["verdict"] for name, scenario in self.scenarios.items()}

    @property
    def not_offered(self) -> dict[str, str]:
        """What is listed as not offered, with the reason."""
        return {omitted["id"]: omitted["reason"] for omitted in self.summary["not_offered"]}

    def anomalies(self, scenario: str) -> set[str]:
        """The kinds of anomaly that break what is claimed in a scenario."""
        return {anomaly["kind"] for anomaly in self.scenarios[scenario]["anomalies"]}

    def controls(self, scenario: str) -> dict[str, str]:
        """The verdict on each control of a scenario."""
        return {control["name"]: control["verdict"] for control in self.scenarios[scenario]["controls"]}

    def histories(self, scenario: str) -> dict[str, History]:
        """The histories of a scenario, by the names of their runs."""
        return load_histories(self.folder / scenario)


class Running:
    """A run of pytest under way; `running` starts one."""

    def __init__(
        self, folder: Path, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], reports: Path | None
    ) -> None:
        self.reports = reports or cwd / "reports"
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True)
        self._output = folder / "output.txt"
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", _MARK))}
        own = {"TMPDIR": str(self.temporary), "COLUMNS": "120", _MARK: self._mark.partition("=")[2]}
        # One word: two would let pytest take the folder, once it exists, for a place to look for its configuration.
        to = [f"--reports={reports}"] if reports else []
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *to, *arguments],
                cwd=cwd,
                env={**inherited, **own, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C can be sent to all of it, and to nobody else
            )
        reaper.hold("group", self.process.pid)  # a test run that is killed must not leave it behind

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors="replace")

    def wait(self) -> Ran:
        """Wait until it has ended; the processes that it started, too, and nothing of its own may be left then."""
        self.process.wait(TIMEOUT_SECONDS)
        reaper.release("group", self.process.pid)
        self.wait_until_gone()
        return Ran(self.process.returncode, self.output, self.reports)

    def wait_until_gone(self) -> None:
        """Wait until no process and no temporary directory of it is left; a port is not left by a process that is."""
        wait_until(lambda: not self.left(), "nothing of the run to be left", self.left)

    def left(self) -> list[str]:
        """The command lines of the processes that still run, and the temporary directories that are still there."""
        processes = [command for stat in Path("/proc").glob("[0-9]*") if (command := self._command(stat)) is not None]
        return [*processes, *map(str, self.temporary.glob("midemit-*"))]

    def _command(self, process: Path) -> str | None:
        try:
            marked = self._mark.encode() in (process / "environ").read_bytes().split(b"\0")
            return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") if marked else None
        except OSError:
            return None  # it has ended, or it is somebody else's

    def interrupt(self) -> None:
        """What Ctrl-C does: SIGINT to every process of the terminal's foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)


@contextmanager
def running(
    folder: Path,
    *arguments: str,
    cwd: Path = PROJECT,
    environment: Mapping[str, str] | None = None,
    own_reports: bool = True,
) -> Iterator[Running]:
    """Start pytest with `arguments`; what it prints, and its temporary directories, go below `folder`.

    So do its reports, unless it is left to write them where it does by default, in its project.
    """
    place = folder / f"run-{uuid.uuid4().hex[:8]}"
    started = Running(place, arguments, cwd, environment or {}, place / "reports" if own_reports else None)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            os.killpg(started.process.pid, signal.SIGKILL)
            started.process.wait(TIMEOUT_SECONDS)


def run(
    folder: Path,
    *arguments: str,
    cwd: Path = PROJECT,
    environment: Mapping[str, str] | None = None,
    own_reports: bool = True,
) -> Ran:
    """Run pytest with `arguments` to its end; as `running`."""
    with running(folder, *arguments, cwd=cwd, environment=environment, own_reports=own_reports) as started:
        return started.wait()


def wait_until(
    condition: Callable[[], object],
    awaited: str,
    last_seen: Callable[[], object] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> None:
    """Wait until `condition` returns something true."""
    asyncio.run(
        waiting.until(
            condition, awaited=awaited, timeout_seconds=timeout_seconds, last_seen=last_seen, interval_seconds=0.02
        )
    )
