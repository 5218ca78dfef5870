"""What the monitor knows of each process after which records and figures."""

from typing import Any

import msgspec

from lfmesh.messages import ServiceRecord, Telemetry
from lfmesh.top.slowest import SlowRow
from lfmesh.top.state import FORGOTTEN_NS, SILENT_NS, Row, TopState, totals
from lfmesh.types import Role

S = 1_000_000_000
START_US = 1_700_000_000_000_000
T0 = START_US * 1000


def record(instance: str = "gateway-0", role: Role = Role.GATEWAY, incarnation: int = START_US) -> ServiceRecord:
    return ServiceRecord(
        role=role, instance=instance, incarnation=incarnation, endpoints={"telemetry": f"ipc://{instance}"},
        version="0", pid=7, host="here", http="http://127.0.0.1:1",
    )  # fmt: skip


def told(at_s: float, **figures: object) -> Telemetry:
    facts: dict[str, Any] = {
        "role": Role.GATEWAY, "instance": "gateway-0", "incarnation": START_US, "pid": 7, "ts": T0 + int(at_s * S),
        "reasons": [], "shard": None, "messages_in_total": 0, "messages_out_total": 0, "gaps_total": 0,
        "queue_messages": 0, "lag_ms": None, "clients": None, "cpu_s": 0.0, "rss_bytes": 0,
    }  # fmt: skip
    return Telemetry(**facts | figures)


def only(state: TopState, at_s: float) -> Row:
    (row,) = state.rows(T0 + int(at_s * S))
    return row


def test_rates_are_differences_of_totals_over_about_a_second() -> None:
    state = TopState()
    state.told(told(1, messages_in_total=100, messages_out_total=1000, cpu_s=1.0), T0 + S)
    assert only(state, 1).messages_in_per_s is None
    state.told(told(1.01, messages_in_total=101, messages_out_total=1001, cpu_s=1.0), T0 + S)
    assert only(state, 1.01).messages_in_per_s is None, "10 ms are too short for a rate"
    state.told(told(3, messages_in_total=300, messages_out_total=1500, cpu_s=1.5), T0 + 3 * S)
    row = only(state, 3)
    assert (row.messages_in_per_s, row.messages_out_per_s, row.cpu_percent) == (100.0, 250.7538, 25.1)
    state.told(told(4, messages_in_total=300, messages_out_total=2500, cpu_s=1.5), T0 + 4 * S)
    row = only(state, 4)
    assert (row.messages_in_per_s, row.messages_out_per_s, row.cpu_percent) == (0, 1000, 0)


def test_states_of_a_life() -> None:
    state = TopState()
    state.listed([record()], T0)
    assert only(state, 0.5).state == "announced"
    state.told(told(1, reasons=["shard 0 is not attached"]), T0 + S)
    row = only(state, 1)
    assert (row.state, row.reasons) == ("not ready", ["shard 0 is not attached"])
    state.told(told(2), T0 + 2 * S)
    row = only(state, 2)
    assert (row.state, row.reasons, row.http, row.age_s) == ("ready", [], "http://127.0.0.1:1", 2.0)
    later = 2 + SILENT_NS / S + 1
    row = only(state, later)
    assert (row.state, row.messages_in_per_s, row.lag_ms) == ("silent", None, None)
    state.listed([], T0 + 3 * S)
    assert only(state, later).state == "gone"
    assert state.rows(T0 + 3 * S + FORGOTTEN_NS) == []


def test_one_that_talks_is_shown_whatever_the_registry_says() -> None:
    state = TopState()
    state.told(told(1), T0 + S)
    state.listed([], T0 + S)
    assert only(state, 1).state == "ready"


