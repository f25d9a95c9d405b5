"""One module for each peer: `serve()` answers every observation with 64 bytes, `client(address, observation)` asks.

`python bench/overhead/peers/__main__.py NAME serve|ask` runs them in whatever environment the peer needs.
"""
