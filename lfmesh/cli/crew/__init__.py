"""`lfmesh gateway --workers N`: N gateway processes on one port, and the small process that supervises them.

    run_gateway ─► Crew (fork, restart, end) ─► workers: `run_service` with a `Member` each
                  │ Sockets: one listening socket a worker, SO_REUSEPORT
                  └ Desk: connections of all workers counted, questions passed on

With one worker there is none of this: the process that was started is the gateway.
"""

from lfmesh.cli.crew.run import name_process, run_gateway

__all__ = ["name_process", "run_gateway"]
