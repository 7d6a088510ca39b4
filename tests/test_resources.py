"""What a run needs of the machine: each shortage is an error that says what helps."""

import errno
import os
import resource
from pathlib import Path

import pytest

from harness import resources
from harness.errors import HarnessError


def test_enough_is_enough(tmp_path: Path) -> None:
    """Where nothing is short nothing is said, and no descriptor stays open."""
    before = len(list(Path("/dev/fd").iterdir()))
    resources.require(tmp_path)
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_low_limit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on open files that is too low is told, with the command that raises it."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 4096))
    with pytest.raises(HarnessError, match=r"may open only 40 files here.*`ulimit -n 128`"):
        resources.require(tmp_path)


def test_no_limit_is_no_shortage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit on open files there is none to raise."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    resources.require(tmp_path)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_no_descriptors_left_is_named(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors that are used up, by this process or by all, are told."""

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(HarnessError, match=r"no file descriptors are left: Too many open files.*ulimit -n"):
        resources.require(tmp_path)


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room is told, with the folder and what to do."""
    monkeypatch.setattr(resources, "_FREE_BYTES", 2**80)
    with pytest.raises(HarnessError, match=f"no space left on the disk of {tmp_path}: .*--reports"):
        resources.require(tmp_path)
