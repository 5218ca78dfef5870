"""Faults as values: what goes wrong, for whom, how often, for how long.

    kind       what happens                                         share
    lose       a frame is not sent                                  of the frames
    duplicate  a frame is sent twice in a row                       of the frames
    reorder    a frame is sent 1 to 4 frames late                   of the frames
    garble     a frame is cut off, or some of its characters become `#`; never another valid number or text
    drop       the connection breaks at a frame                     of the frames; without one: every connection breaks
                                                                    now, and with `for_s` none can be opened meanwhile
    stall      nothing is sent; what was held follows, in order, at the end
    refuse     a subscribe is answered with an error                of the requests, all without one
    limit      REST answers 429, Retry-After: 1                     of the requests, all without one
    fail       REST answers 503                                     of the requests, all without one
    slow       REST answers `delay_s` later; past 2.5 s the request
               is cut off without an answer                         of the requests, all without one
    hide       REST does not list the newest `count` trades yet     of the requests, all without one

A fault can be narrowed to products and to channels. Faults touch what is sent to a connection and never the market, so
the truth stays right; the simulator's answers to requests are touched by `stall` and `refuse`, those of REST by the
last four only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from lfmesh.errors import ConfigError
from loadgen.sim.audience import VenueChannel, channel_named

FaultKind = Literal[
    "drop", "lose", "duplicate", "reorder", "garble", "stall", "refuse", "limit", "fail", "slow", "hide"
]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

_SHARED_KINDS = ("lose", "duplicate", "reorder", "garble")
_KEYS = ("kind", "share", "for_s", "products", "channels", "delay_s", "count")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault; see the module's table. `for_s` None lasts until it is cleared; empty filters mean everything."""

    kind: FaultKind
    share: float | None = None
    for_s: float | None = None
    products: frozenset[str] = frozenset()
    channels: frozenset[VenueChannel] = frozenset()
    delay_s: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise ConfigError(f"fault {self.kind}: share is above 0 and at most 1, not {self.share:g}")
        if self.share is None and self.kind in _SHARED_KINDS:
            raise ConfigError(f"fault {self.kind}: say which share of the frames, such as share=0.01")
        if self.share is not None and self.kind == "stall":
            raise ConfigError("fault stall: it holds every frame and has no share")
        if self.for_s is not None and not 0 < self.for_s <= 86_400:
            raise ConfigError(f"fault {self.kind}: for_s is above 0 and at most 86400, not {self.for_s:g}")
        if (self.kind == "slow") != (self.delay_s is not None):
            raise ConfigError(f"fault {self.kind}: delay_s belongs to slow, which needs it, such as delay_s=0.5")
        if (self.kind == "hide") != (self.count is not None):
            raise ConfigError(f"fault {self.kind}: count belongs to hide, which needs it, such as count=100")
        if self.delay_s is not None and not 0 < self.delay_s <= 60:
            raise ConfigError(f"fault slow: delay_s is above 0 and at most 60, not {self.delay_s:g}")
        if self.count is not None and self.count < 1:
            raise ConfigError(f"fault hide: count is at least 1, not {self.count}")

    @property
    def immediate(self) -> bool:
        """Whether it is an act rather than a condition: a drop of every connection now."""
        return self.kind == "drop" and self.share is None

    def concerns(self, product: str | None, channel: VenueChannel) -> bool:
        """Whether a frame of this product and channel can be hit; product None is the status channel's."""
        return (not self.products or product in self.products) and (not self.channels or channel in self.channels)

    def described(self) -> dict[str, object]:
        """As `/control/faults` lists it."""
        return {
            "kind": self.kind,
            "share": self.share,
            "for_s": self.for_s,
            "products": sorted(self.products),
            "channels": sorted(self.channels),
            "delay_s": self.delay_s,
            "count": self.count,
        }

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """From a flag: `kind` or `kind:key=value,key=value`, lists joined by `+`; ConfigError if it cannot be read.

        For instance `lose:share=0.01,for_s=5,products=BTC-USD+ETH-USD,channels=matches`.
        """
        kind, _, rest = text.partition(":")
        fields = {"kind": kind.strip()}
        for item in filter(None, rest.split(",")):
            key, equals, value = item.partition("=")
            if not equals:
                raise ConfigError(f"fault {text!r}: {item!r} is no key=value")
            fields[key.strip()] = value.strip().replace("+", ",")
        return cls.of(fields)

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> "Fault":
        """From texts by key, lists joined by commas; ConfigError for an unknown key, kind or channel."""
        unknown = set(fields) - set(_KEYS)
        if unknown:
            raise ConfigError(f"fault: unknown key {', '.join(sorted(unknown))}; known are {', '.join(_KEYS)}")
        kind = fields.get("kind", "")
        for known in FAULT_KINDS:
            if kind == known:
                break
        else:
            raise ConfigError(f"fault: kind is one of {', '.join(FAULT_KINDS)}, not {kind!r}")
        return cls(
            kind=known,
            share=_number(fields, "share"),
            for_s=_number(fields, "for_s"),
            products=frozenset(_listed(fields, "products")),
            channels=frozenset(_channel(name) for name in _listed(fields, "channels")),
            delay_s=_number(fields, "delay_s"),
            count=_whole_number(fields, "count"),
        )


def _number(fields: Mapping[str, str], key: str) -> float | None:
    text = fields.get(key)
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"fault: {key} is a number, not {text!r}") from None


def _whole_number(fields: Mapping[str, str], key: str) -> int | None:
    text = fields.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"fault: {key} is a whole number, not {text!r}")
    return int(text)


def _listed(fields: Mapping[str, str], key: str) -> list[str]:
    return [part for part in fields.get(key, "").split(",") if part]


def _channel(name: str) -> VenueChannel:
    channel = channel_named(name)
    if channel is None:
        raise ConfigError(f"fault: channels are of {', '.join(VenueChannel)}, not {name!r}")
    return channel


def check_at_start(faults: Iterable[Fault]) -> None:
    """ConfigError for a fault that means nothing before there are connections."""
    for fault in faults:
        if fault.immediate and fault.for_s is None:
            raise ConfigError("fault drop: at the start nobody is connected; give a share of the frames, or for_s")
