"""Process groups: the whole group is signalled and ended, and errors say what could not be started."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from harness import process, reaper, waiting
from harness.errors import HarnessError
from harness.process import ProcessGroup

TIMEOUT_SECONDS = 20.0
# Prints the ids of a child and of a grandchild, and then waits for them.
FAMILY = "sh -c 'sleep 300 & echo pid $!; wait' & echo pid $!; wait"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 300; done"
OBEDIENT = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 300 & wait $!; done"


def state(pid: int) -> str:
    """The state of a process, as /proc gives it; `gone` when nothing of it runs any more."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "gone"
    return "gone" if letter in "ZX" else letter


class Shell:
    """Starts shell commands with a log, and ends what a test has left."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.txt"
        self.groups: list[ProcessGroup] = []

    def start(self, command: str, on_exit: Callable[[int], None] = lambda _: None) -> ProcessGroup:
        """Start a shell command."""
        group = ProcessGroup(["sh", "-c", command], log=self.log, on_exit=on_exit)
        self.groups.append(group)
        return group

    async def printed(self, text: str, count: int = 1) -> None:
        """Wait until the command has printed something."""
        await waiting.until(
            lambda: self.log.read_text().count(text) >= count,
            awaited=f"{text!r} in the log",
            timeout_seconds=TIMEOUT_SECONDS,
            last_seen=self.log.read_text,
        )

    async def family(self) -> tuple[ProcessGroup, list[int]]:
        """Start a command with a child and a grandchild; their ids, the leader's first."""
        group = self.start(FAMILY)
        await self.printed("\n", 2)
        pids = [int(line.removeprefix("pid ")) for line in self.log.read_text().splitlines()]
        assert len({group.pid, *pids}) == 3
        return group, [group.pid, *pids]


def run(folder: Path, test: Callable[[Shell], Awaitable[None]]) -> None:
    """Run a test in an event loop, and end what it started."""

    async def whole() -> None:
        shell = Shell(folder)
        try:
            await test(shell)
        finally:
            for group in shell.groups:
                await group.kill()

    asyncio.run(whole())


# -- the end of a group ------------------------------------------------------------------------------------------


def test_kill_ends_the_whole_group(tmp_path: Path) -> None:
    """A command has a session of its own, and when it is killed its children and theirs are gone with it."""

    async def test(shell: Shell) -> None:
        group, pids = await shell.family()
        assert "gone" not in map(state, pids)
        assert {os.getsid(pid) for pid in pids} == {os.getpgid(pid) for pid in pids} == {group.pid}
        assert await group.kill() == -signal.SIGKILL
        assert [state(pid) for pid in pids] == ["gone"] * 3
        assert group.exit_status == -signal.SIGKILL

    run(tmp_path, test)


