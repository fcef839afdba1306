"""A process that has what Python on Windows has: no modules and functions of POSIX, folders that can't be opened.

`pretend` comes before the first import of what is tried, and after those of what other people have tried there. Locks
on ranges of files are those of Linux that belong to who has opened a file, as on Windows.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import signal
import stat
import struct
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, Final

MODULES: Final = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
OF_OS: Final = (
    "O_CLOEXEC", "O_DIRECTORY", "O_DSYNC", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "chown", "chroot",
    "confstr", "copy_file_range", "eventfd", "fchdir", "fchmod", "fchown", "fdatasync", "fork", "forkpty",
    "fpathconf", "fstatvfs", "getegid", "geteuid", "getgid", "getgroups", "getloadavg", "getpgid", "getpgrp",
    "getpriority", "getsid", "getuid", "killpg", "lchown", "lockf", "major", "memfd_create", "minor", "mkfifo",
    "mknod", "nice", "openpty", "pathconf", "posix_fadvise", "posix_fallocate", "posix_spawn", "pread",
    "preadv", "pwrite", "pwritev", "readv", "sched_getaffinity", "sched_setaffinity", "sendfile", "setpgid",
    "setsid", "setuid", "splice", "statvfs", "sync", "sysconf", "tcgetpgrp", "ttyname", "uname", "wait3",
    "wait4", "waitid", "writev",
)  # fmt: skip
OF_SIGNAL: Final = (
    "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1",
    "SIGUSR2", "SIGWINCH", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "siginterrupt",
    "sigwait",
)  # fmt: skip
OF_MMAP: Final = ("MAP_ANON", "MAP_ANONYMOUS", "MAP_PRIVATE", "MAP_SHARED", "PROT_EXEC", "PROT_READ", "PROT_WRITE")

_SET_LOCK, _WRITE, _NONE = fcntl.F_OFD_SETLK, fcntl.F_WRLCK, fcntl.F_UNLCK
_control = fcntl.fcntl


class Msvcrt(ModuleType):
    """Python's module of that name, as far as locks go."""

    LK_UNLCK, LK_LOCK, LK_NBLCK = 0, 1, 2

    def locking(self, descriptor: int, how: int, size: int) -> None:
        """Lock a range from the position on, or unlock it."""
        assert how in {self.LK_UNLCK, self.LK_NBLCK}, "the other one gives up after ten seconds"
        start = os.lseek(descriptor, 0, os.SEEK_CUR)
        kind = _NONE if how == self.LK_UNLCK else _WRITE
        try:
            _control(descriptor, _SET_LOCK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, size, 0))
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None


def pretend() -> None:
    """Take away what Windows lacks."""
    looked = os.statvfs

    def disk_usage(path: Any) -> Any:
        found = looked(path)
        whole, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        return SimpleNamespace(total=whole, used=whole - free, free=free)

    # The standard library looks at the system by itself, when it is imported.
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    shutil.disk_usage = disk_usage
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment] # an import of it fails
    sys.modules["msvcrt"] = Msvcrt("msvcrt")
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL), (mmap, OF_MMAP)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    opened, renamed, timed = os.open, os.rename, os.utime

    def open_(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        if not isinstance(path, int) and os.path.isdir(path):  # noqa: PTH112
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, flags, mode, **options)

    def rename(source: Any, target: Any, **options: Any) -> None:
        if os.path.isdir(target):  # noqa: PTH112
            raise FileExistsError(errno.EEXIST, "File exists", str(target))
        renamed(source, target, **options)

    def utime(path: Any, *given: Any, **options: Any) -> None:
        if isinstance(path, int):
            raise TypeError("utime: path should be string, bytes or os.PathLike, not int")
        timed(path, *given, **options)

    os.open, os.utime = open_, utime
    os.rename = rename  # type: ignore[assignment] # that of Windows takes no folders by descriptor


def open_to_all(file: Any) -> None:
    """The mode that each file has there."""
    os.chmod(file, stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH)  # noqa: PTH101
