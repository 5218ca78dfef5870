"""Once per key and minute: keeps what repeats from filling the log, and counts what was held back."""

from collections import OrderedDict
from collections.abc import Hashable

MINUTE_NS = 60_000_000_000


class Repeats:
    """Admits each key once per `interval_ns`; remembers at most `max_keys` keys, the longest quiet is forgotten first.

    Use: `if (held_back := repeats.admit(reason, now)) is not None: log.warning(…, held_back=held_back)`
    """

    def __init__(self, interval_ns: int = MINUTE_NS, max_keys: int = 1000) -> None:
        self._interval_ns = interval_ns
        self._max_keys = max_keys
        self._seen: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()

    def admit(self, key: Hashable, now: int) -> int | None:
        """How many of this key were held back since it was last admitted, or None if this one is to be held back too.

        `now` is in ns; a clock that was set back admits anew.
        """
        known = self._seen.get(key)
        if known is not None:
            admitted_at, held_back = known
            self._seen.move_to_end(key)
            if 0 <= now - admitted_at < self._interval_ns:
                self._seen[key] = (admitted_at, held_back + 1)
                return None
            self._seen[key] = (now, 0)
            return held_back
        if len(self._seen) >= self._max_keys:
            self._seen.popitem(last=False)
        self._seen[key] = (now, 0)
        return 0
