"""Toxiproxy is found on this machine, or installed, and which of both it will be can be told beforehand."""

import asyncio
import hashlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from harness import install, process, waiting
from harness.errors import ToxiproxyError
from harness.install import Binary, foresee, locate
from tests.standins import (
    GENUINE,
    NOWHERE,
    archive_of,
    executable,
    http_server,
    reply,
    serving,
    silent_server,
)

ARCHIVE_NAME = f"toxiproxy_2.12.0_{platform.system().lower()}_test.tar.gz"
GOOD = archive_of({"toxiproxy-server": GENUINE})


@dataclass
class _Machine:
    """A machine on which nothing is found, until a test puts it there."""

    path: Path
    cache: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def installed(self) -> Path:
        return self.cache / "toxiproxy-2.12.0" / "toxiproxy-server"

    def put_on_path(self, name: str, text: str) -> None:
        executable(self.path / name, text)

    def put_go_on_path(self, before: str = "") -> None:
        """A `go` that does what `go install` does, and notes how it was called and as which process."""
        self.put_on_path(
            "go",
            f"""#!/bin/sh
            PATH=/bin:/usr/bin
            echo "$@ into $GOBIN" >> {self.path}/go.log
            echo $$ > {self.path}/go.pid
            {before}
            printf '#!/bin/sh\\necho toxiproxy-server version git\\n' > "$GOBIN/server"
            chmod +x "$GOBIN/server"
            """,
        )

    def publish(self, archive: bytes) -> None:
        """Make this the archive whose checksum is known."""
        self.monkeypatch.setitem(install._ARCHIVE_SHA256, ARCHIVE_NAME[17:-7], hashlib.sha256(archive).hexdigest())


"""A port on which nothing listens: the network is closed."""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Machine:
    """A machine without Toxiproxy, Go and proxies, and with an archive published for its architecture."""
    path = tmp_path / "path"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setitem(install._ARCHITECTURES, platform.machine().lower(), "test")
    machine = _Machine(path, tmp_path / "cache", monkeypatch)
    machine.publish(GOOD)
    return machine


# --- finding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.12.0", "v2.12.0", "git"])
def test_a_server_on_path_of_the_release_or_built_by_go_is_used(machine: _Machine, version: str) -> None:
    """The right release on PATH is used, and so is a build by Go, which says `git`; nothing is installed."""
    machine.put_on_path("toxiproxy-server", f"#!/bin/sh\necho toxiproxy-server version {version}\n")

    found = locate(machine.cache, NOWHERE)

    assert found == Binary(machine.path / "toxiproxy-server", "PATH", version.removeprefix("v"))
    assert not machine.cache.exists()


def test_a_server_on_path_outranks_the_cache(machine: _Machine) -> None:
    """What the user put on PATH comes first."""
    machine.put_on_path("toxiproxy-server", GENUINE)
    executable(machine.installed, GENUINE)

    assert locate(machine.cache, NOWHERE).source == "PATH"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("#!/bin/sh\necho toxiproxy-server version 2.11.0\n", "is Toxiproxy 2.11.0, and only 2.12.0 will do"),
        ("#!/bin/sh\necho toxiproxy-server version 2.12.1\n", "is Toxiproxy 2.12.1, and only 2.12.0 will do"),
        ("#!/bin/sh\necho hello\n", "is no Toxiproxy server: `-version` exited with status 0 and printed 'hello'"),
        (
            "#!/bin/sh\necho version 2.12.0\nexit 7\n",
            "`-version` exited with status 7 and printed 'version 2.12.0'",
        ),
        ("#!/bin/sh\nkill -9 $$\n", "`-version` was ended by SIGKILL and printed nothing"),
        ("#!/bin/sh\nPATH=/bin:/usr/bin\nexec sleep 60\n", "-version` did not end within 0.5 s"),
        ("\x7fELF no program", "Exec format error"),
    ],
)
def test_another_program_on_path_is_refused_and_noted(machine: _Machine, program: str, reason: str) -> None:
    """Another release, or what is no Toxiproxy at all, is not used; the final error says why."""
    machine.monkeypatch.setattr(install, "_VERSION_TIMEOUT_SECONDS", 0.5)
    machine.put_on_path("toxiproxy-server", program)

    with pytest.raises(ToxiproxyError) as caught:
        locate(machine.cache, NOWHERE)

    assert reason in str(caught.value)
    assert f"  PATH: {machine.path}/toxiproxy-server" in str(caught.value) or "  PATH: `" in str(caught.value)


