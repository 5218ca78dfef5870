"""Where the board is shown: a live table on a terminal, else lines on standard output, plain or JSON."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from lfmesh.cli.interrupts import discard_output
from lfmesh.cli.up.board import Line, Places, changed, plain, render, where_lines


class Screen(Protocol):
    """What the supervisor tells people."""

    def show(self, lines: Sequence[Line], places: Places | None, ending: str | None) -> None:
        """The picture now; called several times a second."""

    def output(self, text: str) -> None:
        """A line that a role wrote (logs)."""

    def died(self, text: str) -> None:
        """A role has died and is started again; the next picture shows what became of it."""

    def close(self) -> None:
        """Nothing more will come."""


class LiveScreen:
    """A table that stays at the bottom of the terminal, with what the roles write above it."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._title = title
        self._live = Live(console=Console(), auto_refresh=False, vertical_overflow="ellipsis")
        self._live.start()

    def show(self, lines: Sequence[Line], places: Places | None, ending: str | None) -> None:
        """Draw the table."""
        from rich.constrain import Constrain

        # The terminal echoes ^C where the cursor stands; in the last column that would begin another line.
        width = max(20, self._live.console.width - len("^C") - 1)
        self._live.update(Constrain(render(self._title, places, lines, ending, width), width), refresh=True)

    def output(self, text: str) -> None:
        """Print above the table, as it came."""
        from rich.text import Text

        self._live.console.print(Text.from_ansi(text), soft_wrap=True)

    def died(self, text: str) -> None:
        """Keep it above the table, which is past it in a moment."""
        from rich.text import Text

        self._live.console.print(Text(text, style="yellow"), soft_wrap=True)

    def close(self) -> None:
        """Leave the last table on the terminal."""
        self._live.stop()


class PlainScreen:
    """A line on standard output for each change, JSON if wanted; what roles write goes to standard error."""

    def __init__(self, title: str, *, json: bool) -> None:
        self._json = json
        self._known: dict[str, Line] = {}
        self._places: Places | None = None
        self._ending: str | None = None
        if json:
            self._write_json("starting", {"what": title})
        else:
            self._write(title)

    def show(self, lines: Sequence[Line], places: Places | None, ending: str | None) -> None:
        """Print what has changed."""
        if places is not None and places != self._places and ending is None:
            self._places = places
            if self._json:
                self._write_json("reached at", msgspec.to_builtins(places))
            else:
                self._write(*where_lines(places))
        if ending is not None and ending != self._ending:
            self._ending = ending
            if self._json:
                self._write_json("ending", {"what": ending})
            else:
                self._write(ending)
        for line in changed(self._known, lines):
            self._known[line.name] = line
            if self._json:
                self._write_json("unit", msgspec.to_builtins(line))
            else:
                self._write(plain(line))

    def output(self, text: str) -> None:
        """Pass on."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def died(self, text: str) -> None:
        """The unit's own line says it."""

    def close(self) -> None:
        """Nothing to close."""

    def _write_json(self, event: str, facts: dict[str, object]) -> None:
        self._write(msgspec.json.encode({"event": event, "ts": time.time_ns(), **facts}).decode())

    def _write(self, *texts: str) -> None:
        sys.stdout.write("".join(text + "\n" for text in texts))
        sys.stdout.flush()


class LossTolerantScreen:
    """A screen that may go away (the terminal is closed, the reader of a pipe ends): told once, then silent."""

    def __init__(self, screen: Screen, on_lost: Callable[[], None]) -> None:
        self._screen = screen
        self._on_lost = on_lost
        self._lost = False

    def show(self, lines: Sequence[Line], places: Places | None, ending: str | None) -> None:
        """The picture now, while there is a screen."""
        self._do(lambda: self._screen.show(lines, places, ending))

    def output(self, text: str) -> None:
        """A line that a role wrote, while there is a screen."""
        self._do(lambda: self._screen.output(text))

    def died(self, text: str) -> None:
        """A role has died, while there is a screen."""
        self._do(lambda: self._screen.died(text))

    def close(self) -> None:
        """Nothing more will come."""
        self._do(self._screen.close)

    def _do(self, act: Callable[[], None]) -> None:
        if self._lost:
            return
        try:
            act()
        except OSError:  # EPIPE, EIO
            self._lost = True
            discard_output()
            self._on_lost()
