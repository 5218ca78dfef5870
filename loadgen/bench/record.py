"""Results as JSON: this run's, and the recorded one that it is compared with.

`recorded.json` beside this module ships with the code; `python -m loadgen.bench --record` writes it anew. Figures of
another machine compare badly, ratios well: the file says on what it was made.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadgen.bench.table import Row

RECORDED = Path(__file__).with_name("recorded.json")


def machine() -> dict[str, Any]:
    """What a result was made on, and when."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """Its name, as the kernel has it; its architecture where that is not told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def written(rows: Sequence[Row], made_on: Mapping[str, Any]) -> str:
    """A result as JSON text."""
    return (
        json.dumps({"machine": made_on, "rows": [row.as_json() for row in rows]}, indent=1, ensure_ascii=False) + "\n"
    )


def read(path: Path = RECORDED) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A result: the machine, and the rows by key; both empty if there is none."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, {}
    return result["machine"], {row["key"]: row for row in result["rows"]}


def merged(rows: Sequence[Row], path: Path = RECORDED) -> str:
    """The recorded result with these rows in place of those of the same keys, as JSON text."""
    fresh = {row.key: row.as_json() for row in rows}
    _, before = read(path)
    both = [fresh.pop(key, old) for key, old in before.items()]
    return json.dumps({"machine": machine(), "rows": [*both, *fresh.values()]}, indent=1, ensure_ascii=False) + "\n"
