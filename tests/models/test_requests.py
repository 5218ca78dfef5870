"""Requests as clients may write them. Error rows over the wire: tests/services/gateway/test_requests.py."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.models import (
    PingRequest,
    Refusal,
    ReplayRequest,
    StreamPosition,
    SubscribeRequest,
    UnsubscribeRequest,
    parse_request,
    request_id,
    schema,
)


def test_subscribe_in_full() -> None:
    text = (
        '{"op":"subscribe","products":["BTC-USD","ETH-USD"],"channels":["ticker","book"],"want_snapshot":false,'
        '"from_seq":{"BTC-USD":{"book":{"epoch":9007199254740991,"seq":0}}},"conflate_ms":250,"id":"r1","more":1}'
    )
    request = parse_request(text)
    assert isinstance(request, SubscribeRequest)
    assert request.products == ["BTC-USD", "ETH-USD"]
    assert request.channels == ["ticker", "book"]
    assert (request.want_snapshot, request.conflate_ms, request.id) == (False, 250, "r1")
    assert request.from_seq == {"BTC-USD": {"book": StreamPosition(epoch=2**53 - 1, seq=0)}}
    jsonschema.Draft202012Validator(schema()).validate(json.loads(text))


def test_what_is_left_out_has_its_default() -> None:
    request = parse_request('{"op":"subscribe","products":["BTC-USD"]}')
    assert isinstance(request, SubscribeRequest)
    assert (request.channels, request.want_snapshot, request.from_seq) == (["ticker"], True, None)
    assert (request.conflate_ms, request.id) == (0, None)
    left = parse_request('{"op":"unsubscribe"}')
    assert isinstance(left, UnsubscribeRequest)
    assert (left.products, left.channels) == (None, None)


def test_a_bare_seq_goes_with_one_channel_even_if_that_is_named_twice() -> None:
    request = parse_request('{"op":"subscribe","products":["A"],"channels":["book","book"],"from_seq":{"A":7}}')
    assert isinstance(request, SubscribeRequest)
    assert request.from_seq == {"A": 7}


@pytest.mark.parametrize(
    "text",
    [
        '{"op":"ping","t":5}',
        '{"operation":"ping","t":5}',
        '{"op":"ping","timestamp":5}',
        '{"operation":"buy","op":"ping","timestamp":6,"t":5}',
    ],
)
def test_both_names_of_op_and_t(text: str) -> None:
    request = parse_request(text)
    assert isinstance(request, PingRequest)
    assert (request.op, request.t) == ("ping", 5)


@pytest.mark.parametrize(
    ("fields", "at", "speed"),
    [
        ({"action": "status"}, None, None),
        ({"action": "seek", "at": 1618677830000000001}, 1618677830000000001, None),
        ({"action": "seek", "at": "2021-04-17T16:43:50Z"}, "2021-04-17T16:43:50Z", None),
        ({"action": "speed", "speed": 2}, None, 2),
        ({"action": "speed", "speed": 0.5}, None, 0.5),
        ({"action": "speed", "speed": "max"}, None, "max"),
    ],
)
def test_control_of_a_replay(fields: dict[str, object], at: object, speed: object) -> None:
    text = json.dumps({"op": "replay", **fields, "id": 3})
    request = parse_request(text)
    assert isinstance(request, ReplayRequest)
    assert (request.action, request.at, request.speed, request.id) == (fields["action"], at, speed, 3)
    jsonschema.Draft202012Validator(schema()).validate(json.loads(text))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"action": "stop"}, "action: Input should be 'status', 'pause', 'resume', 'seek' or 'speed'"),
        ({"action": "seek"}, "at: seek needs a moment, such as 2021-04-17T16:43:50Z or integer ns"),
        ({"action": "seek", "at": 1.5}, "at: a moment as text (2021-04-17T16:43:50Z) or as integer ns since the Unix"),
        ({"action": "speed"}, "speed: a number from 0.001 to 1000000, or max"),
        ({"action": "speed", "speed": 0}, "speed: a number from 0.001 to 1000000, or max"),
        ({"action": "speed", "speed": "fast"}, "speed: a number from 0.001 to 1000000, or max"),
    ],
)
def test_control_of_a_replay_that_says_nothing(fields: dict[str, object], told: str) -> None:
    refusal = parse_request(json.dumps({"op": "replay", **fields}))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "BAD_REQUEST"
    assert refusal.msg.startswith(told)


def test_a_lone_surrogate_is_no_json() -> None:
    refusal = parse_request('{"op":"ping","t":1,"id":"\\ud800"}')
    assert isinstance(refusal, Refusal)
    assert refusal.code == "INVALID_JSON"


def test_many_faults_are_told_in_short() -> None:
    positions = {f"P{number}": -1 for number in range(100)}
    refusal = parse_request(json.dumps({"op": "subscribe", "products": ["A"], "from_seq": positions}))
    assert isinstance(refusal, Refusal)
    assert len(refusal.msg) < 500
    assert "more" in refusal.msg


POSITIONS = 'a position {"epoch": E, "seq": S} per channel, or a seq where one channel is named'


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"from_seq": {"BTC-USD": "7"}}, f"from_seq.BTC-USD: {POSITIONS}"),
        ({"from_seq": {"BTC-USD": {"book": 7}}}, f"from_seq.BTC-USD: {POSITIONS}"),
        ({"from_seq": {"A": {"book": {"epoch": 1}}, "B": -1}}, f"from_seq.A: {POSITIONS}; from_seq.B: {POSITIONS}"),
        ({"from_seq": 7}, f"from_seq: {POSITIONS}"),
        ({"id": []}, "id: a text of at most 200 characters or an integer of at most 53 bits"),
    ],
)
def test_a_fault_is_named_by_its_field_and_told_once(fields: dict[str, object], told: str) -> None:
    refusal = parse_request(json.dumps({"op": "subscribe", "products": ["A"], **fields}))
    assert isinstance(refusal, Refusal)
    assert refusal.msg == told


def test_the_schema_says_what_conflation_does() -> None:
    told = schema()["$defs"]["SubscribeRequest"]["properties"]["conflate_ms"]["description"]
    assert "At most one increment per stream in this many milliseconds" in told
    assert "Trades are never conflated" in told


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
FIELDS = (
    "products", "channels", "want_snapshot", "from_seq", "conflate_ms", "id", "t", "timestamp", "action", "at", "speed",
)  # fmt: skip
requests = st.fixed_dictionaries(
    {"op": st.sampled_from(["subscribe", "unsubscribe", "ping", "replay", "x"]) | json_values},
    optional=dict.fromkeys(FIELDS, json_values),
)


@given(st.text(max_size=200) | st.one_of(requests, json_values).map(json.dumps))
def test_whatever_is_sent_is_a_request_or_refused_in_one_line(text: str) -> None:
    answer = parse_request(text)
    if isinstance(answer, Refusal):
        assert answer.code in ("INVALID_JSON", "BAD_REQUEST", "INVALID_OPERATION")
        assert answer.msg
        assert "\n" not in answer.msg


@given(requests.map(json.dumps))
def test_the_id_is_found_the_cheap_way_as_the_whole_way(text: str) -> None:
    whole = parse_request(text)
    if not (isinstance(whole, Refusal) and whole.code == "INVALID_JSON"):
        assert request_id(text) == whole.id


@pytest.mark.parametrize("text", ["{", "[]", '{"id":[1]}', '{"id":1.5}', '{"id":true}', "[" * 50_000, b"\xff"])
def test_no_id_is_found_where_there_is_none(text: str | bytes) -> None:
    assert request_id(text) is None
