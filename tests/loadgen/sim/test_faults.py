"""Faults as values, as stages, and on the board: no sockets."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.errors import ConfigError
from loadgen.sim import Fault, SimConfig, VenueChannel
from loadgen.sim.faultboard import FaultBoard
from loadgen.sim.frames import framed, payload_of
from loadgen.sim.impair import Chain, Outgoing, Reorder, Stage, garbled

L2, MATCHES = VenueChannel.LEVEL2, VenueChannel.MATCHES


class Line:
    """A connection that records what passes."""

    def __init__(self, number: int = 1, products: tuple[str, ...] = ("BTC-USD",)) -> None:
        self.number = number
        self.products = products
        self.chain = Chain()
        self.passed: list[bytes] = []
        self.cuts = 0

    def begin_fault(self, number: int, stage: Stage) -> None:
        self.chain.add(number, stage)

    def end_fault(self, number: int) -> None:
        self._take(self.chain.end(number))

    def cut(self) -> None:
        self.cuts += 1

    def listens_to(self, products: Iterable[str]) -> bool:
        return not set(self.products).isdisjoint(products)

    def send(self, count: int, product: str = "BTC-USD", channel: VenueChannel | None = L2, start: int = 0) -> None:
        for number in range(start, start + count):
            frame = framed(b'{"n":%d,"px":"%d.50"}' % (number, number))
            self._take(self.chain.pass_on(Outgoing(frame, channel, product)))

    def _take(self, items: list[Outgoing]) -> None:
        self.passed += [payload_of(item.frame) for item in items]

    def numbers(self) -> list[int]:
        return [json.loads(payload)["n"] for payload in self.passed]


def board_with(*lines: Line, seed: int = 1, limit_bytes: int = 1 << 20) -> FaultBoard:
    board = FaultBoard(seed, limit_bytes)
    for line in lines:
        board.attach(line)
    return board


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("lose:share=0.01", Fault(kind="lose", share=0.01)),
        (
            "reorder:share=1,for_s=2.5,products=BTC-USD+ETH-USD,channels=matches+level2_50",
            Fault(
                kind="reorder",
                share=1.0,
                for_s=2.5,
                products=frozenset({"BTC-USD", "ETH-USD"}),
                channels=frozenset({MATCHES, VenueChannel.LEVEL2_BATCH}),
            ),
        ),
        ("stall:for_s=3", Fault(kind="stall", for_s=3.0)),
        ("refuse", Fault(kind="refuse")),
        ("slow:delay_s=0.5,share=0.5", Fault(kind="slow", delay_s=0.5, share=0.5)),
        ("hide:count=100,products=BTC-USD", Fault(kind="hide", count=100, products=frozenset({"BTC-USD"}))),
    ],
)
def test_faults_are_read_from_flags(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("explode", "kind is one of drop, lose"),
        ("lose", "which share of the frames"),
        ("lose:share=2", "above 0 and at most 1, not 2"),
        ("lose:share=often", "share is a number, not 'often'"),
        ("lose:0.5", "'0.5' is no key=value"),
        ("lose:share=0.1,rate=3", "unknown key rate"),
        ("lose:share=0.1,channels=full", "channels are of"),
        ("stall:share=0.5", "has no share"),
        ("stall:for_s=0", "for_s is above 0"),
        ("slow", "such as delay_s=0.5"),
        ("slow:delay_s=0", "delay_s is above 0"),
        ("fail:delay_s=1", "delay_s belongs to slow"),
        ("hide", "such as count=100"),
        ("hide:count=0", "count is at least 1"),
        ("hide:count=1.5", "count is a whole number"),
        ("lose:share=0.1,count=3", "count belongs to hide"),
    ],
)
def test_faults_that_cannot_be_read_say_why(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        Fault.parse(text)


def test_a_drop_of_everybody_means_nothing_at_the_start() -> None:
    with pytest.raises(ConfigError, match="nobody is connected"):
        SimConfig(faults=(Fault(kind="drop"),))
    SimConfig(faults=(Fault(kind="drop", share=0.001), Fault(kind="drop", for_s=1)))


def test_losing_a_share_of_the_frames_takes_about_that_share_the_same_each_run() -> None:
    runs = []
    for _ in range(2):
        line = Line()
        board = board_with(line)
        board.begin(Fault(kind="lose", share=0.25))
        line.send(4000)
        assert 850 < board.hits["lose"] < 1150
        assert len(line.passed) == 4000 - board.hits["lose"]
        runs.append(line.numbers())
    assert runs[0] == runs[1] == sorted(runs[0])


def test_two_connections_are_hit_in_different_places() -> None:
    lines = Line(1), Line(2)
    board_with(*lines).begin(Fault(kind="lose", share=0.5))
    for line in lines:
        line.send(100)
    assert lines[0].numbers() != lines[1].numbers()


def test_filters_leave_everything_else_alone() -> None:
    line = Line()
    board = board_with(line)
    board.begin(Fault(kind="lose", share=1.0, products=frozenset({"BTC-USD"}), channels=frozenset({MATCHES})))
    line.send(1, "BTC-USD", L2, start=1)
    line.send(1, "ETH-USD", MATCHES, start=2)
    line.send(1, "BTC-USD", MATCHES, start=3)
    line.send(1, "BTC-USD", None, start=4)
    assert line.numbers() == [1, 2, 4]


def test_a_duplicate_follows_its_original() -> None:
    line = Line()
    board_with(line).begin(Fault(kind="duplicate", share=1.0))
    line.send(3)
    assert line.numbers() == [0, 0, 1, 1, 2, 2]


def test_reordering_delays_frames_by_at_most_four_and_loses_none() -> None:
    line = Line()
    board = board_with(line)
    number = board.begin(Fault(kind="reorder", share=0.2))
    line.send(1000)
    board.end(number)
    seen = line.numbers()
    assert sorted(seen) == list(range(1000))
    assert seen != sorted(seen)
    # A frame may be overtaken by the 4 frames that went on, and by those that were released with them.
    assert all(seen.index(n) - n <= 8 for n in range(1000))


@given(st.text(min_size=1, max_size=80), st.integers(0, 2**32))
def test_garbling_never_makes_other_data_of_a_frame(text: str, seed: int) -> None:
    payload = text.encode()
    damaged = garbled(payload, Random(seed))
    damaged.decode()
    if len(damaged) == len(payload):
        assert all(new in (old, ord("#")) for new, old in zip(damaged, payload, strict=True))
    else:
        assert b"#" in damaged or payload.startswith(damaged)


def test_a_stall_holds_everything_and_then_sends_it_in_order() -> None:
    line = Line()
    board = board_with(line)
    number = board.begin(Fault(kind="stall"))
    line.send(50)
    line.send(1, channel=None, start=50)
    assert line.passed == []
    board.end(number)
    assert line.numbers() == list(range(51))
    line.send(1, start=51)
    assert line.numbers()[-1] == 51


def test_a_stalled_product_leaves_the_others_running() -> None:
    line = Line()
    board_with(line).begin(Fault(kind="stall", products=frozenset({"ETH-USD"})))
    line.send(1, "ETH-USD", start=1)
    line.send(1, "BTC-USD", start=2)
    line.send(1, "ETH-USD", channel=None, start=3)
    assert line.numbers() == [2, 3]


def test_a_stall_that_holds_too_much_ends_the_connection() -> None:
    line = Line()
    board_with(line, limit_bytes=1000).begin(Fault(kind="stall"))
    line.send(100)
    assert line.cuts >= 1


def test_a_drop_with_a_share_strikes_at_a_frame() -> None:
    line = Line()
    board_with(line).begin(Fault(kind="drop", share=0.05))
    line.send(200)
    assert line.cuts == 1
    assert 0 < len(line.passed) < 200
    assert line.numbers() == list(range(len(line.passed)))


def test_a_drop_now_cuts_those_concerned_and_can_keep_the_door_shut() -> None:
    btc, eth = Line(1), Line(2, ("ETH-USD",))
    board = board_with(btc, eth)
    board.begin(Fault(kind="drop", products=frozenset({"ETH-USD"})))
    assert (btc.cuts, eth.cuts, board.closed_to_newcomers()) == (0, 1, False)
    number = board.begin(Fault(kind="drop", for_s=5))
    assert (btc.cuts, eth.cuts, board.closed_to_newcomers()) == (1, 2, True)
    board.end(number)
    assert not board.closed_to_newcomers()


def test_refusals_go_by_product_and_share() -> None:
    board = board_with()
    assert not board.refuses(["BTC-USD"])
    board.begin(Fault(kind="refuse", products=frozenset({"ETH-USD"})))
    assert not board.refuses(["BTC-USD"])
    assert board.refuses(["BTC-USD", "ETH-USD"])
    board.begin(Fault(kind="refuse", share=0.5))
    refused = sum(board.refuses(["BTC-USD"]) for _ in range(1000))
    assert 420 < refused < 580


def test_faults_compose_and_clearing_ends_them_all() -> None:
    line = Line()
    board = board_with(line)
    board.begin(Fault(kind="duplicate", share=1.0))
    board.begin(Fault(kind="stall"))
    later = Line(2)
    board.attach(later)
    for each in (line, later):
        each.send(2)
        assert each.passed == []
    assert set(board.active()) == {1, 2}
    assert board.clear() == 2
    for each in (line, later):
        assert each.numbers() == [0, 0, 1, 1]
        each.send(1, start=2)
        assert each.numbers() == [0, 0, 1, 1, 2]
    assert not line.chain


def test_what_one_stage_releases_passes_through_those_after_it() -> None:
    chain = Chain()
    reorder = Reorder(Fault(kind="reorder", share=1.0), Random(1), Counter())
    line = Line()
    chain.add(1, reorder)
    board_with(line).begin(Fault(kind="duplicate", share=1.0))
    duplicate = line.chain._stages[1]
    chain.add(2, duplicate)
    assert chain.pass_on(Outgoing(framed(b"x"), L2, "BTC-USD")) == []
    assert [payload_of(item.frame) for item in chain.end(1)] == [b"x", b"x"]


def test_a_connection_that_has_gone_is_left_alone() -> None:
    line = Line()
    board = board_with(line)
    board.detach(line)
    board.begin(Fault(kind="drop"))
    assert line.cuts == 0


def test_rest_fails_as_it_is_told_for_whom_it_is_told() -> None:
    board = board_with()
    assert board.fails("BTC-USD") is None
    limit = board.begin(Fault(kind="limit", products=frozenset({"ETH-USD"})))
    assert (board.fails("ETH-USD"), board.fails("BTC-USD"), board.fails(None)) == ("limit", None, None)
    board.end(limit)
    board.begin(Fault(kind="fail", share=0.5))
    failed = sum(board.fails(None) == "fail" for _ in range(1000))
    assert 420 < failed < 580
    assert board.hits == {"limit": 1, "fail": failed}