def test_another_release_on_path_does_not_keep_the_cached_one_from_being_used(machine: _Machine) -> None:
    """A wrong server on PATH only costs its step."""
    machine.put_on_path("toxiproxy-server", "#!/bin/sh\necho toxiproxy-server version 2.9.0\n")
    executable(machine.installed, GENUINE)

    assert locate(machine.cache, NOWHERE) == Binary(machine.installed, "cache", "2.12.0")


@pytest.mark.parametrize(
    ("configured", "expected"), [("{tmp}/xdg", "{tmp}/xdg"), ("relative", "{tmp}/.cache"), (None, "{tmp}/.cache")]
)
def test_the_cache_is_where_the_user_keeps_caches(
    machine: _Machine, tmp_path: Path, configured: str | None, expected: str
) -> None:
    """`$XDG_CACHE_HOME` if it is an absolute path, else `~/.cache`."""
    machine.monkeypatch.setenv("HOME", str(tmp_path))
    if configured is None:
        machine.monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        machine.monkeypatch.setenv("XDG_CACHE_HOME", configured.format(tmp=tmp_path))
    cached = Path(expected.format(tmp=tmp_path)) / "midemit" / "toxiproxy-2.12.0" / "toxiproxy-server"
    executable(cached, GENUINE)

    assert locate(release_url=NOWHERE) == Binary(cached, "cache", "2.12.0")


# --- installing -------------------------------------------------------------------------------------------------


def test_the_release_archive_is_installed_into_the_cache_once(machine: _Machine) -> None:
    """Of a good archive only the server is kept, executable; the next call needs no network."""
    archive = archive_of({"toxiproxy-cli": "no", "toxiproxy-server": GENUINE})
    machine.publish(archive)
    asked: list[str] = []

    def serve(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        reply(request, 200, archive)

    with http_server(serve) as url:
        first = locate(machine.cache, f"{url}/v2.12.0")
        second = locate(machine.cache, f"{url}/v2.12.0")

    assert first == Binary(machine.installed, "release archive", "2.12.0")
    assert second == Binary(machine.installed, "cache", "2.12.0")
    assert asked == [f"/v2.12.0/{ARCHIVE_NAME}"]
    assert _left_in(machine) == {"lock", "toxiproxy-server"}


def _left_in(machine: _Machine) -> set[str]:
    return {path.name for path in machine.installed.parent.iterdir()}


@pytest.mark.parametrize(
    ("serving", "reason"),
    [
        (lambda: serving(200, archive_of({"toxiproxy-server": "evil"})), "has the wrong SHA-256"),
        (lambda: http_server(lambda request: reply(request, 200, GOOD[:50], len(GOOD))), "cannot be downloaded"),
        (lambda: serving(200, GOOD[:50]), "has the wrong SHA-256"),
        (lambda: serving(404, b"not found"), "answers HTTP 404"),
        (silent_server, "cannot be downloaded: timed out"),
        (lambda: http_server(lambda request: request.connection.close()), "cannot be downloaded"),
    ],
    ids=["another-archive", "cut-off", "short", "missing", "hanging", "hanging-up"],
)
def test_a_bad_download_is_noted_and_go_is_asked_instead(
    machine: _Machine, serving: Callable[[], AbstractContextManager[str]], reason: str
) -> None:
    """What is not the published archive is never installed; without Go the error says what was wrong with it."""
    machine.monkeypatch.setattr(install, "_SILENCE_TIMEOUT_SECONDS", 0.3)
    with serving() as url:
        with pytest.raises(ToxiproxyError) as caught:
            locate(machine.cache, url)
        assert _left_in(machine) == {"lock"}
        machine.put_go_on_path()
        found = locate(machine.cache, url)

    assert f"  release archive: {url}/{ARCHIVE_NAME} {reason}" in str(caught.value)
    assert found == Binary(machine.installed, "go install", "git")


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (archive_of({"toxiproxy-cli": GENUINE}), "no `toxiproxy-server` in"),
        (archive_of({"toxiproxy-server": "#!/bin/sh\nexit 3\n"}), "is no Toxiproxy server"),
        (b"no archive", "no `toxiproxy-server` in"),
    ],
)
def test_an_archive_without_a_working_server_is_noted(machine: _Machine, archive: bytes, reason: str) -> None:
    """A right checksum is not enough: the program has to be in there and to answer."""
    machine.publish(archive)

    with serving(200, archive) as url, pytest.raises(ToxiproxyError, match=reason):
        locate(machine.cache, url)

    assert _left_in(machine) == {"lock"}