def test_a_new_incarnation_is_a_restart_and_starts_its_rates_anew() -> None:
    state = TopState()
    state.listed([record()], T0)
    state.told(told(1, messages_in_total=900), T0 + S)
    newer = START_US + 5_000_000
    state.told(told(6, incarnation=newer, pid=8, messages_in_total=5), T0 + 6 * S)
    row = only(state, 6)
    assert (row.restarts, row.pid, row.age_s, row.messages_in_per_s, row.messages_in_total) == (1, 8, 1.0, None, 5)
    state.told(told(2, messages_in_total=999), T0 + 6 * S)
    state.listed([record()], T0 + 6 * S)
    assert only(state, 6).messages_in_total == 5, "the older process's last words are too late"
    state.listed([record(incarnation=newer)], T0 + 6 * S)
    assert only(state, 6).restarts == 1


def test_static_peers_have_no_incarnation_until_they_tell() -> None:
    state = TopState()
    state.listed([record(incarnation=0)], T0)
    state.told(told(1), T0 + S)
    state.listed([record(incarnation=0)], T0 + S)
    assert only(state, 1).restarts == 0
    assert state.endpoints() == {"gateway/gateway-0": "ipc://gateway-0"}


def test_complete_when_every_listed_process_has_rates() -> None:
    state = TopState()
    assert not state.complete()
    state.listed([record()], T0)
    state.told(told(1), T0)
    assert not state.complete()
    state.told(told(2), T0)
    assert state.complete()
    state.listed([record(), record("registry-0", Role.REGISTRY)], T0)
    assert not state.complete()


def test_rows_follow_the_data_and_sum_up() -> None:
    state = TopState()
    roles = {"gateway-0": Role.GATEWAY, "normalizer-1": Role.NORMALIZER, "normalizer-0": Role.NORMALIZER}
    for instance, role in (roles | {"ingestor-A": Role.INGESTOR, "registry-0": Role.REGISTRY}).items():
        for second in (1, 2):
            count = 100 * second
            state.told(
                told(second, role=role, instance=instance, messages_in_total=count, messages_out_total=3 * count,
                     clients=2 if role is Role.GATEWAY else None),
                T0 + second * S,
            )  # fmt: skip
    rows = state.rows(T0 + 2 * S)
    assert [row.instance for row in rows] == ["registry-0", "ingestor-A", "normalizer-0", "normalizer-1", "gateway-0"]
    assert totals(rows) == (100, 300, 2)


def test_recovery_is_read_from_what_a_role_says_of_itself() -> None:
    state = TopState()
    statistics = {"active": 1, "streams_gapped": 3, "recoveries_total": {"snapshot": 2}, "takeovers_total": 1}
    state.told(told(1, statistics=statistics), T0 + S)
    row = only(state, 1)
    assert (row.active, row.open_gaps, row.rungs, row.takeovers) == (True, 3, {"snapshot": 2}, 1)
    silent = only(state, 1 + SILENT_NS / S + 1)
    assert (silent.active, silent.open_gaps) == (None, None), "what it does now is not known"
    assert silent.rungs == {"snapshot": 2}


def test_an_ingestors_line_is_known_from_the_registry() -> None:
    state = TopState()
    ingestor = msgspec.structs.replace(record("ingestor-B", Role.INGESTOR), line="B")
    state.listed([ingestor], T0)
    assert only(state, 0.5).line == "B"


def test_json_has_the_documented_keys_and_no_others() -> None:
    from lfmesh.cli.top import top

    state = TopState()
    state.told(told(1), T0)
    row = msgspec.json.decode(msgspec.json.encode(only(state, 1)))
    assert top.help is not None
    documented = top.help[top.help.index("each role with") :].replace(",", " ").replace(";", " ").split()
    assert set(row) <= set(documented)
    slow = SlowRow("gateway-0", "127.0.0.1:1", 0.0, 0, 0, conflating=False, subscriptions=1)
    documented = " ".join(documented).rstrip(".").split("each of at most ten clients")[1].split()
    assert set(msgspec.json.decode(msgspec.json.encode(slow))) <= set(documented)
