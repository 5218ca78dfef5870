"""A watcher's picture of the mesh: the views of all registry replicas, merged, highest incarnation first.

Per replica (`ReplicaView`) a view is kept up to date by numbered changes; a hole in the numbers, or another
incarnation of the replica, asks for the whole view again. Over all replicas (`Peers`)

- a replica counts while it was heard within its lease time; a silent one neither adds nor keeps anybody;
- a service is listed if any replica that counts lists it, with its highest incarnation;
- a service that no replica lists any more stays until a replica that counts and is not warming says so by its view;
- so the loss of all replicas freezes the picture, and a replica that has just started takes nobody away.

Times are ns of a clock that never goes back.
"""

from enum import Enum

from lfmesh.core.leases import name_of
from lfmesh.messages import RegistryChange, ServiceName, ServiceRecord, View


class Observed(Enum):
    """What a message of a replica did to the picture of it."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    NEEDS_VIEW = "needs view"
    """It does not join on to what is known: ask the replica for its view."""


class ReplicaView:
    """What one replica says; unknown until its first view."""

    def __init__(self, view: View, now: int) -> None:
        self.replica = view.replica
        self.incarnation = view.incarnation
        self.version = view.version
        self.warming = view.warming
        self.services: dict[ServiceName, ServiceRecord] = {name_of(record): record for record in view.services}
        self._ttl_ns = round(view.lease_ttl_s * 1e9)
        self.heard_at = now

    def observe(self, change: RegistryChange, now: int) -> Observed:
        """Apply a change, if it is the next one of this incarnation."""
        if (change.replica, change.incarnation) != (self.replica, self.incarnation):
            return Observed.NEEDS_VIEW
        step = int(bool(change.joined or change.left))
        if change.version < self.version:
            return Observed.UNCHANGED
        if change.version > self.version + step:
            return Observed.NEEDS_VIEW
        self.heard_at = now
        known = (self.version, self.warming)
        self.warming = change.warming
        if change.version > self.version:
            self.version = change.version
            for name in change.left:
                self.services.pop(name, None)
            for record in change.joined:
                self.services[name_of(record)] = record
        return Observed.UNCHANGED if known == (self.version, self.warming) else Observed.APPLIED

    def counts(self, now: int) -> bool:
        """True while it was heard within its lease time."""
        return now - self.heard_at <= self._ttl_ns


class Peers:
    """The merged picture. `link` is the watcher's own name of a replica: the address at which it reaches it."""

    def __init__(self) -> None:
        self._views: dict[str, ReplicaView] = {}
        self._listed: dict[ServiceName, ServiceRecord] = {}

    def observe_view(self, link: str, view: View, now: int) -> None:
        """A replica's whole view; one that is older than what is known of the same incarnation is ignored."""
        known = self._views.get(link)
        if known is not None and known.incarnation == view.incarnation and known.version > view.version:
            return
        self._views[link] = ReplicaView(view, now)

    def observe_change(self, link: str, change: RegistryChange, now: int) -> Observed:
        """A replica's change or beacon."""
        known = self._views.get(link)
        return Observed.NEEDS_VIEW if known is None else known.observe(change, now)

    def forget(self, link: str) -> None:
        """The address is no longer one of a replica."""
        self._views.pop(link, None)

    def counts(self, link: str, now: int) -> bool:
        """True while the replica was heard within its lease time."""
        known = self._views.get(link)
        return known is not None and known.counts(now)

    def silent_for(self, link: str, now: int) -> int | None:
        """Time in ns since the replica was last heard; None if it never was."""
        known = self._views.get(link)
        return None if known is None else now - known.heard_at

    def incarnation(self, link: str) -> int | None:
        """The replica's incarnation, if it was ever heard."""
        known = self._views.get(link)
        return None if known is None else known.incarnation

    def merge(self, now: int) -> tuple[ServiceRecord, ...]:
        """The picture now, ordered by role and instance."""
        counting = [view for view in self._views.values() if view.counts(now)]
        found: dict[ServiceName, ServiceRecord] = {}
        for view in counting:
            for name, record in view.services.items():
                known = found.get(name)
                if known is None or record.incarnation > known.incarnation:
                    found[name] = record
        if all(view.warming for view in counting):
            for name, record in self._listed.items():
                known = found.get(name)
                if known is None or record.incarnation > known.incarnation:
                    found[name] = record
        self._listed = dict(sorted(found.items()))
        return tuple(self._listed.values())
