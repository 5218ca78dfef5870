"""L1: the pure core. No await, no clock, no socket, no log: facts out, time in."""
