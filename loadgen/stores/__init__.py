"""The real stores without Docker: DynamoDB Local, and SeaweedFS as the S3 server, on free loopback ports.

`python -m loadgen.stores up` starts both and says how a mesh is pointed at them, `down` ends them. Tests take single
servers from here (`tests/stores.py`).
"""
