"""What a link's weather does to one direction of a connection."""

import random

from loadgen.chaos.lane import Lane, Weather
from loadgen.chaos.zmtp import message_of, parts_of

GREETING = bytes(64)


def lane(weather: Weather, *, may_drop: bool = True) -> Lane:
    made = Lane(weather, random.Random(1), zmtp=True, may_drop=may_drop)
    assert made.take(GREETING, 0.0) == GREETING
    return made


def numbered(count: int) -> list[bytes]:
    return [message_of([b"%d" % number, b"x" * 100]) for number in range(count)]


def test_fair_weather_changes_nothing() -> None:
    one = lane(Weather())
    for message in numbered(3):
        assert one.take(message[:5], 1.0) + one.take(message[5:], 1.0) == message


def test_messages_vanish_whole_and_are_counted() -> None:
    weather = Weather(drop_share=0.5)
    one = lane(weather)
    stream = b"".join(numbered(200))
    out = b"".join(one.take(stream[at : at + 77], 0.0) for at in range(0, len(stream), 77))
    passed = [message for message in numbered(200) if message in out]
    assert b"".join(passed) == out
    assert weather.dropped == 200 - len(passed)
    assert 60 < weather.dropped < 140


def test_nothing_vanishes_where_nothing_may() -> None:
    one = lane(Weather(drop_share=1.0), may_drop=False)
    stream = b"".join(numbered(20))
    assert one.take(stream, 0.0) == stream


def test_a_message_that_has_begun_to_pass_is_not_cut_in_half() -> None:
    weather = Weather()
    one = lane(weather)
    first, second, third = numbered(3)
    out = one.take(first + second[:30], 0.0)
    weather.drop_share = 1.0
    out += one.take(second[30:] + third[:10], 0.0)
    weather.drop_share = 0.0
    assert out + one.take(third[10:], 0.0) == first + second + third


def test_a_delay_keeps_the_order_and_ends_with_the_weather() -> None:
    weather = Weather(delay_s=0.5)
    one = lane(Weather())
    one._weather = weather
    assert one.take(b"\x00\x01a", 10.0) == b""
    assert one.next_due() == 10.5
    assert one.due(10.4) == b""
    assert one.take(b"\x00\x01b", 10.5) == b"\x00\x01a"
    weather.delay_s = 0.0
    assert one.take(b"\x00\x01c", 10.6) == b"\x00\x01b\x00\x01c"
    assert one.waiting_bytes == 0


def test_messages_are_rewritten_one_by_one() -> None:
    one = Lane(
        Weather(), random.Random(1), zmtp=True, may_drop=False, rewrite=lambda raw: message_of([b"new", *parts_of(raw)])
    )
    out = one.take(GREETING + b"\x04\x01c" + message_of([b"a", b"b"]), 0.0)
    assert out == GREETING + b"\x04\x01c" + message_of([b"new", b"a", b"b"])
