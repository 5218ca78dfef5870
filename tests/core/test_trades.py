import json

from lfmesh.core.trades import KEPT_TRADES, TradeTape
from lfmesh.types import Trade


def trade(trade_id: int) -> Trade:
    return Trade("BTC-USD", trade_id, f"{trade_id}.50", "0.10", "buy", trade_id)


def test_keeps_the_latest_in_order() -> None:
    tape = TradeTape()
    assert tape.latest() is None
    for number in range(1, KEPT_TRADES + 11):
        tape.append(trade(number))
    found = json.loads(tape.state())["trades"]
    assert [entry["trade_id"] for entry in found] == list(range(11, KEPT_TRADES + 11))
    assert '"px":60.50,"qty":0.10' in tape.state(), "digits are the venue's"
    assert tape.find(10) is None
    assert tape.find(11) == trade(11)
    assert tape.latest() == trade(60)


def test_ids_show_what_is_missing() -> None:
    tape = TradeTape()
    assert tape.missing_before(500) is None, "nothing is known yet"
    tape.append(trade(10))
    assert tape.missing_before(11) is None
    assert tape.missing_before(14) == (11, 13)
    assert tape.missing_before(9) is None
    tape.skip_to(13)
    assert tape.missing_before(14) is None
    assert tape.last_trade_id == 13
    assert tape.latest() == trade(10)


def test_starts_from_restored_trades_in_any_order() -> None:
    tape = TradeTape([trade(3), trade(1), trade(2)])
    assert tape.last_trade_id == 3
    assert [entry["trade_id"] for entry in json.loads(tape.state())["trades"]] == [1, 2, 3]
