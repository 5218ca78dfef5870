"""`lfmesh store`: make the stores, see what is in them, check it, let go of what is old, and rebuild one of the other.

`command` has the commands, `opened` opens what the configuration names, `listing` and `states` say what there is,
`units` reads and writes sizes and durations.
"""
