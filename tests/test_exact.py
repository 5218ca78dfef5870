from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from lfmesh.exact import Exact, is_decimal, scaled

decimals = st.from_regex(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,18})?", fullmatch=True, alphabet="0123456789.")


@given(decimals)
def test_the_digits_stay_as_they_are(text: str) -> None:
    assert str(Exact(text)) == text
    assert str(Exact.parse(Decimal(text))) == text


@given(decimals, decimals)
def test_scaled_orders_as_decimals_do(one: str, other: str) -> None:
    assert (scaled(one) < scaled(other)) == (Decimal(one) < Decimal(other))
    assert (scaled(one) == scaled(other)) == (Decimal(one) == Decimal(other))


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "1.", ".5", "01", "1e5", "1E5", "NaN", "Infinity", " 1", "1\n", "１", "1" * 21, "0." + "1" * 19],
)
def test_what_is_no_exact_decimal(text: str) -> None:
    assert not is_decimal(text)
    with pytest.raises(ValueError, match="exact decimal"):
        Exact.parse(text)


class Priced(BaseModel):
    px: Exact


def test_a_model_takes_no_float() -> None:
    assert str(Priced(px=Exact("1.10")).px) == "1.10"
    assert str(Priced.model_validate({"px": 5}).px) == "5"
    for wrong in (1.1, True, None, "1e5"):
        with pytest.raises(ValidationError):
            Priced.model_validate({"px": wrong})
    assert Priced.model_json_schema()["properties"]["px"]["type"] == "number"
