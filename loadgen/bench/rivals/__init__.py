"""What a user could take instead, each at its best reasonable configuration, behind the face of a `Contender`.

Every one gets messages of the size that the gateway's have, has the same clients (`audience.py`), is paced by them in
the same way, and is started as it would be for this one purpose: no logs, no TLS, no compression, no storage. Whose
program is not installed is skipped by name.
"""

from loadgen.bench.rivals.bare import bare
from loadgen.bench.rivals.broadcast import broadcast
from loadgen.bench.rivals.nats import nats
from loadgen.bench.rivals.nchan import nchan

__all__ = ["bare", "broadcast", "nats", "nchan"]
