"""Counts of processes summed up, and conditions on the sum."""

import asyncio
import os
import re

import msgspec
import pytest
from rich.console import Console

from loadgen.client.latency import Histogram
from loadgen.load.config import LoadConfig, Progress
from loadgen.load.counts import Counts, GroupCounts, Spread
from loadgen.load.expect import BadCondition, implied, judge, names, parse
from loadgen.load.ledger import Ledger
from loadgen.load.proc import Usage
from loadgen.load.render import Rates, progress, rendered
from loadgen.load.report import LoadReport, report
from loadgen.load.roles import RoleAddress, RoleUsage, RoleWatch, metrics, usages
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
        clients=1, joined=1, deliveries=10, closes={"4001": 1}, ingest=spread(900), outcomes={"closed": 1}
    )
    groups = {"good": good, "slow": slow, "idle": GroupCounts(clients=1)}
    ledger = Ledger()
    ledger.compare(b"stream", 1, 61, b"%d" % told)
    return Counts(groups=groups, duration_s=2.0, told=ledger.told, cpu_s=1.0, rss_bytes=5_000_000, **more)  # type: ignore[arg-type]  # counts by name


def summed() -> LoadReport:
    wrong = {"seq": 2, "silence": 1}
    one = counts(1, violations=wrong, snapshots={"conflated": 3}, join=spread(5), checked=2, checked_messages=9)
    other = counts(2, violations={"trade_gap": 1}, join=spread(7, 9), first_violations=["seq: here"])
    sent = [msgspec.json.decode(msgspec.json.encode(part), type=Counts) for part in (one, other)]
    grown = {"slow_closed_total.slow_stalled": 2.0, "slow_closed_total.slow_silent": 1.0}
    return report(CONFIG, sent, {"gateway-0": RoleUsage(50.0, 80.0)}, grown)


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
        ("violations.trade_order==0", True),
        ("outcomes.closed>1", True),
        ("groups.slow.latency.max_ms==900", True),
        ("roles.gateway-0.rss_mb<=512", True),
        ("gateway.slow_closed_total.slow_stalled==2", True),
        ("gateway.slow_closed_total.slow_outbox==0", True),
        ("gateway.slow_closed_total==3", True),
        ("gateway.slow_closde_total==0", False),
        ("gateway.slow_closde_total.slow_outbox==0", False),
        ("rejoin.max_ms<=10000", False),
        ("groups.flapping.joined==0", False),
        ("load.cpu_percent<=1e3", True),
    ],
)
def test_conditions(text: str, met: bool) -> None:
    verdict = judge(parse(text), summed())
    assert verdict.met is met, str(verdict)


CHECKED = ["gaps==0", "violations_total==0", "differing==0", "violations.seq==0", "conflations==0", "trades_missing==0"]


@pytest.mark.parametrize("text", CHECKED)
def test_where_nothing_was_checked_nothing_is_known(text: str) -> None:
    nothing = report(CONFIG, [Counts(groups={"good": GroupCounts(clients=20)})], {}, {})
    verdict = judge(parse(text), nothing)
    assert not verdict.met
    assert str(verdict) == f"{text}: NOT MET (no samples)"
    assert "gaps unknown, violations unknown" in shown(nothing)


def test_all_are_expected_to_join_unless_that_is_asked_about() -> None:
    gaps, few = parse("gaps==0"), parse("joined>=4")
    assert implied([]) == []
    assert [str(one) for one in implied([gaps])] == ["gaps==0", "not_joined==0"]
    assert implied([gaps, few]) == [gaps, few]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("outcomes.behnid==0", "kept_up, conflated, closed"),
        ("groups.stalled.outcomes.closed_4001==0", "kept_up, conflated, closed"),
        ("groups.stale.joined==1", "good, slow, stalled"),
        ("violations.gap==0", "malformed, not_exact"),
        ("snapshots.conflate==0", "subscribe, resume_failed"),
        ("statuses.gone==0", "live, recovering"),
        ("errors.BAD==0", "INVALID_JSON, BAD_REQUEST"),
        ("closes.slow==0", "by code, such as"),
    ],
)
def test_names_that_cannot_be_are_refused(text: str, known: str) -> None:
    with pytest.raises(BadCondition, match=f"no figure is called .*{known}"):
        parse(text)


@pytest.mark.parametrize("text", ["", "gaps", "gaps=0", "gaps==zero", "gaps==0; 1", "__import__('os')==1", "==1"])
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(BadCondition, match="is no condition"):
        parse(text)


