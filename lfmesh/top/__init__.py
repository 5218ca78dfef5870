"""L4: `lfmesh top`: `state` learns from telemetry and the registry, `recovery` reads what roles say of gaps and pairs,
`slowest` which clients of all gateways are the slowest, `workers` sums up a gateway's processes; `render` shows it all,
`loop` listens.
"""
