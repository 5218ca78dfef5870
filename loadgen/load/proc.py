"""CPU time and memory of processes on this machine, and how many files one may open."""

import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lfmesh.errors import LfmeshError

_SPARE_FILES = 64


class Usage(NamedTuple):
    """User and system CPU time since a process began, and its resident memory."""

    cpu_s: float
    rss_bytes: int


def own() -> Usage:
    """Of this process."""
    found = of(os.getpid())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Usage(time.process_time(), found.rss_bytes if found is not None else peak)


def of(pid: int) -> Usage | None:
    """Of a process; None where the system has no /proc, or the process is gone."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        return Usage((int(fields[11]) + int(fields[12])) / ticks, int(fields[21]) * page)
    return None


def allow_sockets(count: int) -> None:
    """Raise the limit of open files to what so many sockets need; LfmeshError with what to do where that is refused."""
    needed = count + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(needed, hard)))
    except (ValueError, OSError):
        allowed = hard if hard != resource.RLIM_INFINITY else soft
        raise LfmeshError(
            f"{count} clients in one process need {needed} open files, and {allowed} are allowed: "
            f"use more --processes, fewer --clients, or raise the limit (ulimit -Hn {needed})"
        ) from None
