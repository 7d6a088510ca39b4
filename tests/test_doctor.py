"""`python -m harness doctor`: everything that is looked for is a row, whatever becomes of looking for it."""

import ast
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import pytest

from harness import cache, doctor, engine, install, node, resources, trace
from harness.__main__ import main
from harness.doctor import Found, Lacking, Mark, Row, Thing
from harness.errors import HarnessError
from tests.runs import PROJECT
from tests.standins import GENUINE, NOWHERE, executable

WIDTH = 100
LONG = "a row that goes on and on about what there is, " * 5


def thing(name: str = "Thing", *, needed: bool = True) -> Thing:
    """Something to look for, which is not looked for here."""
    return Thing(name, f"uses of {name}", lambda: Found("here"), is_needed=needed)


def raising(error: Exception, *, needed: bool = True) -> Thing:
    """Something that cannot be found."""

    def look() -> NoReturn:
        raise error

    return Thing("Thing", "its uses", look, is_needed=needed)


# -- a thing becomes a row ---------------------------------------------------------------------------------------


def test_what_is_found_is_ok() -> None:
    """Version and where from."""
    row = doctor.examine(Thing("Thing", "its uses", lambda: Found("1.2, from PATH")))
    assert (row.mark, row.found, row.why, row.helps) == ("ok", "1.2, from PATH", "", "")


def test_what_the_harness_installs_itself_is_not_yet_here() -> None:
    """With the command that gets it."""
    row = doctor.examine(Thing("Thing", "its uses", lambda: Found("not yet", "get it")))
    assert (row.mark, row.found, row.helps) == ("not yet", "not yet", "get it")


@pytest.mark.parametrize(("needed", "mark"), [(True, "missing"), (False, "optional")])
def test_what_is_lacking_says_why_and_what_helps(needed: bool, mark: Mark) -> None:
    """Whether it is needed or not, and as well where the harness itself says what is short."""
    row = doctor.examine(raising(Lacking("gone", "find it"), needed=needed))
    assert (row.mark, row.why, row.helps) == (mark, "gone", "find it")
    row = doctor.examine(raising(HarnessError("short"), needed=needed))
    assert (row.mark, row.why, row.helps) == (mark, "short", "")


@pytest.mark.parametrize("error", [RuntimeError("odd"), OSError(5, "odd"), KeyError("odd"), ImportError("odd")])
@pytest.mark.parametrize("needed", [True, False])
def test_a_surprise_is_a_row_with_its_reason(error: Exception, needed: bool) -> None:
    """No traceback, and nothing that is said to be missing."""
    row = doctor.examine(raising(error, needed=needed))
    assert row.mark == "unknown"
    assert row.why == f"it could not be looked for: {type(error).__name__}: {error}"


# -- rows become a table -----------------------------------------------------------------------------------------


def test_a_row_is_a_line() -> None:
    """Mark, name, what is here and what it is needed for, in the columns of the header."""
    [head], [line] = doctor.header(), doctor.lines(Row("ok", thing(), "1.2, from PATH"))
    assert line.split("  ")[0] == "ok"
    assert line.index("1.2, from PATH") == head.index("here")
    assert line.index("uses of Thing") == head.index("needed for")
    assert line.index("Thing") == 10


def test_what_is_missing_has_its_reason_and_what_helps_beneath() -> None:
    """A command is not broken, however long it is."""
    command = "install " + "--with-an-option " * 10 + "it"
    head, *why, helps = doctor.lines(Row("missing", thing(), why=LONG, helps=command))
    assert head.startswith("missing   Thing       -  ")
    assert " ".join(line.strip() for line in why) == LONG.strip()
    assert helps == f"            what helps: {command}"


@pytest.mark.parametrize("text", [LONG, "/a/path/that/never/ends" * 10, "of\nlines\n" * 20])
def test_no_line_but_a_command_is_longer_than_a_terminal(text: str) -> None:
    """Whatever other programs have printed."""
    for row in (
        Row("ok", thing(), text),
        Row("missing", thing(), why=text),
        Row("ok", Thing("T", text, doctor._sqlite)),
    ):
        assert max(map(len, doctor.lines(row))) <= WIDTH


