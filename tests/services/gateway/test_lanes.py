"""`conflate_ms` at a running gateway: its timer serves every interval, whichever came first."""

from tests.aio import run
from tests.services.gateway.kit import TICKER, Json, world
from tests.services.gateway.test_joins import flowing

LONGEST_MS = 60_000


def merged(message: Json) -> bool:
    return message["op"] == "incr" and "prev_seq" in message["data"]


def test_a_shorter_interval_does_not_wait_for_a_longer_one() -> None:
    async def scenario() -> None:
        async with world() as here:
            await flowing(here, TICKER)
            async with here.client() as patient, here.client() as eager:
                for client, conflate_ms in ((patient, LONGEST_MS), (eager, 10)):
                    await client.subscribe(TICKER, conflate_ms=conflate_ms)
                    await client.until(lambda message: message["op"] == "snapshot")
                for number in range(4, 7):
                    here.of(TICKER).publish(TICKER, [number])
                    message = await eager.until(merged)
                    assert message["data"]["prev_seq"] < message["data"]["seq"]
                assert here.gateway.statistics().merged_messages_total >= 3

    run(scenario())
