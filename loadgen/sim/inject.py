"""Bad frames on demand, for showing that whoever reads the feed survives them."""

from collections.abc import Callable

HUGE_BYTES = 5 * 1024 * 1024

_TIME = "2024-01-01T00:00:00.000000Z"


def _truncated(product: str) -> str:
    return f'{{"type":"l2update","product_id":"{product}","changes":[["buy","1.0'


def _garbled(product: str) -> str:
    return f'{{"type":"ma##h","product_id":"{product}","pri####"1.0","size"::}}'


def _not_json(_product: str) -> str:
    return "upstream connect error or disconnect/reset before headers"


def _huge(product: str) -> str:
    return f'{{"type":"huge","product_id":"{product}","padding":"{"x" * HUGE_BYTES}"}}'


def _unknown(product: str) -> str:
    return f'{{"type":"liquidation","product_id":"{product}","price":"1.00","time":"{_TIME}"}}'


def _unknown_product(_product: str) -> str:
    return f'{{"type":"l2update","product_id":"NOSUCH-PRODUCT","changes":[["buy","1.00","1"]],"time":"{_TIME}"}}'


def _missing_field(product: str) -> str:
    return f'{{"type":"match","product_id":"{product}","side":"buy","time":"{_TIME}"}}'


def _wrong_type(product: str) -> str:
    return f'{{"type":"l2update","product_id":"{product}","changes":[["buy",1.25,0.5]],"time":"{_TIME}"}}'


def _negative_size(product: str) -> str:
    return f'{{"type":"l2update","product_id":"{product}","changes":[["buy","1.00","-5"]],"time":"{_TIME}"}}'


def _exponent(product: str) -> str:
    return f'{{"type":"l2update","product_id":"{product}","changes":[["buy","1e3","5"]],"time":"{_TIME}"}}'


def _bad_time(product: str) -> str:
    return f'{{"type":"l2update","product_id":"{product}","changes":[["buy","1.00","1"]],"time":"yesterday"}}'


BAD_FRAMES: dict[str, Callable[[str], str]] = {
    "truncated": _truncated,
    "garbled": _garbled,
    "not_json": _not_json,
    "huge": _huge,
    "unknown": _unknown,
    "unknown_product": _unknown_product,
    "missing_field": _missing_field,
    "wrong_type": _wrong_type,
    "negative_size": _negative_size,
    "exponent": _exponent,
    "bad_time": _bad_time,
}
"""Kinds of `/control/inject`. None of them may change what a correct reader holds."""
