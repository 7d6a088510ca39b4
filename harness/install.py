"""Finding the Toxiproxy server on this machine, or installing it, or telling beforehand which of both it will be."""

import contextlib
import hashlib
import io
import os
import platform
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import requests

from harness import resources
from harness.cache import alone_in, default_folder, run, workplace
from harness.errors import HarnessError, ToxiproxyError, brief, ending, root_cause

T = TypeVar("T")

RELEASE = "2.12.0"
"""The only release of Toxiproxy that the harness knows the ways of."""

OFFICIAL = f"https://github.com/Shopify/toxiproxy/releases/download/v{RELEASE}"
"""Where the official archives of that release are."""

_GO_MODULE = "github.com/Shopify/toxiproxy/v2"
_GO_PACKAGE = f"{_GO_MODULE}/cmd/server@v{RELEASE}"
_OLDEST_GO = (1, 23)
_ARCHIVE_SHA256 = {
    "linux_amd64": "65e042d3fc2290c099527bc506446a6fd863a09f113b8944b636ece70221c2b3",
    "linux_arm64": "ab417dafc77ae8b54ec8461cc5da5180d0465a61dcbda86c72da72ee4ab843b7",
    "darwin_amd64": "52ac1f99d7204b4b523f910b791bc86318b50ef94822c79a6157606704003ced",
    "darwin_arm64": "cece3905c06ad84d6b3bb4cd024c344e6466736b2a8cbaf9ef4fe45e62aba9b2",
}
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

_VERSION_TIMEOUT_SECONDS = 10.0
_CONNECT_TIMEOUT_SECONDS = 4.0
_SILENCE_TIMEOUT_SECONDS = 15.0
_DOWNLOAD_TIMEOUT_SECONDS = 180.0
_GO_TIMEOUT_SECONDS = 600.0
_GO_ANSWER_TIMEOUT_SECONDS = 20.0
_DOWNLOAD_CHUNK_BYTES = 4096
# The archive has about 8 MB: whatever is much longer is something else, and must not fill the memory.
_ARCHIVE_LIMIT_BYTES = 100_000_000


@dataclass(frozen=True)
class Binary:
    """A Toxiproxy server program that can be started."""

    path: Path
    source: str
    """Where it comes from: "PATH", "cache", "release archive" or "go install"."""
    version: str
    """The version that it reports: the release, or `git` for one built by `go install`."""


def locate(cache: Path | None = None, release_url: str = OFFICIAL) -> Binary:
    """Find the Toxiproxy server on PATH or in the harness's cache, or else install it into that cache.

    Blocks, while it installs for minutes. Any number of processes may call it at once: one installs, the others
    wait for it.

    Args:
        cache: the harness's cache directory; by default `midemit` in `$XDG_CACHE_HOME` or `~/.cache`.
        release_url: the folder that the release archives are downloaded from.

    Raises:
        ToxiproxyError: there is none and none can be installed; the text lists what was tried and how to fix it.
    """
    installed = _place(cache)
    home = installed.parent
    search = _Search()
    if found := search.find(installed):
        return found
    with contextlib.ExitStack() as until_installed:
        if search.attempt("cache", lambda: until_installed.enter_context(alone_in(home))):
            # Another process may have installed it while this one waited for the lock.
            found = (
                search.attempt("cache", lambda: _examined(installed, "cache"))
                or search.attempt("release archive", lambda: _from_release(home, installed, release_url))
                or search.attempt("go install", lambda: _from_go(home, installed))
            )
    if found:
        return found
    raise ToxiproxyError(search.report(installed))


def foresee(cache: Path | None = None, release_url: str = OFFICIAL) -> Binary:
    """Tell what `locate` would return, and install nothing.

    Where there is no server yet, it is only asked whether the release archive, or the module for `go install`, can be
    had: they may still turn out to be damaged. The path is then the place where the server will be. Blocks, for up to
    half a minute where the network is silent.

    Args:
        cache: as for `locate`.
        release_url: as for `locate`.

    Raises:
        ToxiproxyError: there is none and none could be installed; the text is that of `locate`.
    """
    installed = _place(cache)
    search = _Search()
    found = search.find(installed)
    if found is None and search.attempt("cache", lambda: _writable(installed.parent)) is not None:
        found = search.attempt("release archive", lambda: _offered(installed, release_url)) or search.attempt(
            "go install", lambda: _buildable(installed)
        )
    if found:
        return found
    raise ToxiproxyError(search.report(installed))


