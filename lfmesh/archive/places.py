"""Where a machine keeps what belongs to the archive, below `mesh.data_dir`.

    journal/INSTANCE/chunk-N.frames   what was published and is not cut yet (`lfmesh.archive.journal`)
    spool/INSTANCE/KEY                objects that wait for the object store (`lfmesh.archive.spool`)
    checkpoint/INSTANCE/              what a snapshotter restores its states from
    objects/KEY                       the object store that is a folder
    simulated/                        the same once more, for simulated and recorded sessions

INSTANCE is the name of a snapshotter, which alone writes there. Everybody may read.
"""

import re
from pathlib import Path

JOURNAL = "journal"
SPOOL = "spool"
CHECKPOINT = "checkpoint"
OBJECTS = "objects"
SIMULATED = "simulated"


def folder_name(instance: str) -> str:
    """The name of an instance as a folder's: nothing in it leads elsewhere."""
    return re.sub(r"^\.|[^A-Za-z0-9._-]", "_", instance) or "_"


def journal_folder(data_dir: Path, instance: str) -> Path:
    """Where the snapshotter `instance` keeps its journal."""
    return data_dir / JOURNAL / folder_name(instance)


def spool_folder(data_dir: Path, instance: str) -> Path:
    """Where the snapshotter `instance` keeps what waits for the object store."""
    return data_dir / SPOOL / folder_name(instance)


def checkpoint_folder(data_dir: Path, instance: str) -> Path:
    """Where the snapshotter `instance` keeps its checkpoints."""
    return data_dir / CHECKPOINT / folder_name(instance)


def objects_folder(data_dir: Path) -> Path:
    """Where the object store is, if it is a folder."""
    return data_dir / OBJECTS


def journal_folders(data_dir: Path) -> list[Path]:
    """The journals of every snapshotter that has one here, in the order of their names."""
    return _folders(data_dir / JOURNAL)


def spool_folders(data_dir: Path) -> list[Path]:
    """The spools of every snapshotter that has one here, in the order of their names."""
    return _folders(data_dir / SPOOL)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
