"""Which columns a width has room for."""

from rich.text import Text

from lfmesh.top.columns import Column, fitted


def column(name: str, text: str, spare: int = 0, *, wraps: bool = False) -> Column:
    return Column(name, [Text(text)], spare, wraps=wraps)


COLUMNS = (
    column("role", "gateway-0"),
    column("in", "1,234", 1),
    column("a", "12", 2),
    column("b", "12", 2),
    column("", "", 0),
    column("why", "no data from the venue yet", wraps=True),
)


def names(width: int) -> list[str]:
    return [column.name for column in fitted(COLUMNS, width)]


def test_the_least_important_columns_go_first_and_together() -> None:
    everything = 9 + 2 + 5 + 2 + 2 + 2 + 2 + 2 + 16
    assert names(everything) == ["role", "in", "a", "b", "why"]
    assert names(everything - 1) == ["role", "in", "why"]
    assert names(9 + 2 + 5 + 2 + 16) == ["role", "in", "why"]
    assert names(9 + 2 + 5 + 2 + 15) == ["role", "why"]
    assert names(1) == ["role", "why"], "what must be shown is shown"
