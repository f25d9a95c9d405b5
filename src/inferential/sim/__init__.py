"""Simulated robots in a real physics engine, driven over real sockets: the demo and what it is made of.

The demo needs the `demo` extra (mujoco, matplotlib); load on a server and fleets in virtual time do not.
"""
