"""Where to place a lease: one file a policy, each a pure function of a few numbers.

Owns the choice among nodes on which a request fits, and the word on what can never fit. Never touches the scheduler's
state, and knows neither leases nor jobs. In: candidates; out: one of them.
"""
