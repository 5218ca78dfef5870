"""What is read from the simulator's status."""

from typing import Any

from lfmesh.cli.up.simulator import figures_of, note_of


def status(**subscribed: list[str]) -> dict[str, Any]:
    return {"sent": 7, "playing": False, "finished": False, "subscribed": subscribed}


def test_a_tape_is_listened_to_when_all_that_is_wanted_is_subscribed_on_all_three_channels() -> None:
    both = ["A-B", "C-D"]
    assert figures_of(status(ticker=both, matches=both, level2_batch=both), both).listened
    assert figures_of(status(ticker=both, matches=both, level2=both, heartbeat=both), both).listened
    assert figures_of(status(ticker=both, matches=both, level2_batch=both), ["A-B"]).listened
    assert not figures_of(status(ticker=both, matches=both, level2_batch=["A-B"]), both).listened
    assert not figures_of(status(ticker=both, level2_batch=both), both).listened


def test_notes_on_a_tape() -> None:
    waiting = figures_of(status(), [])
    assert note_of(waiting, None, started=False) == ""
    assert note_of(waiting, "client", started=False) == "the tape waits for the first client"
    assert note_of(waiting, "now", started=False) == "the tape waits for the ingestor"
    assert note_of(waiting, "client", started=True) == "the tape plays"
    assert note_of(figures_of(status() | {"finished": True}, []), "client", started=True) == "the tape has ended"
