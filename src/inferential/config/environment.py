"""Reads settings from the environment, `INFERENTIAL_SECTION__FIELD=value`.

Every name with the prefix is a setting, but the few that clients read and those that an orchestrator sets for services;
validation finds out whether such a key exists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from inferential.config.fields import Key, Node, find
from inferential.config.problems import ConfigError, Problem
from inferential.config.text import Layer, SyntaxProblem
from inferential.config.text_yaml import parse_yaml

PREFIX = "INFERENTIAL_"
NO_SETTINGS = frozenset({"INFERENTIAL_SERVER_KEY", "INFERENTIAL_SECRET_KEY", "INFERENTIAL_TOKEN"})
"""What clients and commands read: keys of a robot, and the page's token."""
SEPARATOR = "__"
_SERVICE = re.compile(
    r"([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|NAME|ENV_.+"
    r"|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|ADDR|(PORT_)?(START|END)|PORT))?)?)"
)
"""What Kubernetes puts into the environment of each container for a service called inferential or inferential-..., and
Docker for a linked container of that name."""
_PLACE = re.compile(r"[a-z]+://\S+|/\S+")
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def read_environment(env: Mapping[str, str], below: Mapping[str, Any]) -> list[Layer]:
    """Returns one layer for each variable, those of whole tables before those of single fields.

    Args:
        env: names and values.
        below: what the file says; a model id in a name means the file's model of that id, whatever its case, and
            is taken in lower case where the file has none.

    Raises:
        ConfigError: a value cannot be read, or two names mean the same place.
    """
    layers: dict[Key, Layer] = {}
    problems: list[Problem] = []
    for name in sorted(env):
        if not name.upper().startswith(PREFIX) or name in NO_SETTINGS or _is_of_a_service(name, env[name]):
            continue
        key = _key(name[len(PREFIX) :].split(SEPARATOR), below)
        node = find(key)
        path = node.path if node else ".".join(map(str, key))
        if key in layers:
            problems.append(Problem(path, f"set twice, by {layers[key].name} too", name))
            continue
        try:
            value = _value(env[name], node)
        except SyntaxProblem as error:
            problems.append(Problem(path, f"{error.message}, got '{env[name]}'", name))
            continue
        for part in reversed(key):
            value = {part: value}
        layers[key] = Layer(name, value, spell=variable)
    if problems:
        raise ConfigError(problems)
    return [layers[key] for key in sorted(layers, key=len)]


def _is_of_a_service(name: str, value: str) -> bool:
    """Returns whether an orchestrator has set a variable for a service that has our name."""
    rest = name[len(PREFIX) :]
    # Names of services and their variables may have the separator too; behind a section's name it is a setting.
    section, separator, _ = rest.partition(SEPARATOR)
    if (separator and find((section.lower(),)) is not None) or _SERVICE.fullmatch(rest) is None:
        return False
    return (
        not rest.endswith(("PORT", "NAME"))
        or any(part in f"_{rest}" for part in ("_PORT_", "_ENV_", "SERVICE"))
        or bool(_PLACE.match(value))
    )


def variable(path: str) -> str:
    """Returns the name of the variable that sets the field at a path."""
    return PREFIX + path.replace(".", SEPARATOR).upper()


def _key(parts: list[str], below: Any) -> Key:
    key: list[str] = []
    for part in parts:
        lower = part.lower()
        names = below if isinstance(below, Mapping) else {}
        key.append(next((name for name in names if isinstance(name, str) and name.lower() == lower), lower))
        below = names.get(key[-1])
    return tuple(key)


def _value(text: str, node: Node | None) -> Any:
    """Returns a value, read by the type of its field: strings and booleans in any spelling, all else as YAML."""
    if node is not None and (node.kind is str or get_origin(node.kind) is Literal):
        if node.nullable and text.lower() in ("", "~", "null"):
            return None
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    if node is not None and str in get_args(node.kind) and not text.lstrip().startswith(("[", "{")):
        return text  # one of what may be a list too
    if node is not None and node.kind is bool:
        return _BOOLEANS.get(text.lower(), text)
    try:
        return parse_yaml(text)[0]
    except RecursionError:
        raise SyntaxProblem("nested too deeply") from None
