"""Starts a worker process; run as a file by whatever interpreter the model needs.

The worker uses the package of its server, whether or not one is installed in its own environment, so that both ends
always have the same version. Nothing else of the server's environment is made importable.

It is written for old interpreters too, so that those get a message and not a syntax error.
"""

import os
import socket
import sys

MINIMUM = (3, 10)


def main():  # type: () -> None
    """Runs the worker with the descriptors that were passed: of the socket, the life line, shared memory, the inbox.

    What follows them is the model's name, for people who list the machine's processes.
    """
    # This folder, whose modules must not hide those of others; with PYTHONSAFEPATH or python -I it is not there. The
    # file may be a link, as some installers make them.
    if os.path.realpath(sys.path[0]) in (
        os.path.realpath(os.path.dirname(__file__)),
        os.path.dirname(os.path.realpath(__file__)),
    ):
        sys.path.pop(0)
    descriptors = [int(word) for word in sys.argv[1:5]]
    del sys.argv[1:]
    try:
        if sys.version_info < MINIMUM:
            found = ".".join(str(number) for number in sys.version_info[:3])
            raise ImportError(f"a worker needs Python 3.10 or newer, this is {found} ({sys.executable})")
        _add_package()
        try:
            from inferential.replica import worker
        except Exception as error:  # of a type of protobuf's where that is older than the generated code
            install = f"{sys.executable} -m pip install 'numpy>=1.26' 'protobuf>=6.31.1'"
            raise ImportError(f"a worker needs numpy 1.26 and protobuf 6.31.1 or newer: {error}; {install}") from error
    except ImportError as error:
        try:
            _report(descriptors[0], str(error))
        finally:  # the server may have gone, and what the environment has started must not keep this process
            os._exit(3)
    worker.main(*descriptors)


def _add_package():  # type: () -> None
    import importlib.util

    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location("inferential", path, submodule_search_locations=[folder])
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules["inferential"] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]


def _report(fd, text):  # type: (int, str) -> None
    """Sends FAILED (`wire.py`) as `stream.py` writes it; neither can be imported here."""
    frames = [bytes(8), b"X", text.encode("utf-8", "replace"), b""]
    sizes = [len(frames)] + [len(frame) for frame in frames]
    head = b"".join(size.to_bytes(4, "little") for size in sizes)
    socket.socket(fileno=fd).sendall(head + b"".join(frames))


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # in a process that the model has started by multiprocessing
    _add_package()