def test_a_download_that_trickles_is_given_up(machine: _Machine) -> None:
    """The whole download has a deadline, not only its pauses."""
    machine.monkeypatch.setattr(install, "_DOWNLOAD_TIMEOUT_SECONDS", 0.0)

    with serving(200, GOOD) as url, pytest.raises(ToxiproxyError, match="which is too slow"):
        locate(machine.cache, url)


def test_a_platform_without_an_archive_is_noted(machine: _Machine) -> None:
    """On other platforms nothing is downloaded, and Go can still build it."""
    machine.monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ToxiproxyError, match=f"release archive: there is none for {platform.system()} riscv64"):
        locate(machine.cache, NOWHERE)
    machine.put_go_on_path()

    assert locate(machine.cache, NOWHERE).source == "go install"


def test_the_download_honours_the_users_proxy(machine: _Machine) -> None:
    """With HTTP_PROXY set the archive comes through that proxy."""
    asked: list[str] = []

    def serve(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        reply(request, 200, GOOD)

    with http_server(serve) as proxy:
        machine.monkeypatch.setenv("HTTP_PROXY", proxy)
        found = locate(machine.cache, "http://release.invalid/v2.12.0")

    assert found.source == "release archive"
    assert asked == [f"http://release.invalid/v2.12.0/{ARCHIVE_NAME}"]


def test_go_installs_the_release_by_way_of_a_directory_in_the_cache(machine: _Machine) -> None:
    """Go is asked for exactly this release, and nothing of its directory stays."""
    machine.put_go_on_path()

    found = locate(machine.cache, NOWHERE)

    assert found == Binary(machine.installed, "go install", "git")
    called = (machine.path / "go.log").read_text()
    assert called.startswith(
        f"install github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0 into {machine.installed.parent}/"
    )
    assert _left_in(machine) == {"lock", "toxiproxy-server"}


@pytest.mark.parametrize(
    ("go", "reason"),
    [
        (
            "#!/bin/sh\necho module lookup disabled\nexit 1\n",
            "exited with status 1 and printed 'module lookup disabled'",
        ),
        ("#!/bin/sh\n", "it left no `server`"),
    ],
)
def test_a_go_that_fails_is_noted(machine: _Machine, go: str, reason: str) -> None:
    """What Go printed is in the error."""
    machine.put_on_path("go", go)

    with pytest.raises(ToxiproxyError) as caught:
        locate(machine.cache, NOWHERE)

    assert reason in str(caught.value)
    assert _left_in(machine) == {"lock"}


def test_a_go_that_takes_too_long_is_ended_with_all_that_it_started(machine: _Machine) -> None:
    """The deadline is in the error, and no process stays."""
    machine.monkeypatch.setattr(install, "_GO_TIMEOUT_SECONDS", 0.5)
    machine.put_go_on_path(before="sleep 60 & sleep 60")

    with pytest.raises(ToxiproxyError, match=r"go install: .* did not end within 0.5 s"):
        locate(machine.cache, NOWHERE)

    assert _left_in(machine) == {"lock"}
    _await_end_of_group(int((machine.path / "go.pid").read_text()))


def test_when_nothing_works_one_error_tells_everything(machine: _Machine) -> None:
    """A closed network fails fast, and the error names the four steps, each reason, and the ways out."""
    started = time.monotonic()
    with pytest.raises(ToxiproxyError) as caught:
        locate(machine.cache, NOWHERE)

    assert time.monotonic() - started < 3
    text = str(caught.value)
    assert "  PATH: no `toxiproxy-server` there" in text
    assert f"  cache: {machine.installed} does not exist" in text
    assert f"  release archive: {NOWHERE}/{ARCHIVE_NAME} cannot be downloaded: Connection refused" in text
    assert "  go install: no `go` on PATH" in text
    assert "https://github.com/Shopify/toxiproxy/releases/tag/v2.12.0" in text
    assert f"copy that program to {machine.installed}" in text
    assert "--toxiproxy-url" in text


def test_a_cache_that_cannot_be_written_is_an_error_not_a_crash(machine: _Machine) -> None:
    """A cache directory in an impossible place is named."""
    machine.cache.write_text("a file")

    with pytest.raises(ToxiproxyError, match=f"cache: {machine.cache}.*: (Not a directory|File exists)"):
        locate(machine.cache, NOWHERE)


@pytest.mark.parametrize(
    ("text", "mode"),
    [(GENUINE, 0o644), ("", 0o755), ("\x7fELF half a program", 0o755), ("#!/bin/sh\nexit 139\n", 0o755)],
    ids=["not-executable", "empty", "garbage", "crashing"],
)
def test_a_corrupted_program_in_the_cache_is_replaced(machine: _Machine, text: str, mode: int) -> None:
    """A cached program that does not answer is noted, and replaced by one that does."""
    executable(machine.installed, text).chmod(mode)
    with pytest.raises(ToxiproxyError, match=f"cache: {machine.installed}"):
        locate(machine.cache, NOWHERE)

    with machine.installed.open() as in_use, serving(200, GOOD) as url:
        found = locate(machine.cache, url)
        # Overwritten in place it would change under whoever runs it, and not be whole for a moment.
        assert in_use.read() == text

    assert found.source == "release archive"
    assert locate(machine.cache, NOWHERE).source == "cache"


def _locating(machine: _Machine, telling: bool = False) -> "subprocess.Popen[bytes]":
    """Another process that calls `locate`, and prints the source; with `telling`, also what the reaper was told."""
    script = f"""
from pathlib import Path
from harness import install, process, reaper, waiting
if {telling}:
    hold = reaper.hold
    reaper.hold = lambda kind, name: (hold(kind, name), print(kind, name, flush=True))
print(install.locate(Path({str(machine.cache)!r}), {NOWHERE!r}).source)
"""
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)


