"""Parquet, by pyarrow: decimals as decimal128, times as timestamp[ns, UTC], compressed with zstd.

All files of a table have the same types. They must: a tool that reads several takes the first one's, and DuckDB rounds
what has more digits than that, without a word. So a decimal has `SCALE` digits after the point (more than a venue
usually gives), or, in the whole table, as many as are needed. With 38 digits in all every decimal that the mesh accepts
(20 digits before, 18 after the point) fits, and a product of two usual ones still does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, assert_never

import pyarrow as pa  # type: ignore[import-untyped]  # it has no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # nor here

from lfmesh.cli.export.tables import TABLES, Again, Column, Kind, Row
from lfmesh.errors import BadArchive, LfmeshError
from lfmesh.types import Channel, StreamKey

if TYPE_CHECKING:
    from pyarrow import Array, DataType

SCALE = 8
PRECISION = 38


class ParquetFormat:
    """See `lfmesh.cli.export.run.Format`."""

    suffix = "parquet"

    def __init__(self, venue: str) -> None:
        self._venue = venue
        self._scales: dict[str, int] = {}
        self._settled = False
        """There are files whose scales can't be changed any more."""

    def begin(self, channel: Channel, existing: Sequence[Path]) -> None:
        """See `Format`. What is there already has scales, which are kept to."""
        self._scales = {column.name: SCALE for column in TABLES[channel] if column.kind is Kind.DECIMAL}
        self._settled = bool(existing)
        for path in existing:
            for name, scale in _scales_in(path, self._scales).items():
                self._scales[name] = max(scale, self._scales[name])

    def open(self, path: Path, stream: StreamKey, date: str) -> "ParquetFile":
        """See `Format`."""
        about = {"venue": self._venue, "product": stream.product, "channel": str(stream.channel), "date": date}
        return ParquetFile(path, TABLES[stream.channel], self._scales, about, self._lacking)

    def _lacking(self, needed: Mapping[str, int]) -> NoReturn:
        larger = {name: scale for name, scale in needed.items() if scale > self._scales[name]}
        if not larger:
            raise BadArchive("a price or size in the archive is no decimal")
        if self._settled:
            told = ", ".join(f"{name} {scale}" for name, scale in larger.items())
            raise LfmeshError(
                f"decimals have more digits ({told}) than the files that are there have room for:"
                " export everything to another folder, so that all files have the same types"
            )
        self._scales.update(larger)
        raise Again


def _scales_in(path: Path, names: Iterable[str]) -> dict[str, int]:
    try:
        schema = pq.read_schema(path)
        return {name: schema.field(name).type.scale for name in names}
    except (OSError, pa.ArrowException, KeyError, AttributeError) as error:
        raise LfmeshError(f"{path} is no file of an export: move it away ({error})") from error


class ParquetFile:
    """A file that grows by row groups; see `TableFile`.

    `lacking` is told of the scales that decimals need where they do not fit, and raises what is to be raised.
    """

    def __init__(
        self,
        path: Path,
        columns: tuple[Column, ...],
        scales: Mapping[str, int],
        about: Mapping[str, str],
        lacking: Callable[[Mapping[str, int]], NoReturn],
    ) -> None:
        self._lacking = lacking
        self._schema = pa.schema(
            [pa.field(column.name, _type(column, scales)) for column in columns],
            metadata={key.encode(): value.encode() for key, value in about.items()},
        )
        numbers = {column.name for column in columns if column.kind in (Kind.TIME, Kind.INTEGER)}
        self._writer = pq.ParquetWriter(
            str(path),
            self._schema,
            compression="zstd",
            use_dictionary=[column.name for column in columns if column.name not in numbers],
            column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),  # they grow by little
        )

    def write(self, rows: list[Row]) -> None:
        """Append rows as one row group."""
        columns = list(zip(*rows, strict=True))
        try:
            arrays = [_array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        except pa.ArrowInvalid:
            decimals = {field.name: index for index, field in enumerate(self._schema) if _is_decimal(field.type)}
            self._lacking({name: _digits(columns[index]) for name, index in decimals.items()})
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(rows))

    def close(self) -> None:
        """Complete the file; closing twice is harmless."""
        self._writer.close()


def _array(values: tuple[object, ...], type_: "DataType") -> "Array":
    """Decimals are read from their texts by Arrow, which refuses to cut digits off."""
    return pa.array(values, pa.string()).cast(type_) if _is_decimal(type_) else pa.array(values, type_)


def _is_decimal(type_: "DataType") -> bool:
    return bool(pa.types.is_decimal(type_))


def _type(column: Column, scales: Mapping[str, int]) -> "DataType":
    match column.kind:
        case Kind.TIME:
            return pa.timestamp("ns", "UTC")
        case Kind.INTEGER:
            return pa.int64()
        case Kind.DECIMAL:
            return pa.decimal128(PRECISION, scales[column.name])
        case Kind.WORD:
            return pa.string()
        case _:
            assert_never(column.kind)


def _digits(texts: Iterable[object]) -> int:
    """Digits after the point that these decimals need: zeros at the end need no place."""
    return max((len(text.partition(".")[2].rstrip("0")) for text in texts if isinstance(text, str)), default=0)
