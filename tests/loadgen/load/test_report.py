"""Counts of processes summed up, and conditions on the sum."""

import msgspec
import pytest
from rich.console import Console

from loadgen.client.latency import Histogram
from loadgen.load.config import LoadConfig, Progress
from loadgen.load.counts import Counts, GroupCounts, Spread
from loadgen.load.expect import BadCondition, judge, names, parse
from loadgen.load.ledger import Ledger
from loadgen.load.render import Rates, progress, rendered
from loadgen.load.report import LoadReport, report
from loadgen.load.roles import RoleUsage, metrics
from loadgen.load.run import Shown

MS = 1_000_000
CONFIG = LoadConfig(url="ws://gateway/ws", clients=12, processes=2)


def spread(*values_ms: int) -> Spread:
    histogram = Histogram()
    for value in values_ms:
        histogram.record(value * MS)
    return Spread.of(histogram)


def counts(told: int, **more: object) -> Counts:
    good = GroupCounts(clients=5, joined=4, deliveries=1000, bytes=300_000, ingest=spread(1, 2, 3), refused={"503": 1})
    slow = GroupCounts(
        clients=1, joined=1, deliveries=10, closes={"4001": 1}, ingest=spread(900), outcomes={"closed_4001": 1}
    )
    groups = {"good": good, "slow": slow, "idle": GroupCounts(clients=1)}
    ledger = Ledger()
    ledger.compare(b"stream", 1, 61, b"%d" % told)
    return Counts(groups=groups, duration_s=2.0, told=ledger.told, cpu_s=1.0, rss_bytes=5_000_000, **more)  # type: ignore[arg-type]  # counts by name


def summed() -> LoadReport:
    one = counts(1, violations={"seq": 2, "silence": 1}, snapshots={"conflated": 3}, join=spread(5), checked=2)
    other = counts(2, violations={"trade_gap": 1}, join=spread(7, 9), first_violations=["seq: here"])
    sent = [msgspec.json.decode(msgspec.json.encode(part), type=Counts) for part in (one, other)]
    return report(CONFIG, sent, {"gateway-0": RoleUsage(50.0, 80.0)}, {"slow_closed_total.age": 2.0})


def test_the_parts_are_summed_up() -> None:
    found = summed()
    assert (found.clients, found.joined, found.not_joined) == (14, 10, 2), "idle ones never join"
    assert found.deliveries == 2020
    assert found.deliveries_per_s == 1010
    assert found.groups["good"].mb_per_s == 0.3
    assert found.groups["good"].latency.count == 6
    assert found.latency_max_ms == 3.0, "of good clients alone"
    assert found.latency_p50_ms == pytest.approx(2.0, rel=0.02)
    assert found.groups["slow"].latency.max_ms == 900
    assert (found.join.count, found.join.max_ms) == (3, 9.0)
    assert (found.gaps, found.violations_total, found.conflations) == (3, 4, 3)
    assert (found.closes, found.refused) == ({"4001": 2}, {"503": 2})
    assert (found.compared, found.differing) == (2, 1), "the two processes got different bytes"
    assert found.load == RoleUsage(100.0, 10.0)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("latency_p50_ms<=2.1", True),
        ("latency_p99_ms < 1", False),
        ("gaps==0", False),
        ("gaps>=3", True),
        ("gaps!=4", True),
        ("closes.4001==2", True),
        ("closes.1008==0", True),
        ("violations.order==0", True),
        ("outcomes.closed_4001>1", True),
        ("groups.slow.latency.max_ms==900", True),
        ("roles.gateway-0.rss_mb<=512", True),
        ("gateway.slow_closed_total.age==2", True),
        ("gateway.slow_closed_total.bytes==0", True),
        ("rejoin.max_ms<=10000", False),
        ("groups.flapping.joined==0", False),
        ("load.cpu_percent<=1e3", True),
    ],
)
def test_conditions(text: str, met: bool) -> None:
    verdict = judge(parse(text), summed())
    assert verdict.met is met, str(verdict)


@pytest.mark.parametrize("text", ["", "gaps", "gaps=0", "gaps==zero", "gaps==0; 1", "__import__('os')==1", "==1"])
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(BadCondition, match="is no condition"):
        parse(text)


@pytest.mark.parametrize("text", ["gap==0", "latency.p99_ms<1", "groups.slow.nothing==1", "closes==0", "refused_by==0"])
def test_unknown_names_are_told_with_the_known_ones(text: str) -> None:
    with pytest.raises(BadCondition, match=r"there are .*latency_p99_ms, .*closes\.\*, .*groups\.\*\.latency\.p99_ms"):
        parse(text)


def test_every_name_can_be_asked_for() -> None:
    for name in names():
        parse(f"{name.replace('*', 'any-1')}>=0")


def test_it_is_shown() -> None:
    console = Console(width=160, file=None, record=True, quiet=True)
    with console.capture() as shown:
        console.quiet = False
        console.print(rendered(summed()))
    text = shown.get()
    for word in ("good", "slow", "closed 4001 2", "refused 503 2", "gateway-0", "seq: here", "differing 1"):
        assert word in text, word


def test_progress_is_shown_with_rates() -> None:
    rates = Rates()
    for at, messages in ((1.0, 1000), (1.5, 3000)):
        shown = Shown("running", at, 10.0, Progress(100, 100, 99, 98, messages, messages * 300, 1))
        rates.observe(shown, at)
    assert (rates.messages_per_s, rates.mb_per_s) == (4000.0, 1.2)
    console = Console(width=160)
    with console.capture() as captured:
        console.print(progress(shown, rates))
    assert "99 of 100 joined, 98 connected" in captured.get()
    assert "4,000 messages/s" in captured.get()
    assert "1 violations" in captured.get()


def test_metrics_are_summed_over_workers() -> None:
    text = """# HELP x y
lfmesh_gateway_clients{instance="gateway-0",worker="0"} 3.0
lfmesh_gateway_clients{instance="gateway-0",worker="1"} 4.0
lfmesh_gateway_closes_total{instance="gateway-0",code="4001"} 2.0
plain 1.5
broken
"""
    assert metrics(text) == {"lfmesh_gateway_clients": 7.0, "lfmesh_gateway_closes_total.4001": 2.0, "plain": 1.5}
