"""Two ways to a whole mesh, for end-to-end tests.

    mesh_up       `lfmesh up` as a user runs it: a process for every role, ended by Ctrl-C; nothing may be left of it
    assembled     every service in this process and loop, run by the runtime, fed by a simulator in the same loop

Both give a `LiveMesh`: where its gateway, its simulator and its services are.
"""

import asyncio
import os
import signal
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lfmesh.cli.makers import maker
from lfmesh.client import meshfile
from lfmesh.client.http import fetch_json
from lfmesh.config import Config
from lfmesh.errors import LfmeshError
from lfmesh.messages import LookupRequest, ServiceRecord, View, decode_reply, encode
from lfmesh.services.runtime import Running, running
from lfmesh.transport import Requester, Transport
from lfmesh.types import Role
from loadgen.sim import SimConfig, Simulator, serve

START_WITHIN_S = 30.0
END_WITHIN_S = 20.0
_LOG_TAIL_CHARACTERS = 8000


@dataclass(slots=True)
class LiveMesh:
    """A running mesh. `simulator` and `roles` (of shard roles the last one) are there when it runs in this process.

    `data_dir` is that of `lfmesh up`.
    """

    ws_url: str
    http_url: str
    sim_url: str
    registry_endpoints: Sequence[str]
    simulator: Simulator | None = None
    roles: dict[Role, Running] = field(default_factory=dict)
    data_dir: Path | None = None

    def pid(self, instance: str) -> int:
        """The process id of a role that `lfmesh up` runs."""
        assert self.data_dir is not None
        found = meshfile.read(self.data_dir)
        assert found is not None
        return found.pids[instance]

    async def is_ready(self, instance: str) -> bool:
        """Whether a role says that it can do its work; False while it is away."""
        with suppress(OSError, LfmeshError, StopIteration):
            record = next(record for record in await self.services() if record.instance == instance)
            await _get(f"{record.http.rstrip('/')}/ready")
            return True
        return False

    async def sim(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """An endpoint of the simulator, such as `control/pause` or `truth`."""
        return await fetch_json(f"{self.sim_url}/{path}", timeout_s=10)

    async def gateway(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """A JSON endpoint of the gateway."""
        return await fetch_json(f"{self.http_url}/{path}", timeout_s=10)

    async def snapshot(self, product: str, channel: str) -> bytes:
        """The text of the gateway's `/v1/snapshot`, every digit kept."""
        return await self.get(f"v1/snapshot/{product}?channel={channel}")

    async def get(self, path: str) -> bytes:
        """What the gateway answers, as it is."""
        return await _get(f"{self.http_url}/{path}")

    async def services(self) -> list[ServiceRecord]:
        """What the first registry replica knows."""
        with Transport() as transport:
            registry = Requester(transport, self.registry_endpoints[0])
            header, *_ = await registry.request(encode(LookupRequest()), 5.0)
        view = decode_reply(header)
        assert isinstance(view, View)
        return view.services

    async def metrics(self, role: Role) -> dict[str, float]:
        """All samples of a role's /metrics, summed over its instances, by name and labels."""
        samples: dict[str, float] = {}
        for record in await self.services():
            if record.role is role:
                text = (await _get(f"{record.http}/metrics")).decode()
                for line in text.splitlines():
                    if line and not line.startswith("#"):
                        name, _, value = line.rpartition(" ")
                        samples[name] = samples.get(name, 0.0) + float(value)
        return samples

    async def truth(self) -> dict[str, dict[str, Any]]:
        """What a client that missed nothing holds, by product: see `loadgen.sim.Truth`."""
        return {product["product"]: product for product in await self.sim("truth")}


async def _get(url: str) -> bytes:
    def blocking() -> bytes:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bytes(answer.read())

    return await asyncio.to_thread(blocking)


async def wait_for(condition: Callable[[], Awaitable[object]], within_s: float, what: str) -> None:
    """Ask again and again until the answer is true; fail in words after `within_s`."""
    try:
        async with asyncio.timeout(within_s):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None


# As a user runs it ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def mesh_up(data_dir: Path, *arguments: str, env: dict[str, str] | None = None) -> AsyncIterator[LiveMesh]:
    """`lfmesh up` with these arguments (fed by the simulator or a tape), on a port and in a folder of its own.

    Leaving the block presses Ctrl-C and checks that it ends in order: exit code 0, no process left. On any failure the
    end of its log is written to standard output, where pytest shows it.
    """
    mark = uuid.uuid4().hex
    log = data_dir / "up.log"
    await asyncio.to_thread(data_dir.mkdir, parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lfmesh.cli", "up",
            "--gateway-port", "0", "--data-dir", str(data_dir), *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            env={**os.environ, **(env or {}), "MESH_TEST_MARK": mark},
        )  # fmt: skip
    try:
        yield await _announced(process, data_dir)
        await _end(process, data_dir, mark)
    except BaseException:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            with suppress(TimeoutError):
                async with asyncio.timeout(END_WITHIN_S):
                    await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
        sys.stdout.write(f"\n--- the end of {log} ---\n{log.read_text(errors='replace')[-_LOG_TAIL_CHARACTERS:]}\n")
        raise


async def _announced(process: asyncio.subprocess.Process, data_dir: Path) -> LiveMesh:
    async def there() -> bool:
        assert process.returncode is None, f"`lfmesh up` ended with exit code {process.returncode}"
        found = meshfile.read(data_dir)
        return found is not None and found.pid == process.pid and found.simulator_url is not None

    await wait_for(there, START_WITHIN_S, "mesh.json with the simulator's address")
    found = meshfile.read(data_dir)
    assert found is not None
    return LiveMesh(
        ws_url=found.gateway_url,
        http_url=found.http_url.rstrip("/"),
        data_dir=data_dir,
        sim_url=str(found.simulator_url).rstrip("/"),
        registry_endpoints=found.registry_endpoints,
    )


async def _end(process: asyncio.subprocess.Process, data_dir: Path, mark: str) -> None:
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(END_WITHIN_S):
        code = await process.wait()
    assert code == 0, f"`lfmesh up` ended with exit code {code} at Ctrl-C"
    assert _marked(mark) == [], "processes are left"
    assert meshfile.read(data_dir) is None, "mesh.json is left"


def _marked(mark: str) -> list[str]:
    """Processes with our mark in their environment; nothing where the system has no /proc."""
    left = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in environ.read_bytes():
                left.append(environ.parent.name + " " + environ.with_name("cmdline").read_text().replace("\0", " "))
    return left


def log_of(data_dir: Path) -> str:
    """What `lfmesh up` and its roles have written."""
    return (data_dir / "up.log").read_text(errors="replace")


# In this process ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def assembled(
    data_dir: Path,
    simulator: SimConfig,
    *,
    shards: int = 2,
    changes: dict[str, dict[str, Any]] | None = None,
) -> AsyncIterator[LiveMesh]:
    """Registry, ingestor, normalizers, snapshotters and a gateway in this loop, on ports that the system chooses."""
    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(serve(simulator))
        merged: dict[str, dict[str, Any]] = {
            "mesh": {"products": sim.products, "shards": shards, "data_dir": data_dir},
            "venue": {"ws_url": sim.ws_url, "rest_url": sim.rest_url},
            "registry": {"bind_requests": "tcp://127.0.0.1:0", "bind_changes": "tcp://127.0.0.1:0"},
            "gateway": {"port": 0, "drain_s": 0.0},
            "log": {"level": "warning"},
        }
        for section, keys in (changes or {}).items():
            merged.setdefault(section, {}).update(keys)
        config = Config().override(merged)
        roles: dict[Role, Running] = {}

        async def begin(role: Role, shard: int | None = None) -> ServiceRecord:
            roles[role] = await stack.enter_async_context(running(maker(role, shard), config, role, shard))
            record = roles[role].record
            assert record is not None
            return record

        registry = await begin(Role.REGISTRY)
        endpoints = (registry.endpoints["requests"],)
        config = config.override({"registry": {"endpoints": endpoints}})
        for shard in range(shards):
            await begin(Role.NORMALIZER, shard)
            await begin(Role.SNAPSHOTTER, shard)
        gateway = await begin(Role.GATEWAY)
        await begin(Role.INGESTOR)
        http_url = gateway.http.rstrip("/")
        yield LiveMesh(
            ws_url=http_url.replace("http://", "ws://") + "/ws",
            http_url=http_url,
            sim_url=sim.rest_url,
            registry_endpoints=endpoints,
            simulator=sim,
            roles=roles,
        )
