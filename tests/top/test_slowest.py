"""Which clients are shown, of what gateways tell."""

from lfmesh.messages import SlowClient, Telemetry
from lfmesh.top.slowest import SHOWN, SlowRow, slowest_of
from lfmesh.top.state import SILENT_NS, TopState
from lfmesh.types import Role
from tests.top.test_state import T0, S, told


def slow(client: str, lag_ms: float, waiting_bytes: int = 1) -> SlowClient:
    return SlowClient(client, lag_ms, waiting_bytes, conflated=2, conflating=True, subscriptions=6)


def gateway(instance: str, *slowest: SlowClient, at_s: float = 1, **more: object) -> Telemetry:
    return told(at_s, instance=instance, slowest=list(slowest), **more)


def test_the_worst_of_all_gateways_come_first() -> None:
    rows = slowest_of(
        [
            gateway("gateway-0.0", slow("a:1", 5), slow("a:2", 3, 9)),
            gateway("gateway-0.1", slow("b:1", 7), slow("b:2", 3, 10)),
        ]
    )
    assert [row.client for row in rows] == ["b:1", "a:1", "b:2", "a:2"]
    assert rows[0] == SlowRow("gateway-0.1", "b:1", 7, 1, 2, conflating=True, subscriptions=6)


def test_at_most_ten_are_shown() -> None:
    rows = slowest_of(gateway(f"g{one}", *(slow(f"{one}:{lag}", lag) for lag in range(8))) for one in range(2))
    assert [row.lag_ms for row in rows] == [7, 7, 6, 6, 5, 5, 4, 4, 3, 3]
    assert len(rows) == SHOWN


def test_only_what_a_gateway_told_last_counts_and_only_while_it_is_heard() -> None:
    state = TopState()
    assert state.slowest(T0) == []
    state.told(gateway("gateway-0", slow("a:1", 5)), T0 + S)
    state.told(gateway("gateway-1", slow("b:1", 4)), T0 + S)
    state.told(told(1, role=Role.NORMALIZER, instance="normalizer-0"), T0 + S)
    assert [row.client for row in state.slowest(T0 + S)] == ["a:1", "b:1"]
    state.told(gateway("gateway-0", at_s=2, reasons=["draining"]), T0 + 2 * S)
    state.told(gateway("gateway-0", slow("c:1", 4), at_s=3, reasons=["draining"]), T0 + 3 * S)
    assert [row.client for row in state.slowest(T0 + 3 * S)] == ["c:1", "b:1"]
    assert [row.client for row in state.slowest(T0 + S + SILENT_NS + 1)] == ["c:1"], "of who is silent nothing is known"
    state.told(gateway("gateway-0", at_s=4), T0 + 4 * S)
    assert state.slowest(T0 + S + SILENT_NS + 1) == []
