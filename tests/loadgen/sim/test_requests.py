import json

import pytest

from loadgen.sim import VenueChannel
from loadgen.sim.requests import BadRequest, parse_request


def test_both_forms_may_be_mixed_in_one_request() -> None:
    request = parse_request(
        json.dumps(
            {
                "type": "subscribe",
                "product_ids": ["ETH-USD"],
                "channels": [
                    "level2_batch",
                    "heartbeat",
                    {"name": "ticker", "product_ids": ["BTC-USD"]},
                    {"name": "matches"},
                ],
            }
        )
    )
    assert request.action == "subscribe"
    assert request.streams == [
        (VenueChannel.LEVEL2_BATCH, ["ETH-USD"]),
        (VenueChannel.HEARTBEAT, ["ETH-USD"]),
        (VenueChannel.TICKER, ["BTC-USD"]),
        (VenueChannel.MATCHES, ["ETH-USD"]),
    ]


def test_an_unsubscribe_without_products_means_the_whole_channel() -> None:
    assert parse_request('{"type":"unsubscribe","channels":["level2_50"]}').streams == [
        (VenueChannel.LEVEL2_BATCH, None)
    ]


def test_status_needs_no_products() -> None:
    assert parse_request('{"type":"subscribe","channels":[{"name":"status"}]}').streams == [(VenueChannel.STATUS, None)]


@pytest.mark.parametrize(
    ("raw", "message", "reason"),
    [
        ("nonsense", "Malformed JSON", None),
        (b"\xff\xfe", "Malformed JSON", None),
        ("[]", "Invalid request", "object"),
        ('{"type":"subscribe","channels":"ticker"}', "Invalid request", "channels"),
        ('{"channels":["ticker"]}', "Type has to be either subscribe or unsubscribe", None),
        ('{"type":"order"}', "Type has to be either subscribe or unsubscribe", None),
        ('{"type":"subscribe","product_ids":["BTC-USD"]}', "Failed to subscribe", "No channels provided"),
        ('{"type":"unsubscribe"}', "Failed to unsubscribe", "No channels provided"),
        ('{"type":"subscribe","channels":["ticker"]}', "Failed to subscribe", "No product_ids"),
        (
            '{"type":"subscribe","product_ids":["BTC-USD"],"channels":["full"]}',
            "Failed to subscribe",
            "full is not a valid channel",
        ),
    ],
)
def test_anything_else_is_refused_with_its_reason(raw: str | bytes, message: str, reason: str | None) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_request(raw)
    assert refused.value.message == message
    assert (refused.value.reason is None) == (reason is None)
    assert reason is None or reason in (refused.value.reason or "")
