"""Frames that are written over in place are what a normalizer would have packed."""

import msgspec
import pytest

from lfmesh.core.codec import unpack
from lfmesh.models import parse_message
from loadgen.bench.ticks import EPOCH, FIRST_SEQ, SHORT, SHORT_BYTES, WHOLE, Frames, products, tick

AT = 1_795_000_000_123_456_789


@pytest.mark.parametrize("kind", [SHORT, WHOLE])
@pytest.mark.parametrize("per_frame", [1, 3])
def test_each_frame_goes_on_where_the_last_one_ended(kind: str, per_frame: int) -> None:
    frames = Frames("P007-USD", kind, per_frame)
    for number in range(3):
        market = unpack(bytes(frames.next(AT + number)))
        first = FIRST_SEQ + 1 + number * per_frame
        assert market.topic == b"md.0.P007-USD.ticker."
        assert (market.header.epoch, market.header.first_seq, market.header.ts_publish) == (EPOCH, first, AT + number)
        assert market.messages == [tick("P007-USD", first + place, AT + number, kind) for place in range(per_frame)]
    assert frames.seq == FIRST_SEQ + 3 * per_frame


def test_a_whole_tick_is_one_of_the_public_contract() -> None:
    message = tick("P000-USD", kind=WHOLE).decode()
    assert parse_message(message).model_dump()["data"]["fields"]["best_bid"]["px"]


def test_short_ticks_have_one_size_and_are_json() -> None:
    sizes = {len(tick(product, seq)) for product in products(500) for seq in (FIRST_SEQ, 9 * FIRST_SEQ)}
    assert sizes == {SHORT_BYTES}
    assert msgspec.json.decode(tick("P001-USD"))["data"]["seq"] == FIRST_SEQ