@pytest.mark.parametrize(
    ("mark", "needed", "can"),
    [
        ("ok", True, True),
        ("not yet", True, True),
        ("missing", True, False),
        ("unknown", True, False),
        ("optional", False, True),
        ("unknown", False, True),
        ("not yet", False, True),
    ],
)
def test_the_main_job_can_run_when_all_that_it_needs_is_here_or_will_be(mark: Mark, needed: bool, can: bool) -> None:
    """What could not be looked for is no ground to say so."""
    rows = [Row("ok", thing()), Row(mark, thing("Other", needed=needed))]
    assert doctor.can_run(rows) is can
    assert doctor.conclusion(rows).startswith(
        f"Scenarios with the Python client on the reference server {'can' if can else 'cannot'} run."
    )


def test_the_conclusion_names_all_that_is_not_here() -> None:
    """By its kind, with what it is needed for."""
    rows = [
        Row("ok", thing("A")),
        Row("missing", thing("B")),
        Row("unknown", thing("C")),
        Row("optional", thing("D", needed=False)),
        Row("optional", thing("E", needed=False)),
        Row("not yet", thing("F")),
    ]
    assert doctor.conclusion(rows).partition(" run. ")[2] == (
        "Missing: B (uses of B). Not found out: C (uses of C). Not here, and optional: D (uses of D), E (uses of E). "
        "Installed by `python -m harness setup`: F (uses of F)."
    )


# -- what helps here ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "helps"),
    [
        (("debian", 13.0), "Node", "sudo apt-get install nodejs npm"),
        (("debian", 12.0), "Node", "the page"),
        (("ubuntu", 24.04), "Node", "the page"),
        (("ubuntu", 25.1), "Node", "sudo apt-get install nodejs npm"),
        (("fedora", 42.0), "Node", "sudo dnf install nodejs nodejs-npm"),
        (("darwin", 0.0), "Node", "brew install node"),
        (("ubuntu", 22.04), "Python", "the page"),
        (("debian", float("inf")), "Python", "sudo apt-get install python3 python3-venv"),
        (("", 0.0), "Python", "the page"),
        (("debian", 12.0), "Toxiproxy", "the page"),
    ],
)
def test_a_package_is_named_where_it_is_new_enough(
    monkeypatch: pytest.MonkeyPatch, kind: tuple[str, float], name: str, helps: str
) -> None:
    """Debian 12 and Ubuntu 24.04 have Node 18: there it is the project's page."""
    monkeypatch.setattr(doctor, "_kind", lambda: kind)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor._install(name, "the page") == helps
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert doctor._install(name, "the page") == helps.removeprefix("sudo ")


def test_an_old_python_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it takes."""
    monkeypatch.setattr(sys, "version_info", (3, 10, 9, "final", 0))
    with pytest.raises(Lacking, match=r"it takes 3\.11 or newer"):
        doctor._python()


@pytest.mark.parametrize("file", ["doctor.py", "__main__.py", "errors.py", "__init__.py"])
def test_an_old_python_can_read_what_says_so(file: str) -> None:
    """What runs before anything is looked for has to be understood by what may be found."""
    ast.parse((PROJECT / "harness" / file).read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize(
    ("versions", "why", "helps"),
    [
        ({"aiohttp": None}, " lacks aiohttp==3.1 (not there)", " -m pip install aiohttp==3.1"),
        ({"aiohttp": "3.0"}, " lacks aiohttp==3.1 (3.0)", " -m pip install aiohttp==3.1"),
        ({"requests": "2.1"}, " lacks requests>=2.32 (2.1)", " -m pip install 'requests>=2.32'"),
    ],
)
def test_packages_that_do_not_fit_are_named(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str | None], why: str, helps: str
) -> None:
    """Those that are not there and those of another version, with the command; extras are nobody's need."""
    here = {"aiohttp": "3.1", "requests": "2.40"} | versions

    def version(name: str) -> str:
        if (found := here[name]) is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "requires", lambda _: ["aiohttp==3.1", "requests>=2.32", 'x==1; extra == "y"'])
    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(Lacking) as caught:
        doctor._packages()
    assert str(caught.value).endswith(why)
    assert caught.value.helps.endswith(helps)


@pytest.mark.parametrize(
    ("problem", "look", "why"),
    [
        ((node, "obstacle", lambda: "no node"), doctor._node, "no node"),
        ((engine, "lack", lambda: "no engine"), doctor._docker, "no engine"),
        ((trace, "lack", lambda: "not permitted"), doctor._ptrace, "not permitted"),
        ((resources, "_DESCRIPTORS", 2**40), doctor._files, "a process may open only"),
        ((resources, "_FREE_BYTES", 2**80), doctor._disk, "no space left on the disk of"),
        ((sys, "platform", "darwin"), doctor._prlimit, "only Linux has it"),
    ],
)
def test_what_the_harness_says_of_a_lack_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, problem: tuple[object, str, object], look: Callable[[], Found], why: str
) -> None:
    """Each part of the harness knows what it lacks."""
    monkeypatch.setattr(*problem)
    with pytest.raises(HarnessError, match=why):
        look()


