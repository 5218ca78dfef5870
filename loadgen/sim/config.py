"""What a run of the exchange simulator is made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lfmesh.errors import ConfigError
from loadgen.sim import catalog
from loadgen.sim.faults import Fault, check_at_start

MAX_RATE_MSGS_S = 20_000
TapeStart = Literal["now", "control", "subscribe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimConfig:
    """Every option of the simulator. ConfigError at construction for a value out of range.

    Without `tape` the market model plays; with it the tape does, and `products`, `product_count`, `rate_msgs_s`,
    `count`, `start_paused` and `book_levels` say nothing.
    """

    host: str = "127.0.0.1"
    port: int = 0
    """0 lets the system choose."""

    products: tuple[str, ...] = ()
    """The model's products; empty: the first `product_count` of the catalogue."""
    product_count: int = 10
    rate_msgs_s: int = 1000
    """l2updates, matches and tickers a second, over all products."""
    count: int | None = None
    """Fall quiet after so many messages; None goes on for ever."""
    seed: int = 1
    start_paused: bool = False
    book_levels: int = 250
    """Usual number of levels a side."""
    batch_interval_ms: int = 50

    tape: Path | None = None
    tape_speed: float | Literal["max"] = 1.0
    tape_start: TapeStart = "now"
    """When the tape begins: at once; on /control/start; or on that or once every product of the tape has somebody
    on its book, its ticker and its matches, so that whoever waits for all of it misses nothing."""

    faults: tuple[Fault, ...] = ()
    """Faults that are active from the beginning."""

    compress: bool = False
    """Offer permessage-deflate; off, because it costs far more than everything else here."""
    subscribe_deadline_s: float = 5.0
    heartbeat_interval_s: float = 1.0
    status_interval_s: float = 5.0
    rest_rate_per_s: float = 10.0
    rest_burst: int = 15
    trade_history_rows: int = 20_000
    """The latest trades of each product that REST can list (up to twice as many are held)."""
    buffer_limit_bytes: int = 64 * 1024 * 1024
    """Unsent bytes at which a connection counts as a slow consumer and is dropped."""
    slow_consumer_s: float = 2.0
    """At tape speed "max": how long one slow reader may hold everybody back before it is dropped."""

    def __post_init__(self) -> None:
        bounds: tuple[tuple[str, float, float, float], ...] = (
            ("port", self.port, 0, 65535),
            ("product_count", self.product_count, 1, catalog.MAX_PRODUCTS),
            ("rate_msgs_s", self.rate_msgs_s, 1, MAX_RATE_MSGS_S),
            ("book_levels", self.book_levels, 5, 5000),
            ("batch_interval_ms", self.batch_interval_ms, 1, 60_000),
            ("subscribe_deadline_s", self.subscribe_deadline_s, 0.01, 3600),
            ("heartbeat_interval_s", self.heartbeat_interval_s, 0.01, 3600),
            ("status_interval_s", self.status_interval_s, 0.01, 3600),
            ("rest_rate_per_s", self.rest_rate_per_s, 0.01, 1e6),
            ("rest_burst", self.rest_burst, 1, 1_000_000),
            ("trade_history_rows", self.trade_history_rows, 1, 10_000_000),
            ("buffer_limit_bytes", self.buffer_limit_bytes, 1024, 1 << 40),
            ("slow_consumer_s", self.slow_consumer_s, 0.01, 3600),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise ConfigError(f"simulator: {name} is {low:g} to {high:g}, not {value:g}")
        if self.count is not None and self.count < 1:
            raise ConfigError(f"simulator: count is at least 1, not {self.count}")
        if self.tape_speed != "max" and not 0 < self.tape_speed <= 1e6:
            raise ConfigError(f'simulator: tape_speed is a positive number or "max", not {self.tape_speed}')
        if len(self.products) > catalog.MAX_PRODUCTS or len(set(self.products)) != len(self.products):
            raise ConfigError(f"simulator: products are at most {catalog.MAX_PRODUCTS}, each named once")
        for product in self.products:
            catalog.spec_of(product)
        check_at_start(self.faults)

    @property
    def listed_products(self) -> tuple[str, ...]:
        """The model's products, in order of activity."""
        return self.products or catalog.products(self.product_count)