def test_kill_waits_for_the_last_of_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill is over when nothing of the group is left, and not when the leader has exited."""
    answers = [True, True, False]
    monkeypatch.setattr(process, "_alive", lambda _: answers.pop(0))

    async def test(shell: Shell) -> None:
        group = shell.start("sleep 300")
        await group.kill()
        shell.groups.clear()

    run(tmp_path, test)
    assert answers == []


def test_kill_ends_what_outlived_its_leader(tmp_path: Path) -> None:
    """A child whose leader has exited is still of the group, and is ended with it."""

    async def test(shell: Shell) -> None:
        group = shell.start("sleep 300 & echo $!; exit 5")
        assert await group.wait() == 5
        child = int(shell.log.read_text())
        assert state(child) != "gone"
        assert await group.kill() == 5
        assert state(child) == "gone"

    run(tmp_path, test)


def test_killing_twice_does_no_harm(tmp_path: Path) -> None:
    """A group that is gone can be signalled, killed and stopped again without an error."""

    async def test(shell: Shell) -> None:
        group = shell.start("sleep 300")
        for _ in range(2):
            assert await group.kill() == -signal.SIGKILL
        await group.pause()
        group.resume()
        assert await group.stop(TIMEOUT_SECONDS) is True

    run(tmp_path, test)


def test_kill_ends_a_paused_group(tmp_path: Path) -> None:
    """A group that is paused is killed like any other."""

    async def test(shell: Shell) -> None:
        group, pids = await shell.family()
        await group.pause()
        await group.kill()
        assert [state(pid) for pid in pids] == ["gone"] * 3

    run(tmp_path, test)


def test_stop_in_time_is_the_commands_own_end(tmp_path: Path) -> None:
    """A command that obeys SIGTERM ends by itself, with its own exit status and its last words in the log."""

    async def test(shell: Shell) -> None:
        group = shell.start(OBEDIENT)
        await shell.printed("ready")
        assert await group.stop(TIMEOUT_SECONDS) is True
        assert group.exit_status == 3
        # The shell may report that its child was terminated, too.
        assert shell.log.read_text().endswith("bye\n")

    run(tmp_path, test)


def test_stop_after_the_deadline_is_a_kill(tmp_path: Path) -> None:
    """A command that ignores SIGTERM is killed at the deadline, and `stop` says so."""

    async def test(shell: Shell) -> None:
        group = shell.start(STUBBORN)
        await shell.printed("ready")
        assert await group.stop(0.1) is False
        assert group.exit_status == -signal.SIGKILL
        assert state(group.pid) == "gone"

    run(tmp_path, test)


def test_stop_ends_a_child_that_ignores_it(tmp_path: Path) -> None:
    """A leader that ends in time does not leave a child behind that would not."""

    async def test(shell: Shell) -> None:
        group = shell.start(f"sh -c \"{STUBBORN}\" & echo pid $!; trap 'exit 0' TERM; wait")
        await shell.printed("ready")
        await shell.printed("pid ")
        (child,) = (int(line[4:]) for line in shell.log.read_text().splitlines() if line.startswith("pid "))
        assert await group.stop(TIMEOUT_SECONDS) is True
        assert group.exit_status == 0
        assert state(child) == "gone"

    run(tmp_path, test)


def test_stop_reaches_a_paused_group(tmp_path: Path) -> None:
    """A paused command is woken to be stopped, and so gets the time that it has."""

    async def test(shell: Shell) -> None:
        group = shell.start(OBEDIENT)
        await shell.printed("ready")
        await group.pause()
        assert await group.stop(TIMEOUT_SECONDS) is True
        assert group.exit_status == 3

    run(tmp_path, test)


# -- pause and resume --------------------------------------------------------------------------------------------


def test_pause_stops_the_whole_group_until_it_is_resumed(tmp_path: Path) -> None:
    """A paused command stands still with its children and their children, and goes on when it is resumed."""

    async def test(shell: Shell) -> None:
        group, pids = await shell.family()

        async def all_in(letters: str) -> None:
            await waiting.until(
                lambda: all(state(pid) in letters for pid in pids),
                awaited=f"the states {letters}",
                timeout_seconds=TIMEOUT_SECONDS,
                last_seen=lambda: [state(pid) for pid in pids],
            )

        await group.pause()
        assert [state(pid) for pid in pids] == ["T"] * 3
        assert group.exit_status is None
        group.resume()
        await all_in("SRD")

    run(tmp_path, test)


def test_pause_waits_until_everything_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause is over when every thread of the group has stopped, and not when the signal is sent."""
    states = ["TS", "RT", "TT"]

    async def test(shell: Shell) -> None:
        group = shell.start("sleep 300")
        with monkeypatch.context() as patched:
            patched.setattr(process, "_threads", lambda *_: states.pop(0))
            patched.setattr(process, "_state", str)
            await group.pause()

    run(tmp_path, test)
    assert states == []


def test_nothing_descends_from_the_kernel() -> None:
    """Of a container that had ended before anybody looked the first process is 0: that must not be everybody's."""
    assert list(process.descendants(0)) == []
    assert os.getpid() in process.descendants(1)


RELAY = """
import os, threading, time
pipes = [os.pipe() for _ in range(3)]
def run(own, following):
    for _ in range(4000):
        os.read(own, 1)
        os.write(following, b"x")
runners = [threading.Thread(target=run, args=(pipes[n][0], pipes[(n + 1) % 3][1])) for n in range(3)]
for runner in runners:
    runner.start()
print("begun", flush=True)
os.write(pipes[0][1], b"x")
for runner in runners:
    runner.join()
print("over", flush=True)
time.sleep(300)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="states of threads are read in /proc")
def test_group_is_idle_when_no_thread_has_anything_to_do(tmp_path: Path) -> None:
    """Threads of which one runs at a time, each woken by the one before, look idle to who sees them one by one."""

    async def test(shell: Shell) -> None:
        (tmp_path / "relay.py").write_text(RELAY)
        group = shell.start(f"exec {sys.executable} {tmp_path / 'relay.py'}")
        await shell.printed("begun")
        await group.idle()
        assert "over" in shell.log.read_text()

    run(tmp_path, test)


# -- the exit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -15 $$", -15)]
)
def test_exit_is_told_once_with_its_status(tmp_path: Path, command: str, status: int) -> None:
    """A command that ends by itself is told once, before anybody who waits for it goes on."""

    async def test(shell: Shell) -> None:
        exits: list[int] = []
        group = shell.start(f"read line < '{tmp_path}/gate'; {command}", exits.append)
        assert group.exit_status is None
        await asyncio.to_thread((tmp_path / "gate").write_text, "go\n")
        assert await waiting.within(group.wait(), awaited="the exit", timeout_seconds=TIMEOUT_SECONDS) == status
        assert exits == [status]
        assert group.exit_status == status
        await group.kill()
        assert exits == [status]

    os.mkfifo(tmp_path / "gate")
    run(tmp_path, test)


def test_wait_that_is_given_up_does_not_disturb_another(tmp_path: Path) -> None:
    """One who stops waiting for a command takes nothing from those who go on."""

    async def test(shell: Shell) -> None:
        group = shell.start("sleep 300")
        with pytest.raises(waiting.WaitTimeout):
            await waiting.within(group.wait(), awaited="the exit", timeout_seconds=0.01)
        assert await group.kill() == -signal.SIGKILL
        assert await group.wait() == -signal.SIGKILL

    run(tmp_path, test)


def test_process_may_outlive_the_event_loop(tmp_path: Path) -> None:
    """A process that ends after the loop that it was started in disturbs nobody."""

    async def start() -> int:
        return ProcessGroup(["sleep", "300"], log=tmp_path / "log.txt").pid

    pid = asyncio.run(start())
    (waiter,) = (thread for thread in threading.enumerate() if thread.name == f"wait-{pid}")
    os.killpg(pid, signal.SIGKILL)
    waiter.join(TIMEOUT_SECONDS)
    reaper.release("group", pid)
    assert not waiter.is_alive()


# -- the start ---------------------------------------------------------------------------------------------------


def test_environment_is_added_to_the_inherited_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sees the harness's environment, and in it what it was given."""
    monkeypatch.setenv("INHERITED", "old")
    monkeypatch.setenv("REPLACED", "old")

    async def start() -> None:
        command = ["sh", "-c", "echo $INHERITED $REPLACED $ADDED; pwd"]
        env = {"REPLACED": "new", "ADDED": "new"}
        group = ProcessGroup(command, log=tmp_path / "log.txt", cwd=tmp_path, env=env)
        await group.wait()
        await group.kill()

    asyncio.run(start())
    assert (tmp_path / "log.txt").read_text() == f"old new new\n{tmp_path}\n"


