"""Latencies in integer nanoseconds, in buckets of a constant relative width (as HDR histograms have them).

A bucket is at most 1/64 of its value wide, so every percentile is right to 1.6 %. Recording costs one shift and one
dict update; histograms of many clients are added up.
"""

from math import ceil

_SUB_BITS = 7
_SUB = 1 << _SUB_BITS


class Histogram:
    """Counts by bucket; `record` takes ns, negative ones (clocks that disagree) count as 0 and in `negative`."""

    __slots__ = ("buckets", "count", "max", "negative")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.max = 0
        self.negative = 0

    def record(self, value: int) -> None:
        """Add one latency."""
        if value < 0:
            self.negative += 1
            value = 0
        shift = value.bit_length() - _SUB_BITS
        bucket = (shift << _SUB_BITS) + (value >> shift) if shift > 0 else value
        buckets = self.buckets
        buckets[bucket] = buckets.get(bucket, 0) + 1
        self.count += 1
        if value > self.max:
            self.max = value

    def percentile(self, share: float) -> int | None:
        """The latency that `share` (0 to 1) of all stay at or below, rounded up to its bucket's end; None if empty."""
        if not self.count:
            return None
        rank = max(1, ceil(share * self.count))
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return min(_upper_end(bucket), self.max)
        return self.max

    def add(self, other: "Histogram") -> None:
        """Add another histogram's counts."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.count += other.count
        self.negative += other.negative
        self.max = max(self.max, other.max)


def _upper_end(bucket: int) -> int:
    # Up to _SUB a bucket holds one value; above, its high bits are the shift and its low bits the leading bits.
    if bucket < _SUB:
        return bucket
    return (((bucket & (_SUB - 1)) + 1) << (bucket >> _SUB_BITS)) - 1
