"""From `module:object` to a model.

What `object` is decides:

- a class, or anything where `args` are given: it is called with them, and what it returns is the model;
- something with `infer` or `infer_batch`: it is the model;
- something that can be called with one argument, the observation: it is the model;
- any other function: it is called without arguments, and what it returns is the model.

`onnx:FILE`, `torchscript:FILE` and `lerobot:FOLDER` lead to the policy in a file, `args` being its options.

It runs no model.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from inferential.errors import InferentialError, words_of
from inferential.policies import KINDS, split_target
from inferential.policies.files import PolicyFileError


class TargetError(InferentialError):
    """A target leads to no model; the text says why, and where in its module."""


_SHOWN = 8  # names of a module, in an error
_FAILURES = (Exception, SystemExit)  # a script that means to end itself must not end its server, or a command, unsaid


def load_target(target: str, args: Mapping[str, Any]) -> Any:
    """Returns the model that a target leads to.

    Modules are found among what is installed and in the current directory.

    Args:
        target: module:object, or onnx:FILE, torchscript:FILE, lerobot:FOLDER.
        args: keyword arguments to call it with.

    Raises:
        TargetError: there is none.
    """
    if (file := split_target(target)) is not None:
        return _from_file(*file, args)
    found = find_target(target)
    if args or isinstance(found, type) or not (_is_model(found) or not callable(found)):
        found = _built(found, args)
    if not _is_model(found):
        raise TargetError(
            f"expected a model (an object with infer(observation) or infer_batch(observations), or a function of an "
            f"observation), or a class or a function without parameters that makes one, got {_named(found)}"
        )
    return found


def _named(found: Any) -> str:
    return f"the class {found.__name__} itself" if isinstance(found, type) else type(found).__name__


def import_module_of(target: str) -> None:
    """Imports the module that a target is in, or the one that reads its file.

    Raises:
        ImportError: there is none.
        Exception: whatever the module raises.
    """
    file = split_target(target)
    _find_here()
    importlib.import_module((target if file is None else KINDS[file[0]]).partition(":")[0])


def _find_here() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def find_target(target: str) -> Any:
    module_name, _, names = target.partition(":")
    _find_here()
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            file = f"; of a file it is the name without .py: {module_name[:-3]}" if module_name.endswith(".py") else ""
            raise TargetError(f"no module {error.name!r}, neither installed nor in {os.getcwd()}{file}") from error
        raise TargetError(f"importing it failed: {in_words(error)}") from error
    except _FAILURES as error:
        said = in_words(error)
        package = "; name the package too, as package.module:object" if "relative import with no" in said else ""
        raise TargetError(f"importing it failed: {said}{package}") from error
    path = module_name
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise TargetError(f"{path} has no {name!r}{_offered(found, name)}") from error
        path = f"{path}.{name}"
    return found


def _offered(module: Any, name: str) -> str:
    """Returns what was meant by a name that is not there, or else what a module has of its own."""
    if close := difflib.get_close_matches(name, dir(module), n=1):
        return f"; did you mean {close[0]!r}?"
    if not inspect.ismodule(module):
        return ""
    own = [one for one, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    shown = [one for one in own if not one.startswith("_")][:_SHOWN]
    return f"; it has {', '.join(shown)}" if shown else ""


def _from_file(kind: str, path: str, args: Mapping[str, Any]) -> Any:
    module, _, name = KINDS[kind].partition(":")
    make = getattr(importlib.import_module(module), name)
    try:
        inspect.signature(make).bind(path, **args)
    except TypeError as error:
        known = ", ".join(list(inspect.signature(make).parameters)[1:])
        raise TargetError(f"args: {error}; {kind}:{path} takes {known}") from error
    try:
        return make(path, **args)
    except (PolicyFileError, ValueError, TypeError) as error:
        raise TargetError(str(error)) from error
    except _FAILURES as error:  # of the library that reads it
        raise TargetError(in_words(error)) from error


def _is_model(found: Any) -> bool:
    return hasattr(found, "infer") or hasattr(found, "infer_batch") or (callable(found) and _takes_one(found))


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have none
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(one.kind in (*positional, inspect.Parameter.VAR_POSITIONAL) for one in parameters)


def _built(make: Callable[..., Any], args: Mapping[str, Any]) -> Any:
    if not callable(make):
        raise TargetError(f"it takes no args: {type(make).__name__} cannot be called")
    try:
        model = make(**args)
    except _FAILURES as error:
        takes = "" if args or isinstance(make, type) else " (it has no parameter for an observation)"
        raise TargetError(f"calling it to make the model failed{takes}: {in_words(error)}{_fix(make, args)}") from error
    if inspect.iscoroutine(model):
        model.close()
        raise TargetError("it is an async function without parameters; what makes a model must not be async")
    return model


def _fix(make: Callable[..., Any], args: Mapping[str, Any]) -> str:
    """Returns what to do about args that do not fit what is called with them; "" where they do."""
    try:
        inspect.signature(make).bind(**args)
    except TypeError:
        if not args:
            return "; arguments stand in a configuration file, as args of the model"
        return f"; args may have {', '.join(inspect.signature(make).parameters) or 'nothing'}"
    except ValueError:  # some built-in functions have no signature
        pass
    return ""


def in_words(error: BaseException) -> str:
    """Returns type, message and place of an exception, on one line."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}:{error.lineno})"
    text = " ".join(words_of(error).split())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    if not frames or frames[-1].filename == __file__:
        return text
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})"
