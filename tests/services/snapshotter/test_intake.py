"""What arrives, in whatever state the link is, ends as the publisher's state."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.core import codec
from lfmesh.core.recovery import Wanted
from lfmesh.core.replica import (
    Asked,
    StateDiscarded,
    TermRaised,
)
from lfmesh.core.trouble import BadInput, GapFound, GapHealed
from lfmesh.messages import Rejected, Reply, View, encode
from lfmesh.ports import StoredState
from lfmesh.types import Channel, InputPosition, Position, StreamKey
from tests.core.model_publisher import ModelPublisher, keys
from tests.services.snapshotter.link import BOOK, SECOND, TICKER, Link

STREAMS = keys(2)
ACTIONS = st.tuples(
    st.sampled_from(
        [
            *("publish", "publish", "publish", "publish", "lose", "duplicate", "hold back", "let go", "beacon"),
            *("ask", "answer", "no answer", "tick", "take over", "look"),
        ]
    ),
    st.integers(0, 5),
    st.lists(st.integers(0, 200), max_size=4),
)


class Trouble(Link):
    """A link on which anything may happen; `act` by name."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[bytes] = []
        self.asked: list[tuple[StreamKey, Wanted, Asked]] = []

    def act(self, action: str, key: StreamKey, numbers: list[int]) -> None:
        match action:
            case "let go":
                self.take(*self.held)
                self.held.clear()
            case "beacon":
                self.beacon()
            case "ask":
                self.asked += self.ask()
            case "answer" | "no answer":
                self.settle(answered=action == "answer")
            case "tick":
                self.now += SECOND
                self.intake.tick(self.now)
            case "take over":
                self.take_over()
            case "look":
                for state in self.intake.state:
                    state.answer(self.now)
            case _:
                self.publish(action, key, numbers)

    def publish(self, action: str, key: StreamKey, numbers: list[int]) -> None:
        known = key in self.source.streams and numbers
        frame = self.source.increment(key, numbers) if known else self.source.open(key)
        if action == "hold back":
            self.held.append(frame)
        elif action != "lose":
            self.take(*[frame] * (2 if action == "duplicate" else 1))

    def settle(self, *, answered: bool) -> None:
        if self.asked:
            one = self.asked.pop(0)
            if answered:
                self.answer(*one)
            else:
                self.intake.answer(one[0], one[2], None, self.now)


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTIONS, max_size=60))
def test_after_any_trouble_state_equals_the_publishers(actions: list[tuple[str, int, list[int]]]) -> None:
    link = Trouble()
    for action, index, numbers in actions:
        link.act(action, STREAMS[index], numbers)
    while link.asked:
        link.settle(answered=True)
    link.recover()
    link.check()
    statistics = link.intake.statistics(link.now, store_up=True)
    assert (statistics.streams_gapped, statistics.requests_waiting, statistics.held_messages) == (0, 0, 0)
    assert statistics.term == link.source.term
    assert link.intake.wants.under_way == 0


def test_a_gap_is_told_when_it_opens_and_when_it_closes() -> None:
    link = Link()
    link.take(link.source.open(BOOK))
    assert link.intake.take_events() == [TermRaised(0, 3)]
    at = link.source.streams[BOOK].position
    link.source.increment(BOOK, [1])
    link.take(link.source.increment(BOOK, [2]))
    assert link.intake.take_events() == [GapFound(BOOK, at, Position(at.epoch, 2))]
    link.recover()
    (healed,) = link.intake.take_events()
    assert healed == GapHealed(BOOK, "retransmit", 0.0)
    counters = link.intake.statistics(link.now, store_up=True)
    assert (counters.gaps_total, counters.recoveries_total) == (1, {"retransmit": 1})


def test_an_answer_from_before_a_take_over_counts_as_none() -> None:
    link = Link()
    link.take(link.source.open(BOOK))
    link.source.increment(BOOK, [1])
    link.beacon()
    ((key, wanted, asked),) = link.ask()
    old = link.source
    link.take_over()
    link.take(link.source.open(TICKER))
    frames = old.retransmit(key, wanted.after or Position(0, 0))
    assert frames
    link.intake.answer(key, asked, [encode(Reply()), *frames], link.now)
    assert link.intake.feed.position(BOOK) == wanted.after
    assert link.intake.wants.under_way == 0


