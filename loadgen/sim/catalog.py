"""The products that the simulated exchange lists: their digits and where their prices start.

The list is the same in every run and process. Prices are of realistic size, not of any date.
"""

import hashlib
import re
from decimal import Decimal

import msgspec

from lfmesh.errors import ConfigError

MAX_PRODUCTS = 500

_HEAD = """
    BTC-USD ETH-USD SOL-USD XRP-USD DOGE-USD ADA-USD ETH-BTC LTC-USD LINK-USD AVAX-USD
    BTC-EUR ETH-EUR BCH-USD DOT-USD UNI-USD XLM-USD SHIB-USD AAVE-USD SOL-EUR BTC-GBP
"""

_USD_PRICE_LIST = """
    BTC:64250 ETH:3180 SOL:148.2 XRP:0.5214 DOGE:0.1267 ADA:0.4421 LTC:82.35 LINK:14.27 AVAX:28.6 BCH:387
    DOT:6.34 UNI:7.92 XLM:0.0934 SHIB:0.0000184 AAVE:97.4 ETC:23.1 ATOM:6.71 NEAR:5.32 APT:7.05 ICP:9.48
    FIL:4.41 HBAR:0.0712 ARB:0.7836 OP:1.712 MKR:2540 GRT:0.1843 LDO:1.724 ALGO:0.1432 QNT:76.8 SAND:0.3124
    MANA:0.3319 AXS:5.94 EOS:0.5627 XTZ:0.7715 CHZ:0.0741 CRV:0.2864 SNX:1.793 COMP:49.3 ZEC:27.4 DASH:26.9
    BAT:0.1947 ENJ:0.1688 ZRX:0.3362 YFI:6230 SUSHI:0.7043 1INCH:0.3471 BAND:1.215 KNC:0.5563 NMR:16.12
    OXT:0.0811 REN:0.0472 STORJ:0.4123 UMA:2.318 BAL:2.472 LRC:0.1652 CVC:0.1187 SKL:0.0514 ANKR:0.0283
    CTSI:0.1579 OGN:0.1034 RLC:2.217 NKN:0.0921 MASK:2.874 AMP:0.00571 API3:2.246 ENS:24.7 GALA:0.0231
    IMX:1.423 APE:0.9216 BLUR:0.2074 FET:1.321 RNDR:6.84 INJ:22.4 SUI:0.9127 SEI:0.3418 TIA:6.13 PEPE:0.0000098
    BONK:0.0000241 WIF:2.147 JUP:0.9233 PYTH:0.3571 STRK:0.6627 DYDX:1.384 EGLD:32.6 FLOW:0.6174 KAVA:0.3942
    MINA:0.4871 ROSE:0.0823 VET:0.0263 ZIL:0.0174 GMT:0.1713 MAGIC:0.4926 AUDIO:0.1463 SPELL:0.000712
    POL:0.5136 TRB:69.3 RPL:17.9 PERP:0.7841 LPT:16.7 ILV:61.5 CVX:2.418 GNO:262 FARM:52.8 AERO:0.9172
"""
_USD_PRICES = dict(item.split(":") for item in _USD_PRICE_LIST.split())
_QUOTES = {"USD": "1", "EUR": "1.087", "GBP": "1.271", "USDT": "0.9997", "BTC": "64250"}

_shape = re.compile(r"[A-Z0-9]{1,16}-[A-Z0-9]{1,16}")


class ProductSpec(msgspec.Struct, frozen=True):
    """What is fixed about a product. Prices count in 10**-price_digits, sizes in 10**-size_digits."""

    id: str
    base: str
    quote: str
    price_digits: int
    size_digits: int
    start_ticks: int
    unit_lots: int
    """A usual order: about a thousand dollars' worth."""


def _all_products() -> tuple[str, ...]:
    grid = (f"{base}-{quote}" for quote in _QUOTES for base in _USD_PRICES if base != quote)
    ordered = dict.fromkeys([*_HEAD.split(), *grid])
    return tuple(ordered)[:MAX_PRODUCTS]


_PRODUCTS = _all_products()


def products(count: int) -> tuple[str, ...]:
    """The first `count` (1 to 500) products of the simulated exchange; well-known pairs come first."""
    if not 1 <= count <= MAX_PRODUCTS:
        raise ConfigError(f"the number of simulated products is 1 to {MAX_PRODUCTS}, not {count}")
    return _PRODUCTS[:count]


def _clamped(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def _usd_price(currency: str) -> Decimal:
    text = _QUOTES.get(currency) or _USD_PRICES.get(currency)
    if text is not None:
        return Decimal(text)
    # An unlisted currency gets a price from its name: 0.0100 to 99.99, the same in every process.
    number = int.from_bytes(hashlib.sha256(currency.encode()).digest()[:4])
    return Decimal(100 + number % 9900).scaleb(-4 + 2 * (number >> 31))


def spec_of(product: str) -> ProductSpec:
    """The fixed facts of any product of the form BASE-QUOTE, listed or not. ConfigError for another form."""
    if not _shape.fullmatch(product):
        raise ConfigError(f"{product!r} is no product id: write BASE-QUOTE, such as BTC-USD")
    base, quote = product.split("-")
    quote_usd = _usd_price(quote)
    price = _usd_price(base) / quote_usd
    magnitude = price.adjusted()
    price_digits = _clamped(4 - magnitude, 2, 14)
    size_digits = _clamped((price * quote_usd).adjusted() + 4, 0, 8)
    return ProductSpec(
        id=product,
        base=base,
        quote=quote,
        price_digits=price_digits,
        size_digits=size_digits,
        start_ticks=int(price.scaleb(price_digits)),
        unit_lots=max(20, int((Decimal(1000) / (price * quote_usd)).scaleb(size_digits))),
    )
