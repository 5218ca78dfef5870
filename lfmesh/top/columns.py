"""Tables that fit the terminal: whole columns go, the least important first, and no cell is ever cut."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_GAP = 2
_WRAP_AT = 16
"""A text that may be wrapped is given at least this much room, if it is that long."""

_BREAK_AT = 30
"""A word longer than this, such as an address, is broken too: it must not cost all figures."""


class Column(NamedTuple):
    """One column. `spare` 0: always shown; of the others the highest goes first, all of one number together.

    `wraps`: its cells may be broken into several lines between words, as sentences may and figures may not.
    """

    name: str
    cells: Sequence[Text]
    spare: int = 0
    justify: Literal["left", "right"] = "left"
    wraps: bool = False

    def width(self) -> int:
        """What it takes with every cell on one line."""
        return max((cell_len(self.name), *(cell.cell_len for cell in self.cells)))

    def need(self) -> int:
        """The least that it takes."""
        if not self.wraps:
            return self.width()
        words = (cell_len(word) for cell in self.cells for word in cell.plain.split())
        longest = min(_BREAK_AT, max(words, default=0))
        return max(cell_len(self.name), min(self.width(), max(_WRAP_AT, longest)))


def fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that have room in `width` cells, in their order; without those that say nothing."""
    shown = [column for column in columns if column.width()]
    while _needed(shown) > width and (spare := max(column.spare for column in shown)):
        shown = [column for column in shown if column.spare != spare]
    return shown


def table(columns: Sequence[Column], width: int) -> Table:
    """A table of the columns that have room in `width` cells."""
    shown = fitted(columns, width)
    rest = max(0, width - _needed(shown))
    made = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in shown:
        given = min(column.width(), column.need() + rest) if column.wraps else column.width()
        rest -= given - column.need()
        # Folded where even the least is too wide: a second line is better than a figure without its end.
        made.add_column(column.name, justify=column.justify, width=given, overflow="fold")
    for row in zip(*(column.cells for column in shown), strict=True):
        made.add_row(*row)
    return made


def _needed(columns: Sequence[Column]) -> int:
    return sum(column.need() for column in columns) + _GAP * (len(columns) - 1)
