"""A process's own figures: CPU time, memory, and how late its event loop comes."""

import asyncio
import os
import sys
import time
from collections import deque
from pathlib import Path

from lfmesh.ports import Vitals

_STATM = Path("/proc/self/statm")
_PROBE_INTERVAL_S = 0.1
_WINDOW_PROBES = 100


def cpu_s() -> float:
    """User and system CPU time of this process since it started."""
    return time.process_time()


def rss_bytes() -> int:
    """Resident memory of this process; where there is no /proc, the most that it ever was."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class LoopLag:
    """Measures how late the running loop calls what is due: one probe each 100 ms, the worst of the last 10 s."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._late_s: deque[float] = deque(maxlen=_WINDOW_PROBES)
        self._due = self._loop.time() + _PROBE_INTERVAL_S
        self._timer = self._loop.call_at(self._due, self._probe)

    def worst_s(self) -> float:
        """The longest that the loop came late; counts a delay that is not over yet only once it is."""
        return max(self._late_s, default=0.0)

    def close(self) -> None:
        """Stop probing."""
        self._timer.cancel()

    def _probe(self) -> None:
        now = self._loop.time()
        self._late_s.append(max(0.0, now - self._due))
        self._due = now + _PROBE_INTERVAL_S
        self._timer = self._loop.call_at(self._due, self._probe)


def vitals(lag: LoopLag | None = None) -> Vitals:
    """The figures of now."""
    return Vitals(cpu_s=cpu_s(), rss_bytes=rss_bytes(), loop_lag_s=None if lag is None else lag.worst_s())
