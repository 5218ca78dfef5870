"""Segments: any sequence of entries comes back as the lines that went in; cut where it must be, the same each time."""

import random
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.archive.journal import Entry
from lfmesh.archive.segments import Line, Mark, Segment, SegmentWriter, compressor, narrow, read, write
from lfmesh.core.archive import AHEAD_NS, event_time, hour_of, is_snapshot, parse_segment
from lfmesh.core.codec import Flags
from lfmesh.errors import BadArchive
from lfmesh.types import Position
from tests.archive.published import BTC, NOW, SECOND, header, increment, increments, messages, opening

VENUE = "coinbase"
HOUR = 3600 * SECOND
THEN = NOW - NOW % HOUR
"""A full hour."""


def cut(entries: Sequence[Entry], max_bytes: int = 64_000_000, mark: Mark | None = None) -> list[Segment]:
    return list(write(VENUE, BTC, entries, max_bytes=max_bytes, mark=mark or Mark()))


def lines(segments: Sequence[Segment]) -> list[Line]:
    return [line for name, body in segments for line in read(name, body)]


def positions(segments: Sequence[Segment]) -> list[tuple[int, int, int]]:
    return [(name.epoch, name.first_seq, name.last_seq) for name, _ in segments]


# Any sequence ---------------------------------------------------------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> list[Entry]:
    """What a journal may hold of one stream: openings, increments, lost ones, times that are absent or go back."""
    entries: list[Entry] = []
    epoch, seq, time = 5, 0, draw(st.sampled_from([0, THEN - SECOND]))
    for step in draw(st.lists(st.sampled_from(["increments"] * 4 + ["epoch", "base", "hole", "later"]), max_size=12)):
        if step == "increments":
            count = draw(st.integers(1, 5))
            entries.append(increments(BTC, Position(epoch, seq + 1), count, draw(st.sampled_from([time, time, 0]))))
            seq += count
        elif step == "later":
            time = draw(st.sampled_from([THEN, THEN - 2 * SECOND, THEN + HOUR, THEN + HOUR - 2_000_000]))
        elif step == "hole":
            seq += draw(st.integers(1, 3))
        else:
            before = Position(epoch, seq)
            epoch, seq = (epoch + 1, 0) if step == "epoch" else (epoch, seq + draw(st.integers(0, 9)))
            parts, ts = draw(st.integers(1, 3)), draw(st.sampled_from([0, time]))
            entries.append(opening(BTC, Position(epoch, seq), parts=parts, ts_event=ts, previous=before))
    return entries


def expected(entries: Sequence[Entry]) -> list[tuple[int, int, bytes, bool]]:
    """Epoch, seq, message, and whether it is (part of) a snapshot."""
    found = []
    for entry in entries:
        epoch, seq, snapshot = entry.header.epoch, entry.header.first_seq, bool(entry.header.flags & Flags.SNAPSHOT)
        for number, message in enumerate(entry.messages):
            found.append((epoch, seq if snapshot else seq + number, message, snapshot))
    return found


@settings(max_examples=150, deadline=None)
@given(streams(), st.sampled_from([1, 400, 1000, 64_000_000]))
def test_what_went_in_comes_out(entries: list[Entry], max_bytes: int) -> None:
    segments = cut(entries, max_bytes)
    found = lines(segments)
    assert [(line.epoch, line.seq, line.message, line.snapshot) for line in found] == expected(entries)
    for name, body in segments:
        assert parse_segment(name.key) == name
        held = list(read(name, body))
        text = zstandard.ZstdDecompressor().decompressobj().decompress(body)
        assert text == b"".join(line.message + b"\n" for line in held)
        assert len({hour_of(line.time) for line in held}) == 1
        assert (held[0].time, held[-1].time) == (name.first_ts, name.last_ts)
        assert not any(line.snapshot for line in held[held[0].parts :])
        assert len(held) == 1 or held[0].snapshot or sum(len(line.message) + 1 for line in held) <= max_bytes
    times = [line.time for line in found]
    assert times == sorted(times) or max_bytes <= 1000  # then a time may have been guessed before the first one came


@settings(max_examples=60, deadline=None)
@given(streams(), st.sampled_from([1000, 64_000_000]), st.data())
def test_grouping_into_frames_changes_nothing(entries: list[Entry], max_bytes: int, data: st.DataObject) -> None:
    regrouped: list[Entry] = []
    for entry in entries:
        if entry.header.flags & Flags.SNAPSHOT:
            regrouped.append(entry)
            continue
        rest, first = entry.messages, entry.header.first_seq
        while rest:
            size = data.draw(st.integers(1, len(rest)))
            regrouped.append(entry._replace(header=entry.header._replace(first_seq=first), messages=rest[:size]))
            rest, first = rest[size:], first + size
    assert cut(regrouped, max_bytes) == cut(entries, max_bytes)


