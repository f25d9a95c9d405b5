"""Simulated robots in a real physics engine, driven over real sockets: the demo and what it is made of.

It needs the `demo` extra (mujoco, matplotlib); importing the package itself needs nothing.
"""
