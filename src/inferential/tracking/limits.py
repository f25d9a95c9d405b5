"""How much is kept of one client, whatever it sends.

The bounds are far above what a robot needs: they hold against one that is broken or hostile.
"""

MAX_MODELS = 64
"""Models of one client; with one more, the one that it has known longest is forgotten."""
MAX_PENDING = 256
"""Responses of one client that are on their way; with one more, the oldest is invalidated."""
