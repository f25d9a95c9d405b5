"""`inferential check`.

It starts nothing; whether an address is free, only `serve` finds out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import PydanticUndefined

from inferential.cli.errors import CliError
from inferential.cli.output import TENSOR_COLUMNS, print_described, print_json, print_line, print_rows, tensors_text
from inferential.cli.preflight import listeners, load_checked, missing_packages, preflight, strategy_problem, unserved
from inferential.cli.settings import targets
from inferential.cli.targets import try_model
from inferential.config.backends import ray_name
from inferential.config.exposure import exposure
from inferential.config.fields import format_value, items, values
from inferential.config.loading import Loaded
from inferential.config.problems import ConfigError, Problem

EXAMPLES = (
    "inferential check fleet.yaml",
    "inferential check --import fleet.toml",
    "inferential check --json fleet.json",
    "INFERENTIAL_SCHEDULING__STRATEGY=round_robin inferential check",
)


def check(
    config: Annotated[
        Path | None, typer.Argument(help="YAML, TOML or JSON file; without one, the environment alone.")
    ] = None,
    import_models: Annotated[
        bool, typer.Option("--import", help="Import the models too, as serve would, and make them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Validate a configuration and explain it.

    Shows each value that differs from its default, where it comes from (file and line, or environment variable) and
    what it means, and on which addresses a server will listen; or else every problem. Exit code 1: there are problems.
    """
    subject = str(config) if config is not None else "environment"
    explained: list[dict[str, Any]] = []
    listening: list[tuple[str, str]] = []
    warnings: list[str] = []
    models: dict[str, dict[str, Any]] = {}
    try:
        loaded = load_checked(config)
    except ConfigError as error:
        problems = list(error.problems)
    else:
        problems = preflight(loaded)
        problems += _import(loaded, models) if import_models else []
        problems += [problem] if (problem := strategy_problem(loaded)) else []
        explained = _explained(loaded)
        listening = listeners(loaded.config)
        warnings = exposure(loaded.config)
        warnings += unserved(loaded.config) if targets(loaded.config) else []  # else they may be given to `serve`
    if as_json:
        listed = [{"path": one.path, "message": one.message, "source": one.source} for one in problems]
        addresses = [{"address": address, "what": what} for address, what in listening]
        print_json(
            {
                "subject": subject,
                "valid": not problems,
                "problems": listed,
                "values": explained,
                "listens": addresses,
                "warnings": warnings,
                "models": models,
            }
        )
    else:
        _print(subject, problems, explained, listening)
        if import_models and not problems:
            made = [one for one, target in targets(loaded.config).items() if ray_name(target) is None]
            print_line(f"imported and made: {', '.join(made) or 'no model'}", "green")
        if models and not problems:
            rows = [
                (one, str(said["max_batch_size"]), tensors_text(said["inputs"]), tensors_text(said["outputs"]))
                for one, said in models.items()
            ]
            print_rows(TENSOR_COLUMNS, rows)
        if not problems and not import_models and targets(loaded.config):
            print_line("models are not imported; whether they can be, --import finds out")
        for warning in [] if problems else warnings:
            print_line(f"warning: {warning}", "yellow")
    if problems:
        raise typer.Exit(1)


def _import(loaded: Loaded, models: dict[str, dict[str, Any]]) -> list[Problem]:
    """Returns what keeps models from being loaded; puts into `models` what those that can be say of their tensors."""
    problems = missing_packages(loaded)
    for model_id, target in targets(loaded.config).items():
        if ray_name(target) is not None:
            continue  # it is on Ray Serve, and need not be up yet
        try:
            said = try_model(model_id, target, loaded.config.models.known.get(model_id))
            if isinstance(said.get("inputs"), list):
                models[model_id] = {
                    "max_batch_size": said["max_batch_size"],
                    "inputs": said["inputs"],
                    "outputs": said.get("outputs") or [],
                }
        except CliError as error:
            source = loaded.source_of(("models", "known", model_id, "target"))
            problems.append(Problem(f"models.known.{model_id}.target", str(error), source))
    return problems


def _explained(loaded: Loaded) -> list[dict[str, Any]]:
    explained = []
    for field, whole in values(loaded.config):
        for node, value in items(field, whole):
            if value != node.default:
                default = None if node.default is PydanticUndefined else node.default
                explained.append(
                    {
                        "path": node.path,
                        "value": value,
                        "source": loaded.source_of(node.key),
                        "description": node.description,
                        "unit": node.unit,
                        "default": default,
                        "live": node.live,
                    }
                )
    return explained


def _print(
    subject: str, problems: list[Problem], explained: list[dict[str, Any]], listening: list[tuple[str, str]]
) -> None:
    for problem in problems:
        print_line(str(problem), "red")
    if problems:
        return
    count = f"{len(explained)} value{'' if len(explained) == 1 else 's'}"
    print_line(f"{subject}: valid, {count} other than the defaults", "green")
    if explained:
        rows = [
            (one["path"], f"{format_value(one['value'])} {one['unit']}".rstrip(), one["source"], one["description"])
            for one in explained
        ]
        print_described(("field", "value", "from", "meaning"), rows)
    print_rows(("listens on", "for"), listening)
