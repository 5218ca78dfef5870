import json

from lfmesh.core.tape import KEPT_TRADES, TradeTape
from lfmesh.types import Trade


def trade(trade_id: int) -> Trade:
    return Trade("BTC-USD", trade_id, f"{trade_id}.50", "0.10", "buy", trade_id)


def test_keeps_the_latest_in_order() -> None:
    tape = TradeTape()
    assert tape.latest() is None
    for number in range(1, KEPT_TRADES + 11):
        tape.append(trade(number))
    found = json.loads(tape.state())
    assert [entry["trade_id"] for entry in found["trades"]] == list(range(11, KEPT_TRADES + 11))
    assert found["last_trade_id"] == KEPT_TRADES + 10
    assert '"px":60.50,"qty":0.10' in tape.state(), "digits are the venue's"
    assert tape.find(10) is None
    assert tape.find(11) == trade(11)
    assert tape.latest() == trade(60)


def test_the_last_id_can_be_ahead_of_the_trades() -> None:
    tape = TradeTape()
    assert json.loads(tape.state()) == {"trades": []}
    tape.append(trade(10))
    tape.skip_to(13)
    assert tape.last_trade_id == 13
    assert tape.latest() == trade(10)
    assert json.loads(tape.state())["last_trade_id"] == 13


def test_starts_from_restored_trades_in_any_order() -> None:
    tape = TradeTape([trade(3), trade(1), trade(2)])
    assert tape.last_trade_id == 3
    assert [entry["trade_id"] for entry in json.loads(tape.state())["trades"]] == [1, 2, 3]
    assert tape.up_to(2) == [trade(1), trade(2)]
