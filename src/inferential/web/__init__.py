"""What a person and their tools see of a running server over HTTP: the live page, metrics, health. Read only."""

from inferential.web.http import HttpServer

__all__ = ["HttpServer"]
