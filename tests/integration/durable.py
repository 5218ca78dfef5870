"""A mesh that can lose all of its processes at once, on stores that are its own, fed by an exchange that lives on.

simulator (in the test's process) ──► `lfmesh up --source coinbase --config …` (a process tree that is killed)
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from lfmesh.client import meshfile
from loadgen.sim import Simulator
from tests.integration.mesh import END_WITHIN_S, START_WITHIN_S, LiveMesh, wait_for

Keys = Mapping[str, Mapping[str, object]]


def write_config(path: Path, keys: Keys) -> None:
    """A configuration file from sections and keys."""
    lines = []
    for section, values in keys.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n")


@dataclass(slots=True)
class Durable:
    """One mesh's configuration and data, and the process tree that runs on it now."""

    folder: Path
    keys: dict[str, dict[str, object]]
    env: dict[str, str] = field(default_factory=dict)
    options: Sequence[str] = ()
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: asyncio.subprocess.Process | None = None

    @classmethod
    def on(
        cls, folder: Path, simulator: Simulator, keys: Keys, env: Mapping[str, str] | None = None, shards: int = 2
    ) -> "Durable":
        """Fed by this simulator; `keys` are those of the configuration beside what that needs."""
        merged: dict[str, dict[str, object]] = {
            "mesh": {"products": list(simulator.products), "shards": shards, "data_dir": str(folder / "mesh")},
            "venue": {"ws_url": simulator.ws_url, "rest_url": simulator.rest_url, "backoff_max_s": 0.5},
        }
        for section, values in keys.items():
            merged.setdefault(section, {}).update(values)
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder / "mesh.toml", merged)
        return cls(folder, merged, dict(env or {}))

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "mesh.toml"

    @property
    def data_dir(self) -> Path:
        """The mesh's data folder."""
        return self.folder / "mesh"

    @property
    def log(self) -> str:
        """What its processes have written."""
        return (self.folder / "up.log").read_text(errors="replace")

    async def up(self) -> LiveMesh:
        """Start it on what is there; back when it has its addresses."""
        with (self.folder / "up.log").open("ab") as output:
            self.process = process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "lfmesh.cli", "up", "--source", "coinbase", "--gateway-port", "0",
                "--config", str(self.config), *self.options,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, **self.env, "MESH_TEST_MARK": self.mark},
            )  # fmt: skip

        async def there() -> bool:
            assert process.returncode is None, f"`lfmesh up` ended with {process.returncode}:\n{self.log[-4000:]}"
            found = meshfile.read(self.data_dir)
            return found is not None and found.pid == process.pid

        await wait_for(there, START_WITHIN_S, "mesh.json")
        found = meshfile.read(self.data_dir)
        assert found is not None
        return LiveMesh(
            ws_url=found.gateway_url,
            http_url=found.http_url.rstrip("/"),
            sim_url=str(self.keys["venue"]["rest_url"]).rstrip("/"),
            registry_endpoints=found.registry_endpoints,
            data_dir=self.data_dir,
        )

    async def kill_everything(self) -> None:
        """SIGKILL to every process of the tree, the supervisor first, until none is left."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

        async def gone() -> bool:
            left = self._pids()
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        await wait_for(gone, END_WITHIN_S, "the end of every process")
        self.process = None

    async def end(self) -> None:
        """Ctrl-C, and all that belongs to an orderly end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(END_WITHIN_S):
            code = await self.process.wait()
        assert code == 0, f"exit code {code} at Ctrl-C:\n{self.log[-4000:]}"
        assert self._pids() == []
        self.process = None

    async def command(self, *arguments: str) -> str:
        """Standard output of an `lfmesh` command on this configuration."""
        return await command(*arguments, "--config", str(self.config), env=self.env)

    def _pids(self) -> list[int]:
        """Processes with our mark in their environment."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if self.mark.encode() in environ.read_bytes():
                    found.append(int(environ.parent.name))
        return found


async def command(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Standard output of an `lfmesh` command that succeeds."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "lfmesh.cli", *arguments],
        capture_output=True, text=True, timeout=100, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert done.returncode == 0, f"{arguments}: exit code {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def state_hash_in(text: str) -> str:
    """The state hash that a replay printed."""
    return next(word for word in text.split() if len(word) == 64)


@asynccontextmanager
async def durable(durable_mesh: Durable) -> AsyncIterator[Durable]:
    """Whatever happens inside, no process is left; on a failure the end of the log is shown."""
    try:
        yield durable_mesh
    except BaseException:
        sys.stdout.write(f"\n--- the end of the log ---\n{durable_mesh.log[-8000:]}\n")
        raise
    finally:
        if durable_mesh.process is not None:
            with suppress(AssertionError, ProcessLookupError):
                await durable_mesh.kill_everything()
