"""Run by itself in a network namespace: every packet between normalizer and gateway, and clients, is dropped."""

from tests.aio import eventually, run
from tests.services.gateway.kit import TRADES, place, world
from tests.services.gateway.test_joins import flowing
from tests.transport.packets import drop_packets, network_up, pass_packets


async def scenario() -> None:
    await network_up()
    async with world() as here, here.client() as client:
        epoch = await flowing(here, TRADES, 2)
        await client.subscribe(TRADES)
        await client.until(lambda m: m["op"] == "snapshot")
        await eventually(lambda: here.gateway.readiness() == [])
        await drop_packets()
        for number in range(20):
            here.normalizer.publish(TRADES, [number])
        await eventually(lambda: here.gateway.readiness() != [] and here.gateway.statistics().links_rebuilt_total)
        await pass_packets()
        here.normalizer.publish(TRADES, [77])
        await here.caught_up(TRADES)
        await eventually(lambda: here.gateway.readiness() == [])
        await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 23, timeout=30)
        came = [place(m) for m in client.messages if m["op"] == "incr"]
        assert came == [("incr", epoch, seq) for seq in range(3, 24)]


if __name__ == "__main__":
    run(scenario(), timeout=60)
