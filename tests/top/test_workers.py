"""What several workers of one gateway do together."""

import msgspec

from lfmesh.top.state import Row
from lfmesh.top.workers import gateway_of, with_sums
from lfmesh.types import Role
from tests.top.test_render import ROW

WORKER = msgspec.structs.replace(
    ROW, role=Role.GATEWAY, instance="gateway-0.0", shard=None, http="http://here:8000", clients=700, cpu_percent=90.5
)


def worker(number: int, **figures: object) -> Row:
    return msgspec.structs.replace(WORKER, instance=f"gateway-0.{number}", pid=100 + number, **figures)


def test_a_sum_follows_the_workers_of_a_gateway() -> None:
    crew = worker(0), worker(1, clients=500, restarts=0, age_s=3.0, lag_ms=9.5), worker(2, messages_in_per_s=12_400.0)
    other = msgspec.structs.replace(WORKER, instance="gateway-1.0", http="http://here:8001")
    shown = with_sums([ROW, *crew, other])
    assert [row.instance for row in shown] == [
        "normalizer-1", "gateway-0.0", "gateway-0.1", "gateway-0.2", "gateway-0 ×3", "gateway-1.0",
    ]  # fmt: skip
    assert [row for row in shown if row.pid] == [ROW, *crew, other]
    total = shown[4]
    assert (total.clients, total.cpu_percent, total.rss_bytes) == (1900, 271.5, 150_000_000)
    assert (total.messages_in_per_s, total.messages_out_per_s) == (12_400.0, 3 * 23456.7), "each receives everything"
    assert (total.lag_ms, total.age_s, total.restarts, total.gaps) == (9.5, 75.2, 4, 12)


def test_a_sum_is_as_well_as_the_worst_and_knows_what_anybody_knows() -> None:
    unknown = dict.fromkeys(("clients", "messages_in_per_s", "messages_out_per_s", "cpu_percent", "rss_bytes"))
    total = with_sums([worker(0), worker(1, state="announced", **unknown)])[-1]
    assert (total.state, total.clients, total.messages_out_per_s) == ("announced", 700, 23456.7)
    total = with_sums([worker(0, state="not ready", reasons=["draining"], draining=True), worker(1, state="gone")])[-1]
    assert (total.state, total.reasons, total.draining) == ("gone", [], True)
    assert with_sums([worker(0, **unknown), worker(1, **unknown)])[-1].clients is None


def test_who_is_no_worker_is_not_summed() -> None:
    names = ("gateway-0", "gateway.example.org", "gateway-0.", ".5x")
    assert [gateway_of(msgspec.structs.replace(WORKER, instance=name)) for name in names] == [""] * 4
    assert gateway_of(msgspec.structs.replace(ROW, instance="normalizer-1.0")) == ""
    assert gateway_of(WORKER) == "gateway-0"
    elsewhere = worker(1, http="http://here:8001")
    assert with_sums([WORKER, elsewhere]) == [WORKER, elsewhere], "another port is another gateway"
    assert with_sums([]) == []
