from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.ring import ReplayRing
from lfmesh.types import Position


def ring(max_bytes: int = 1000, max_age_ns: int = 0) -> ReplayRing[str, str]:
    return ReplayRing(max_bytes, max_age_ns)


def payloads(found: object) -> list[str] | None:
    return None if found is None else [entry.payload for entry in found]  # type: ignore[attr-defined]  # entries


def test_gives_everything_after_a_position() -> None:
    kept = ring()
    kept.append("s", 1, 1, 3, "a", size=1, now=0)
    kept.append("s", 1, 4, 1, "b", size=1, now=0)
    assert payloads(kept.since("s", Position(1, 0))) == ["a", "b"]
    assert payloads(kept.since("s", Position(1, 2))) == ["a", "b"], "a unit that begins earlier is given whole"
    assert payloads(kept.since("s", Position(1, 3))) == ["b"]
    assert payloads(kept.since("s", Position(1, 4))) == []
    assert kept.since("s", Position(1, 5)) is None, "ahead of the ring"
    assert kept.since("other", Position(1, 0)) is None


def test_an_evicted_position_cannot_be_served() -> None:
    kept = ring(max_bytes=10)
    for seq in range(1, 21):
        kept.append("s", 1, seq, 1, str(seq), size=1, now=0)
    assert kept.oldest("s") == Position(1, 11)
    assert kept.since("s", Position(1, 9)) is None
    assert payloads(kept.since("s", Position(1, 10))) == [str(seq) for seq in range(11, 21)]
    assert kept.statistics() == (10, 10, 10)


def test_crosses_an_epoch_only_when_the_old_one_was_complete() -> None:
    kept = ring()
    kept.append("s", 1, 1, 5, "a", size=1, now=0)
    kept.append("s", 2, 0, 1, "snapshot", size=1, now=0, snapshot=True, previous=Position(1, 5))
    kept.append("s", 2, 1, 2, "b", size=1, now=0)
    assert payloads(kept.since("s", Position(1, 5))) == ["snapshot", "b"]
    assert payloads(kept.since("s", Position(1, 3))) == ["a", "snapshot", "b"]
    assert payloads(kept.since("s", Position(2, 0))) == ["b"]
    assert kept.since("s", Position(0, 7)) is None


def test_crosses_an_epoch_whose_end_is_evicted() -> None:
    kept = ring(max_bytes=2)
    kept.append("s", 1, 1, 5, "a", size=1, now=0)
    kept.append("s", 2, 0, 1, "snapshot", size=1, now=0, snapshot=True, previous=Position(1, 5))
    kept.append("s", 2, 1, 2, "b", size=1, now=0)
    assert payloads(kept.since("s", Position(1, 5))) == ["snapshot", "b"]
    assert kept.since("s", Position(1, 4)) is None


def test_a_bare_seq_needs_a_single_epoch() -> None:
    kept = ring()
    kept.append("s", 1, 1, 5, "a", size=1, now=0)
    assert kept.from_seq("s", 3) == Position(1, 3)
    kept.append("s", 2, 0, 1, "snapshot", size=1, now=0, snapshot=True)
    assert kept.from_seq("s", 3) is None


def test_age_bound() -> None:
    kept = ring(max_age_ns=100)
    kept.append("s", 1, 1, 1, "a", size=1, now=0)
    kept.append("t", 1, 1, 1, "b", size=1, now=50)
    kept.expire(now=120)
    assert kept.newest("s") is None
    assert kept.newest("t") == Position(1, 1)


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(1, 5), st.integers(1, 40)), max_size=200))
def test_never_above_its_bytes_and_always_gapless(appends: list[tuple[str, int, int]]) -> None:
    kept = ring(max_bytes=100)
    published: dict[str, list[int]] = {}
    for key, count, size in appends:
        seqs = published.setdefault(key, [])
        first = len(seqs) + 1
        seqs.extend(range(first, first + count))
        kept.append(key, 1, first, count, f"{first}+{count}", size=size, now=0)
        assert kept.statistics().bytes <= 100
    for key, seqs in published.items():
        for after in range(len(seqs) + 1):
            found = kept.since(key, Position(1, after))
            if found:
                given_seqs = [seq for entry in found for seq in range(entry.first_seq, entry.last_seq + 1)]
                assert given_seqs == list(range(given_seqs[0], len(seqs) + 1))
                assert given_seqs[0] <= after + 1
