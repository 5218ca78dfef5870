"""The fault bench: a whole mesh as real processes, auditing clients, faults by the dozen, and the exchange's truth.

    python -m loadgen.chaos --rounds 30 --seed 1

Its parts: `plan` (what goes wrong when), `topology` (which processes, which links), `processes` (their supervisor),
`relay`, `lane`, `zmtp`, `views` and `relays` (links that can be cut, delayed, or made to lose messages), `venue` (the
exchange's misbehaviour and its truth), `figures` (what roles say of themselves), `clients` and `truth` (the audit),
`mesh` (all of it together), `rounds`, `run` and `report`.
"""
