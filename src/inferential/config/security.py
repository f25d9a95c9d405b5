"""The table of keys and encryption on the address that robots connect to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from inferential.config.addresses import SecurityMode
from inferential.config.section import Section

FilePath = Annotated[str, Field(min_length=1)]


class SecurityConfig(Section):
    """Keys of server and robots, on the address that robots connect to."""

    mode: SecurityMode = "off"
    """Whether robots prove who they are by keys, and all is encrypted: no (off), those that have keys (optional), or
    every robot (required)."""
    server_key: Annotated[str, Field(min_length=1)] | None = None
    """The server's NAME.key_secret file; `inferential keys new server` makes it."""
    clients: Annotated[str, Field(min_length=1)] | None = None
    """Folder with NAME.key of each robot, whose id is NAME; read again when it changes."""
