"""What a benchmark returns, and the one table in which all of them are printed."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `ratio` is against `against`, measured in the same run; `budget` is the goal, in words."""

    what: str
    figure: str
    ratio: str = ""
    against: str = ""
    budget: str = ""


def show(rows: list[Row], console: Console | None = None) -> None:
    """Print the table."""
    table = Table(title="LedgerFlux Mesh benchmarks", title_justify="left")
    for column in ("benchmark", "figure", "ratio", "against (same run)", "budget"):
        table.add_column(column, justify="right" if column in ("figure", "ratio") else "left", overflow="fold")
    for row in rows:
        table.add_row(row.what, row.figure, row.ratio, row.against, row.budget)
    (console or Console(width=140)).print(table)