@pytest.mark.parametrize("text", ["gap==0", "latency.p99_ms<1", "groups.slow.nothing==1", "closes==0", "refused_by==0"])
def test_unknown_names_are_told_with_the_known_ones(text: str) -> None:
    with pytest.raises(BadCondition, match=r"there are .*latency_p99_ms, .*closes\.\*, .*groups\.\*\.latency\.p99_ms"):
        parse(text)


def test_every_name_can_be_asked_for() -> None:
    keys = {
        "groups": "slow", "outcomes": "behind", "violations": "seq", "snapshots": "gap", "statuses": "stale",
        "errors": "BAD_REQUEST", "closes": "4001", "refused": "503", "roles": "gateway-0.1", "gateway": "joins_total",
    }  # fmt: skip
    for name in names():
        text = name
        for known, key in keys.items():
            text = re.sub(rf"\b{known}\.\*", f"{known}.{key}", text)
        parse(f"{text}>=0")


def shown(found: LoadReport) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(rendered(found))
    return captured.get()


def test_it_is_shown_in_80_columns() -> None:
    text = shown(summed())
    for word in (
        "slow: closed 2; connections ended by the gateway, by code: 4001 2\n",
        "good: refused: 503 2\n",
        "checked: 2 clients of 14, 9 messages; gaps 3, violations 4",
        "gateway-0",
        "seq: here",
        "differing 1",
    ):
        assert word in text, word


def test_a_crowd_is_shown_in_80_columns_too() -> None:
    crowd = GroupCounts(clients=20_000, joined=20_000, deliveries=10**8, bytes=10**10, ingest=spread(54_321))
    found = report(CONFIG, [Counts(groups={"invalid_frame": crowd}, duration_s=20.0, join=spread(54_321))], {}, {})
    (row,) = (line for line in shown(found).splitlines() if "invalid_frame" in line)
    assert row.split() == ["invalid_frame", "20,000", "20,000", "5,000,000", "500.00", *["54,321"] * 4]


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


CREW = """lfmesh_gateway_process_cpu_seconds_total{instance="gateway-0.1"} 1.5
lfmesh_gateway_process_cpu_seconds_total{instance="gateway-0.2"} 2.5
lfmesh_gateway_process_resident_memory_bytes{instance="gateway-0.1"} 7e+07
lfmesh_gateway_process_resident_memory_bytes{instance="gateway-0.2"} 8e+07
lfmesh_gateway_deliveries_total{instance="gateway-0.1"} 10
lfmesh_gateway_deliveries_total{instance="gateway-0.2"} 20
"""
SUPERVISOR = """lfmesh_gateway_supervisor_cpu_seconds_total{instance="gateway-0"} 0.5
lfmesh_gateway_supervisor_resident_memory_bytes{instance="gateway-0"} 5e+07
"""


def test_each_worker_has_its_own_name_and_the_gateway_its() -> None:
    workers = {"gateway-0.1": Usage(1.5, 70_000_000), "gateway-0.2": Usage(2.5, 80_000_000)}
    supervisor = {"gateway-0.supervisor": Usage(0.5, 50_000_000)}
    assert usages(CREW + SUPERVISOR, "gateway-0.1") == ("gateway-0", workers | supervisor)
    assert usages(CREW, "gateway-0.1") == ("gateway-0", workers)
    alone = CREW.replace("-0.1", "-0").splitlines()[::2]
    assert usages("\n".join(alone), "gateway") == ("gateway", {"gateway": Usage(1.5, 70_000_000)})


def test_a_gateway_is_the_sum_of_its_processes_each_counted_once() -> None:
    async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = (CREW + SUPERVISOR).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    async def watch() -> None:
        async with await asyncio.start_server(told, "127.0.0.1", 0) as served:
            http = "http://{}:{}".format(*served.sockets[0].getsockname())
            addresses = [
                RoleAddress("gateway-0", pid=os.getpid()),
                RoleAddress("gateway-0.1", http),
                RoleAddress("gateway-0.2", http),
            ]
            for order in (addresses, addresses[::-1]):
                watching = RoleWatch(order)
                await watching.start()
                await watching.look()
                found = watching.usage()
                assert list(found) == ["gateway-0", "gateway-0.1", "gateway-0.2", "gateway-0.supervisor"]
                assert [usage.rss_mb for usage in found.values()] == [200.0, 70.0, 80.0, 50.0]
                assert watching.grown()["deliveries_total"] == 0.0

    asyncio.run(watch())
