"""`lfmesh up`: a whole mesh on one machine, each role a process of its own under a supervisor.

command     options and their faults; what is to be run becomes a `plan.Plan`
plan        which units there are, their order, their private addresses (pure)
zygote      a process that imports everything once and forks the units from there
child       what a forked unit does
unit        the life of one unit and when it is started again (pure; the time is an argument)
supervisor  starts, watches, restarts and ends the units
tape        lets a tape begin at the right moment
board       the screen: a live table, or a line at each change
"""
