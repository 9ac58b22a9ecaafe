"""Where to place a request: one file a policy, each a pure function of a few values.

Owns: the score of a node (`hybrid`, `pack`, `spread`), conditions on labels (`labels`) and on what runs beside
(`company`), which devices of a node (`devices`, `topology`), where the bundles of a placement group go (`bundles`), how
far a task may go from its bytes (`locality`), the share of a session (`fair_share`), and the word on what can never fit
(`feasibility`).

Never: touches the scheduler's state; knows leases or jobs.

In: numbers and values of a node. Out: a score, a choice, or a sentence.
"""
