"""Small HTTP GETs of JSON: a gateway's product list, a simulator's control endpoints. Never through a proxy."""

import asyncio
import http.client
from typing import Any
from urllib.parse import urlsplit

import msgspec

from lfmesh.errors import LfmeshError

_MAX_BYTES = 16 * 1024 * 1024


def get_json(url: str, timeout_s: float = 2.0) -> Any:  # noqa: ANN401 - JSON
    """The JSON at an http:// or https:// address; LfmeshError when there is none. Blocks."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", target, headers={"Connection": "close", "Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise LfmeshError(f"no answer from {url}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise LfmeshError(f"{url} answers HTTP {response.status}")
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise LfmeshError(f"{url} does not answer in JSON") from error


async def fetch_json(url: str, timeout_s: float = 2.0) -> Any:  # noqa: ANN401 - JSON
    """`get_json` without blocking the loop."""
    return await asyncio.to_thread(get_json, url, timeout_s)


async def fetch_products(base: str, timeout_s: float = 2.0) -> list[str]:
    """The ids of the products that the gateway at `http://HOST:PORT` lists; LfmeshError."""
    listed = await fetch_json(f"{base}/products", timeout_s)
    try:
        return [product.id for product in msgspec.convert(listed, _Listed).products]
    except msgspec.ValidationError as error:
        raise LfmeshError(f"{base}/products is no gateway's list of products") from error


class _Product(msgspec.Struct):
    id: str


class _Listed(msgspec.Struct):
    products: list[_Product]
