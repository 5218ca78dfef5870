import subprocess
import sys

import pytest

from lfmesh.core.sharding import products_of, shard_of, stable_id

PRODUCTS = tuple(f"C{number:03d}-{quote}" for number in range(250) for quote in ("USD", "EUR"))


def test_known_values_never_change() -> None:
    """A change here would send products to other shards than the ones that hold their state."""
    assert stable_id("BTC-USD") == 0xF42454D6D065764B
    assert [shard_of(product, 8) for product in ("BTC-USD", "ETH-USD", "SOL-USD", "BTC-USDT")] == [6, 6, 1, 7]


def test_same_in_every_process() -> None:
    code = (
        "from lfmesh.core.sharding import shard_of\n"
        "print([shard_of(f'C{n:03d}-{q}', 8) for n in range(250) for q in ('USD', 'EUR')])"
    )
    for seed in ("0", "12345"):
        printed = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        assert printed.strip() == str([shard_of(product, 8) for product in PRODUCTS])


def test_even_over_500_products_and_8_shards() -> None:
    held = [len(products_of(shard, PRODUCTS, 8)) for shard in range(8)]
    assert sum(held) == 500
    assert max(held) <= 1.5 * 500 / 8


def test_growing_moves_few_and_only_to_the_new_shard() -> None:
    moved = [product for product in PRODUCTS if shard_of(product, 8) != shard_of(product, 9)]
    assert 0 < len(moved) <= 1.5 / 9 * 500
    assert {shard_of(product, 9) for product in moved} == {8}


def test_one_shard_holds_all() -> None:
    assert products_of(0, PRODUCTS, 1) == PRODUCTS


def test_no_shard_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        shard_of("BTC-USD", 0)
