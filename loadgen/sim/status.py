"""Product descriptions: the status channel's frame and REST's product objects."""

from loadgen.sim.feed import Feed, ProductInfo
from loadgen.sim.frames import encode_json


def product_object(info: ProductInfo) -> dict[str, object]:
    """A product as `GET /products` describes it."""
    return {
        "id": info.id,
        "base_currency": info.base_currency,
        "quote_currency": info.quote_currency,
        "quote_increment": info.quote_increment,
        "base_increment": info.base_increment,
        "display_name": f"{info.base_currency}-{info.quote_currency}",
        "min_market_funds": "1",
        "margin_enabled": False,
        "post_only": False,
        "limit_only": False,
        "cancel_only": False,
        "status": "online",
        "status_message": "",
        "trading_disabled": False,
        "fx_stablecoin": False,
        "auction_mode": False,
    }


def status_frame(feed: Feed) -> bytes:
    """Everything listed, as the status channel sends it on subscribing and every few seconds."""
    infos = [feed.info(index) for index in range(len(feed.products))]
    precision = {info.quote_currency: info.quote_increment for info in infos}
    precision |= {info.base_currency: info.base_increment for info in infos}
    products = [{"type": "spot", **product_object(info)} for info in infos]
    currencies = [
        {
            "id": currency,
            "name": currency,
            "min_size": precision[currency],
            "max_precision": precision[currency],
            "status": "online",
            "status_message": "",
        }
        for currency in sorted(precision)
    ]
    return encode_json({"type": "status", "products": products, "currencies": currencies})
