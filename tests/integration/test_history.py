"""The history of a recorded session, used: the book as of any moment, and a replay to the live run's state hash."""

import json
import random
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from lfmesh.core.statehash import state_hash
from tests.aio import run
from tests.integration.clients import tape
from tests.integration.durable import command, state_hash_in
from tests.integration.mesh import mesh_up
from tests.integration.test_tape import assert_is_the_tape, play

MOMENTS = 20


class Change(NamedTuple):
    """One frame of a product's book on the tape: its time, whether it is the whole book, and its levels."""

    at: int
    whole: bool
    levels: list[tuple[str, str, str]]


def book_frames(path: Path) -> dict[str, list[Change]]:
    """Every book frame of the tape, by product, by plain json."""
    found: dict[str, list[Change]] = {}
    for line in path.read_text().splitlines():
        frame = json.loads(line.split("\t", 1)[1])
        if frame["type"] == "snapshot":
            levels = [(side, px, qty) for side in ("bids", "asks") for px, qty in frame[side]]
            found.setdefault(frame["product_id"], []).append(Change(0, True, levels))
        elif frame["type"] == "l2update":
            levels = [("bids" if side == "buy" else "asks", px, qty) for side, px, qty in frame["changes"]]
            found[frame["product_id"]].append(Change(nanoseconds(frame["time"]), False, levels))
    return found


def nanoseconds(text: str) -> int:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(fraction.ljust(9, "0") or 0)


def book_at(changes: list[Change], at: int) -> dict[str, list[list[str]]]:
    """The book after all frames up to a moment: levels best first, digits as on the tape."""
    book: dict[str, dict[Decimal, tuple[str, str]]] = {"bids": {}, "asks": {}}
    for change in changes:
        if change.at > at:
            break
        for side, px, qty in change.levels:
            book[side].pop(Decimal(px), None)
            if Decimal(qty):
                book[side][Decimal(px)] = (px, qty)
    return {
        "bids": [list(book["bids"][px]) for px in sorted(book["bids"], reverse=True)],
        "asks": [list(book["asks"][px]) for px in sorted(book["asks"])],
    }


def exact(text: str) -> Any:  # noqa: ANN401 - JSON
    """JSON with numbers as texts."""
    return json.loads(text, parse_float=str, parse_int=str)


def test_the_book_as_of_any_moment_and_a_replay_to_the_same_state(tmp_path: Path) -> None:
    path = tape()
    frames = book_frames(path)
    moments = random.Random(4)

    async def scenario() -> None:
        async with mesh_up(tmp_path, "--source", f"tape:{path}", "--speed", "12") as mesh:
            checker = await play(mesh)
            assert_is_the_tape(checker, path)
            asked = []
            for _ in range(MOMENTS):
                product = moments.choice(sorted(frames))
                changes = frames[product]
                at = moments.randrange(changes[1].at, changes[-1].at + 1)
                query = urlencode({"channel": "book", "at": at})
                answer = exact((await mesh.get(f"v1/snapshot/{product}?{query}")).decode())
                assert answer["state"] == book_at(changes, at), f"{product} at {at}"
                asked.append((product, at))
        live = state_hash(checker.product_states())
        arguments = ("--data-dir", str(tmp_path))
        assert state_hash_in(await command("replay", "--hash", *arguments)) == live
        for product, at in asked[:2]:
            told = await command("state", product, "--channel", "book", "--at", str(at), *arguments)
            assert exact(told)["state"] == book_at(frames[product], at)

    run(scenario(), 110)
