"""The archive: what was published, kept in objects that are read again by position and by time.

`lfmesh.core.archive` says how it is laid out; stores are reached through `lfmesh.ports.ObjectStore` alone.
"""
