"""The harness's own faults: a named error, nothing orphaned, nothing of anybody else touched, the rest unharmed.

Each test is a whole run, with the real Toxiproxy and the reference server. `Running.wait` insists that no process and
no temporary directory is left of it.
"""

import contextlib
import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import history as h
from harness.history import History
from harness.install import locate
from harness.report.run import HISTORY
from tests.runs import KEPT, PROJECT, Ran, Running, project, run, running, wait_until

BASELINE = "baseline-one-python-websocket"
SELECTED = "(baseline-one or cut-middle) and websocket"
ALONE_AND_WORKERS = pytest.mark.parametrize("processes", [1, 2], ids=["alone", "workers"])
# Sooner than pytest-xdist's workers would end by themselves.
SOON_SECONDS = 4.5

# In the middle of a fault until somebody ends it; and then it cleans up until the file `clean` is there.
HANGS = '''
@scenario(family="hangs", variants={"one": {}, "two": {}})
async def test_hangs(system):
    """A schedule that hangs."""
    alice = await system.sender("alice")
    await alice.send()
    async with system.inject(alice.link.lose_acknowledgement()) as fault:
        await fault.bitten(alice.post())
        pathlib.Path(f"hangs-{os.getpid()}").touch()
        try:
            await asyncio.Event().wait()
        finally:
            pathlib.Path(f"cleans-{os.getpid()}").touch()
            while not pathlib.Path("clean").exists():
                await asyncio.sleep(0.01)
'''
DIES = '''
@scenario(family="dies")
async def test_dies(system):
    """The process that runs the schedule is killed."""
    await (await system.sender("alice")).send()
    os.kill(os.getpid(), signal.SIGKILL)
'''
LOSES_TOXIPROXY = '''
def toxiproxy():
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            program, _, rest = stat.read_text(errors="replace").rpartition(")")
        except OSError:
            continue
        if program.endswith("(toxiproxy-serve") and int(rest.split()[1]) == os.getpid():
            return int(program.split()[0])

@scenario(family="toxiproxy", variants={"killed": {"number": signal.SIGKILL}, "stuck": {"number": signal.SIGSTOP}})
async def test_toxiproxy(system, number):
    """Toxiproxy is gone, or stuck, in the middle."""
    alice = await system.sender("alice")
    await alice.send()
    os.kill(toxiproxy(), number)
    await alice.send()
'''
FILLS_THE_DISK = '''
@scenario(family="fills")
async def test_fills(system):
    """Somebody fills the disk."""
    alice = await system.sender("alice")
    await alice.send()
    filler = pathlib.Path(os.environ["DISK"], "filler")
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(1000)) == 1000:
                pass
    except OSError:
        pass
    await alice.send_many(60)  # more than the history has room for
    if os.environ.get("IT_IS_FREED"):
        filler.unlink()
'''
TAKES_ALL_DESCRIPTORS = '''
@scenario(family="takes")
async def test_takes(system):
    """Somebody takes all file descriptors."""
    await (await system.sender("alice")).send()
    taken = []
    try:
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        await (await system.sender("bob")).send()
    finally:
        for descriptor in taken:
            os.close(descriptor)
'''
# Plugins of a run, for what happens to its process.
FEW_DESCRIPTORS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
"""
JUMPING_CLOCK = """
import datetime, itertools, time
real, jumps = time.time, itertools.cycle((3600, -3600, 0))
class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
time.time = lambda: real() + next(jumps)
time.time_ns = lambda: int(time.time() * 1e9)
datetime.datetime = Jumping
"""


def plugin(folder: Path, source: str) -> dict[str, Any]:
    """Arguments of `run` that load a plugin into each of its processes."""
    (folder / "of_the_test.py").write_text(source)
    return {"environment": {"PYTHONPATH": str(folder), "PYTEST_PLUGINS": "of_the_test"}}


def require_error(ran: Ran, *named: str) -> None:
    """A run that failed says why, and no defect of ours shows."""
    assert ran.status == 3, ran.output
    for text in named:
        assert text in ran.output, ran.output
    for defect in ("Traceback", "INTERNALERROR", "Exception ignored", "never retrieved", "Task was destroyed"):
        assert defect not in ran.output, ran.output


# -- pytest is ended ---------------------------------------------------------------------------------------------


@contextmanager
def hanging(folder: Path, processes: int) -> Iterator[tuple[Running, Path]]:
    """Start a run and wait until each of its processes is in the middle of a fault; the run and its project."""
    place = project(folder / "project", KEPT, HANGS)
    workers = ["-n", str(processes)] if processes > 1 else []
    with running(folder, "-k", "(kept-one or hangs) and websocket", *workers, cwd=place) as started:
        wait_until(
            lambda: len(list(place.glob("hangs-*"))) == processes or started.process.poll() is not None,
            "the schedules to hang",
            lambda: started.output,
        )
        # For each process a server and its directory, a Toxiproxy and a reaper.
        assert len(started.left()) >= 1 + 4 * processes, started.output
        yield started, place


def require_histories(reports: Path, processes: int) -> Path:
    """The histories of the runs that hung can be read, up to the bite; returns the run folder."""
    (folder,) = (path for path in reports.iterdir() if not path.is_symlink())
    histories = [History.load(path) for path in folder.glob(f"hangs-*/*/{HISTORY}")]
    seen = [any(isinstance(event, h.Bitten) and event.seen for event in history) for history in histories]
    assert seen == [True] * processes
    return folder


@ALONE_AND_WORKERS
def test_sigkill_of_pytest(processes: int, tmp_path: Path) -> None:
    """All ends with pytest, its workers at once; what is there can be rendered, and only what had finished is kept."""
    with hanging(tmp_path, processes) as (started, _):
        started.process.kill()
        wait_until(lambda: not started.left(), "everything to end", started.left, timeout_seconds=SOON_SECONDS)
        ran = started.wait()
    folder = require_histories(ran.reports, processes)
    command = [sys.executable, "-m", "harness", "render", str(folder)]
    rendered = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert (rendered.returncode, rendered.stderr) == (0, "")
    summary = json.loads((folder / "summary.json").read_text())
    verdicts = {scenario["id"]: scenario["verdict"] for scenario in summary["scenarios"]}
    assert summary["gate"] == "error"
    assert {name for name, verdict in verdicts.items() if verdict == "kept"} <= {"kept-one-python-websocket"}
    assert [verdict for name, verdict in verdicts.items() if name.startswith("hangs")] == ["error", "error"]


@ALONE_AND_WORKERS
def test_sigterm_of_pytest(processes: int, tmp_path: Path) -> None:
    """SIGTERM is as good as Ctrl-C: everything ends, and there is a report."""
    with hanging(tmp_path, processes) as (started, place):
        (place / "clean").touch()
        started.process.terminate()
        ran = started.wait()
    assert (ran.status, ran.summary["gate"]) == (2, "error"), ran.output
    assert ran.verdicts["kept-one-python-websocket"] == "kept"
    assert "Traceback" not in ran.output
    require_histories(ran.reports, processes)


@ALONE_AND_WORKERS
def test_second_ctrl_c(processes: int, tmp_path: Path) -> None:
    """A Ctrl-C, and a SIGTERM, while an earlier Ctrl-C is being handled change nothing."""
    with hanging(tmp_path, processes) as (started, place):
        started.interrupt()
        started.interrupt()
        wait_until(lambda: len(list(place.glob("cleans-*"))) == processes, "it to clean up", lambda: started.output)
        started.interrupt()
        started.process.terminate()
        (place / "clean").touch()
        ran = started.wait()
    assert (ran.status, ran.summary["gate"]) == (2, "error"), ran.output
    assert "Traceback" not in ran.output
    assert "Exception ignored" not in ran.output
    require_histories(ran.reports, processes)


def test_sigkill_of_one_worker(tmp_path: Path) -> None:
    """A worker that is killed takes its scenario with it, and no other; the scenario says whose death that was."""
    ran = run(
        tmp_path, "-n", "2", "-k", "kept-one or dies-python-polling", cwd=project(tmp_path / "project", DIES, KEPT)
    )
    require_error(ran)
    died = "dies-python-polling"
    kept = dict.fromkeys(("kept-one-python-websocket", "kept-one-python-polling"), "kept")
    assert ran.verdicts == {died: "error", **kept}, ran.output
    assert (ran.summary["planned"], ran.summary["ran"]) == (3, 2)
    assert re.fullmatch(r"it did not finish: its worker gw\d died during its claim", ran.scenarios[died]["why"])
    assert any(isinstance(event, h.Ok) for event in ran.histories(died)["claim"])


# -- Toxiproxy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("killed", r"Toxiproxy at http://\S+ is dead.*\n.*was ended by SIGKILL; the last lines of .*log:\n.*level"),
        ("stuck", r"Toxiproxy at http://\S+ did not answer \w+ within 10 s"),
    ],
    ids=["killed", "stuck"],
)
def test_toxiproxy_dies_or_is_stuck(how: str, named: str, tmp_path: Path) -> None:
    """The scenario says so, soon, and the next one gets a new Toxiproxy and is kept."""
    place = project(tmp_path / "project", LOSES_TOXIPROXY, KEPT)
    ran = run(tmp_path, "-k", f"({how} or kept-one) and websocket", cwd=place)
    require_error(ran)
    lost = f"toxiproxy-{how}-python-websocket"
    assert ran.verdicts == {lost: "error", "kept-one-python-websocket": "kept"}, ran.output
    assert re.search(named, ran.scenarios[lost]["why"]), ran.scenarios[lost]["why"]
    assert ran.scenarios[lost]["seconds"] < 40  # one API timeout and the patience of the clients
    assert any(isinstance(event, h.Ok) for event in ran.histories(lost)["claim"])


def proxies(port: int) -> Any:
    """What a Toxiproxy has."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/proxies")
        return json.loads(connection.getresponse().read())


