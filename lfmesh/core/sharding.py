"""Which shard a product belongs to: the same in every process, run and machine.

Jump consistent hashing (Lamping and Veach, 2014, "A Fast, Minimal Memory, Consistent Hash Algorithm") over BLAKE2b:
growing from n to n + 1 shards moves 1/(n + 1) of the products on average, all of them to the new shard.
"""

from functools import lru_cache
from hashlib import blake2b

_MASK = (1 << 64) - 1
_MULTIPLIER = 2862933555777941757


def stable_id(text: str) -> int:
    """A 64-bit id of a text, equal in every process (Python's own hash is not)."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=65536)
def shard_of(product: str, shards: int) -> int:
    """Shard of a product, 0 to shards - 1."""
    if shards < 1:
        raise ValueError(f"shards must be at least 1, got {shards}")
    key = stable_id(product)
    shard, candidate = -1, 0
    while candidate < shards:
        shard = candidate
        key = (key * _MULTIPLIER + 1) & _MASK
        candidate = ((shard + 1) << 31) // ((key >> 33) + 1)
    return shard


def products_of(shard: int, products: tuple[str, ...], shards: int) -> tuple[str, ...]:
    """The products of one shard, in the order given."""
    return tuple(product for product in products if shard_of(product, shards) == shard)