def start_alone(command: list[str], **options: Path) -> None:
    """Start a command that cannot be started."""

    async def start() -> None:
        log = options.pop("log")
        await ProcessGroup(command, log=log, **options).kill()  # type: ignore[arg-type]

    asyncio.run(start())


def test_missing_program_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A program that does not exist is an error with its name and the reason."""
    with pytest.raises(HarnessError, match=r"cannot start 'no-such-program': No such file or directory"):
        start_alone(["no-such-program", "x"], log=tmp_path / "log.txt")


def test_program_that_may_not_run_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A file that is no program is an error with its name and the reason."""
    program = tmp_path / "server.sh"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(HarnessError, match=r"cannot start '.*server\.sh': Permission denied"):
        start_alone([str(program)], log=tmp_path / "log.txt")


def test_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A folder that does not exist is not taken for a missing program."""
    with pytest.raises(HarnessError, match=r"cannot start 'sh': No such file or directory: .*/elsewhere"):
        start_alone(["sh"], log=tmp_path / "log.txt", cwd=tmp_path / "elsewhere")
    with pytest.raises(HarnessError, match=r"cannot start 'sh': No such file or directory: .*/none/log\.txt"):
        start_alone(["sh"], log=tmp_path / "none" / "log.txt")


def test_null_byte_in_a_command_is_an_error(tmp_path: Path) -> None:
    """A text that no program can be given is an error like a missing program."""
    with pytest.raises(HarnessError, match=r"cannot start 'sh': embedded null byte"):
        start_alone(["sh", "a\0b"], log=tmp_path / "log.txt")


# -- the log -----------------------------------------------------------------------------------------------------


def log_lines(folder: Path, program: str, count: int = 15) -> str:
    """The last lines of what a Python program prints."""

    async def start() -> str:
        group = ProcessGroup([sys.executable, "-c", program], log=folder / "log.txt")
        await group.wait()
        await group.kill()
        return group.last_log_lines(count)

    return asyncio.run(start())


def test_log_has_both_streams_and_keeps_what_was_there(tmp_path: Path) -> None:
    """Output and errors are appended to the log: a restarted command goes on where the first one ended."""
    program = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
    assert log_lines(tmp_path, program) == "    out\n    err"
    assert log_lines(tmp_path, program) == "    out\n    err\n    out\n    err"


def test_last_log_lines_are_few_and_short(tmp_path: Path) -> None:
    """Only the last lines are shown, none longer than a screen has room for."""
    assert log_lines(tmp_path, "for n in range(20): print(n)", 3) == "    17\n    18\n    19"
    assert log_lines(tmp_path, "print('x' * 5000)", 1) == "    " + "x" * 400


def test_log_of_a_silent_command_says_so(tmp_path: Path) -> None:
    """A command that printed nothing has that said."""
    assert log_lines(tmp_path, "pass") == "    (it printed nothing)"


def test_log_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    """Bytes that are no text are shown as what they cannot be read as."""
    assert log_lines(tmp_path, r"import sys; sys.stdout.buffer.write(b'a\xffb\n')") == "    a\ufffdb"


def test_command_reads_nothing_from_the_terminal(tmp_path: Path) -> None:
    """A command that asks gets the end of its input, and not what a user types into the harness."""
    log = tmp_path / "log.txt"
    # A harness of its own, since this one's standard input may be empty anyway.
    program = f"""
import asyncio
from pathlib import Path
from harness.process import ProcessGroup
async def main():
    group = ProcessGroup(["cat"], log=Path({str(log)!r}))
    await group.wait()
    await group.kill()
asyncio.run(main())
"""
    command = [sys.executable, "-c", program]
    subprocess.run(command, input="typed\n", text=True, check=True, timeout=TIMEOUT_SECONDS)
    assert log.read_text() == ""