def _place(cache: Path | None) -> Path:
    """Where the server is in the cache, or will be."""
    return (cache or default_folder()).absolute() / f"toxiproxy-{RELEASE}" / "toxiproxy-server"


class _Search:
    """The steps tried so far, each with the last reason why it failed."""

    def __init__(self) -> None:
        self._failures: dict[str, str] = {}

    def attempt(self, step: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except HarnessError as error:
            self._failures[step] = str(error)
        except OSError as error:
            self._failures[step] = f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")
        return None

    def find(self, installed: Path) -> Binary | None:
        return self.attempt("PATH", _on_path) or self.attempt("cache", lambda: _examined(installed, "cache"))

    def report(self, installed: Path) -> str:
        tried = "\n".join(f"  {step}: {reason}" for step, reason in self._failures.items())
        return (
            f"there is no Toxiproxy {RELEASE} on this machine and it cannot be installed. Tried:\n{tried}\n"
            "Any one of these helps:\n"
            f"  - put `toxiproxy-server` {RELEASE} on PATH (from {OFFICIAL.replace('/download/', '/tag/')}, or "
            "`brew install shopify/shopify/toxiproxy`)\n"
            f"  - copy that program to {installed}\n"
            "  - let this machine reach github.com (HTTPS_PROXY is honoured)\n"
            "  - install Go 1.23 or newer and let it reach its module proxy (GOPROXY is honoured)\n"
            "  - name a running server with --toxiproxy-url http://HOST:PORT"
        )


def _on_path() -> Binary:
    found = shutil.which("toxiproxy-server")
    if found is None:
        raise ToxiproxyError("no `toxiproxy-server` there")
    return _examined(Path(found).absolute(), "PATH")


def _examined(path: Path, source: str) -> Binary:
    """Run the program with `-version`: it must be a Toxiproxy server, and not one of another release."""
    if not path.exists():
        raise ToxiproxyError(f"{path} does not exist")
    status, printed = run([str(path), "-version"], timeout_seconds=_VERSION_TIMEOUT_SECONDS)
    match = re.search(r"version (\S+)", printed)
    if status != 0 or match is None:
        raise ToxiproxyError(f"{path} is no Toxiproxy server: `-version` {ending(status)} and printed {brief(printed)}")
    version = match[1].removeprefix("v")
    # A build by Go says `git`, whatever release it was built from: that cannot be told and is accepted.
    if version not in {RELEASE, "git"}:
        raise ToxiproxyError(f"{path} is Toxiproxy {version}, and only {RELEASE} will do")
    return Binary(path, source, version)


def _writable(home: Path) -> Path:
    there = resources.nearest(home)
    if not resources.is_open(there):
        raise ToxiproxyError(f"{home} cannot be written: {there} is not a folder that is open to you")
    return there


def _archive(release_url: str) -> tuple[str, str]:
    """The address of this machine's archive, and its kind of machine."""
    kind = f"{platform.system().lower()}_{_ARCHITECTURES.get(platform.machine().lower())}"
    if kind not in _ARCHIVE_SHA256:
        raise ToxiproxyError(f"there is none for {platform.system()} {platform.machine()}")
    return f"{release_url}/toxiproxy_{RELEASE}_{kind}.tar.gz", kind


def _offered(installed: Path, release_url: str) -> Binary:
    """Ask for the archive, and read none of it."""
    url, _ = _archive(release_url)
    try:
        with _requested(url):
            return Binary(installed, "release archive", RELEASE)
    except requests.RequestException as error:
        raise ToxiproxyError(f"{url} cannot be downloaded: {root_cause(error)}") from error


def _from_release(home: Path, installed: Path, release_url: str) -> Binary:
    url, kind = _archive(release_url)
    archive = _downloaded(url)
    digest = hashlib.sha256(archive).hexdigest()
    if digest != _ARCHIVE_SHA256[kind]:
        raise ToxiproxyError(
            f"{url} has the wrong SHA-256: {digest} ({len(archive)} bytes) instead of {_ARCHIVE_SHA256[kind]}"
        )
    with workplace(home) as place:
        program = place / "toxiproxy-server"
        program.write_bytes(_member(archive, url))
        return _moved(program, installed, "release archive")


@contextlib.contextmanager
def _requested(url: str) -> Iterator[requests.Response]:
    with requests.get(url, stream=True, timeout=(_CONNECT_TIMEOUT_SECONDS, _SILENCE_TIMEOUT_SECONDS)) as response:
        if response.status_code != HTTPStatus.OK:
            raise ToxiproxyError(f"{url} answers HTTP {response.status_code} {response.reason}")
        yield response


def _downloaded(url: str) -> bytes:
    deadline = time.monotonic() + _DOWNLOAD_TIMEOUT_SECONDS
    body = bytearray()
    try:
        with _requested(url) as response:
            for chunk in response.iter_content(_DOWNLOAD_CHUNK_BYTES):
                body += chunk
                if time.monotonic() > deadline:
                    raise ToxiproxyError(
                        f"{url}: {len(body)} bytes in {_DOWNLOAD_TIMEOUT_SECONDS:g} s, which is too slow"
                    )
                if len(body) > _ARCHIVE_LIMIT_BYTES:
                    raise ToxiproxyError(f"{url} is longer than {_ARCHIVE_LIMIT_BYTES} bytes")
    except requests.RequestException as error:
        received = f" after {len(body)} bytes" if body else ""
        raise ToxiproxyError(f"{url} cannot be downloaded: {root_cause(error)}{received}") from error
    return bytes(body)


def _member(archive: bytes, url: str) -> bytes:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
            member = members.extractfile("toxiproxy-server")
            if member is None:
                raise ToxiproxyError(f"`toxiproxy-server` in {url} is no regular file")
            return member.read()
    except (KeyError, tarfile.TarError) as error:
        raise ToxiproxyError(f"no `toxiproxy-server` in {url}: {error}") from error


def _go() -> str:
    go = shutil.which("go")
    if go is None:
        raise ToxiproxyError("no `go` on PATH")
    return go


def _buildable(installed: Path) -> Binary:
    """Ask Go for its version and for the module, whose source is not fetched."""
    go = _go()
    _, printed = run([go, "version"], timeout_seconds=_VERSION_TIMEOUT_SECONDS)
    version = re.search(r"go(\d+)\.(\d+)", printed)
    if version is None or (int(version[1]), int(version[2])) < _OLDEST_GO:
        raise ToxiproxyError(
            f"it takes Go {_OLDEST_GO[0]}.{_OLDEST_GO[1]} or newer, and `{go} version` printed {brief(printed)}"
        )
    command = [go, "list", "-m", f"{_GO_MODULE}@v{RELEASE}"]
    # Not in a folder of the user's, whose own module would have a say.
    status, printed = run(command, cwd=Path("/"), timeout_seconds=_GO_ANSWER_TIMEOUT_SECONDS)
    if status != 0:
        raise ToxiproxyError(f"`{' '.join(command)}` {ending(status)} and printed {brief(printed)}")
    return Binary(installed, "go install", "git")


def _from_go(home: Path, installed: Path) -> Binary:
    go = _go()
    with workplace(home) as place:
        # Go refuses GOBIN when it builds for another platform, and this program is to run here.
        env = {name: value for name, value in os.environ.items() if name not in {"GOOS", "GOARCH"}}
        status, printed = run(
            [go, "install", _GO_PACKAGE],
            cwd=place,
            env={**env, "GOBIN": str(place)},
            timeout_seconds=_GO_TIMEOUT_SECONDS,
        )
        if status != 0:
            raise ToxiproxyError(f"`go install {_GO_PACKAGE}` {ending(status)} and printed {brief(printed)}")
        return _moved(place / "server", installed, "go install")


def _moved(program: Path, installed: Path, source: str) -> Binary:
    if not program.exists():
        raise ToxiproxyError(f"it left no `{program.name}`")
    program.chmod(0o755)
    version = _examined(program, source).version
    program.replace(installed)
    return Binary(installed, source, version)
