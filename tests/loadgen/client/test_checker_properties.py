"""Any right stream is clean and leads to the right book; any one increment lost, repeated or altered is found."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from lfmesh.types import Level
from loadgen.client.violations import Kind
from tests.loadgen.client.feed import EPOCH, Feed, P, book_incr, book_snapshot

Change = tuple[str, str, str]
changes = st.tuples(
    st.sampled_from(["bid", "ask"]),
    st.sampled_from(["10.1", "10.2", "10.30", "11"]),
    st.sampled_from(["0", "0.000", "1", "2.50"]),
)
steps = st.lists(st.one_of(st.lists(changes, max_size=4), st.none()), min_size=1, max_size=12)
"""Each step is an increment's changes, or None: a snapshot of the state so far."""


@dataclass
class Model:
    """A book by dicts of floats as keys: good enough for four prices."""

    bids: dict[float, Level]
    asks: dict[float, Level]

    def apply(self, update: Sequence[Change]) -> None:
        for side, px, qty in update:
            levels = self.bids if side == "bid" else self.asks
            levels[float(px)] = (px, qty)
            if float(qty) == 0:
                del levels[float(px)]

    def sides(self) -> tuple[list[Level], list[Level]]:
        return [self.bids[px] for px in sorted(self.bids, reverse=True)], [self.asks[px] for px in sorted(self.asks)]


def stream(script: Sequence[Sequence[Change] | None]) -> tuple[list[bytes], Model]:
    """The messages of a right stream, and the book that they lead to."""
    model = Model({}, {})
    messages = book_snapshot(0)
    seq = 0
    for step in script:
        if step is None:
            messages += book_snapshot(seq, *model.sides(), reason="gap")
        else:
            seq += 1
            model.apply(step)
            messages.append(
                book_incr(
                    seq,
                    [(px, qty) for side, px, qty in step if side == "bid"],
                    [(px, qty) for side, px, qty in step if side == "ask"],
                )
            )
    return messages, model


def fed(messages: Sequence[bytes]) -> Feed:
    feed = Feed()
    feed.subscribe("book")
    feed.give(*messages)
    return feed


@given(steps)
def test_a_right_stream_is_clean_and_leads_to_the_right_book(script: list[list[Change] | None]) -> None:
    messages, model = stream(script)
    feed = fed(messages)
    feed.assert_clean()
    book = feed.checker.book(P)
    assert book is not None
    assert (book.bids(), book.asks()) == model.sides()


@given(steps, st.data())
def test_an_increment_lost_repeated_or_of_another_epoch_is_found(
    script: list[list[Change] | None], data: st.DataObject
) -> None:
    messages, _ = stream([*script, [], []])
    increments = [at for at, message in enumerate(messages) if message.startswith(b'{"op":"incr"')]
    # A loss shows at the next increment; a snapshot right after it would heal it unseen.
    at = data.draw(st.sampled_from([at for at in increments if at + 1 in increments]))
    lost = fed(messages[:at] + messages[at + 1 :])
    repeated = fed([*messages[: at + 1], *messages[at:]])
    foreign = messages[at].replace(b'"epoch":%d' % EPOCH, b'"epoch":%d' % (EPOCH + 1))
    moved = fed([*messages[:at], foreign, *messages[at + 1 :]])
    assert lost.kinds[0] is Kind.SEQ
    assert repeated.kinds[0] is Kind.SEQ
    assert moved.kinds[0] is Kind.EPOCH


@given(steps)
def test_a_level_altered_on_the_way_is_found_by_the_next_snapshot(script: list[list[Change] | None]) -> None:
    right: list[Change] = [("bid", "10.1", "7")]
    messages, _ = stream([*script, right, None])
    messages[-2] = messages[-2].replace(b"[10.1,7]", b"[10.1,8]")
    assert fed(messages).kinds == [Kind.STATE]
