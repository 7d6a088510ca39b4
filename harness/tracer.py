"""Traces the system calls of a process group, counts those that change state, and kills or fails at one of them.

A program of its own, since ptrace is bound to a thread and waits: `main`, with the path of the store as its argument.
It stands by, and forks a tracer for each group that it is told, one after the other: a start takes much longer. It is
told lines on its standard input, and tells Python literals, one a line; `harness.trace` speaks with it.

    told    attach GROUP            trace that process group, when the tracer before is over
            arm WHICH ACTION FINGERPRINT    count from 1 again the calls with that fingerprint, or all if it is empty;
                                    WHICH 0 only watches. ACTION: kill, skip or an errno's name
            stop                    detach
    tells   ("attached", PID)       every task of the group is traced, by that process
            ("armed",)
            ("hit", ORDINAL)        the action was done at this call
            ("record", {...})       a call since `arm`, at the end
            ("ended",)              every process of the group has ended by itself
            ("error", TEXT)
            ("over", STATUS)        the tracer has ended, and so detached; 0 unless it has failed

The end of a tracer is the detaching, whether it was told to stop, has hit or was killed: the kernel lets all tracees
go on at once and interrupts none, while PTRACE_DETACH would first have to stop each. So it ends with its standard
input, too, and with the program that has forked it.

What it does not see: writes to mapped memory, calls made through io_uring, and those of 32-bit programs.

It runs in isolated mode and without site-packages, to start in a few milliseconds. It imports little: signal, json,
typing, pathlib or contextlib would each add as much as ctypes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    Fields = dict[str, Any]
    """What a call acts on: kind, path, to, offset, length and lock, each where there is such a thing."""

_SEIZE, _INTERRUPT, _LISTEN = 0x4206, 0x4207, 0x4208
_SYSCALL, _DETACH, _POKEUSER = 24, 17, 6
_GETREGSET, _SETREGSET, _GET_SYSCALL_INFO = 0x4204, 0x4205, 0x420E
# No PTRACE_O_EXITKILL: the server goes on when the tracer ends.
_SYSGOOD, _TRACE_FORK, _TRACE_VFORK, _TRACE_CLONE = 1, 2, 4, 8
_OPTIONS = _SYSGOOD | _TRACE_FORK | _TRACE_VFORK | _TRACE_CLONE
_EVENT_STOP = 128
_ENTRY, _EXIT = 1, 2
_WALL = 0x40000000

_SIGKILL, _SIGCHLD = 9, 17
_PR_SET_PDEATHSIG = 1
_SYSCALL_STOP = 5 | 0x80  # SIGTRAP, marked by PTRACE_O_TRACESYSGOOD
_STOP_SIGNALS = (19, 20, 21, 22)  # SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU

# The kernel makes such a call again, after a signal: ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND.
_RESTARTS = (-512, -513, -514)

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_OLDEST_KERNEL = (5, 3)  # PTRACE_GET_SYSCALL_INFO

_AT_FDCWD = -100
_F_SETLK, _F_SETLKW, _F_OFD_SETLK, _F_OFD_SETLKW = 6, 7, 37, 38
_FCNTL_LOCKS = ("RDLCK", "WRLCK", "UNLCK")
_FLOCK_LOCKS = {1: "RDLCK", 2: "WRLCK", 8: "UNLCK"}
_LONGEST_PATH = 4096
_STORE_SUFFIXES = ("", "-wal", "-journal", "-shm")
_MOST_VECTORS = 1024


class Refused(Exception):
    """It cannot trace; the text says why, in one line."""


class _SyscallInfo(ctypes.Structure):
    """The part of struct ptrace_syscall_info that is used; `values` are number and arguments, or the result."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("values", ctypes.c_uint64 * 8),
    )


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


# -- what a call acts on -----------------------------------------------------------------------------------------


