"""The layers of the house (ARCHITECTURE.md): a module imports only from layers at or below its own.

Reads every import statement of lfmesh and loadgen, those inside functions and under TYPE_CHECKING too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS: dict[str, int] = {
    "lfmesh.errors": 0, "lfmesh.types": 0, "lfmesh.exact": 0, "lfmesh.messages": 0, "lfmesh.models": 0,
    "lfmesh.config": 0, "lfmesh.ports": 0,
    "lfmesh.core": 1,
    "lfmesh.transport": 2, "lfmesh.venues": 2, "lfmesh.store": 2, "lfmesh.archive": 2,
    "lfmesh.observe": 2,
    "lfmesh.services": 3,
    "lfmesh.cli": 4, "lfmesh.top": 4, "lfmesh.watch": 4, "lfmesh.client": 4,
}  # fmt: skip

SERVICES = ("registry", "ingestor", "normalizer", "snapshotter", "gateway", "player")
ONLY_IN = {
    "zmq": ("lfmesh.transport",),
    "boto3": ("lfmesh.store.aws",),
    "botocore": ("lfmesh.store.aws",),
    "sqlite3": ("lfmesh.store",),
    "zstandard": ("lfmesh.store", "lfmesh.archive", "tests", "loadgen"),
    "pyarrow": ("lfmesh.cli", "tests"),
    "httpx": ("lfmesh.venues",),
    "prometheus_client": ("lfmesh.observe", "tests", "loadgen"),
}
NOT_IN_CORE = {"asyncio", "time", "socket", "logging", "structlog", "random", "threading", "os", "subprocess", "zmq"}
MAY_START_LOADGEN = ("lfmesh.cli",)


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("lfmesh", "loadgen"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                yield ".".join([*base, node.module] if node.module else base)
            elif node.module:
                # `from lfmesh.store import aws` imports the module lfmesh.store.aws.
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


def layer(name: str) -> int | None:
    for place, number in LAYERS.items():
        if within(name, place):
            return number
    return None


ALL = list(modules())


def names() -> list[str]:
    return [name for name, _ in ALL]


@pytest.mark.parametrize(("name", "path"), ALL, ids=names())
def test_imports_point_down(name: str, path: Path) -> None:
    own = layer(name)
    if name.startswith("lfmesh.") and name != "lfmesh.__main__":
        assert own is not None, f"{name} has no layer: give it one in this test and in ARCHITECTURE.md"
    for imported in imports(name, path):
        if not within(imported, "lfmesh"):
            continue
        target = layer(imported)
        if own is not None and target is not None:
            assert target <= own, f"{name} (L{own}) imports {imported} (L{target})"


@pytest.mark.parametrize(("name", "path"), ALL, ids=names())
def test_siblings_keep_apart(name: str, path: Path) -> None:
    for imported in imports(name, path):
        if layer(name) == 2 and layer(imported) == 2:
            assert name.split(".")[1] == imported.split(".")[1], f"{name} imports its sibling {imported}"
        for service in SERVICES:
            if within(name, f"lfmesh.services.{service}"):
                foreign = [other for other in SERVICES if other != service]
                assert not any(within(imported, f"lfmesh.services.{other}") for other in foreign), (
                    f"{name} imports {imported}: services never import one another"
                )


@pytest.mark.parametrize(("name", "path"), ALL, ids=names())
def test_foreign_libraries_stay_in_their_place(name: str, path: Path) -> None:
    for imported in imports(name, path):
        root = imported.split(".")[0]
        if root in ONLY_IN and name.startswith("lfmesh"):
            assert any(within(name, place) for place in ONLY_IN[root]), f"{name} imports {imported}"
        if layer(name) == 1:
            assert root not in NOT_IN_CORE, f"{name} imports {imported}: the core is pure"


@pytest.mark.parametrize(("name", "path"), ALL, ids=names())
def test_loadgen_stays_outside(name: str, path: Path) -> None:
    for imported in imports(name, path):
        if within(name, "lfmesh") and within(imported, "loadgen"):
            assert any(within(name, place) for place in MAY_START_LOADGEN), f"{name} imports {imported}"
        if within(name, "loadgen") and within(imported, "lfmesh"):
            allowed = layer(imported) in (0, 1) or within(imported, "lfmesh.client") or imported == "lfmesh.__version__"
            assert allowed or within(name, "loadgen.bench"), f"{name} imports {imported}"


@pytest.mark.parametrize(("name", "path"), ALL, ids=names())
def test_the_core_never_awaits(name: str, path: Path) -> None:
    if layer(name) == 1:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        asynchronous = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
        assert not any(isinstance(node, asynchronous) for node in ast.walk(tree)), f"{name} awaits"
