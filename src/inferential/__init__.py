"""Inferential: shared policies served to fleets of robots, in time and fresh."""