def _signed(value: int, bits: int) -> int:
    """What the register holds as a signed number: the kernel looks at the low bits only."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _memory(task: int, address: int, size: int) -> bytes:
    """Up to `size` bytes of the tracee's memory; fewer where it ends, none where there is none."""
    try:
        memory = os.open(f"/proc/{task}/mem", os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.pread(memory, size, address)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(memory)


def _numbers(task: int, address: int, count: int) -> list[int]:
    """Numbers of 8 bytes in the tracee's memory; zeros where there is none."""
    found = _memory(task, address, 8 * count).ljust(8 * count, b"\0")
    return [int.from_bytes(found[at : at + 8], "little") for at in range(0, 8 * count, 8)]


def _vectors(task: int, address: int, count: int) -> int:
    """The length in bytes of all that an array of struct iovec points to."""
    return sum(_numbers(task, address, 2 * min(count, _MOST_VECTORS))[1::2])


def _described(name: str) -> Fields:
    """A thing by its name in /proc."""
    if name.startswith("/"):
        kind = "device" if name.startswith("/dev/") else "file"
        return {"kind": kind, "path": name.removesuffix(" (deleted)")}
    if name.startswith("anon_inode:"):
        return {"kind": name.removeprefix("anon_inode:").strip("[]")}
    return {"kind": name.partition(":")[0]}  # socket:[1234], pipe:[1234]


def _opened(task: int, descriptor: int) -> Fields:
    try:
        return _described(os.readlink(f"/proc/{task}/fd/{_signed(descriptor, 32)}"))
    except OSError:
        return {"kind": "closed"}


def _named(task: int, folder: int, address: int) -> str:
    """The absolute path that a call names, with the links of its folders followed, as /proc tells those of files."""
    path = os.fsdecode(_memory(task, address, _LONGEST_PATH).partition(b"\0")[0])
    descriptor = _signed(folder, 32)
    try:
        start = os.readlink(f"/proc/{task}/cwd" if descriptor == _AT_FDCWD else f"/proc/{task}/fd/{descriptor}")
    except OSError:
        start = ""
    head, tail = os.path.split(os.path.join(start, path))
    return os.path.join(os.path.realpath(head), tail)


def _mapped(task: int, address: int) -> Fields:
    with open(f"/proc/{task}/maps", errors="surrogateescape") as maps:
        for line in maps:
            columns = line.rstrip("\n").split(maxsplit=5)
            first, _, end = columns[0].partition("-")
            if len(columns) == 6 and int(first, 16) <= address < int(end, 16):
                return _described(columns[5])
    return {"kind": "memory"}


def _write(task: int, args: Sequence[int]) -> Fields:
    return {**_opened(task, args[0]), "length": args[2]}


def _pwrite(task: int, args: Sequence[int]) -> Fields:
    return {**_write(task, args), "offset": args[3]}


def _writev(task: int, args: Sequence[int]) -> Fields:
    return {**_opened(task, args[0]), "length": _vectors(task, args[1], args[2])}


def _pwritev(task: int, args: Sequence[int]) -> Fields:
    return {**_writev(task, args), "offset": args[3]}


def _sendmsg(task: int, args: Sequence[int]) -> Fields:
    _, _, vectors, count = _numbers(task, args[1], 4)
    return {**_opened(task, args[0]), "length": _vectors(task, vectors, count)}


def _sendfile(task: int, args: Sequence[int]) -> Fields:
    return {**_opened(task, args[0]), "length": args[3]}


def _sync(task: int, args: Sequence[int]) -> Fields:
    return _opened(task, args[0])


def _sync_range(task: int, args: Sequence[int]) -> Fields:
    return {**_opened(task, args[0]), "offset": args[1], "length": args[2]}


def _msync(task: int, args: Sequence[int]) -> Fields:
    return {**_mapped(task, args[0]), "length": args[1]}


def _truncate(task: int, args: Sequence[int]) -> Fields:
    return {**_opened(task, args[0]), "length": args[1]}


def _allocate(task: int, args: Sequence[int]) -> Fields:
    return {**_opened(task, args[0]), "offset": args[2], "length": args[3]}


def _unlinkat(task: int, args: Sequence[int]) -> Fields:
    return {"kind": "file", "path": _named(task, args[0], args[1])}


def _unlink(task: int, args: Sequence[int]) -> Fields:
    return _unlinkat(task, (_AT_FDCWD, args[0]))


def _renameat(task: int, args: Sequence[int]) -> Fields:
    return {**_unlinkat(task, args), "to": _named(task, args[2], args[3])}


def _rename(task: int, args: Sequence[int]) -> Fields:
    return _renameat(task, (_AT_FDCWD, args[0], _AT_FDCWD, args[1]))


def _fcntl(task: int, args: Sequence[int]) -> Fields | None:
    if args[1] not in (_F_SETLK, _F_SETLKW, _F_OFD_SETLK, _F_OFD_SETLKW):
        return None
    kind, start, length = _numbers(task, args[2], 3)  # struct flock: type and whence share the first eight bytes
    lock = _FCNTL_LOCKS[kind & 0xFFFF] if kind & 0xFFFF < len(_FCNTL_LOCKS) else "unknown"
    return {**_opened(task, args[0]), "lock": lock, "offset": start, "length": length}


def _flock(task: int, args: Sequence[int]) -> Fields:
    return {**_opened(task, args[0]), "lock": _FLOCK_LOCKS.get(args[1] & 0b1011, "unknown"), "offset": 0, "length": 0}


def _fingerprint(call: str, fields: Fields, store: str) -> str:
    words = [call, _object(call, fields, store)]
    if fields["kind"] == "eventfd" or _is_of(store, fields.get("path")):
        if "lock" in fields:
            words.append(f"{fields['lock']} {fields['offset']}+{fields['length']}")
        elif "length" in fields:
            words.append(str(fields["length"]))
    return " ".join(words)


def _object(call: str, fields: Fields, store: str) -> str:
    """What a call acts on, by a name that other runs have for it too: other files' names are often random."""
    path = fields.get("path")
    kind: str = fields["kind"]
    if not store or path is None:
        return kind
    if _is_of(store, path):
        return "store" + str(path).removeprefix(store)
    if path == os.path.dirname(store):
        return "the store's folder"
    if os.path.dirname(path) == os.path.dirname(store) and call.startswith(("unlink", "rename")):
        return "beside the store"
    return kind


def _is_of(store: str, path: str | None) -> bool:
    return bool(store) and path is not None and path in {store + suffix for suffix in _STORE_SUFFIXES}


# Name, number on x86_64 and on aarch64 (-1: it has no such call), what it acts on.
_CALLS: tuple[tuple[str, int, int, Callable[[int, Sequence[int]], Fields | None]], ...] = (
    ("write", 1, 64, _write),
    ("pwrite64", 18, 68, _pwrite),
    ("writev", 20, 66, _writev),
    ("pwritev", 296, 70, _pwritev),
    ("pwritev2", 328, 287, _pwritev),
    ("sendto", 44, 206, _write),
    ("sendmsg", 46, 211, _sendmsg),
    ("sendfile", 40, 71, _sendfile),
    ("fsync", 74, 82, _sync),
    ("fdatasync", 75, 83, _sync),
    ("sync_file_range", 277, 84, _sync_range),
    ("msync", 26, 227, _msync),
    ("ftruncate", 77, 46, _truncate),
    ("fallocate", 285, 47, _allocate),
    ("rename", 82, -1, _rename),
    ("renameat", 264, 38, _renameat),
    ("renameat2", 316, 276, _renameat),
    ("unlink", 87, -1, _unlink),
    ("unlinkat", 263, 35, _unlinkat),
    ("fcntl", 72, 25, _fcntl),
    ("flock", 73, 32, _flock),
)
# Of these the result is the length; of all others it is 0.
_WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendto", "sendmsg", "sendfile")


# -- the tracer --------------------------------------------------------------------------------------------------


class Tracer:
    """Every task of a process group, traced from its calls' entries to their exits.

    A task waits at each entry until it is sent on, so the order in which entries are seen here is their order.

    Raises:
        Refused: this machine cannot trace.
    """

    def __init__(self, group: int, store: str) -> None:
        machine = os.uname().machine
        if machine not in _AUDIT_ARCH:
            known = " and ".join(_AUDIT_ARCH)
            raise Refused(f"system calls can be traced on {known} only, and this is {machine}")
        if _kernel() < _OLDEST_KERNEL:
            oldest = ".".join(map(str, _OLDEST_KERNEL))
            raise Refused(f"system calls can be traced from Linux {oldest} on, and this is {os.uname().release}")
        self._group = group
        self._store = store
        self._machine = machine
        number = 1 if machine == "x86_64" else 2
        self._calls = {call[number]: (call[0], call[3]) for call in _CALLS}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        self._libc.ptrace.restype = ctypes.c_long
        self._info = _SyscallInfo()
        # Seized, and not seen to stop yet.
        self._awaited: set[int] = set()
        self._seized: set[int] = set()
        self._ended = False
        self._armed = False
        self._at = 0
        self._action = ""
        self._of = ""
        self._counted = 0
        self._records: list[Fields] = []
        self._threads: dict[int, int] = {}
        # By task: the call that it is in, and the one that it will make again.
        self._inside: dict[int, tuple[list[int], Fields]] = {}
        self._again: dict[int, tuple[list[int], Fields]] = {}

    def run(self) -> NoReturn:
        """Attach, do what is told, and end.

        Raises:
            Refused: there is no such group, or it may not be traced.
        """
        changes = self._changes()
        while self._seize_all():
            # What one of them was starting when it was seized is there when it has stopped, and not traced.
            while self._awaited:
                os.read(changes, 128)
                self._reap()
        if not self._seized:
            raise Refused(f"no process runs in the process group {self._group}")
        tell("attached", os.getpid())
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(changes, select.POLLIN)
        told = b""
        while not self._ended:
            for source, _ in poll.poll():
                if source == changes:
                    os.read(changes, 128)
                    self._reap()
                    continue
                read = os.read(0, 4096)
                if not read:
                    os._exit(0)  # nobody is left to tell
                *lines, told = (told + read).split(b"\n")
                for line in lines:
                    self._do(*line.decode().split(maxsplit=3))
        self._tell_all()
        tell("ended")
        os._exit(0)

    # -- attaching -----------------------------------------------------------------------------------------------

    def _changes(self) -> int:
        """A file that can be read when a tracee has stopped or ended."""
        signals = (ctypes.c_uint64 * 16)(1 << (_SIGCHLD - 1))
        self._libc.sigprocmask(0, signals, None)
        changes: int = self._libc.signalfd(-1, signals, os.O_CLOEXEC)
        return changes

    def _seize_all(self) -> bool:
        """Seize what is not traced yet; whether there was anything: what it started meanwhile has to be looked for.

        A task that a traced one starts is traced from its first instruction.
        """
        found = False
        for name in os.listdir("/proc"):
            if name.isdecimal() and self._is_member(int(name)):
                for task in _tasks(int(name)):
                    found |= task not in self._seized and self._seize(task)
        return found

    def _is_member(self, process: int) -> bool:
        try:
            return os.getpgid(process) == self._group
        except OSError:
            return False

    def _seize(self, task: int) -> bool:
        """Begin to trace a task; whether it has to be waited for."""
        try:
            self._ptrace(_SEIZE, task, data=_OPTIONS)
        except ProcessLookupError:
            return False
        except PermissionError:
            state, tracer = _state(task)
            if state in "ZX" or tracer == os.getpid():  # it has ended, or was started by one that is traced
                return False
            raise Refused(_forbidden(task, tracer)) from None
        self._seized.add(task)
        self._awaited.add(task)
        self._go(_INTERRUPT, task)
        return True

    # -- stops ---------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """See to every tracee that has stopped or ended."""
        while not self._ended:
            try:
                task, status = os.waitpid(-1, os.WNOHANG | _WALL)
            except ChildProcessError:
                self._ended = True
                self._awaited.clear()
                return
            if task == 0:
                return
            self._awaited.discard(task)
            if os.WIFSTOPPED(status):
                self._stopped(task, os.WSTOPSIG(status), status >> 16)
            else:
                self._inside.pop(task, None)
                self._again.pop(task, None)

    def _stopped(self, task: int, signal: int, event: int) -> None:
        if event == _EVENT_STOP and signal in _STOP_SIGNALS:
            self._go(_LISTEN, task)  # it stays stopped, until SIGCONT
        elif event:
            self._go(_SYSCALL, task)
        elif signal == _SYSCALL_STOP:
            self._call(task)
            self._go(_SYSCALL, task)
        else:
            self._go(_SYSCALL, task, signal)

    def _call(self, task: int) -> None:
        info = self._info
        try:
            self._ptrace(_GET_SYSCALL_INFO, task, ctypes.sizeof(info), ctypes.addressof(info))
        except ProcessLookupError:  # it was killed
            return
        if info.op == _ENTRY:
            self._enter(task)
        elif info.op == _EXIT and task in self._inside:
            values, record = self._inside.pop(task)
            result = _signed(info.values[0], 64)
            if result in _RESTARTS:
                self._again[task] = values, record
            else:
                record["result"] = result

    def _enter(self, task: int) -> None:
        call = self._calls.get(self._info.values[0])
        if call is None or not self._armed or self._info.arch != _AUDIT_ARCH[self._machine]:
            return
        values = self._info.values[:7]
        if task in self._again and self._again[task][0] == values:
            self._inside[task] = self._again.pop(task)
            return
        name, describe = call
        fields = describe(task, values[1:])
        if fields is None:
            return
        record = {
            "ordinal": len(self._records) + 1,
            "call": name,
            **fields,
            "thread": self._threads.setdefault(task, len(self._threads)),
            "result": None,
            "fingerprint": _fingerprint(name, fields, self._store),
        }
        self._records.append(record)
        self._inside[task] = values, record
        if self._of in ("", record["fingerprint"]):
            self._counted += 1
            if self._counted == self._at:
                self._hit(task, record)

    # -- what it does to them ------------------------------------------------------------------------------------

    def _do(self, command: str, which: str = "0", action: str = "", fingerprint: str = "") -> None:
        if command == "stop":
            self._tell_all()
            os._exit(0)
        self._armed, self._at, self._action = True, int(which), action
        self._of, self._counted = fingerprint, 0
        self._records, self._threads = [], {}
        self._inside.clear()
        self._again.clear()
        tell("armed")

    def _hit(self, task: int, record: Fields) -> NoReturn:
        """Act at the entry of a call, before it takes effect, and let everything go on."""
        if self._action == "kill":
            try:
                os.killpg(self._group, _SIGKILL)
            except ProcessLookupError:
                pass  # it has just been killed
        else:
            success = record["length"] if record["call"] in _WRITES else 0
            record["result"] = success if self._action == "skip" else -getattr(errno, self._action)
            try:
                self._leave_out(task)
                self._ptrace(_SYSCALL, task)
                self._until_exit(task)
                self._return(task, record["result"])
                self._ptrace(_DETACH, task)
            except ProcessLookupError:
                self._reap()
                self._tell_all()
                os._exit(0)
        self._tell_all()
        tell("hit", record["ordinal"])
        os._exit(0)

    def _leave_out(self, task: int) -> None:
        """Have the call that a task enters be none: there is no call -1."""
        if self._machine == "x86_64":
            self._ptrace(_POKEUSER, task, 8 * 15, -1)  # orig_rax
        else:
            self._registers(_SETREGSET, task, 0x404, ctypes.c_int(-1))  # NT_ARM_SYSTEM_CALL

    def _until_exit(self, task: int) -> None:
        """Wait until a task stands behind its call: what is set before, the filter of a container (seccomp) undoes."""
        while True:
            _, status = os.waitpid(task, _WALL)
            if not os.WIFSTOPPED(status):
                raise ProcessLookupError
            signal = os.WSTOPSIG(status)
            if signal == _SYSCALL_STOP:
                return
            self._ptrace(_SYSCALL, task, data=0 if status >> 16 else signal)

    def _return(self, task: int, result: int) -> None:
        """Have a task get a result from the call that it leaves."""
        if self._machine == "x86_64":
            self._ptrace(_POKEUSER, task, 8 * 10, result)  # rax
            return
        registers = (ctypes.c_uint64 * 34)()
        self._registers(_GETREGSET, task, 1, registers)  # NT_PRSTATUS
        registers[0] = result & (1 << 64) - 1
        self._registers(_SETREGSET, task, 1, registers)

    def _registers(self, request: int, task: int, which: int, values: Any) -> None:
        vector = _Vector(ctypes.addressof(values), ctypes.sizeof(values))
        self._ptrace(request, task, which, ctypes.addressof(vector))

    def _go(self, request: int, task: int, data: int = 0) -> None:
        """Send a task on, unless it was killed in the meantime."""
        try:
            self._ptrace(request, task, data=data)
        except ProcessLookupError:
            pass

    def _ptrace(self, request: int, task: int, address: int = 0, data: int = 0) -> None:
        if self._libc.ptrace(request, task, address, data) == -1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _tell_all(self) -> None:
        for record in self._records:
            tell("record", record)


# -- what the system says ----------------------------------------------------------------------------------------


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(filter(str.isdecimal, minor)) or 0)


