"""Recordings of what robots sent and were answered, as MCAP files."""
