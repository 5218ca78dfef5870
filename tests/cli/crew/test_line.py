"""The supervisor's end of a line: it never waits for a worker."""

import socket

from lfmesh.cli.crew.line import MAX_UNSENT_BYTES, LineEnd
from lfmesh.services.gateway.crew_messages import Admitted, Leave, Lines, decode_to_worker, line


def test_what_a_worker_does_not_read_waits_up_to_a_bound() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        end = LineEnd(ours)
        sent = 0
        while end.send(Admitted(sent, "x" * 4096)):
            sent += 1
        assert MAX_UNSENT_BYTES <= end.unsent < MAX_UNSENT_BYTES + 8192
        lines, heard = Lines(), 0
        while heard < sent:
            for text in lines.feed(theirs.recv(1 << 20)):
                assert decode_to_worker(text) == Admitted(heard, "x" * 4096)
                heard += 1
            end.flush()
        assert end.unsent == 0
        assert end.send(Admitted(0, ""))


def test_the_end_of_a_worker_closes_the_line() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        end = LineEnd(ours)
        assert end.receive() == []
        theirs.sendall(line(Leave("a")) + line(Leave("b"))[:-1])
        theirs.close()
        assert end.receive() == [Leave("a")]
        assert end.receive() == []
        assert not end.open
        assert end.send(Admitted(1, "")), "its death is noticed by itself"
        assert end.unsent == 0
