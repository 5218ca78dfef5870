"""Where the time of a saturated gateway goes: py-spy looks into the process for a while, summed up by function.

    python -m loadgen.bench.profile [--seconds 8] [--shape same|random]

py-spy's samples of the loop's thread are shares of its time; times the processor time of a delivery that was measured
beside them, they are µs. What a function calls in C (a socket's `send`, a `join`) is its own. ZeroMQ's thread, a tenth
or so of the process's time, has no Python frames: its time is spread over all of them.
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from loadgen.bench.counters import Counters
from loadgen.bench.process import BenchmarkFailed
from loadgen.bench.rounds import RAMP_S, still
from loadgen.bench.shapes import RANDOM, SAME, Ours, Shape, saturated

RATE_HZ = 500
_SHOWN = 28


class Share(NamedTuple):
    """A function's share of the samples, by itself and with what it calls."""

    function: str
    own: float
    total: float


class Profile(NamedTuple):
    """`cpu_us` is the processor time of a delivery; `messages` how many deliveries each message had."""

    shape: Shape
    per_s: float
    cpu_us: float
    shares: list[Share]


def found() -> str | None:
    """Where py-spy is, if it is installed."""
    here = Path(sysconfig.get_path("scripts")) / "py-spy"
    return str(here) if here.exists() else shutil.which("py-spy")


def summed(collapsed: str) -> list[Share]:
    """Shares of each function from py-spy's raw format: `frame;frame;frame count`, innermost last."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    samples = 0
    for line in collapsed.splitlines():
        stack, _, text = line.rpartition(" ")
        count = int(text)
        frames = stack.split(";")
        samples += count
        own[frames[-1]] += count
        for frame in set(frames):
            total[frame] += count
    return [Share(name, own[name] / samples, total[name] / samples) for name, _ in own.most_common()]


def record(spy: str, ours: Ours, counters: Counters, shape: Shape, seconds: float) -> Profile:
    """Saturate it, and look."""
    received = counters.values[ours.slots]
    with tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as folder:
        written = Path(folder) / "profile"
        ours.start()
        time.sleep(RAMP_S)
        began, cpu, got = time.perf_counter(), ours.cpu_s(), sum(received)
        command = [
            spy, "record", "--format", "raw", "--function", "--nonblocking", "--rate", str(RATE_HZ),
            "--duration", str(round(seconds)), "--output", str(written), "--pid", str(ours.gateway.pid),
        ]  # fmt: skip
        looked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        took, cpu, got = time.perf_counter() - began, ours.cpu_s() - cpu, sum(received) - got
        ours.rest()
        still(received, ours.name)
        if looked.returncode or not written.exists():
            raise BenchmarkFailed(f"py-spy: {looked.stderr.strip().rpartition(chr(10))[2]}")
        shares = summed(written.read_text(encoding="utf-8"))
    deliveries = got / ours.each
    return Profile(shape, deliveries / took, cpu / deliveries * 1e6, shares)


def show(profile: Profile, console: Console | None = None) -> None:
    """Print one profile."""
    table = Table(
        title=f"{profile.shape.name}: {profile.per_s:,.0f} deliveries/s, {profile.cpu_us:.3f} µs of CPU each",
        title_justify="left",
    )
    for column in ("function", "own µs a delivery", "own share", "with what it calls"):
        table.add_column(column, justify="left" if column == "function" else "right")
    for share in profile.shares[:_SHOWN]:
        table.add_row(share.function, f"{share.own * profile.cpu_us:.4f}", f"{share.own:.1%}", f"{share.total:.1%}")
    (console or Console(width=140)).print(table)


def run(shapes: tuple[Shape, ...] = (SAME, RANDOM), seconds: float = 8.0) -> None:
    """Profile a saturated gateway in these shapes, and print what came out."""
    spy = found()
    if spy is None:
        sys.stdout.write("profile: not run: py-spy is not installed\n")
        return
    for shape in shapes:
        with saturated(shape) as (ours, counters):
            show(record(spy, ours, counters, shape, seconds))


@click.command()
@click.option("--seconds", default=8.0, show_default=True, type=click.FloatRange(1, 60), help="How long to look.")
@click.option("--shape", type=click.Choice(["same", "random"]), help="One shape only.")
def main(seconds: float, shape: str | None) -> None:
    """Profile a saturated gateway in both shapes."""
    run({"same": (SAME,), "random": (RANDOM,)}.get(shape or "", (SAME, RANDOM)), seconds)


if __name__ == "__main__":
    main()
