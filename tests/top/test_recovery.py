"""What roles' statistics say of recovery, from dicts as telemetry carries them."""

import pytest

from lfmesh.services.gateway.statistics import GatewayStatistics
from lfmesh.services.ingestor.statistics import IngestorStatistics
from lfmesh.services.normalizer.statistics import NormalizerStatistics
from lfmesh.services.snapshotter.statistics import SnapshotterStatistics
from lfmesh.top import recovery
from lfmesh.top.recovery import Recovery, recovery_of


def test_a_role_that_says_nothing_of_recovery() -> None:
    assert recovery_of({}) == Recovery()
    assert recovery_of({"clients": 3, "store_up": True}) == Recovery()


@pytest.mark.parametrize("wrong", [None, "many", [1, 2], {"x": "y"}])
def test_figures_of_another_kind_are_left_out(wrong: object) -> None:
    statistics = dict.fromkeys(("active", "streams_gapped", "recoveries_total", "books_published", "draining"), wrong)
    found = recovery_of(statistics)
    assert (found.rungs, found.published) == ({}, {})
    if not isinstance(wrong, dict):
        assert found == Recovery()


def test_active_and_standby_are_gauges_of_a_pair() -> None:
    assert recovery_of({"active": 1, "takeovers_total": 2}).active is True
    assert recovery_of({"active": 0}).active is False
    assert recovery_of({"active": 1, "takeovers_total": 2}).takeovers == 2


def test_every_name_that_is_read_is_a_field_of_some_role() -> None:
    """Names are read defensively; so a field that is renamed must be noticed here."""
    roles = (IngestorStatistics, NormalizerStatistics, SnapshotterStatistics, GatewayStatistics)
    known = {name for role in roles for name in role.__struct_fields__}
    assert known >= recovery.NAMES


def test_rungs_that_were_needed_are_counted_by_name() -> None:
    gateway = {"recoveries_total": {"retransmit": 3, "snapshot": 0}, "streams_gapped": 2, "links_rebuilt_total": 1}
    found = recovery_of(gateway)
    assert (found.rungs, found.open_gaps, found.links_lost) == ({"retransmit": 3}, 2, 1)
    normalizer = {
        "trades_recovered_total": {"rest": 7, "line": 2, "declared": 0}, "line_changes_total": {"silent": 1, "lag": 2},
        "replay_requests_total": 1, "resync_requests_total": 0, "books_published": {"ingestor-A": 3},
    }  # fmt: skip
    found = recovery_of(normalizer)
    assert found.rungs == {"rest": 7, "line": 2, "line change": 3, "replay": 1}
    assert found.published == {"ingestor-A": 3}


def test_fetches_and_drains_are_what_is_so_now() -> None:
    ingestor = recovery_of({"backfills_waiting": 4, "rest_requests_total": 9, "links_lost_total": 2})
    assert (ingestor.backfills, ingestor.rungs, ingestor.links_lost) == (4, {"rest": 9}, 2)
    assert recovery_of({"draining": True}).draining is True
