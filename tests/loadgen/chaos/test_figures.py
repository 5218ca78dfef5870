"""What /metrics says: whole or not, and which rungs were needed."""

from lfmesh.types import Role
from loadgen.chaos.figures import active_normalizer, parse, rungs, unwhole
from loadgen.chaos.topology import Unit

TEXT = """# HELP lfmesh_gateway_recoveries_total Gaps healed
# TYPE lfmesh_gateway_recoveries_total counter
lfmesh_gateway_recoveries_total{instance="gateway-0",rung="retransmit"} 3.0
lfmesh_gateway_streams_gapped{instance="gateway-0"} 0.0
lfmesh_gateway_ready{instance="gateway-0"} 1.0
lfmesh_build_info{instance="gateway-0",python="3.13.0",version="0.1.0"} 1.0
"""
GATEWAY = Unit(Role.GATEWAY, "gateway-0")


def test_samples_lose_the_labels_that_are_the_same_everywhere() -> None:
    found = parse(TEXT)
    assert found['recoveries_total{rung="retransmit"}'] == 3.0
    assert found["streams_gapped"] == 0.0


def test_a_role_is_whole_when_it_says_so() -> None:
    assert unwhole(GATEWAY, parse(TEXT)) == []
    assert unwhole(GATEWAY, {"ready": 0.0, "streams_gapped": 2.0}) == [
        "gateway-0 is not ready",
        "gateway-0: streams_gapped 2",
    ]
    assert unwhole(GATEWAY, None) == ["gateway-0 does not answer"]


def test_rungs_are_differences_and_a_new_process_counts_from_zero() -> None:
    before = {
        "gateway-0": {'recoveries_total{rung="retransmit"}': 3.0, 'resumes_total{rung="ring"}': 5.0},
        "normalizer-0": {"replay_requests_total": 10.0, "published_frames_total": 4.0},
        "ingestor-A": None,
    }
    after = {
        "gateway-0": {'recoveries_total{rung="retransmit"}': 5.0, 'resumes_total{rung="ring"}': 5.0},
        "normalizer-0": {"replay_requests_total": 2.0, "published_frames_total": 9.0},
        "ingestor-A": {"reconnects_total": 1.0},
    }
    assert rungs(before, after) == {"retransmit": 2, "replay": 2, "reconnect": 1}


def test_the_active_one_of_a_pair() -> None:
    units = [Unit(Role.NORMALIZER, "normalizer-0a", 0), Unit(Role.NORMALIZER, "normalizer-0b", 0)]
    found = active_normalizer(units, {"normalizer-0a": {"active": 0.0, "term": 9}, "normalizer-0b": {"active": 1.0}})
    assert found == units[1]
    both = {"normalizer-0a": {"active": 1.0, "term": 9.0}, "normalizer-0b": {"active": 1.0, "term": 8.0}}
    assert active_normalizer(units, both) == units[0]
    assert active_normalizer(units, {"normalizer-0a": None, "normalizer-0b": None}) is None
