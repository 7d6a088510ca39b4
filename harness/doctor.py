"""`python -m harness doctor`: what is on this machine, what it is needed for, and what installs the rest.

It has to run where next to nothing is there, on an older Python and without any package: so it imports what it looks
for only when it looks.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import HarnessError, brief, ending

Mark = Literal["ok", "not yet", "missing", "optional", "unknown"]
"""Here; to be installed by the harness itself; needed and not here; not here, and not needed by the main job; not found
out."""

WHAT = "say what of all that scenarios need is here, and what installs the rest; exits with 1 when none can run"

_OLDEST_PYTHON = (3, 11)
_DECISIVE = ("python-socketio", "python-engineio", "aiohttp")
_SETUP = "python -m harness setup"
_TRY_TIMEOUT_SECONDS = 10.0
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_IN_DOCKER = Path("/.dockerenv")

_INDENT = 10
_WIDTHS = (12, 52, 26)
"""Of the columns behind the mark: 100 with it."""

# Where a package is known to be new enough: from which version of the system on, and the command.
_INSTALLS = {
    ("Python", "debian"): (12, "sudo apt-get install python3 python3-venv"),
    ("Python", "ubuntu"): (24.04, "sudo apt-get install python3 python3-venv"),
    ("Python", "fedora"): (37, "sudo dnf install python3"),
    ("Python", "darwin"): (0, "brew install python"),
    ("Node", "debian"): (13, "sudo apt-get install nodejs npm"),
    ("Node", "ubuntu"): (25.04, "sudo apt-get install nodejs npm"),
    ("Node", "fedora"): (39, "sudo dnf install nodejs nodejs-npm"),
    ("Node", "darwin"): (0, "brew install node"),
    ("Toxiproxy", "darwin"): (0, "brew install shopify/shopify/toxiproxy"),
    ("setpriv", "debian"): (8, "sudo apt-get install util-linux"),
    ("setpriv", "ubuntu"): (16.04, "sudo apt-get install util-linux"),
    ("setpriv", "fedora"): (20, "sudo dnf install util-linux"),
}


class Lacking(HarnessError):
    """Something is not here, or is of no use; the text says why, `helps` is a command or a page."""

    def __init__(self, why: str, helps: str = "") -> None:
        super().__init__(why)
        self.helps = helps


@dataclass(frozen=True)
class Found:
    """What is here: version and where from; `helps` is what installs a part that is not here yet."""

    text: str
    helps: str = ""


@dataclass(frozen=True)
class Thing:
    """What a scenario may need of the machine; without what `is_needed` none can run.

    Attributes:
        look: finds it, or raises a HarnessError that says why not; any other error is told as the surprise that it is.
    """

    name: str
    needed_for: str
    look: Callable[[], Found]
    is_needed: bool = True


@dataclass(frozen=True)
class Row:
    """What was found out about a thing: `found` is what is here of it, `why` it is not, and what `helps`."""

    mark: Mark
    thing: Thing
    found: str = "-"
    why: str = ""
    helps: str = ""


def run() -> int:
    """Look for everything, print the table, and return 0 when the main job can run, else 1."""
    _say(header())
    rows = []
    try:
        for thing in things():
            rows.append(examine(thing))
            _say(lines(rows[-1]))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 2  # as harness.interrupt has it, which an older Python cannot import
    _say(["", *_wrapped(conclusion(rows), sum(_WIDTHS) + _INDENT)])
    return 0 if can_run(rows) else 1


def _say(text: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in text))
    sys.stdout.flush()


def examine(thing: Thing) -> Row:
    """Look for a thing; whatever becomes of that is a row."""
    try:
        found = thing.look()
    except HarnessError as error:
        helps = error.helps if isinstance(error, Lacking) else ""
        return Row("missing" if thing.is_needed else "optional", thing, why=str(error), helps=helps)
    except Exception as error:
        return Row("unknown", thing, why=f"it could not be looked for: {type(error).__name__}: {error}")
    return Row("not yet" if found.helps else "ok", thing, found.text, helps=found.helps)


# -- the table ---------------------------------------------------------------------------------------------------


def header() -> list[str]:
    """The names of the columns."""
    return _columns("", ("", "here", "needed for"))


def lines(row: Row) -> list[str]:
    """A row of the table, 100 columns wide at most, and beneath it why it is not here and, unbroken, what helps."""
    text = _columns(row.mark, (row.thing.name, row.found, row.thing.needed_for))
    beneath = " " * (_INDENT + 2)
    text += [beneath + line for line in _wrapped(row.why, sum(_WIDTHS) - 2)]
    if row.helps:
        text.append(f"{beneath}what helps: {row.helps}")
    return text


def _columns(mark: str, cells: tuple[str, ...]) -> list[str]:
    columns = [_wrapped(cell, width - 1) for cell, width in zip(cells, _WIDTHS)]  # noqa: B905 - Python 3.9 has no `strict`
    height = max(map(len, columns))
    text = []
    for number in range(height):
        parts = [column[number] if number < len(column) else "" for column in columns]
        padded = "".join(part.ljust(width) for part, width in zip(parts, _WIDTHS))  # noqa: B905
        text.append(((mark if number == 0 else "").ljust(_INDENT) + padded).rstrip())
    return text


def _wrapped(text: str, width: int) -> list[str]:
    # A part of a path or of an address stays in one piece where it can.
    return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def can_run(rows: Iterable[Row]) -> bool:
    """Whether scenarios can run with the Python client on the reference server."""
    return all(row.mark in ("ok", "not yet") for row in rows if row.thing.is_needed)


def conclusion(rows: Iterable[Row]) -> str:
    """Whether the main job can run, and what is not here."""
    rows = list(rows)
    text = [f"Scenarios with the Python client on the reference server {'can' if can_run(rows) else 'cannot'} run."]
    for mark, words in (
        ("missing", "Missing"),
        ("unknown", "Not found out"),
        ("optional", "Not here, and optional"),
        ("not yet", f"Installed by `{_SETUP}`"),
    ):
        if names := [f"{row.thing.name} ({row.thing.needed_for})" for row in rows if row.mark == mark]:
            text.append(f"{words}: {', '.join(names)}.")
    return " ".join(text)


# -- what is looked for ------------------------------------------------------------------------------------------


def things() -> list[Thing]:
    """Everything that scenarios may need of this machine, the needed first."""
    optional = [
        Thing("Node", "Node clients and servers", _node, is_needed=False),
        Thing("Docker", "servers in containers", _docker, is_needed=False),
        Thing("ptrace", "faults at system calls", _ptrace, is_needed=False),
        Thing("prlimit", "a full disk", _prlimit, is_needed=False),
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        optional.append(Thing("setpriv", "a read-only store", _setpriv, is_needed=False))
    return [
        Thing("System", "everything", _system),
        Thing("Python", "everything", _python),
        Thing("Packages", "everything", _packages),
        Thing("Toxiproxy", "faults of links", _toxiproxy),
        Thing("SQLite", "the server's store", _sqlite),
        Thing("Ports", "servers and links", _ports),
        Thing("Open files", "clients and servers", _files),
        Thing("Disk", "histories and reports", _disk),
        *optional,
    ]


def _system() -> Found:
    if os.name != "posix":
        raise Lacking(f"this is {platform.system()}, and it takes Linux or macOS", "WSL on Windows")
    if shutil.which("sh") is None:
        raise Lacking("there is no `sh` on PATH", "a PATH with /bin in it")
    return Found(f"{platform.system()} {platform.release()} {platform.machine()}")


def _python() -> Found:
    if sys.version_info[:2] < _OLDEST_PYTHON:
        oldest = ".".join(map(str, _OLDEST_PYTHON))
        raise Lacking(
            f"this is Python {platform.python_version()}, and it takes {oldest} or newer ({_short(sys.executable)})",
            _install("Python", "https://www.python.org/downloads/"),
        )
    return Found(f"{platform.python_version()}, {_short(sys.executable)}")


def _packages() -> Found:
    from importlib import import_module, metadata

    try:
        requirements = [text for text in metadata.requires("midemit") or [] if "extra ==" not in text]
    except metadata.PackageNotFoundError:
        helps = "make .venv/.ready, then .venv/bin/python -m harness doctor"
        raise Lacking(f"midemit is not installed for {_short(sys.executable)}", helps) from None
    here = {text: _version(text) for text in requirements}
    # Only what is there is compared: that takes a package, too.
    wrong = [text for text in here if not here[text]] or [text for text in here if not _satisfies(here[text], text)]
    if wrong:
        told = ", ".join(f"{text} ({here[text] or 'not there'})" for text in wrong)
        raise Lacking(f"{_short(sys.executable)} lacks {told}", _pip(wrong))
    try:
        import_module("harness.plugin")
    except ImportError as error:
        raise Lacking(f"they cannot be imported: {error}", _pip(["--force-reinstall", *requirements])) from error
    return Found(", ".join(f"{name} {metadata.version(name)}" for name in _DECISIVE))


def _version(requirement: str) -> str:
    """The version of a required package that is installed, or nothing."""
    from importlib import metadata

    name = re.match(r"[\w.-]+", requirement)
    try:
        return metadata.version(name[0] if name else requirement)
    except metadata.PackageNotFoundError:
        return ""


def _satisfies(version: str, requirement: str) -> bool:
    from packaging.requirements import Requirement  # comes with pytest

    return Requirement(requirement).specifier.contains(version, prereleases=True)


def _pip(words: list[str]) -> str:
    return shlex.join([sys.executable, "-m", "pip", "install", *words])


def _toxiproxy() -> Found:
    from harness import install

    try:
        found = install.foresee()
    except HarnessError as error:
        page = f"`toxiproxy-server` on PATH, from {install.OFFICIAL.replace('/download/', '/tag/')}"
        raise Lacking(_reasons(str(error)), _install("Toxiproxy", page)) from error
    version = "a build by Go" if found.version == "git" else found.version
    if found.source in ("PATH", "cache"):
        return Found(f"{version}, from {found.source}: {_short(found.path)}")
    return Found(f"not yet: {install.RELEASE} by {found.source}", _SETUP)


def _reasons(report: str) -> str:
    """What was tried, of the report of `install`, which goes on with all that helps anywhere."""
    tried = [line.strip() for line in report.splitlines() if line.startswith("  ") and not line.startswith("  - ")]
    return "; ".join(tried) or report


def _sqlite() -> Found:
    import sqlite3

    sqlite3.connect(":memory:").close()
    return Found(f"{sqlite3.sqlite_version}, from Python")


def _ports() -> Found:
    from harness import ports

    ports.reserve().release()
    return Found("free on 127.0.0.1")


def _files() -> Found:
    import resource

    from harness import resources

    resources.require_descriptors()
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Found("no limit" if limit == resource.RLIM_INFINITY else f"up to {limit:,}")


def _disk() -> Found:
    from harness import resources

    folder = Path.cwd() / "reports"
    there = resources.nearest(folder)
    if not resources.is_open(there):
        raise Lacking(f"{folder} cannot be written", "pytest scenarios --reports FOLDER, with one that is open to you")
    resources.require_room(there)
    return Found(f"{shutil.disk_usage(there).free / 1e9:,.1f} GB free for {_short(folder)}")


def _node() -> Found:
    from harness import node

    if (obstacle := node.obstacle()) is not None:
        page = f"https://nodejs.org/en/download ({node.OLDEST} or newer)"
        raise Lacking(obstacle, _install("Node", page))
    versions, folder = node.versions(), node.modules_folder()
    here = f"{versions['node']}, {shutil.which('node')};"
    packages = f"socket.io {versions['socket.io']} and other packages"
    if folder.is_dir():
        return Found(f"{here} {packages} in {_short(folder.parent)}")
    return Found(f"{here} not yet: {packages}", _SETUP)


def _docker() -> Found:
    from harness import engine

    if (lack := engine.lack()) is not None:
        raise Lacking(lack)
    return Found(f"{engine.version()}, {os.environ.get('DOCKER_HOST') or 'the engine of this machine'}")


def _ptrace() -> Found:
    from harness import trace

    if (lack := trace.lack()) is not None:
        raise Lacking(lack, _permission_to_trace())
    return Found("permitted (no strace is needed)")


def _permission_to_trace() -> str:
    """What lets one trace one's own processes; nothing where that is not known."""
    try:
        scope = _YAMA.read_text().strip()
    except OSError:
        scope = "0"
    if scope in ("1", "2"):  # 3 stays until the next boot
        return _as_user("sudo sysctl kernel.yama.ptrace_scope=0")
    return "a container that was started with --cap-add=SYS_PTRACE" if _IN_DOCKER.exists() else ""