def test_bad_frames_and_answers_are_counted_and_change_nothing() -> None:
    link = Link()
    link.take(link.source.open(BOOK), b"no topic", b"bc.0.\0garbage", b"md.1.P0-USD.book.\0short")
    asked = Asked(Wanted("snapshot", None), link.intake.feed.term)
    reply, parts = link.source.snapshot(BOOK) or (None, [])
    assert reply is not None
    retransmit = Asked(Wanted("retransmit", Position(1, 1)), asked.term)
    for one, answer in (
        (asked, [b"garbage"]),
        (asked, [encode(reply)]),
        (asked, [encode(Reply())]),
        (retransmit, [encode(reply), *parts]),
        (retransmit, [encode(Reply()), b"garbage"]),
        (asked, [encode(View("r", warming=False, lease_ttl_s=1, services=[]))]),
    ):
        link.intake.answer(BOOK, one, answer, link.now)
    link.intake.answer(TICKER, asked, [encode(reply), *parts], link.now)
    link.intake.answer(BOOK, asked, [encode(Rejected("no"))], link.now)
    events = [event for event in link.intake.take_events() if isinstance(event, BadInput)]
    assert [event.what for event in events] == ["frame"] * 3 + ["answer"] * 7
    assert link.intake.counters.bad_frames_total == 10
    link.check()


def test_a_state_that_cannot_be_read_is_taken_anew() -> None:
    link = Link()
    link.take(link.source.open(BOOK), link.source.increment(BOOK, [1, 2]))
    frame = codec.unpack(link.source.increment(BOOK, [4]))
    link.take(codec.pack(frame.topic, frame.header, [b'{"fields":nonsense}}']))
    link.intake.discard(BOOK, "unreadable")
    assert link.intake.state.get(BOOK) is None
    assert link.intake.schedule.everything() == {}
    link.recover()
    link.check()
    assert StateDiscarded(BOOK, "unreadable") in link.intake.take_events()


def test_a_snapshot_that_cannot_be_read_is_taken_anew() -> None:
    link = Link()
    trades = StreamKey("P0-USD", Channel.TRADES)
    frame = codec.unpack(link.source.open(trades))
    link.take(codec.pack(frame.topic, frame.header, [b'{"data":{"state":{"trades":3}}}']))
    assert [type(event) for event in link.intake.take_events()] == [TermRaised, StateDiscarded]
    link.recover()
    link.check()


def test_a_replaced_publishers_state_is_void() -> None:
    link = Link(term=3)
    later = ModelPublisher(0, 3, lambda: 99_000)
    link.take(later.open(BOOK))
    link.source = ModelPublisher(0, 4, link.source.clock)
    link.source.open(BOOK)
    link.beacon()
    assert link.intake.state.get(BOOK) is None
    link.recover()
    link.check()
    assert link.intake.counters.states_discarded_total == 1


def test_a_restored_state_holds_until_the_publisher_says_more() -> None:
    before = Link(term=3)
    for key in STREAMS:
        before.take(before.source.open(key), before.source.increment(key, [1, 2]))
    stored = [state.stored() for state in before.intake.state]
    after = Link(term=4, known=before.source.streams)
    assert all(after.intake.restore(one) for one in stored)
    assert not after.intake.restore(stored[0])
    assert len(after.intake.schedule) == 0, "it is stored already"
    for key, stream in before.source.streams.items():
        state = after.intake.state.get(key)
        assert state is not None
        assert (state.position, state.input) == (stream.position, state.input)
        assert state.content.text().decode() == stream.state(key.channel)
    for key in STREAMS:
        after.source.open(key)
    after.recover()
    after.check()


def test_a_stored_state_that_cannot_be_read_is_not_restored() -> None:
    link = Link()
    trades = StreamKey("P0-USD", Channel.TRADES)
    assert not link.intake.restore(StoredState(trades, 3, Position(9, 9), InputPosition(1, 1, 1), 0, b"{}"))
    assert link.intake.state.get(trades) is None
    link.take(link.source.open(trades))
    link.check()
