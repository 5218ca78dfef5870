"""What a benchmark returns, and the one table in which all of them are printed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table

Better = Literal["more", "less"]
WIDTH = 170


class Goal(NamedTuple):
    """A budget: at least, or at most, so much; of the figure itself, or of its ratio to the other one of the run."""

    bound: float
    of: Literal["value", "ratio"] = "value"
    better: Better = "more"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, `key` its name for machines, which stays.

    `ratio` is to `against`, measured in the same run. A figure that could not be taken has no `value`, and `note` says
    why; a note may also say what else was seen.
    """

    key: str
    what: str
    value: float | None
    unit: str
    ratio: float | None = None
    against: str = ""
    goal: Goal | None = None
    better: Better = "more"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the budget is met; None without one, or without a figure."""
        if self.goal is None:
            return None
        seen = self.value if self.goal.of == "value" else self.ratio
        if seen is None:
            return None
        return seen >= self.goal.bound if self.goal.better == "more" else seen <= self.goal.bound

    @property
    def budget(self) -> str:
        """The goal in words."""
        if self.goal is None:
            return ""
        sign = "≥" if self.goal.better == "more" else "≤"
        return f"{sign} {written(self.goal.bound)} {'×' if self.goal.of == 'ratio' else self.unit}"

    def as_json(self) -> dict[str, Any]:
        """For the file of results."""
        fields = asdict(self)
        fields["goal"] = None if self.goal is None else self.goal._asdict()
        return {**fields, "budget": self.budget, "met": self.met}


def skipped(key: str, what: str, why: str) -> Row:
    """The row of what could not be measured here."""
    return Row(key, what, None, "", note=f"not run: {why}")


def written(value: float) -> str:
    """A figure with as many digits as are worth reading."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.3f}"


def change(row: Row, recorded: Mapping[str, Mapping[str, Any]]) -> str:
    """Against the recorded result: of the ratio, which compares better over machines and days, else of the figure."""
    before = recorded.get(row.key)
    if before is None or row.value is None:
        return ""
    now, then = row.value, before.get("value")
    if row.ratio is not None and before.get("ratio") is not None:
        now, then = row.ratio, before["ratio"]
    return f"{now / then - 1:+.0%}" if then else ""


def show(
    rows: Sequence[Row], recorded: Mapping[str, Mapping[str, Any]] | None = None, console: Console | None = None
) -> None:
    """Print the table; `recorded` are the rows of an earlier result by key, as `Row.as_json` makes them."""
    table = Table(title="LedgerFlux Mesh benchmarks", title_justify="left")
    columns = ("benchmark", "figure", "ratio", "against (same run), notes", "budget", "", "change")
    for column in columns:
        right = column in ("figure", "ratio", "change")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(
            row.what,
            "" if row.value is None else f"{written(row.value)} {row.unit}",
            "" if row.ratio is None else f"{written(row.ratio)} ×",
            "; ".join(filter(None, (row.against, row.note))),
            row.budget,
            {True: "met", False: "[bold red]missed[/]", None: ""}[row.met],
            change(row, recorded or {}),
        )
    (console or Console(width=WIDTH)).print(table)
