"""The archive that a configuration means, opened for commands that read it: nothing that is missing is made."""

from typing import TYPE_CHECKING

import click

from lfmesh.archive.places import SIMULATED, journal_folders, objects_folder, spool_folders
from lfmesh.errors import LfmeshError

if TYPE_CHECKING:
    from pathlib import Path

    from lfmesh.archive.reader import Archive
    from lfmesh.config import Config


def open_archive(config: "Config", *, quiet: bool = False) -> "Archive":
    """The archive: the object store, and what still waits on this machine below mesh.data_dir.

    Where that folder has no archive and the one of a simulated or recorded session in it has, the latter is meant;
    that is said on standard error, unless `quiet`. StoreMisconfigured.
    """
    from lfmesh.archive.reader import Archive
    from lfmesh.store.opening import open_objects

    config = meant(config, quiet=quiet)
    data_dir = config.mesh.data_dir
    local = [*journal_folders(data_dir), *spool_folders(data_dir)]
    return Archive(open_objects(config), config.venue.name, local)


_SHOWN_VENUES = 10
_VENUE_NAME = "venue-name"
"""In the folder of a session on shared stores: under which name of a venue it is stored."""


def meant(config: "Config", *, quiet: bool = False) -> "Config":
    """The configuration with the data folder, and the venue's name, of the session that is meant (`archive_dir`)."""
    data_dir = archive_dir(config)
    if data_dir == config.mesh.data_dir:
        return config
    name = data_dir / _VENUE_NAME
    venue = {"name": name.read_text(encoding="ascii")} if name.is_file() else {}
    if not quiet:
        as_venue = f", stored as venue.name {venue['name']}" if venue else ""
        click.echo(f"lfmesh: of the simulated or recorded session in {data_dir}{as_venue}", err=True)
    return config.override({"mesh": {"data_dir": data_dir}, "venue": venue})


def note_venue_name(config: "Config") -> None:
    """Let commands find what this session leaves on shared stores."""
    config.mesh.data_dir.mkdir(parents=True, exist_ok=True)
    (config.mesh.data_dir / _VENUE_NAME).write_text(config.venue.name, encoding="ascii")


def no_product(archive: "Archive", config: "Config", product: str) -> LfmeshError:
    """Why a product has no history, in one line: what there is instead."""
    known = archive.products()
    if not known:
        return nothing_archived(config)
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    return LfmeshError(f"the archive has no {product}; it has {shown}")


def nothing_archived(config: "Config") -> LfmeshError:
    """Why there is nothing of the venue, in one line: where was looked, and what there is instead."""
    where = f"the folder {archive_dir(config)}" if config.store.objects == "folder" else f"bucket {config.store.bucket}"
    others = _other_venues(config)
    if others:
        return LfmeshError(
            f"the archive in {where} has nothing of the venue {config.venue.name}, but of {', '.join(others)}:"
            f" LFMESH_VENUE__NAME={others[-1]} names one"
        )
    return LfmeshError(
        f"the archive of {config.venue.name} in {where} is empty: a mesh fills it while it runs; --data-dir or "
        "--config names another"
    )


def _other_venues(config: "Config") -> list[str]:
    """Other venues of which there is tape, in order; simulated sessions on shared stores have names of their own."""
    from lfmesh.core.archive import TAPE
    from lfmesh.store.opening import open_objects

    objects = open_objects(config)
    try:
        found = [folder.removeprefix(f"{TAPE}venue=").rstrip("/") for folder in objects.folders(TAPE)]
    finally:
        objects.close()
    return [name for name in found if name != config.venue.name][-_SHOWN_VENUES:]


def archive_dir(config: "Config") -> "Path":
    """The data folder that commands on the archive mean: mesh.data_dir, or the simulated session's in it."""
    data_dir = config.mesh.data_dir
    simulated = data_dir / SIMULATED
    return simulated if not _is_archive(data_dir) and _is_archive(simulated) else data_dir


def _is_archive(data_dir: "Path") -> bool:
    objects = objects_folder(data_dir)
    kept = objects.is_dir() and any(not path.name.startswith(".") for path in objects.iterdir())
    return kept or bool(journal_folders(data_dir)) or bool(spool_folders(data_dir))
