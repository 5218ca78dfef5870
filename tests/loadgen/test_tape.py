import re
from itertools import pairwise
from pathlib import Path

import pytest

from lfmesh.errors import BadTape
from loadgen import tape
from tests.loadgen.sim.kit import recorded_tape


def test_what_is_written_is_read_back_byte_for_byte(tmp_path: Path) -> None:
    records = [(5, b'{"product_id":"A-B"}'), (5, b"\xff\t garbled \r"), (9, b'{"product_id": "C-D"}')]
    path = tmp_path / "a.tape"
    with tape.Writer(path) as writer:
        for record in records:
            writer.write(*record)
    assert list(tape.read(path)) == records
    assert tape.products(path) == ("A-B", "C-D")


@pytest.mark.parametrize("frame", [b"", b"two\nlines"])
def test_a_frame_that_no_line_can_carry_is_refused(tmp_path: Path, frame: bytes) -> None:
    with tape.Writer(tmp_path / "a.tape") as writer, pytest.raises(ValueError, match="one frame a line"):
        writer.write(1, frame)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty"),
        (b"hello\n", "line 1: no receive time"),
        (b'1\t{"product_id":"A-B"}\n{"product_id":"A-B"}\n', "line 2: no receive time"),
        (b'1.5\t{"product_id":"A-B"}\n', "line 1: no receive time"),
        (b'-1\t{"product_id":"A-B"}\n', "line 1: no receive time"),
        (b"1\t\n", "line 1: no frame after the tab"),
        (b'1\t{"product_id":"A-B"}\n2\t{"product', "line 2: cut off"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "line 1: no receive time"),
        (b"1\tno product here\n", "none of its lines holds a frame with a product_id"),
    ],
)
def test_a_file_that_is_no_tape_is_refused_with_line_and_cause(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "not.tape"
    path.write_bytes(content)
    with pytest.raises(BadTape, match=re.escape(complaint)) as refused:
        tape.products(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTape, match="No such file"):
        tape.products(tmp_path / "absent.tape")
    with pytest.raises(BadTape, match="directory"):
        tape.products(tmp_path)


def test_the_recorded_tape_reads_as_described() -> None:
    path = recorded_tape()
    records = list(tape.read(path))
    assert len(records) == 9946
    assert len(tape.products(path)) == 10
    assert all(earlier <= later for (earlier, _), (later, _) in pairwise(records))
