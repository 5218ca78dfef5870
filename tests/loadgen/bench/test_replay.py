"""The replay's benchmark measures a whole archive, and the right one."""

from pathlib import Path

from lfmesh.cli.archive import open_archive
from lfmesh.cli.replay_hash import replay_hash
from lfmesh.config import Config
from lfmesh.types import Channel, StreamKey
from loadgen.bench import replay


def test_what_is_replayed_is_what_was_published(tmp_path: Path) -> None:
    config = Config().override({"mesh": {"data_dir": tmp_path}})
    assert replay.generate(config, 3000, 3) > 0
    with open_archive(config) as archive:
        streams = archive.streams()
        assert len(streams) == 9
        found = replay_hash(config, archive, streams, (None, None), 1)
        assert 2500 < found.messages < 4000
        assert (found.holes, found.snapshots) == (0, 9)
        assert found.trades == sum(
            not line.snapshot
            for product in archive.products()
            for line in archive.lines(StreamKey(product, Channel.TRADES))
        )


def test_the_rows_of_the_table() -> None:
    rate, size = replay.run(2000, 2)
    assert (rate.unit, rate.budget) == ("messages/s", "≥ 200,000 messages/s")
    assert rate.value
    assert size.value is not None
    assert 10 < size.value < 1000, "bytes of a message"
