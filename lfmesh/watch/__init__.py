"""L4: `lfmesh watch`: `state` applies messages, `render` and `lines` show them (pure), `loop` connects."""