def _tasks(process: int) -> list[int]:
    try:
        return [int(task) for task in os.listdir(f"/proc/{process}/task")]
    except OSError:
        return []


def _state(task: int) -> tuple[str, int]:
    """The kernel's letter for what a task is doing, and the process that traces it or 0."""
    try:
        with open(f"/proc/{task}/status", errors="replace") as status:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    except OSError:
        return "X", 0
    return fields["State"][0], int(fields["TracerPid"])


def _forbidden(task: int, tracer: int) -> str:
    if tracer:
        return f"process {task} is traced by process {tracer} already"
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as scope:
            yama = f"kernel.yama.ptrace_scope is {scope.read().strip()}"
    except OSError:
        yama = "there is no kernel.yama.ptrace_scope"
    return (
        f"tracing process {task} is not permitted: it takes CAP_SYS_PTRACE (root has it), or for one's own processes "
        f"kernel.yama.ptrace_scope 0 ({yama})"
    )


def tell(*event: Any) -> None:
    """Write an event to standard output, where somebody still reads it."""
    line = (repr(event) + "\n").encode()
    while line:
        try:
            line = line[os.write(1, line) :]
        except BrokenPipeError:
            return


def _told_group() -> int:
    """Stand by until a line says which process group to trace; no later line is read.

    What else is said is for the tracer before: it was over by then.
    """
    while True:
        line = b""
        while not line.endswith(b"\n"):
            read = os.read(0, 1)
            if not read:
                os._exit(0)  # nobody is left to tell
            line += read
        if line.startswith(b"attach "):
            return int(line.split()[1])


def main() -> None:
    """Trace the process groups that it is told, for the store that the command line may name."""
    try:
        if sys.platform != "linux":
            raise Refused(f"system calls can be traced on Linux only, and this is {sys.platform}")
        libc = ctypes.CDLL(None)
        libc.signal(_SIGCHLD, None)  # SIG_DFL: whoever started this may have had it ignored, and so not sent
        while True:
            group, own = _told_group(), os.getpid()
            tracer = os.fork()
            if tracer == 0:
                libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
                if os.getppid() == own:
                    Tracer(group, sys.argv[1]).run()
                return
            tell("over", os.waitstatus_to_exitcode(os.waitpid(tracer, 0)[1]))
    except Refused as refused:
        tell("error", str(refused))
