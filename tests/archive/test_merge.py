"""What is read of overlapping spans: each position once, messages before snapshots, snapshots where there is a hole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.archive.merge import Span, plan, span_of
from lfmesh.core.archive import SegmentName
from lfmesh.types import Channel, Position, StreamKey


def span(first: int, last: int, *, epoch: int = 1, opens: bool | None = False, ts: int = 0) -> Span[str]:
    return Span(epoch, first, last, ts, ts, opens, Position(0, 0), f"{epoch}/{first}-{last}")


def never(_: Span[str]) -> bool:
    raise AssertionError("looked behind a name that tells")


def read(spans: list[Span[str]], after: Position | None = None, done: tuple[int, ...] = ()) -> list[str]:
    return [
        f"{piece.span.source}>{piece.after_seq}{' opens' if piece.opens else ''}{' gap' if piece.gap else ''}"
        for piece in plan(spans, never, after, done)
    ]


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param(
            [span(10, 19), span(0, 9, opens=True)], ["1/0-9>None opens", "1/10-19>None"], id="one writer, any order"
        ),
        pytest.param(
            [span(0, 9, opens=True), span(0, 12, opens=True), span(10, 19), span(13, 15)],
            ["1/0-12>None opens", "1/10-19>12"],
            id="two writers",
        ),
        pytest.param(
            [span(0, 4, opens=True), span(7, 9, opens=True)], ["1/0-4>None opens", "1/7-9>None opens"], id="a hole told"
        ),
        pytest.param([span(0, 4, opens=True), span(7, 9)], ["1/0-4>None opens", "1/7-9>None gap"], id="a hole"),
        pytest.param([span(3, 9)], ["1/3-9>None gap"], id="the beginning is gone"),
        pytest.param(
            [span(0, 4, opens=True), span(5, 9, opens=True), span(5, 7)],
            ["1/0-4>None opens", "1/5-7>None", "1/5-9>7"],
            id="a message comes before a snapshot in its place",
        ),
        pytest.param(
            [span(0, 4, opens=True), span(8, 9, opens=True), span(8, 20)],
            ["1/0-4>None opens", "1/8-9>None opens", "1/8-20>9"],
            id="after a hole a snapshot comes before a message",
        ),
        pytest.param(
            [span(0, 3, epoch=2, opens=True, ts=50), span(0, 9, epoch=1, opens=True, ts=40)],
            ["1/0-9>None opens", "2/0-3>None opens"],
            id="epochs by time",
        ),
        pytest.param(
            [span(0, 3, epoch=9, opens=True, ts=10), span(0, 9, epoch=5, opens=True, ts=20)],
            ["9/0-3>None opens", "5/0-9>None opens"],
            id="a later epoch of an earlier time",
        ),
    ],
)
def test_plan(spans: list[Span[str]], expected: list[str]) -> None:
    assert read(spans) == expected


def test_only_what_follows_a_position() -> None:
    spans = [span(0, 9, opens=True), span(10, 19), span(0, 5, epoch=2, opens=True, ts=1)]
    assert read(spans, Position(1, 12)) == ["1/10-19>12", "2/0-5>None opens"]
    assert read(spans, Position(1, 9)) == ["1/10-19>None", "2/0-5>None opens"]
    assert read(spans, Position(1, 19)) == ["2/0-5>None opens"]
    assert read(spans, Position(2, 5)) == []
    assert read(spans, Position(3, 5), done=(1, 2)) == []


def test_where_a_name_leaves_it_open_the_text_is_looked_at_only_at_a_hole() -> None:
    looked = []

    def looks(found: Span[str]) -> bool:
        looked.append(found.first_seq)
        return True

    spans = [span(0, 4, opens=True), span(5, 9, opens=None), span(12, 15, opens=None)]
    pieces = list(plan(spans, looks))
    assert looked == [12]
    assert [(piece.opens, piece.gap) for piece in pieces] == [(True, False), (False, False), (True, False)]


@pytest.mark.parametrize(
    ("first", "last", "lines", "previous", "opens"),
    [
        (0, 9, 10, Position(0, 0), True),
        (5, 9, 5, Position(0, 0), None),
        (5, 9, 6, Position(0, 0), True),
        (5, 9, 5, Position(1, 2), True),
    ],
)
def test_what_a_name_tells(first: int, last: int, lines: int, previous: Position, opens: bool | None) -> None:
    name = SegmentName("v", StreamKey("BTC-USD", Channel.BOOK), 1, 2, 1, first, last, previous, lines, "0" * 16)
    assert span_of(name).opens is opens


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 30), st.integers(0, 10), st.booleans()).map(
            lambda drawn: span(drawn[1], drawn[1] + drawn[2], epoch=drawn[0], opens=drawn[3] or drawn[1] == 0)
        ),
        max_size=12,
    )
)
def test_every_position_that_any_span_has_comes_exactly_once(spans: list[Span[str]]) -> None:
    came: list[Position] = []
    for piece in plan(spans, never):
        first = piece.span.first_seq if piece.after_seq is None else piece.after_seq + 1
        came += [Position(piece.span.epoch, seq) for seq in range(first, piece.span.last_seq + 1)]
    had = {Position(one.epoch, seq) for one in spans for seq in range(one.first_seq, one.last_seq + 1)}
    assert came == sorted(had)