def _prlimit() -> Found:
    if not sys.platform.startswith("linux"):
        raise Lacking("only Linux has it")
    import resource

    resource.prlimit(os.getpid(), resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE))
    return Found("permitted")


def _setpriv() -> Found:
    from harness import cache, process

    helps = _install("setpriv", "another user than root")
    if (program := shutil.which("setpriv")) is None:
        raise Lacking("there is no `setpriv` on PATH", helps)
    command = [*process.unprivileged(), sys.executable, "-I", "-S", "-c", ""]
    status, printed = cache.run(command, timeout_seconds=_TRY_TIMEOUT_SECONDS)
    if status != 0:
        raise Lacking(f"`{shlex.join(command)}` {ending(status)} and printed {brief(printed)}", helps)
    return Found(program)


# -- this machine ------------------------------------------------------------------------------------------------


def _install(name: str, otherwise: str) -> str:
    """The command that installs something here where it is known, else what is said then."""
    kind, version = _kind()
    since, command = _INSTALLS.get((name, kind), (0, ""))
    return _as_user(command) if command and version >= since else otherwise


def _kind() -> tuple[str, float]:
    """Which system this is, as /etc/os-release has it or `darwin`, and its version: infinite where it has none."""
    if sys.platform == "darwin":
        return "darwin", 0
    try:
        told = platform.freedesktop_os_release()
        return told["ID"], float(told.get("VERSION_ID", "inf"))
    except (OSError, AttributeError, ValueError, KeyError):  # no such file, Python 3.9, or another way of counting
        return "", 0


def _as_user(command: str) -> str:
    """A command as this user has to give it: root needs no `sudo`, and may not have it."""
    return command.replace("sudo ", "") if os.geteuid() == 0 else command


def _short(path: str | Path) -> str:
    """A path with the home folder as `~`, as a shell takes it."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() fails where there is none
    path = str(path)
    return f"~{path[len(home) :]}" if len(home) > 1 and path.startswith(f"{home}/") else path
