"""The op `replay` at a gateway of a live mesh. At one of a replay: tests/services/player."""

from tests.aio import run
from tests.services.gateway.kit import world


def test_a_live_gateway_has_no_replay_to_control() -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here, here.client() as client:
            await client.send(op="replay", action="pause", id=4)
            assert await client.next() == {
                "op": "error",
                "code": "INVALID_OPERATION",
                "msg": "only a replay has the op replay; this is a live mesh",
                "id": 4,
            }
            await client.send(op="replay", action="stop")
            assert (await client.next())["code"] == "BAD_REQUEST"

    run(scenario())