@settings(max_examples=60, deadline=None)
@given(streams(), st.integers(0, 12))
def test_a_cut_goes_on_where_the_last_one_ended(entries: list[Entry], at: int) -> None:
    """Two cuts hold what one holds, at the same times, unless the first one knew no time."""
    writer = SegmentWriter(VENUE, BTC, compressor())
    first = [segment for entry in entries[:at] for segment in writer.add(entry)] + writer.close()
    second = cut(entries[at:], mark=writer.mark)
    assert [line[1:] for line in lines(first + second)] == [line[1:] for line in lines(cut(entries))]
    if writer.mark.time or not first:
        assert lines(first + second) == lines(cut(entries))
    if at < len(entries) or not entries:
        return
    assert writer.mark.position == expected(entries)[-1][:2]


@settings(max_examples=60, deadline=None)
@given(streams(), st.data())
def test_what_comes_twice_is_kept_once(entries: list[Entry], data: st.DataObject) -> None:
    """A restart can journal increments again: from any frame back to the last snapshot."""
    writer = SegmentWriter(VENUE, BTC, compressor())
    segments: list[Segment] = []
    repeated = 0
    since: list[Entry] = []
    for entry in entries:
        segments += writer.add(entry)
        since = [] if entry.header.flags & Flags.SNAPSHOT else [*since, entry]
        if since:
            for again in since[data.draw(st.integers(0, len(since))) :]:
                segments += writer.add(again)
                repeated += len(again.messages)
    segments += writer.close()
    assert lines(segments) == lines(cut(entries))
    assert writer.duplicates == repeated
    assert writer.messages == len(messages(entries))


# Where it is cut ------------------------------------------------------------------------------------------------


def test_one_epoch_without_a_hole_is_one_segment() -> None:
    entries = [opening(BTC, Position(5, 0), previous=Position(4, 9)), increments(BTC, Position(5, 1), 3)]
    ((name, body),) = cut(entries)
    assert name[:-1] == (VENUE, BTC, NOW - SECOND, NOW - SECOND + 2_000_000, 5, 0, 3, Position(4, 9), 4)
    assert [line.time for line in read(name, body)] == [name.first_ts + n * 1_000_000 for n in (0, 0, 1, 2)]


def test_epochs_snapshots_and_holes_end_it() -> None:
    entries = [
        increments(BTC, Position(5, 3), 2),
        increments(BTC, Position(5, 6), 1),
        opening(BTC, Position(5, 9), parts=2, previous=Position(5, 6)),
        increments(BTC, Position(5, 10), 1),
        opening(BTC, Position(6, 0)),
        increments(BTC, Position(7, 1), 1),
    ]
    segments = cut(entries)
    assert positions(segments) == [(5, 3, 4), (5, 6, 6), (5, 9, 10), (6, 0, 0), (7, 1, 1)]
    assert [name.previous for name, _ in segments] == [(0, 0), (0, 0), (5, 6), (0, 0), (0, 0)]
    assert [(line.part, line.parts) for line in read(*segments[2])] == [(1, 2), (2, 2), (1, 1)]


def test_hours_end_it() -> None:
    entries = [increments(BTC, Position(5, 1), 4, THEN - 2_000_000), increments(BTC, Position(5, 5), 1, THEN - 9)]
    segments = cut(entries)
    assert positions(segments) == [(5, 1, 2), (5, 3, 5)]
    assert segments[0].name.key.split("/")[:-1] != segments[1].name.key.split("/")[:-1]
    assert lines(segments)[-1].time == THEN + 1_000_000  # never back


def test_size_ends_it() -> None:
    one = len(increment(BTC, Position(5, 1), NOW)) + 1
    entries = [opening(BTC, Position(5, 0), parts=9), increments(BTC, Position(5, 1), 7)]
    assert positions(cut(entries, max_bytes=3 * one)) == [(5, 0, 0), (5, 1, 3), (5, 4, 6), (5, 7, 7)]


# Times ----------------------------------------------------------------------------------------------------------


def test_a_snapshot_has_the_time_of_the_venue_or_the_stream_s() -> None:
    timed = opening(BTC, Position(5, 0), ts_event=THEN)
    assert [line.time for line in lines(cut([timed]))] == [THEN]
    untimed = opening(BTC, Position(6, 0))
    assert [line.time for line in lines(cut([timed, untimed]))] == [THEN, THEN]
    assert [line.time for line in lines(cut([untimed], mark=Mark(THEN + 5, Position(5, 0))))] == [THEN + 5]


def test_without_any_time_it_is_when_it_was_published_and_the_clock_stays() -> None:
    writer = SegmentWriter(VENUE, BTC, compressor())
    entries = [opening(BTC, Position(5, 0), ts_publish=NOW + 7), opening(BTC, Position(6, 0), ts_publish=NOW + 8)]
    found = [segment for entry in entries for segment in writer.add(entry)] + writer.close()
    assert [line.time for line in lines(found)] == [NOW + 7] * 2
    assert writer.mark == Mark(0, Position(6, 0))


