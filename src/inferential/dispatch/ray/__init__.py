"""Models on Ray Serve. Ray places, scales and replaces replicas; observations go to them on sockets of our own.

deployments.py   what Serve runs, and which deployment a model id means
registry.py      an actor that knows the replicas' endpoints, and hands out keys
endpoint.py      the socket in a replica
directory.py     where those for servers of the same host are
link.py          a server's connection to one of them
wire.py          what goes over it
shared.py        memory that both ends have, for large payloads on one host
dispatcher.py    the backend of the server
handles.py       the same for deployments without an endpoint, through Serve's own handles
"""
