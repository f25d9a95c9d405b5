"""Other software that the same robots ask, each a program of an environment of its own.

`with_NAME.py` takes a plan as JSON on standard input and prints its summary. Robots, policies, accelerator and
accounting are this repository's; server and protocol are the other software's.
"""
