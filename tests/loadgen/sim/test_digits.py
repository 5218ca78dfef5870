from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.errors import ConfigError
from lfmesh.exact import is_decimal
from loadgen.sim import catalog
from loadgen.sim.digits import IsoTimes, order_id, padded, trimmed


@given(st.integers(0, 10**20 - 1), st.integers(0, 14))
def test_texts_are_exact_decimals_of_the_same_value(units: int, digits: int) -> None:
    full, short = padded(units, digits), trimmed(units, digits)
    assert is_decimal(full)
    assert is_decimal(short)
    assert Decimal(full) == Decimal(short) == Decimal(units).scaleb(-digits)
    assert len(full.partition(".")[2]) == digits
    assert "." not in short or not short.endswith("0")


def test_times_carry_microseconds_and_a_z() -> None:
    times = IsoTimes()
    assert times.text(1_618_677_817_075_687) == "2021-04-17T16:43:37.075687Z"
    assert times.text(1_618_677_817_000_001) == "2021-04-17T16:43:37.000001Z"
    assert times.text(1_618_677_818_000_000) == "2021-04-17T16:43:38.000000Z"


@given(st.integers(0, 2**128 - 1))
def test_order_ids_have_the_shape_of_a_uuid(number: int) -> None:
    from uuid import UUID

    parsed = UUID(order_id(number))
    assert parsed.version == 4
    assert str(parsed) == order_id(number)


def test_the_catalogue_lists_500_products_well_known_ones_first() -> None:
    listed = catalog.products(500)
    assert len(set(listed)) == 500
    assert listed[:3] == ("BTC-USD", "ETH-USD", "SOL-USD")
    assert catalog.products(20) == listed[:20]
    for product in listed:
        spec = catalog.spec_of(product)
        assert spec.start_ticks >= 1000  # room for a book of distinct levels on both sides
        assert spec.unit_lots >= 20


@pytest.mark.parametrize("count", [0, 501])
def test_the_number_of_products_is_bounded(count: int) -> None:
    with pytest.raises(ConfigError, match=f"1 to 500, not {count}"):
        catalog.products(count)


def test_any_pair_has_a_specification_and_nothing_else_has() -> None:
    assert catalog.spec_of("FOO-BAR") == catalog.spec_of("FOO-BAR")
    with pytest.raises(ConfigError, match="BASE-QUOTE"):
        catalog.spec_of("btc/usd")