def answers(port: int) -> bool:
    """Whether a Toxiproxy answers."""
    try:
        proxies(port)
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return True


@contextmanager
def somebody_elses_toxiproxy(port: int) -> Iterator[None]:
    """A Toxiproxy with a proxy and a toxic of its own; or the one that is there already, as it is."""
    if answers(port):
        yield
        return
    command = [str(locate().path), "-host", "127.0.0.1", "-port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: answers(port), "somebody else's Toxiproxy")
            for path, body in (
                ("/proxies", {"name": "theirs", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:9"}),
                ("/proxies/theirs/toxics", {"name": "slow", "type": "latency", "attributes": {"latency": 5}}),
            ):
                with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                    connection.request("POST", path, json.dumps(body))
                    assert connection.getresponse().status in (200, 201)
            yield
        finally:
            process.kill()


def test_toxiproxy_of_somebody_else_on_the_default_port(tmp_path: Path) -> None:
    """What runs on Toxiproxy's default port is nobody's business: its proxies and toxics stay as they are."""
    port = 8474
    with somebody_elses_toxiproxy(port):
        before = proxies(port)
        ran = run(tmp_path, "scenarios", "-k", SELECTED)
        assert proxies(port) == before
    assert (ran.status, set(ran.verdicts.values())) == (0, {"kept"}), ran.output


# -- the disk under reports/ -------------------------------------------------------------------------------------


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A small disk of its own."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@ALONE_AND_WORKERS
@pytest.mark.parametrize("size", ["4k", "64k"], ids=["no byte", "some bytes"])
def test_full_disk(size: str, processes: int, tmp_path: Path) -> None:
    """A disk that is full, or nearly, is named before any scenario runs; the files there stay as they are."""
    workers = ["-n", str(processes)] if processes > 1 else []
    with disk(tmp_path / "disk", size) as reports:
        (reports / "mine").write_text("x" * 4096)
        ran = run(tmp_path, "scenarios", "-k", SELECTED, *workers, f"--reports={reports}")
        assert (reports / "mine").read_text() == "x" * 4096
        assert not list(reports.glob("*/baseline*"))
    require_error(ran, "No space left on device" if size == "4k" else "no space left on the disk of")


@pytest.mark.parametrize("freed", [True, False], ids=["and is freed", "for good"])
def test_disk_that_fills_up_in_the_middle(freed: bool, tmp_path: Path) -> None:
    """The scenario in which the disk fills up is an error; those before it are kept, and those after it if they can."""
    place = project(tmp_path / "project", KEPT, FILLS_THE_DISK, KEPT.replace("kept", "after"))
    with disk(tmp_path / "disk", "4m") as reports:
        (reports / "mine").write_text("mine")
        environment = {"DISK": str(reports), **({"IT_IS_FREED": "1"} if freed else {})}
        selected = ("-k", "(one or fills) and websocket", f"--reports={reports}")
        ran = run(tmp_path, *selected, cwd=place, environment=environment)
        (folder,) = reports.glob("2*")
        before = History.load(folder / "kept-one-python-websocket" / "claim" / HISTORY)
        filled = History.load(folder / "fills-python-websocket" / "claim" / HISTORY)
        assert (reports / "mine").read_text() == "mine"
    require_error(ran, "o space left")
    assert "kept      kept-one-python-websocket" in ran.output
    assert ("kept      after-one-python-websocket" in ran.output) == freed
    assert isinstance(before.events[-1], h.Finished)
    assert any(isinstance(event, h.Ok) for event in filled)
    assert not any(isinstance(event, h.Finished) for event in filled)


@pytest.mark.parametrize("default", [False, True], ids=["--reports", "default"])
def test_read_only_reports(default: bool, tmp_path: Path) -> None:
    """Reports that cannot be written are named, with the reason, before anything runs."""
    place = project(tmp_path / "project", KEPT)
    with disk(place / "reports", "4m") as reports:
        subprocess.run(["mount", "-o", "remount,ro", reports], check=True)
        option = [] if default else [f"--reports={reports}"]
        ran = run(tmp_path, "-k", "kept-one", *option, cwd=place, own_reports=False)
        assert list(reports.iterdir()) == []
    assert ran.status == (3 if default else 4), ran.output
    assert str(reports) in ran.output
    assert ("Read-only file system" if default else "cannot be written") in ran.output
    assert "kept-one" not in ran.output
    assert "Traceback" not in ran.output
    assert "INTERNALERROR" not in ran.output


# -- what else a process needs -----------------------------------------------------------------------------------


@ALONE_AND_WORKERS
def test_few_file_descriptors(processes: int, tmp_path: Path) -> None:
    """Where too few files may be open no scenario runs, and the error says what helps."""
    workers = ["-n", str(processes)] if processes > 1 else []
    lowered = plugin(tmp_path, FEW_DESCRIPTORS.format(limit=40))
    ran = run(tmp_path, "scenarios", "-k", SELECTED, *workers, **lowered)
    require_error(ran, "may open only 40 files", "ulimit -n")
    assert (ran.summary["gate"], ran.summary["ran"]) == ("error", 0)


def test_no_file_descriptors_left_in_the_middle(tmp_path: Path) -> None:
    """A scenario that finds none left is an error that says what helps; the next one is unharmed."""
    place = project(tmp_path / "project", TAKES_ALL_DESCRIPTORS, KEPT)
    lowered = plugin(tmp_path, FEW_DESCRIPTORS.format(limit=200))
    ran = run(tmp_path, "-k", "(takes or kept-one) and websocket", cwd=place, **lowered)
    require_error(ran, "Too many open files (see `ulimit -n`)")
    assert ran.verdicts == {"takes-python-websocket": "error", "kept-one-python-websocket": "kept"}, ran.output


def test_clock_that_jumps(tmp_path: Path) -> None:
    """A clock that jumps by an hour, to and fro, changes no verdict and no duration."""
    ran = run(tmp_path, "scenarios", "-k", SELECTED, **plugin(tmp_path, JUMPING_CLOCK))
    assert (ran.status, set(ran.verdicts.values())) == (0, {"kept"}), ran.output
    assert all(0 < scenario["seconds"] < 600 for scenario in ran.scenarios.values())
    for name in ran.scenarios:
        for history in ran.histories(name).values():
            assert all(0 <= event.time < 600 for event in history)


def test_leftovers_of_earlier_runs(tmp_path: Path) -> None:
    """What earlier runs left is neither touched nor in the way; `latest` names the new run."""
    temporary, reports = tmp_path / "tmp", tmp_path / "reports"
    for number in range(50):
        for leftover in (temporary / f"midemit-{number:08}", reports / f"20200101-0000{number:02}-abcd"):
            leftover.mkdir(parents=True)
            (leftover / "store.db").write_text(f"of run {number}")
    (reports / "latest").symlink_to("20200101-000049-abcd")

    def leftovers() -> dict[Path, str]:
        return {path: path.read_text() for folder in (temporary, reports) for path in folder.glob("*[0-9]*/store.db")}

    before = leftovers()
    assert len(before) == 100
    ran = run(tmp_path, "scenarios", "-k", SELECTED, f"--reports={reports}", environment={"TMPDIR": str(temporary)})
    assert ran.status == 0, ran.output
    assert leftovers() == before
    assert len(list(temporary.iterdir())) == 50
    (new,) = (path for path in reports.glob("2*") if not path.name.startswith("20200101-"))
    assert (reports / "latest").resolve() == new
    assert json.loads((new / "summary.json").read_text())["gate"] == "kept"


def test_schedule_that_hangs(tmp_path: Path) -> None:
    """A schedule that waits for ever is an error when its time is over; the next scenario is unharmed."""
    place = project(tmp_path / "project", HANGS, KEPT)
    (place / "clean").touch()
    ran = run(tmp_path, "-k", "(hangs-one or kept-one) and websocket", "--scenario-timeout", "5", cwd=place)
    require_error(ran)
    hung = "hangs-one-python-websocket"
    assert ran.verdicts == {hung: "error", "kept-one-python-websocket": "kept"}, ran.output
    assert re.search(r"waited [45]\S* s for the scenario to end .*--scenario-timeout", ran.scenarios[hung]["why"])
    assert ran.scenarios[hung]["seconds"] < 30
    require_histories(ran.reports, 1)


@pytest.mark.parametrize("time", ["-1", "soon"])
def test_time_that_is_none(time: str, tmp_path: Path) -> None:
    """A `--scenario-timeout` that is no time is pytest's usage error."""
    ran = run(tmp_path, "scenarios", f"--scenario-timeout={time}")
    assert ran.status == 4
    assert f"argument --scenario-timeout: {time} is no number of seconds above 0" in ran.output
