import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from loadgen.sim.frames import error_frame, framed, heartbeat_frame, payload_of, snapshot_frame, subscriptions_frame


@given(st.sampled_from([0, 1, 125, 126, 127, 2047, 2048, 65_535, 65_536, 70_000]) | st.integers(0, 5000))
def test_our_framing_is_what_a_websocket_library_reads(length: int) -> None:
    payload = b"x" * length
    reader = ClientProtocol(parse_uri("ws://localhost"), state=State.OPEN)
    reader.receive_data(framed(payload))
    assert reader.events_received() == [Frame(Opcode.TEXT, payload)]
    assert payload_of(framed(payload)) == payload


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (
            subscriptions_frame([("level2_50", ["ETH-USD"])]),
            {
                "type": "subscriptions",
                "channels": [{"name": "level2_50", "product_ids": ["ETH-USD"], "account_ids": None}],
            },
        ),
        (
            error_frame("Failed to subscribe", "FOO-USD is not a valid product"),
            {"type": "error", "message": "Failed to subscribe", "reason": "FOO-USD is not a valid product"},
        ),
        (error_frame("Malformed JSON"), {"type": "error", "message": "Malformed JSON"}),
        (
            heartbeat_frame("BTC-USD", 90, 20, "2024-01-01T00:00:00.000000Z"),
            {
                "type": "heartbeat",
                "last_trade_id": 20,
                "product_id": "BTC-USD",
                "sequence": 90,
                "time": "2024-01-01T00:00:00.000000Z",
            },
        ),
        (
            snapshot_frame("BTC-USD", [("1.10", "2"), ("1.00", "3")], []),
            {"type": "snapshot", "product_id": "BTC-USD", "bids": [["1.10", "2"], ["1.00", "3"]], "asks": []},
        ),
    ],
)
def test_frames_have_the_venues_fields_in_its_order(payload: bytes, expected: dict[str, object]) -> None:
    decoded = json.loads(payload)
    assert decoded == expected
    assert list(decoded) == list(expected)
