"""Simulates a fleet and its server in virtual time: the server's own core, no sockets, no waiting."""
