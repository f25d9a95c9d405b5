"""Hours of mixed load with faults, by a seed: `python -m bench.soak --minutes 30 --seed 1`.

A server in a process of its own, with its page and gateways, is asked by robots of every kind (`robots`) while clients
break, flood and lie (`faults`). Afterwards every request must have ended once, memory and descriptors must be where
they were, and answers must take as long as at the beginning (`checks`).
"""
