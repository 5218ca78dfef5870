"""A real `lfmesh up` in processes of its own, for tests: started, looked at, ended, and looked for afterwards."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lfmesh.client import Increment, Snapshot, connect, meshfile
from lfmesh.client.meshfile import MeshFile

DEADLINE_S = 30.0
_MARK = "LFMESH_TESTS_MARK"


def until[T](condition: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """What `condition` returns once that is neither None nor False; fails after the deadline."""
    ends = time.monotonic() + deadline_s
    while time.monotonic() < ends:
        found = condition()
        if found is not None and found is not False:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")


class Up:
    """One `lfmesh up` with a data folder and a place for its sockets of its own."""

    def __init__(self, root: Path) -> None:
        self.data_dir = root / "data"
        self.sockets = root / "tmp"
        self.sockets.mkdir()
        self.out, self.err = root / "out", root / "err"
        self._mark = uuid.uuid4().hex
        self.process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.sockets), _MARK: self._mark, "COLUMNS": "150", "LINES": "40"}

    def command(self, *arguments: str) -> list[str]:
        port = [] if "--gateway-port" in arguments else ["--gateway-port", "0"]
        return [sys.executable, "-m", "lfmesh.cli", "up", "--data-dir", str(self.data_dir), *port, *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it, in a process group of its own; what it writes goes to files."""
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                self.command(*arguments),
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self.environment(), start_new_session=True,
            )  # fmt: skip
        return self.process

    def mesh(self, *roles: str) -> MeshFile:
        """mesh.json, once it names these roles' processes."""

        def look() -> MeshFile | None:
            assert self.process is None or self.process.poll() is None, self.said()
            mesh = meshfile.find(self.data_dir)
            return mesh if mesh is not None and set(roles) <= set(mesh.pids) else None

        return until(look, f"mesh.json with {roles}")

    def wait(self) -> int:
        """The exit code, within the deadline."""
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def said(self) -> str:
        """Everything written so far."""
        return self.out.read_text() + self.err.read_text()

    def processes(self) -> list[int]:
        """Everything that this `up` has started and that still runs, itself included."""
        mark = f"{_MARK}={self._mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes()
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if mark in environment.split(b"\0") and state != "Z":
                    found.append(int(entry.name))
        return found

    def gone(self) -> None:
        """Nothing is left: no process, no socket, no mesh.json."""
        until(lambda: not self.processes(), "every process has ended")
        until(lambda: not list(self.sockets.iterdir()), "the folder of sockets is gone")
        assert meshfile.read(self.data_dir) is None

    def kill(self) -> None:
        """Whatever a failed test has left, by its ids."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)


@contextmanager
def an_up() -> Iterator[Up]:
    """An `up` to start; nothing of it survives the block. Its folder has a short path, for sockets."""
    root = Path(tempfile.mkdtemp(prefix="u"))
    up = Up(root)
    try:
        yield up
    finally:
        up.kill()
        shutil.rmtree(root)


def first_updates(url: str, products: list[str], count: int = 1, channel: str = "ticker") -> list[Snapshot | Increment]:
    """What a client gets first, within the deadline."""

    async def follow() -> list[Snapshot | Increment]:
        updates: list[Snapshot | Increment] = []
        async with asyncio.timeout(DEADLINE_S), connect(url, open_timeout_s=None) as feed:
            await feed.subscribe(products, channels=[channel])
            async for event in feed:
                if isinstance(event, Snapshot | Increment):
                    updates.append(event)
                    if len(updates) == count:
                        break
        return updates

    return asyncio.run(follow())


def run_lfmesh(*arguments: str, up: Up | None = None) -> subprocess.CompletedProcess[str]:
    """Another command of lfmesh, run to its end."""
    environment = up.environment() if up else dict(os.environ)
    return subprocess.run(
        [sys.executable, "-m", "lfmesh.cli", *arguments],
        capture_output=True, text=True, check=False, timeout=DEADLINE_S, env=environment,
    )  # fmt: skip


def json_lines(text: str) -> list[dict[str, object]]:
    """Each line as JSON."""
    return [json.loads(line) for line in text.splitlines()]
