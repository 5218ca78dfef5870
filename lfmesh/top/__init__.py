"""L4: `lfmesh top`: `state` learns from telemetry and the registry, `recovery` reads what roles say of gaps and pairs,
`render` shows it, `loop` listens.
"""
