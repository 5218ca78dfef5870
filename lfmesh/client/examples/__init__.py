"""Programs that run: `python -m lfmesh.client.examples.NAME --help`. A mesh to run them on: `lfmesh up`."""