@pytest.mark.parametrize(
    ("scope", "in_docker", "helps"),
    [
        ("1\n", False, "sysctl kernel.yama.ptrace_scope=0"),
        ("2\n", True, "sysctl kernel.yama.ptrace_scope=0"),
        ("3\n", False, ""),
        ("0\n", True, "a container that was started with --cap-add=SYS_PTRACE"),
        (None, True, "a container that was started with --cap-add=SYS_PTRACE"),
        (None, False, ""),
    ],
)
def test_what_permits_tracing_depends_on_what_forbids_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str | None, in_docker: bool, helps: str
) -> None:
    """The kernel's setting where that is the reason and can be changed, and in a container its capability."""
    monkeypatch.setattr(doctor, "_YAMA", tmp_path / "scope")
    monkeypatch.setattr(doctor, "_IN_DOCKER", tmp_path if in_docker else tmp_path / "none")
    if scope is not None:
        (tmp_path / "scope").write_text(scope)
    monkeypatch.setattr(trace, "lack", lambda: "not permitted")
    with pytest.raises(Lacking, match=r"^not permitted$") as caught:
        doctor._ptrace()
    assert caught.value.helps.removeprefix("sudo ") == helps


def test_reports_that_cannot_be_written_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the reports would be is a file."""
    (tmp_path / "reports").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Lacking, match=r"/reports cannot be written$") as caught:
        doctor._disk()
    assert "--reports FOLDER" in caught.value.helps


# -- programs that hang ------------------------------------------------------------------------------------------


def test_programs_that_hang_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has a deadline, and is a row."""
    for name in ("toxiproxy-server", "node", "npm", "go", "setpriv"):
        executable(tmp_path / name, "#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HTTPS_PROXY", NOWHERE)
    for module, deadline in ((node, "_VERSION"), (install, "_VERSION"), (install, "_GO_ANSWER"), (doctor, "_TRY")):
        monkeypatch.setattr(module, f"{deadline}_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(trace, "lack", lambda: None)
    monkeypatch.setattr(engine, "lack", lambda: "none")
    assert main(["doctor"]) == 1
    told = "".join(capsys.readouterr().out.split())  # long words are broken
    commands = [f"{tmp_path}/toxiproxy-server -version", "node --version", f"{tmp_path}/go version"]
    if os.geteuid() == 0:
        commands.append(f"{sys.executable} -I -S -c")
    for command in commands:
        assert "".join(f"{command} ` did not end within 0.3 s".split()) in told


# -- the command -------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What the command printed, and its exit status."""

    status: int
    lines: list[str]

    def mark(self, name: str) -> str:
        """The mark of a row."""
        [mark] = [line[:10].strip() for line in self.lines if line[10:22].strip() == name and line[0] != " "]
        return mark

    def has(self, text: str) -> bool:
        """Whether it was said, wherever the lines end."""
        return text in " ".join(" ".join(self.lines).split())


def doctor_told(env: Mapping[str, str | None], *options: str, cwd: Path = PROJECT) -> Told:
    """Run the command with changes to the environment; None takes a variable away."""
    changed = {**os.environ, **env}
    told = subprocess.run(
        [sys.executable, *options, "-m", "harness", "doctor"],
        cwd=cwd,
        env={name: value for name, value in changed.items() if value is not None},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.stderr == ""
    assert "Traceback" not in told.stdout
    lines = told.stdout.splitlines()
    assert [line for line in lines if len(line) > WIDTH and "what helps: " not in line] == []
    return Told(told.returncode, lines)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder for PATH in which there is a shell, and nothing else."""
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    return folder


@pytest.fixture
def bare(tmp_path: Path, path: Path) -> dict[str, str | None]:
    """A machine without any program but a shell, with an empty cache and no network."""
    proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), NOWHERE)
    (tmp_path / "cache").mkdir()
    return {"PATH": str(path), "XDG_CACHE_HOME": str(tmp_path / "cache"), **proxies}


def test_where_the_tests_run_scenarios_can(tmp_path: Path) -> None:
    """All that is needed is found; from any folder, and nothing is written there."""
    told = doctor_told({}, cwd=tmp_path)
    assert told.status == 0
    for name in ("System", "Python", "Packages", "Toxiproxy", "SQLite", "Ports", "Open files", "Disk"):
        assert told.mark(name) in ("ok", "not yet")
    assert told.has("Scenarios with the Python client on the reference server can run.")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_path_and_an_empty_cache(bare: dict[str, str | None], tmp_path: Path) -> None:
    """No shell, no Toxiproxy and no way to it: each with its reason; nothing is installed."""
    (tmp_path / "nothing").mkdir()
    told = doctor_told(bare | {"PATH": str(tmp_path / "nothing")})
    assert told.status == 1
    assert (told.mark("System"), told.mark("Toxiproxy"), told.mark("Node")) == ("missing", "missing", "optional")
    assert told.has("PATH: no `toxiproxy-server` there; cache: ")
    assert told.has("go install: no `go` on PATH")
    assert told.has("reference server cannot run. Missing: System (everything), Toxiproxy (faults of links).")
    assert list((tmp_path / "cache").iterdir()) == []


def test_toxiproxy_that_can_be_installed_is_not_yet_here(
    bare: dict[str, str | None], path: Path, tmp_path: Path
) -> None:
    """Scenarios can run, since they install it; the doctor does not."""
    executable(path / "go", "#!/bin/sh\necho go version go1.23.1 linux/amd64\n")
    told = doctor_told(bare)
    assert told.status == 0
    assert told.mark("Toxiproxy") == "not yet"
    assert told.has("not yet: 2.12.0 by go install")
    assert told.has("what helps: python -m harness setup")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("source", ["PATH", "cache"])
def test_toxiproxy_that_is_here_is_told_with_its_place(
    bare: dict[str, str | None], path: Path, tmp_path: Path, source: str
) -> None:
    """On PATH, or in the cache."""
    folder = path if source == "PATH" else tmp_path / "cache" / "midemit" / "toxiproxy-2.12.0"
    executable(folder / "toxiproxy-server", GENUINE)
    told = doctor_told(bare)
    assert (told.status, told.mark("Toxiproxy")) == (0, "ok")
    assert told.has(f"2.12.0, from {source}: ")


def test_without_node_scenarios_can_run(bare: dict[str, str | None], path: Path) -> None:
    """It is optional, with what installs it and what it is for."""
    executable(path / "toxiproxy-server", GENUINE)
    told = doctor_told(bare)
    assert (told.status, told.mark("Node")) == (0, "optional")
    assert told.has("there is no `node` on PATH what helps: ")
    assert told.has("Node (Node clients and servers)")


def test_node_without_its_packages_is_not_yet_here(bare: dict[str, str | None], path: Path, tmp_path: Path) -> None:
    """The packages are installed by the same command as Toxiproxy, and not by the doctor."""
    executable(path / "toxiproxy-server", GENUINE)
    for program in ("node", "npm"):
        executable(path / program, "#!/bin/sh\necho v22.1.0\n")
    told = doctor_told(bare)
    assert (told.status, told.mark("Node")) == (0, "not yet")
    assert told.has("v22.1.0, ")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_home_the_users_own_is_taken() -> None:
    """As the cache takes it."""
    assert doctor_told({"HOME": None, "XDG_CACHE_HOME": None}).status == 0


def test_without_any_home_folder_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know, as in a container, is told what to set."""

    def unknown(_: int) -> NoReturn:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(cache.InstallError, match="set HOME, or XDG_CACHE_HOME"):
        cache.default_folder()
    assert doctor.examine(Thing("Toxiproxy", "", doctor._toxiproxy)).why.startswith("there is no home folder")


def test_without_any_package_it_says_so(bare: dict[str, str | None]) -> None:
    """A Python without site-packages, as one has it before anything is set up."""
    told = doctor_told(bare, "-S")
    assert (told.status, told.mark("Packages"), told.mark("Python")) == (1, "missing", "ok")
    assert told.mark("Toxiproxy") == "unknown"
    assert told.has("what helps: make .venv/.ready")
    assert told.has("ModuleNotFoundError: No module named 'requests'")


def test_a_terminal_that_knows_ascii_only(bare: dict[str, str | None], tmp_path: Path) -> None:
    """Names that it cannot show are spelled out."""
    place = tmp_path / "m\u00fcll"
    place.mkdir()
    told = doctor_told(bare | {"PYTHONIOENCODING": "ascii"}, cwd=place)
    assert told.mark("Disk") == "ok"
    assert told.has("\\xfcll")


def test_it_is_among_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """With its exit status."""
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    assert "exits with 1 when none can run" in " ".join(capsys.readouterr().out.split())
