"""The listener's links."""

import asyncio
from pathlib import Path

from lfmesh.config import RegistrySection, StaticPeer
from lfmesh.top.loop import Listener
from lfmesh.transport import Transport
from lfmesh.types import Role
from tests.aio import run


def test_a_listener_follows_the_mesh_to_other_addresses(tmp_path: Path) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            listener = Listener(RegistrySection(endpoints=(f"ipc://{tmp_path}/nobody",)), transport)
            listener.start()
            assert listener.look() == []
            assert listener.state.registries == (0, 1)
            listener.follow(RegistrySection(endpoints=(f"ipc://{tmp_path}/a", f"ipc://{tmp_path}/b")))
            listener.look()
            assert listener.state.registries == (0, 2)
            peer = StaticPeer(role=Role.GATEWAY, instance="g", endpoints={"telemetry": f"ipc://{tmp_path}/t"})
            listener.follow(RegistrySection(static_peers=(peer,)))
            assert [row.instance for row in listener.look()] == ["g"]
            listener.close()
            await asyncio.sleep(0)

    run(scenario())
