from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.recovery import Follower
from lfmesh.core.ring import Entry, ReplayRing
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
    kept.append("s", 2, 0, 1, "snapshot", size=1, now=0, snapshot=True, previous=Position(1, 5))
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


def test_a_snapshot_that_healed_a_gap_follows_on_the_position_before_it() -> None:
    kept = ring()
    kept.append("s", 1, 1, 5, "a", size=1, now=0)
    kept.append("s", 1, 9, 1, "gap", size=1, now=0, snapshot=True, previous=Position(1, 5))
    kept.append("s", 1, 10, 1, "b", size=1, now=0)
    assert payloads(kept.since("s", Position(1, 5))) == ["gap", "b"]
    assert payloads(kept.since("s", Position(1, 2))) == ["a", "gap", "b"]
    assert payloads(kept.since("s", Position(1, 9))) == ["b"]
    assert kept.since("s", Position(1, 7)) is None, "what it stands for is not to be had from there"
    assert payloads(kept.oldest_since("s", Position(1, 7))) == ["gap", "b"]


def test_who_heard_more_of_an_epoch_than_the_publisher_that_went_on_misses_nothing() -> None:
    kept = ring()
    kept.append("s", 3, 0, 1, "snapshot", size=1, now=0, snapshot=True, previous=Position(1, 5))
    assert payloads(kept.since("s", Position(1, 8))) == ["snapshot"]
    assert kept.since("s", Position(1, 4)) is None
    assert kept.since("s", Position(2, 0)) is None, "an epoch of which it knew nothing"


def test_what_does_not_continue_starts_anew() -> None:
    kept = ring()
    kept.append("s", 1, 1, 5, "a", size=1, now=0)
    kept.append("s", 1, 4, 3, "overlap", size=1, now=0)
    assert payloads(kept.since("s", Position(1, 0))) == ["a", "overlap"]
    kept.append("s", 1, 9, 1, "after a hole", size=1, now=0)
    assert kept.since("s", Position(1, 0)) is None
    assert payloads(kept.retained("s")) == ["after a hole"]
    kept.append("s", 1, 3, 1, "behind", size=1, now=0)
    assert payloads(kept.retained("s")) == ["behind"]
    kept.append("s", 2, 0, 1, "unknown", size=1, now=0, snapshot=True)
    assert kept.since("s", Position(1, 3)) is None
    assert kept.statistics().entries == 1


def test_an_answer_is_bounded_if_so_wished() -> None:
    kept = ring()
    for seq in range(1, 11):
        kept.append("s", 1, seq, 1, str(seq), size=10, now=0)
    assert payloads(kept.since("s", Position(1, 2), 25)) == ["3", "4", "5"]
    assert payloads(kept.since("s", Position(1, 2), 0)) == [str(seq) for seq in range(3, 11)]
    assert payloads(kept.oldest_since("s", Position(1, 8), 5)) == ["9"]
    view = kept.retained("s")
    assert (len(view), view[0].payload, view[-1].payload) == (10, "1", "10")
    assert [entry.payload for entry in view[1:3]] == ["2", "3"]


class Payload:
    """What a ring keeps, and what of it is still in memory."""

    alive = 0

    def __init__(self, number: int) -> None:
        self.number = number
        Payload.alive += 1

    def __del__(self) -> None:
        Payload.alive -= 1


def test_what_is_evicted_is_freed_at_once_and_its_place_in_time() -> None:
    kept: ReplayRing[str, Payload] = ReplayRing(100)
    for seq in range(1, 3001):
        kept.append("s", 1, seq, 1, Payload(seq), size=1, now=0)
        assert Payload.alive <= 101
    assert len(kept._chains["s"].entries) < 1000
    for after in (2900, 2950, 2999):
        found = kept.since("s", Position(1, after))
        assert found is not None
        assert [entry.payload.number for entry in found] == list(range(after + 1, 3001))
    assert kept.since("s", Position(1, 2899)) is None
    kept.append("t", 1, 1, 1, Payload(0), size=100, now=0)
    assert kept.newest("s") is None
    assert kept.statistics() == (1, 100, 3000)


