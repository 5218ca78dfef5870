"""L4: `lfmesh top`: `state` learns from telemetry and the registry, `render` shows it (pure), `loop` listens."""
