"""Where to place a lease: one file a policy, each a pure function of a few numbers.

Owns: the choice among nodes on which a request fits (`hybrid`, `pack`, `spread`), and the word on what can never fit
(`feasibility`).

Never: touches the scheduler's state; knows leases or jobs.

In: candidates (`candidate`): nodes, with what is free on them. Out: one of them.
"""