def test_of_two_processes_at_once_one_installs_and_both_have_it(machine: _Machine) -> None:
    """The second waits for the first, and finds what it installed."""
    machine.put_go_on_path(before="sleep 0.6")
    both = [_locating(machine), _locating(machine)]
    printed = sorted(process.communicate(timeout=30)[0].decode().strip() for process in both)

    assert printed == ["cache", "go install"]
    assert len((machine.path / "go.log").read_text().splitlines()) == 1
    assert _left_in(machine) == {"lock", "toxiproxy-server"}


def test_an_installation_that_is_killed_leaves_no_process_and_no_directory(machine: _Machine) -> None:
    """SIGKILL in the middle of `go install` ends Go too, and the next one can install."""
    machine.put_go_on_path(before="sleep 60 & sleep 60")
    with _locating(machine, telling=True) as installing:
        assert installing.stdout is not None
        assert installing.stdout.readline().startswith(b"directory ")
        kind, group = installing.stdout.readline().split()
        assert kind == b"group"
        installing.kill()

    _await_end_of_group(int(group))
    asyncio.run(
        waiting.until(
            lambda: _left_in(machine) == {"lock"},
            awaited="the directory to go",
            timeout_seconds=10,
            last_seen=lambda: _left_in(machine),
        )
    )
    machine.put_go_on_path()
    assert locate(machine.cache, NOWHERE).source == "go install"


