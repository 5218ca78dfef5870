"""Other ingestors that pass for this one: two with one name, or two of one line on the same products.

A normalizer tells ingestors apart by name and knows the newer process of a name alone, so that an older one works for
nobody: that one is not ready. Two of one line lose no data, but if both were meant to be a pair, then one is missing:
that is a warning.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lfmesh.messages import ServiceRecord
from lfmesh.types import Line, Role

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


class Namesakes:
    """Told of the mesh's view; says what is wrong with it."""

    def __init__(
        self,
        instance: str,
        line: Line,
        products: Iterable[str],
        incarnation: int,
        log: "FilteringBoundLogger",
    ) -> None:
        self._instance = instance
        self._line = line
        self._products = frozenset(products)
        self._incarnation = incarnation
        self._log = log
        self._replaced_by = ""
        self._of_our_line: tuple[str, ...] = ()

    @property
    def conflicts(self) -> int:
        """Other ingestors that have our name, or our line and some of our products."""
        return len(self._of_our_line) + bool(self._replaced_by)

    def problems(self) -> list[str]:
        """Why nobody takes our frames; empty while they are taken."""
        return [self._replaced_by] if self._replaced_by else []

    def observe(self, records: Sequence[ServiceRecord]) -> None:
        """The mesh's view has changed."""
        others = [record for record in records if record.role is Role.INGESTOR and not self._is_ours(record)]
        newer = [
            f"another process is {self._instance} as well (pid {record.pid} on {record.host}), and newer: normalizers "
            f"listen to that one only; give each ingestor a name of its own (ingestor.instance)"
            for record in others
            if record.instance == self._instance and record.incarnation > self._incarnation
        ]
        replaced_by = newer[0] if newer else ""
        if replaced_by and not self._replaced_by:
            self._log.warning("another ingestor has our name", reason=replaced_by)
        elif self._replaced_by and not replaced_by:
            self._log.info("no other ingestor has our name any more")
        self._replaced_by = replaced_by
        self._observe_lines(record for record in others if record.instance != self._instance)

    def _observe_lines(self, others: Iterable[ServiceRecord]) -> None:
        # A record that names no products is of the configuration, and may be any ingestor's.
        same = tuple(
            sorted(
                record.instance
                for record in others
                if record.line == self._line and not self._products.isdisjoint(record.products)
            )
        )
        if same and same != self._of_our_line:
            self._log.warning(
                "ingestors of one line carry the same products; a pair has ingestor.line A and B",
                line=self._line,
                others=list(same),
            )
        elif self._of_our_line and not same:
            self._log.info("no other ingestor of our line carries our products any more", line=self._line)
        self._of_our_line = same

    def _is_ours(self, record: ServiceRecord) -> bool:
        return record.instance == self._instance and record.incarnation == self._incarnation
