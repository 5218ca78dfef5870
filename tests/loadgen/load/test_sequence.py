"""The cheap checker finds what the full one finds, but for what contents add up to."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core import encode
from lfmesh.types import Channel
from loadgen.client.checker import Checker
from loadgen.client.violations import Kind
from loadgen.client.wire import ResumePosition, Subscribe
from loadgen.load.frames import Splitter
from loadgen.load.ledger import Ledger
from loadgen.load.sequence import SequenceChecker
from tests.loadgen.client.feed import (
    CHANNELS,
    EPOCH,
    SECOND,
    P,
    book_incr,
    book_snapshot,
    conflated,
    snapshot,
    tick,
    trade,
    trade_incr,
    trades_snapshot,
)
from tests.loadgen.load.frames import feed, text

CONTENTS = {Kind.STATE, Kind.LEVELS, Kind.NOT_EXACT, Kind.TRADE_ALTERED}
NO_TICKER = encode.ticker_fields("null", "null", "null")
SUBSCRIBED = f'{{"op":"subscribed","id":1,"products":["{P}"],"channels":["ticker","trades","book"]}}'.encode()
STARTS = [
    *snapshot(Channel.TICKER, 0, [NO_TICKER]),
    *trades_snapshot(0, [trade(7), trade(8)]),
    *book_snapshot(0),
]

steps = st.lists(
    st.tuples(
        st.sampled_from(["tick", "trade", "trade", "book"]),
        st.sampled_from(["next"] * 6 + ["skip", "again", "epoch", "merged", "snapshot", "odd id"]),
    ),
    max_size=25,
)


def increment(what: str, seq: int, trade_id: int, epoch: int) -> bytes:
    if what == "tick":
        return tick(seq, NO_TICKER, epoch=epoch)
    if what == "trade":
        return trade_incr(seq, trade(trade_id), epoch=epoch)
    return book_incr(seq, [("1.0", "2")], epoch=epoch)


def again(what: str, seq: int, trade_id: int) -> list[bytes]:
    if what == "tick":
        return snapshot(Channel.TICKER, seq, [NO_TICKER], reason="gap")
    if what == "trade":
        return trades_snapshot(seq, [trade(trade_id)], reason="gap")
    return book_snapshot(seq, reason="gap")


def script(steps: Sequence[tuple[str, str]]) -> list[bytes]:
    """Messages of a stream that is right, but for some steps."""
    seqs = {"tick": 0, "trade": 0, "book": 0}
    trade_id, messages = 8, [SUBSCRIBED, *STARTS]
    for what, how in steps:
        seqs[what] += {"skip": 2, "again": 0}.get(how, 1)
        seq, epoch = seqs[what], EPOCH + (how == "epoch")
        trade_id += {"odd id": 3, "again": 0}.get(how, 1) if what == "trade" else 0
        if how == "snapshot":
            seqs[what] -= 1
            trade_id -= what == "trade"
            messages += again(what, seq - 1, trade_id)
            continue
        message = increment(what, seq, trade_id, epoch)
        messages.append(conflated(message, seq - 1) if how == "merged" else message)
    return messages


def request(**more: object) -> Subscribe:
    return Subscribe(id=1, products=[P], channels=list(CHANNELS), **more)  # type: ignore[arg-type]  # what tests name


def full(messages: Sequence[bytes], asked: Subscribe) -> Checker:
    checker = Checker()
    checker.connected(SECOND)
    checker.requested(asked, SECOND)
    for message in messages:
        checker.receive(message, SECOND)
    return checker


def light(
    messages: Sequence[bytes], asked: Subscribe, ledger: Ledger | None = None, size: int = 1000
) -> SequenceChecker:
    checker = SequenceChecker(ledger)
    checker.connected(SECOND)
    checker.requested(asked, SECOND)
    stream = b"".join(text(message) for message in messages)
    checker.heard(SECOND)
    feed(Splitter(checker.take), [stream[at : at + size] for at in range(0, len(stream), size)])
    return checker


def found(checker: Checker) -> Counter[Kind]:
    return Counter({kind: count for kind, count in checker.violations.counts.items() if kind not in CONTENTS})


@given(steps, st.integers(50, 2000))
def test_it_finds_what_the_full_checker_finds(steps: Sequence[tuple[str, str]], size: int) -> None:
    messages = script(steps)
    cheap, whole = light(messages, request(), size=size), full(messages, request())
    assert found(cheap) == found(whole)
    assert cheap.increments == whole.increments
    assert cheap.snapshots == whole.snapshots
    assert [cheap.position(P, channel) for channel in CHANNELS] == [whole.position(P, channel) for channel in CHANNELS]
    assert not cheap.waiting()


def test_a_resume_is_checked() -> None:
    position = {P: {str(channel): ResumePosition(EPOCH, 4) for channel in CHANNELS}}
    asked = request(from_seq=position)
    right = [SUBSCRIBED, tick(5, NO_TICKER), trade_incr(5, trade(9)), book_incr(5)]
    assert not light(right, asked).violations
    wrong = [SUBSCRIBED, tick(7, NO_TICKER), *book_snapshot(3, reason="gap"), trade_incr(5, trade(9))]
    assert found(light(wrong, asked)) == found(full(wrong, asked)) == {Kind.START: 2}


def test_the_ledger_tells_when_two_clients_get_other_bytes() -> None:
    ledger = Ledger()
    messages = [SUBSCRIBED, *STARTS, *(tick(seq, NO_TICKER) for seq in range(1, 130))]
    light(messages, request(), ledger)
    assert (ledger.compared, ledger.differing) == (0, 0)
    altered = [message.replace(b'"seq":99,', b'"seq":99, ') for message in messages]
    altered = [message.replace(b'"fields":{"last', b'"fields":{ "last') for message in altered[:-1]] + altered[-1:]
    light(messages, request(), ledger)
    assert (ledger.compared, ledger.differing) == (129, 0)
    light(altered, request(), ledger)
    assert ledger.differing >= 127
    assert "BTC-USD ticker" in ledger.examples[0]


def test_ledgers_of_two_processes_are_compared() -> None:
    one, other, odd = Ledger(), Ledger(), Ledger()
    for ledger, end in ((one, b""), (other, b""), (odd, b"x")):
        for seq in range(200):
            ledger.compare(b'A-B","channel":"ticker', 1, seq, b"%d" % seq + end)
    one.compare_told(other.told)
    assert (one.compared, one.differing) == (4, 0)
    one.compare_told(odd.told)
    assert one.differing == 4


def test_the_ledger_is_bounded() -> None:
    ledger = Ledger(streams=10_000)
    for seq in range(1000):
        ledger.compare(b"s", 1, seq, b"m")
    ledger.compare(b"s", 1, 0, b"m")
    assert ledger.compared == 0
    ledger.compare(b"s", 1, 999, b"m")
    assert ledger.compared == 1
