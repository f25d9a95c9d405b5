"""Tells targets of models apart, `ray:NAME` and `SCHEME://...`, and checks the options of the backend of a scheme."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from inferential.config.extensions import BACKENDS, ExtensionError, extension_names, load_extension
from inferential.config.section import Section, details
from inferential.policies import KINDS, meant_target

_RAY = "ray:"
_MODULE = re.compile(r"\w+(\.\w+)*")


def ray_name(target: str) -> str | None:
    """Returns the application, or deployment, that `ray:NAME` says a model is on Ray Serve; None for other targets."""
    return target.removeprefix(_RAY) if target.startswith(_RAY) else None


def ray_target(name: str) -> str:
    """Returns the target of a model with that name on Ray Serve."""
    return _RAY + name


def scheme_of(target: str) -> str | None:
    """Returns the scheme of `SCHEME://...`; None for targets of other forms."""
    scheme, separator, _ = target.partition("://")
    return scheme if separator else None


def check_spelling(target: Any) -> Any:
    """Raises ValueError if a target is a policy's file that lacks its kind, or a module's without the model's name."""
    if not isinstance(target, str):
        return target
    if (meant := meant_target(target)) is not None:
        raise ValueError(f"expected {meant!r} for a policy in a file, got {target!r}")
    if (target.endswith(".py") or _MODULE.fullmatch(target)) and ":" not in target:
        module = target.removesuffix(".py").removeprefix("./").replace("/", ".")
        package, _, name = module.rpartition(".")
        if package and name[:1].isupper():  # a class
            raise ValueError(f"expected '{package}:{name}', with a colon before the model's name, got {target!r}")
        raise ValueError(f"expected '{module}:NAME', a module and the name of the model in it, got {target!r}")
    return target


def check_scheme(target: str) -> None:
    """Raises ValueError if no backend has the target's scheme."""
    scheme = scheme_of(target)
    if scheme is not None and ":" in scheme and scheme.partition(":")[0] in KINDS:
        raise ValueError(f"expected a file or folder of this machine, got {target!r}: download it first")
    if scheme is not None and scheme not in (known := extension_names(BACKENDS)):
        raise ValueError(
            f"no backend has the scheme {scheme!r}; expected module:object, ray:application, or one of "
            f"{', '.join(f'{name}://' for name in known)}"
        )


def backend_options(target: str | None, options: Mapping[str, Any]) -> Section | None:
    """Returns the options of a model, checked by what its backend declares; None if the backend declares none.

    Args:
        target: of the model.
        options: `models.known.ID.options`.

    Raises:
        ValueError: the target's backend takes no options, or cannot be imported.
        ValidationError: of pydantic, with every problem of the options.
    """
    scheme = None if target is None else scheme_of(target)
    declared: Any = None
    if scheme is not None and scheme in extension_names(BACKENDS):
        declared = getattr(load_extension(BACKENDS, scheme), "Options", None)
    if declared is None:
        if options:
            raise ValueError("options are for targets of backends that declare some; leave them out")
        return None
    if not (isinstance(declared, type) and issubclass(declared, Section)):
        raise ExtensionError(
            f"backend {scheme!r}: expected the attribute Options to be a subclass of "
            f"inferential.config.section.Section, got {declared!r}"
        )
    try:
        return declared.model_validate(dict(options), strict=True)
    except ValidationError as error:
        raise ValidationError.from_exception_data("options", details(error, "options")) from None
