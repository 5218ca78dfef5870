"""Rows to text."""

import io

import msgspec
import pytest
from rich.console import Console

from lfmesh.top.render import age, amount, duties, number, render
from lfmesh.top.slowest import SlowRow
from lfmesh.top.state import Row
from lfmesh.types import Role

ROW = Row(
    role=Role.NORMALIZER, instance="normalizer-1", shard=1, state="ready", reasons=[], pid=4711, host="here", http="",
    age_s=75.2, restarts=2, messages_in_per_s=12345.6, messages_out_per_s=23456.7, messages_in_total=1,
    messages_out_total=2, lag_ms=1.25, queue_messages=3, gaps=4, clients=None, cpu_percent=12.5, rss_bytes=50_000_000,
)  # fmt: skip


def lines_of(
    *rows: Row, registries: tuple[int, int] = (1, 1), slowest: tuple[SlowRow, ...] = (), width: int = 160
) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(rows, registries, slowest, live=False, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_row_has_every_figure() -> None:
    heading, columns, row = lines_of(ROW)
    assert heading.startswith("lfmesh top  1 of 1 ready")
    assert row.split() == [
        "normalizer-1", "ready", "1", "12,346", "23,457", "1.2", "3", "4", "–", "12.5", "50", "1m15s", "2", "4711",
    ]  # fmt: skip
    assert len(columns.replace("lag ms", "lag").replace("cpu %", "cpu").replace("mem MB", "mem").split()) == 14


@pytest.mark.parametrize("width", range(40, 161, 10))
def test_narrow_terminals_lose_columns_and_no_figure_is_cut(width: int) -> None:
    late = msgspec.structs.replace(ROW, instance="gateway-0", state="not ready", reasons=["shard 0 is not attached"])
    lines = lines_of(ROW, late, width=width)
    text = "\n".join(lines)
    assert "…" not in text
    assert all(len(line) <= width for line in lines)
    row = next(line.split() for line in lines if line.startswith("normalizer-1"))
    assert row[:2] == ["normalizer-1", "ready"]
    assert ("4711" in row) == (width >= 140)
    assert ("12,346" in row) == (width >= 60)


def test_a_reason_with_a_long_word_costs_no_figures() -> None:
    late = msgspec.structs.replace(ROW, state="not ready", reasons=["x" * 100])
    lines = lines_of(late, width=80)
    assert "12,346" in lines[-4]
    assert sum(line.count("x") for line in lines) == 100


def test_trouble_is_named() -> None:
    late = msgspec.structs.replace(ROW, state="not ready", reasons=["no ingestor", "no data yet"])
    silent = msgspec.structs.replace(ROW, instance="gateway-0", role=Role.GATEWAY, state="silent", lag_ms=None)
    heading, _, first, second = lines_of(late, silent, registries=(0, 2))
    assert "0 of 2 ready" in heading
    assert "no registry answers: the last view is shown" in heading
    assert first.endswith("no ingestor; no data yet")
    assert second.split()[1] == "silent"


def pair(*, active: bool) -> tuple[Row, Row]:
    first = msgspec.structs.replace(ROW, active=active, published={"ingestor-A": 4, "ingestor-B": 2} if active else {})
    return first, msgspec.structs.replace(ROW, instance="normalizer-1-b", active=not active)


INGESTORS = tuple(
    msgspec.structs.replace(ROW, role=Role.INGESTOR, instance=f"ingestor-{line}", shard=None, line=line)
    for line in ("A", "B")
)


def test_who_of_several_does_the_work_is_shown() -> None:
    assert duties(pair(active=True)) == ["active", "standby"]
    assert duties(pair(active=False)) == ["standby", "active"]
    assert duties([*INGESTORS, *pair(active=True)]) == ["line A 4/6", "line B 2/6", "active", "standby"]
    assert duties(INGESTORS) == ["line A", "line B"], "no normalizer says which is published"
    draining = msgspec.structs.replace(ROW, role=Role.GATEWAY, draining=True)
    assert duties([draining]) == ["draining"]


def test_what_nobody_shares_is_not_told() -> None:
    alone, other_shard = pair(active=True)[0], msgspec.structs.replace(ROW, shard=0, active=True)
    assert duties([INGESTORS[0], alone, other_shard]) == ["", "", ""]
    assert "duty" not in lines_of(alone, other_shard)[1]
    assert duties([msgspec.structs.replace(alone, active=False)]) == ["standby"], "nobody publishes: that is news"


def test_recovery_has_columns_where_there_is_something_to_say() -> None:
    mended = msgspec.structs.replace(
        ROW, open_gaps=2, backfills=3, links_lost=1, takeovers=1, rungs={"snapshot": 2, "retransmit": 1200}
    )
    heading, columns, row = lines_of(mended, width=220)
    assert "2 gaps open  3 fetched from the venue" in heading
    assert all(name in columns for name in ("open", "fetches", "links lost", "mended by"))
    assert "take-over 1, retransmit 1,200, snapshot 2" in row
    heading, columns, _ = lines_of(ROW, width=220)
    assert "open" not in heading + columns
    one = msgspec.structs.replace(ROW, open_gaps=1)
    assert "1 gap open" in lines_of(one)[0]


@pytest.mark.parametrize("width", range(60, 221, 20))
def test_gaps_that_are_open_survive_narrow_terminals(width: int) -> None:
    rows = [msgspec.structs.replace(row, open_gaps=7, links_lost=3, rungs={"rest": 5}) for row in pair(active=True)]
    lines = lines_of(*rows, width=width)
    assert all(len(line) <= width for line in lines)
    row = next(line.split() for line in lines if line.startswith("normalizer-1 "))
    shown = [figure for figure in ("12,346", "active", "7", "4711") if figure in row]
    assert shown == ["12,346", "active", "7", "4711"][: len(shown)]
    assert len(shown) >= {60: 1, 80: 3}.get(width, 3)


def test_heading_counts_replicas_and_clients() -> None:
    gateway = msgspec.structs.replace(ROW, role=Role.GATEWAY, clients=1200)
    assert "23,457 msg/s to 1200 clients  registry 1/2" in lines_of(gateway, registries=(1, 2))[0]
    assert "static peers" in lines_of(gateway, registries=(0, 0))[0]


SLOW = (
    SlowRow("gateway-0.1", "203.0.113.27:50123", 12_345.6, 1_800_000, 3, conflating=True, subscriptions=1200),
    SlowRow("gateway-0.0", "[2001:db8:1234:5678:9abc:def0:1234:5678]:50123", 9.4, 640, 0, False, 3),
)


def test_slow_clients_are_listed_below_the_roles() -> None:
    *_, empty, names, first, second = lines_of(ROW, slowest=SLOW)
    assert empty.strip() == ""
    assert names.split() == ["slowest", "clients", "gateway", "lag", "ms", "waiting", "conflated", "now", "streams"]
    assert first.split() == ["203.0.113.27:50123", "gateway-0.1", "12,346", "1.8", "MB", "3", "conflating", "1,200"]
    assert second.split() == [SLOW[1].client, "gateway-0.0", "9", "640", "B", "0", "live", "3"]
    assert lines_of(ROW, slowest=()) == lines_of(ROW)
    assert not any("slowest" in line for line in lines_of(ROW)), "nothing waits for anybody"


@pytest.mark.parametrize("width", range(40, 121, 10))
def test_slow_clients_and_their_lag_are_told_on_narrow_terminals(width: int) -> None:
    lines = lines_of(ROW, slowest=SLOW, width=width)
    assert all(len(line) <= width for line in lines)
    assert "…" not in "".join(lines)
    start = next(at for at, line in enumerate(lines) if "slowest clients" in line)
    first = lines[start + 1].split()
    assert first[0] == "203.0.113.27:50123"
    assert "12,346" in first
    address = "".join(line.split()[0] for line in lines[start + 2 :] if line.split())
    assert address == SLOW[1].client, "a long address is broken, and not cut"
    assert ("gateway-0.1" in first) <= ("conflating" in first) == (width >= 50)


def test_the_workers_of_a_gateway_are_summed_up_below_them() -> None:
    workers = tuple(
        msgspec.structs.replace(
            ROW, role=Role.GATEWAY, instance=f"gateway-0.{number}", clients=600, messages_in_per_s=9
        )
        for number in range(2)
    )
    heading, _, *rows = lines_of(ROW, *workers)
    assert [row.split()[0] for row in rows] == ["normalizer-1", "gateway-0.0", "gateway-0.1", "gateway-0"]
    assert rows[-1].split()[1:6] == ["×2", "ready", "1", "9", "46,913"]
    assert "3 of 3 ready" in heading
    assert "to 1200 clients" in heading


def test_numbers_and_ages() -> None:
    assert [number(value) for value in (None, 0, 1234.5)] == ["–", "0", "1,234"]
    assert [age(seconds) for seconds in (0.4, 59.9, 60, 3600, 90_000)] == ["0s", "59s", "1m00s", "1h00m", "1d01h"]


def test_amounts_of_bytes() -> None:
    sizes = (0, 999, 1_000, 999_499, 999_500, 1_849_999, 9_949_999, 9_950_000, 1_234_567_890)
    assert [amount(size) for size in sizes] == [
        "0 B", "999 B", "1 kB", "999 kB", "1.0 MB", "1.8 MB", "9.9 MB", "10 MB", "1,235 MB",
    ]  # fmt: skip
