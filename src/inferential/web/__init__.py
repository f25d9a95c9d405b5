"""Shows a running server over HTTP: the live page, metrics and health. Read only."""

from inferential.web.http import HttpServer

__all__ = ["HttpServer"]
