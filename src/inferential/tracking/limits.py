"""Limits on what is stored of one client, whatever it sends.

They are far above what a robot needs, and hold against one that is broken or hostile.
"""

MAX_MODELS = 64
"""Models of one client; with one more, the one known longest is forgotten."""
MAX_PENDING = 256
"""Pending responses of one client; with one more, the oldest is invalidated."""
MAX_OPEN = 8
"""Answers of one client and model of which it may still say when it used them; a later word is of an unknown one."""