def test_a_forgotten_stream_leaves_no_trace() -> None:
    kept = ring(max_bytes=10)
    kept.append("kept", 1, 1, 1, "first", size=1, now=0)
    for start in range(1, 300, 3):
        for seq in range(start, start + 3):
            kept.append("s", 1, seq, 1, str(seq), size=1, now=0)
        kept.forget("s")
    assert kept.statistics() == (1, 1, 0)
    assert len(kept._order) < 10, "bounded, whatever is forgotten"
    for seq in range(1, 13):
        kept.append("s", 1, seq, 1, str(seq), size=1, now=0)
    assert kept.oldest("kept") is None
    assert kept.statistics() == (10, 10, 3)


appends = st.tuples(
    st.sampled_from("ab"),
    st.sampled_from(("next", "next", "next", "next", "epoch", "gap", "overlap", "break", "jump")),
    st.integers(1, 3),
    st.integers(1, 3),
)


@given(st.lists(appends, max_size=60), st.integers(5, 60), st.integers(0, 20))
def test_what_is_served_leads_a_follower_to_the_newest_and_what_leads_there_is_served(
    script: list[tuple[str, str, int, int]], max_bytes: int, max_age: int
) -> None:
    kept: ReplayRing[str, str] = ReplayRing(max_bytes, max_age)
    all_of: dict[str, list[Entry[str]]] = {"a": [], "b": []}
    at = {"a": Position(2, 0), "b": Position(2, 0)}
    for now, (key, step, count, size) in enumerate(script):
        epoch, seq = before = at[key]
        first, snapshot, previous = seq + 1, step in ("epoch", "gap", "jump"), before
        match step:
            case "epoch":
                epoch, first = epoch + 2, 0
            case "jump":
                epoch, first, previous = epoch + 2, 0, Position(epoch, seq + 1)
            case "gap":
                first = seq + count + 1
            case "overlap":
                first = max(1, seq)
            case "break":
                first = seq + 2
            case _:
                assert step == "next"
        number = 1 if snapshot else count
        told = previous if snapshot else None
        kept.append(key, epoch, first, number, str(now), size=size, now=now, snapshot=snapshot, previous=told)
        last = first + number - 1
        if step in ("break", "jump") or (step == "overlap" and last <= seq):
            all_of[key].clear()
        all_of[key].append(Entry(epoch, first, last, snapshot, told, str(now), size, now))
        at[key] = Position(epoch, last)
        kept.expire(now)
    statistics = kept.statistics()
    assert statistics.bytes <= max_bytes
    assert statistics.entries == sum(len(kept.retained(key)) for key in "ab")
    assert statistics.bytes == sum(entry.size for key in "ab" for entry in kept.retained(key))
    for key in "ab":
        retained = list(kept.retained(key))
        assert retained == all_of[key][len(all_of[key]) - len(retained) :]
        assert kept.newest(key) == (at[key] if retained else None)
        for epoch in range(1, at[key].epoch + 2):
            for seq in range(12):
                _check(kept, key, Position(epoch, seq), retained)


def _check(kept: ReplayRing[str, str], key: str, position: Position, retained: list[Entry[str]]) -> None:
    found = kept.since(key, position)
    after = [entry for entry in retained if (entry.epoch, entry.last_seq) > position]
    assert list(kept.oldest_since(key, position)) == after
    follower: Follower[str] = Follower(position=position)
    for entry in after:
        if entry.snapshot:
            follower.snapshot(Position(entry.epoch, entry.first_seq), entry.previous, [entry.payload], 0)
        else:
            items = [entry.payload] * (entry.last_seq + 1 - entry.first_seq)
            follower.increments(entry.epoch, entry.first_seq, items, 0)
    arrives = bool(retained) and not follower.gapped and follower.position == kept.newest(key)
    if found is not None:
        assert list(found) == after
        assert arrives
    elif arrives:
        # A follower may stand where the publisher never was; what it would take then is not all that it misses.
        first = after[0]
        assert first.snapshot
        assert first.previous is not None
        assert first.previous < position
        assert first.previous.epoch != position.epoch or first.epoch == position.epoch