def test_much_without_a_time_does_not_wait_for_one() -> None:
    writer = SegmentWriter(VENUE, BTC, compressor(), max_bytes=1000)
    early = [increments(BTC, Position(5, n), 1, 0) for n in range(1, 9)]
    first = [segment for entry in early for segment in writer.add(entry)]
    assert first
    late = writer.add(increments(BTC, Position(5, 9), 1, THEN)) + writer.close()
    assert [line.seq for line in lines(first + late)] == list(range(1, 10))
    assert {line.time for line in lines(first)} == {NOW}
    assert lines(late)[-1].time == THEN
    assert writer.mark == Mark(THEN, Position(5, 9))


def test_an_absurd_time_does_not_stop_the_clock() -> None:
    entries = [
        opening(BTC, Position(5, 0), ts_event=NOW * 3, ts_publish=NOW),
        increments(BTC, Position(5, 1), 1, NOW * 3),
        increments(BTC, Position(5, 2), 1, NOW + 9 * SECOND, ts_publish=NOW + 10 * SECOND),
    ]
    assert [line.time - NOW for line in lines(cut(entries))] == [AHEAD_NS, AHEAD_NS, 9 * SECOND]


# Bytes ----------------------------------------------------------------------------------------------------------


def test_long_segments_are_compressed_piece_by_piece() -> None:
    noise = random.Random(4)
    entries = [increments(BTC, Position(5, n + 1), 1, pad=noise.randbytes(150_000).hex()) for n in range(9)]
    entries.append(increments(BTC, Position(5, 10), 1, pad="0" * (1 << 20)))
    entries.append(increments(BTC, Position(5, 11), 3))
    ((name, body),) = cut(entries)
    assert [line.message for line in read(name, body)] == messages(entries)
    frame = zstandard.get_frame_parameters(body)
    assert frame.has_checksum
    assert body == cut(entries)[0].body


def test_a_text_of_whole_pieces_ends_with_its_line() -> None:
    fixed = len(increment(BTC, Position(5, 1), NOW)) + 1
    ((name, body),) = cut([increments(BTC, Position(5, 1), 1, pad="x" * ((1 << 20) - fixed))])
    text = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    assert (len(text), text[-1:]) == (1 << 20, b"\n")
    assert len(list(read(name, body))) == 1


@pytest.mark.parametrize("at", [0, 4, 40, -1])
def test_damage_is_told(at: int) -> None:
    ((name, body),) = cut([opening(BTC, Position(5, 0)), increments(BTC, Position(5, 1), 3)])
    damaged = bytearray(body)
    damaged[at] ^= 1
    with pytest.raises(BadArchive, match="checksum"):
        list(read(name, bytes(damaged)))


@pytest.mark.parametrize(
    "change",
    [
        {"lines": 5}, {"lines": 3}, {"last_seq": 4}, {"last_seq": 2}, {"first_seq": 1}, {"epoch": 6},
        {"first_ts": NOW}, {"last_ts": NOW},
    ],
)  # fmt: skip
def test_a_name_that_promises_something_else_is_told(change: dict[str, Any]) -> None:
    ((name, body),) = cut([opening(BTC, Position(5, 0)), increments(BTC, Position(5, 1), 3)])
    assert len(list(read(name, body))) == 4
    with pytest.raises(BadArchive):
        list(read(name._replace(**change), body))


def test_what_is_no_message_is_refused_and_changes_nothing() -> None:
    good = increments(BTC, Position(5, 1), 2)
    writer = SegmentWriter(VENUE, BTC, compressor())
    for bad in (
        [b'{"op":"incr"}'], [good.messages[0], b"{}"], [b'{"op":\n"incr"}'], [],
    ):  # fmt: skip
        with pytest.raises(BadArchive):
            writer.add(Entry(BTC, header(Position(5, 1)), bad))
    assert writer.add(good) == []
    assert writer.close() == cut([good])


@settings(max_examples=40, deadline=None)
@given(streams(), st.integers(0, 8), st.integers(0, 8))
def test_a_part_of_a_segment_is_what_remains_of_its_lines(entries: list[Entry], first: int, more: int) -> None:
    for name, body in cut(entries):
        wanted = [line for line in read(name, body) if first <= line.seq <= first + more]
        part = narrow(name, body, first, first + more)
        if part is None:
            assert wanted == []
            continue
        assert list(read(*part)) == wanted
        assert parse_segment(part.name.key) == part.name
        assert part.name.previous == (name.previous if wanted[0].snapshot else (0, 0))
        if wanted == list(read(name, body)):
            assert part == (name, body)


def test_the_test_s_streams_are_what_the_archive_s_words_say() -> None:
    entry = increments(BTC, Position(5, 1), 2, THEN)
    assert [event_time(message) for message in entry.messages] == [THEN, THEN + 1_000_000]
    assert all(is_snapshot(message) for message in opening(BTC, Position(5, 0), parts=2).messages)
    assert all(b == a + 1 for a, b in pairwise(seq for _, seq, _, _ in expected([entry])))
    assert len(list(groupby([entry], lambda one: one.stream))) == 1