def _await_end_of_group(group: int) -> None:
    asyncio.run(waiting.until(lambda: not process._alive(group), awaited="all processes to end", timeout_seconds=5))


# --- telling beforehand -------------------------------------------------------------------------------------------


def test_what_is_here_is_foreseen_as_it_is_found(machine: _Machine) -> None:
    """First PATH and then the cache, as `locate` has it."""
    executable(machine.installed, GENUINE)
    assert foresee(machine.cache, NOWHERE) == locate(machine.cache, NOWHERE)
    machine.put_on_path("toxiproxy-server", GENUINE)
    assert foresee(machine.cache, NOWHERE) == locate(machine.cache, NOWHERE)
    assert foresee(machine.cache, NOWHERE).source == "PATH"


def test_an_archive_that_is_offered_is_foreseen_and_not_installed(machine: _Machine) -> None:
    """Where it will be is told, and nothing is there."""
    with serving(200, GOOD) as url:
        assert foresee(machine.cache, url) == Binary(machine.installed, "release archive", "2.12.0")
    assert not machine.cache.exists()


_GO = """#!/bin/sh
echo "$@ in $PWD" >> {log}
test "$1" = version && echo go version go{version} linux/amd64
exit {status}
"""


def test_a_module_that_go_can_have_is_foreseen_and_not_built(machine: _Machine) -> None:
    """Go is asked for it outside of any module of the user's."""
    log = machine.path / "go.log"
    machine.put_on_path("go", _GO.format(log=log, version="1.23.4", status=0))

    assert foresee(machine.cache, NOWHERE) == Binary(machine.installed, "go install", "git")
    assert log.read_text().splitlines()[1:] == ["list -m github.com/Shopify/toxiproxy/v2@v2.12.0 in /"]
    assert not machine.cache.exists()


@pytest.mark.parametrize(
    ("version", "status", "reason"),
    [
        ("1.19.8", 0, "it takes Go 1.23 or newer, and"),
        ("1.9", 0, "it takes Go 1.23 or newer, and"),
        ("?", 0, "it takes Go 1.23 or newer, and"),
        ("1.26.0", 1, "toxiproxy/v2@v2.12.0` exited with status 1 and printed nothing"),
    ],
)
def test_where_nothing_could_be_installed_the_reasons_are_told(
    machine: _Machine, version: str, status: int, reason: str
) -> None:
    """The archive is not offered, and Go is too old or cannot have the module: the error of `locate`."""
    machine.put_on_path("go", _GO.format(log="/dev/null", version=version, status=status))
    with serving(404, b"not found") as url, pytest.raises(ToxiproxyError) as caught:
        foresee(machine.cache, url)

    text = str(caught.value)
    assert "there is no Toxiproxy 2.12.0 on this machine and it cannot be installed" in text
    assert f"release archive: {url}/{ARCHIVE_NAME} answers HTTP 404" in text
    assert reason in text
    assert not machine.cache.exists()


def test_a_silent_network_is_given_up(machine: _Machine) -> None:
    """Each way has its deadline."""
    machine.monkeypatch.setattr(install, "_SILENCE_TIMEOUT_SECONDS", 0.3)
    with silent_server() as url, pytest.raises(ToxiproxyError, match="cannot be downloaded: timed out"):
        foresee(machine.cache, url)


def test_a_cache_in_an_impossible_place_is_foreseen(machine: _Machine) -> None:
    """What could be downloaded can be kept nowhere."""
    machine.cache.write_text("a file")
    with serving(200, GOOD) as url, pytest.raises(ToxiproxyError, match=f"{machine.cache} is not a folder that is"):
        foresee(machine.cache, url)
