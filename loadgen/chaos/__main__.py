"""`python -m loadgen.chaos`: break a whole mesh in every way there is, and see that nothing is lost."""

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path

import click
import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from lfmesh.errors import LfmeshError
from loadgen.chaos.mesh import Spec
from loadgen.chaos.network import Wanted
from loadgen.chaos.plan import Card, Kind, Target, plan
from loadgen.chaos.report import Report, line, rendered, summed
from loadgen.chaos.rounds import Result
from loadgen.chaos.run import run
from loadgen.chaos.topology import TopologyName

_INTERRUPTED = 130
_WIDTH = 160
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ORDER = (TopologyName.SINGLE, TopologyName.PAIRS)


def _only(text: str | None, kind: Kind, target: Target) -> bool:
    """Whether a card matches FAULT, FAULT/TARGET or /TARGET; a target by any part of its name."""
    fault, _, aimed = (text or "").partition("/")
    return (not fault or fault == kind) and (not aimed or aimed in target.label)


def _listed(cards: list[Card]) -> Table:
    table = Table(title="plan", title_justify="left")
    for name in ("round", "topology", "fault", "target", "seconds", "amount"):
        table.add_column(name, justify="right" if name in ("round", "seconds", "amount") else "left")
    for card in cards:
        amount = f"{card.amount:g}" if card.amount else ""
        table.add_row(str(card.number), card.topology, card.kind, card.target, f"{card.seconds:.2f}", amount)
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--rounds", default=32, type=click.IntRange(1, 100_000), show_default=True, help="Faults, one after another."
)
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same plan.")
@click.option("--rate", default=5000, type=click.IntRange(10, 20_000), show_default=True, help="Messages a second.")
@click.option(
    "--products", default=10, type=click.IntRange(1, 100), show_default=True, help="Products of the exchange."
)
@click.option("--topology", default="both", type=click.Choice(["single", "pairs", "both"]), show_default=True)
@click.option("--only", metavar="FAULT/TARGET", help="Only these: kill, kill/gateway, /normalizer, cut/registry.")
@click.option("--network", default="auto", type=click.Choice(["auto", "netns", "loopback"]), show_default=True)
@click.option("--strict-time", is_flag=True, help="Exceeding the time budgets is a failure, too.")
@click.option("--keep-logs", is_flag=True, help="Keep the logs of every process also when all is well.")
@click.option(
    "--json", "json_path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write it all."
)
@click.option("--list", "list_only", is_flag=True, help="Print the plan and do nothing.")
def main(  # noqa: PLR0913 - one argument an option
    rounds: int,
    seed: int,
    rate: int,
    products: int,
    topology: str,
    only: str | None,
    network: Wanted,
    strict_time: bool,
    keep_logs: bool,
    json_path: Path | None,
    list_only: bool,
) -> None:
    """Run a mesh at a given rate and break something in each round; then see what every client makes of it.

    Kills, pauses and restarts processes, cuts, delays and drops on links, and lets the simulated exchange misbehave.
    After each fault everything must become whole by itself: no trade lost, no gap undeclared, no duplicate, every book
    equal to the exchange's. Exit code 0 if so, 1 if not. Ctrl-C ends it early and prints what there is.
    """
    topologies = [name for name in _ORDER if topology in (name, "both")]
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, width=_WIDTH)
    try:
        cards = plan(rounds, seed, topologies, lambda kind, target: _only(only, kind, target))
    except LfmeshError as error:
        raise click.ClickException(str(error)) from error
    if list_only:
        console.print(_listed(cards))
        return
    folder = Path(tempfile.mkdtemp(prefix="lfmesh-chaos-"))
    results: list[Result] = []

    def done(result: Result) -> None:
        results.append(result)
        console.print(line(result, len(cards)), style="" if result.clean else "red", markup=False)

    interrupted, failure = False, None
    try:
        spec = Spec(topology=cards[0].topology, rate=rate, products=products, seed=seed, network=network)
        interrupted = asyncio.run(
            _until_told(run(cards, spec, folder, console.print, done)), loop_factory=uvloop.new_event_loop
        )
    except LfmeshError as error:
        failure = str(error)
    found = Report(summed(results, seed, rate), results)
    if results:
        console.print(rendered(found), markup=False)
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    wrong = bool(failure or found.summary.failed or (strict_time and not found.summary.in_time))
    if wrong or keep_logs:
        console.print(f"logs and configuration of every process: {folder}", markup=False)
    else:
        shutil.rmtree(folder)
    if failure is not None:
        raise click.ClickException(failure)
    sys.exit(_INTERRUPTED if interrupted else 1 if wrong else 0)


async def _until_told(work: Coroutine[None, None, None]) -> bool:
    """Do the work until it is done or a signal ends it, which leaves nothing behind either; True if a signal did."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()

    def end() -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)  # one wish is enough: what is left is the tidying up
        task.cancel()

    for number in _ENDING:
        loop.add_signal_handler(number, end)
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


if __name__ == "__main__":
    main()
