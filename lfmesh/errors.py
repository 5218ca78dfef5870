"""Everything that LedgerFlux Mesh raises on purpose.

    LfmeshError
    ├── ConfigError          a configuration that cannot be used: which key, what it holds, what is expected
    ├── PortInUse            an address that another process holds
    ├── BadEndpoint          an endpoint that is no ZeroMQ address
    ├── BadFrame             bytes that do not have the promised form
    │   ├── BadMeshFrame     from another service of the mesh
    │   └── BadVenueFrame    from the venue; carries the reason under which it is counted
    ├── BadTape              a file that is no recorded tape: line and cause
    ├── RequestFailed        a peer answered a request with an error
    ├── RequestTimeout       a peer did not answer in time
    ├── VenueRefused         the venue refused a subscription or a request: asking again is of no use
    ├── VenueUnavailable     the venue gave no usable answer; carries the reason under which it is counted
    ├── VenueLimited         the venue wants fewer requests; carries for how long, where it says so
    ├── StoreUnavailable     a store cannot be read or written
    │   ├── StoreMisconfigured   and asking again is of no use: credentials, names, permissions
    │   └── StatesLeft           some states could not be written, and all others were
    ├── ObjectMissing        the object store has no object of this key
    └── BadArchive           an object or journal that does not hold what its name promises

Each message is one line that says what is wrong and, where a user can mend it, how.
"""


class LfmeshError(Exception):
    """Base of all errors that the mesh raises on purpose; `str()` is one line fit for a user."""


class ConfigError(LfmeshError):
    """A configuration that cannot be used; `faults` names each fault by itself where there are several."""

    def __init__(self, message: str, faults: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class PortInUse(LfmeshError):
    """An address that another process holds."""


class BadEndpoint(LfmeshError):
    """An endpoint that ZeroMQ cannot bind or connect."""


class BadFrame(LfmeshError):
    """Bytes that do not have the promised form."""


class BadMeshFrame(BadFrame):
    """A frame of the mesh that cannot be read."""


class BadVenueFrame(BadFrame):
    """A venue frame that cannot be used; `reason` is the short name under which it is counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class BadTape(LfmeshError):
    """A file that is no recorded tape."""


class RequestFailed(LfmeshError):
    """A peer answered a request with an error."""


class RequestTimeout(LfmeshError):
    """A peer did not answer in time."""


class VenueRefused(LfmeshError):
    """The venue refused a subscription or a request: asking again is of no use."""


class VenueUnavailable(LfmeshError):
    """The venue gave no usable answer; `reason` is the short name under which it is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class VenueLimited(LfmeshError):
    """The venue wants fewer requests; `retry_after_s` is when it will take the next one, None where it is not said."""

    def __init__(self, retry_after_s: float | None) -> None:
        super().__init__("the venue's request limit is exceeded")
        self.retry_after_s = retry_after_s


class StoreUnavailable(LfmeshError):
    """A store cannot be read or written."""


class StoreMisconfigured(StoreUnavailable):
    """A store that will not work until somebody mends its configuration: credentials, a missing table or bucket."""


class StatesLeft(StoreUnavailable):
    """Some states could not be written, and all others were: `streams` are those that are left, `written` counts."""

    def __init__(self, message: str, streams: frozenset[tuple[str, str]], written: int) -> None:
        super().__init__(message)
        self.streams = streams
        self.written = written


class ObjectMissing(LfmeshError):
    """The object store has no object of this key."""


class BadArchive(LfmeshError):
    """An archived object, or a journal, that does not hold what its name promises."""
