"""Lines of recorded tapes: what a venue sent, frame by frame, with the time of receipt. Pure.

One frame a line: the receive time in integer nanoseconds since the Unix epoch, a tab, the frame as it was received, a
newline. `lfmesh record` writes them, the simulator plays them.
"""

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is taken for a sign that the file is no tape: venue snapshots stay well below."""


def line(receive_ns: int, frame: bytes) -> bytes:
    """One line. ValueError for a frame that holds a newline, or nothing: no line could carry it."""
    if not frame or b"\n" in frame:
        raise ValueError("a tape holds one frame a line: the frame is empty or contains a newline")
    return b"%d\t%b\n" % (receive_ns, frame)


def without_newlines(frame: bytes) -> bytes:
    """The frame with each newline as a carriage return: to JSON both are the same white space between words, and
    both are forbidden within texts, so what was JSON stays the same JSON, and what was none stays none."""
    return frame.replace(b"\n", b"\r") if b"\n" in frame else frame


def split(text: bytes) -> tuple[int, bytes]:
    """(receive_ns, frame) of a line with its newline; ValueError with the cause, in words, for what is no such line."""
    stamp, tab, frame = text.partition(b"\t")
    if not tab or not stamp.isdigit():
        raise ValueError("no receive time in nanoseconds and tab at its start")
    if not frame.endswith(b"\n"):
        cut_off = len(text) < MAX_LINE_BYTES
        raise ValueError("cut off: it has no newline at its end" if cut_off else "longer than any frame")
    if len(frame) == 1:
        raise ValueError("no frame after the tab")
    return int(stamp), frame[:-1]
