"""`inferential keys`: makes, lists and revokes the keys of a server and of its robots.

Keys are files in a folder; what reads them, on a server or on a robot, are the paths that the commands print.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from inferential.cli.errors import CliError, missing
from inferential.cli.output import print_json, print_line, print_rows
from inferential.errors import system_reason
from inferential.transport.client_keys import check_name, read_folder
from inferential.zmtp.certificates import (
    PUBLIC_SUFFIX,
    CertificateError,
    check_new,
    encode_z85,
    read_certificate,
    write_certificates,
)

EXAMPLES = (
    "inferential keys new server",
    "inferential keys new client arm-01 arm-02",
    "inferential keys list",
    "inferential keys revoke arm-01",
    "inferential keys show keys/server.key",
)
REVOKED_SUFFIX = ".revoked"
"""What a revoked NAME.key is called then: it is kept, for people to see, and not accepted."""

APP = typer.Typer(no_args_is_help=True, add_completion=False)
_new = typer.Typer(no_args_is_help=True, help="Make keys: of the server, or of a robot.")
APP.add_typer(_new, name="new")

Folder = Annotated[Path, typer.Option("--dir", file_okay=False, help="Folder of the keys.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_DEFAULT = Path("keys")


@_new.command("server")
def new_server(folder: Folder = _DEFAULT, as_json: AsJson = False) -> None:
    """Make the server's keys, and the folder for its robots' keys."""
    _check(folder, "server")
    public_path, secret_path = _make(folder, "server")
    clients = folder / "clients"
    _make_folder(clients)
    if as_json:
        print_json({"public": str(public_path), "secret": str(secret_path), "clients": str(clients)})
        return
    print_line(f"{secret_path} stays on the server; {public_path} goes to every robot", "green")
    print_line("For the server's configuration:")
    for line in ("security:", "  mode: required", f"  server_key: {secret_path}", f"  clients: {clients}"):
        print_line(line)


@_new.command("client")
def new_client(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Ids of robots.")],
    folder: Folder = _DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make the keys of robots; a running server accepts them at once."""
    names = list(dict.fromkeys(names))
    for name in names:  # all of them are made, or none
        _check(folder / "clients", name)
    made = [(name, *_make(folder / "clients", name)) for name in names]
    if as_json:
        print_json([{"name": name, "public": str(public), "secret": str(secret)} for name, public, secret in made])
        return
    server = folder / f"server{PUBLIC_SUFFIX}"
    for name, _, secret in made:
        print_line(f"{name}: move {secret} to the robot", "green")
    print_line(f"Copy {server} to each robot too; {folder / 'clients'} stays here.")
    print_line("In the program of a robot:" if len(made) == 1 else f"In the program of {made[0][0]}:")
    print_line(f"Connection(server, server_key={server.name!r}, secret_key={made[0][2].name!r})")


@APP.command("list")
def list_keys(folder: Folder = _DEFAULT, as_json: AsJson = False) -> None:
    """List robots whose keys are accepted or revoked."""
    try:
        keys, problems = read_folder(folder / "clients", {})
    except CertificateError as error:
        raise CliError(f"{error}; `inferential keys new server` makes it") from error
    revoked = sorted(_revoked(folder))
    if as_json:
        accepted = [{"name": name, "public_key": encode_z85(key)} for name, key in keys.items()]
        print_json({"accepted": accepted, "revoked": revoked, "problems": problems})
    else:
        rows = [(name, "accepted", encode_z85(key)) for name, key in keys.items()]
        print_rows(("robot", "state", "public key"), rows + [(name, "revoked", "") for name in revoked])
        for problem in problems:
            print_line(problem, "red")
    if problems:
        raise typer.Exit(1)


@APP.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="The robot's id.")], folder: Folder = _DEFAULT, as_json: AsJson = False
) -> None:
    """Stop accepting a robot's key.

    A running server ends its connection at once.
    """
    _check_name(name)
    path = folder / "clients" / (name + PUBLIC_SUFFIX)
    kept = Path(f"{path}{REVOKED_SUFFIX}")
    try:
        os.replace(path, kept)
    except FileNotFoundError as error:
        known = ", ".join(sorted(one.name.removesuffix(PUBLIC_SUFFIX) for one in path.parent.glob(f"*{PUBLIC_SUFFIX}")))
        raise CliError(f"no key of {name!r} in {path.parent}; there is: {known or 'none'}") from error
    except OSError as error:
        raise CliError(f"cannot revoke {path}: {error.strerror}") from error
    if as_json:
        print_json({"name": name, "revoked": str(kept)})
    else:
        print_line(f"{name} is not accepted any more; its key is now {kept}", "green")


@APP.command("show")
def show(
    path: Annotated[Path, typer.Argument(metavar="FILE|NAME", help="A key file, public or secret, or a robot's id.")],
    folder: Folder = _DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show what a key file is, and its public key; never a secret key."""
    if not path.exists() and (of_robot := folder / "clients" / f"{path}{PUBLIC_SUFFIX}").exists():
        path = of_robot
    try:
        found = read_certificate(path)
    except CertificateError as error:
        raise CliError(str(error)) from error
    kind = "public" if found.secret_key is None else "secret"
    about: dict[str, Any] = {"path": str(path), "kind": kind, "public_key": encode_z85(found.public_key)}
    about["metadata"] = dict(found.metadata)
    if as_json:
        print_json(about)
        return
    print_line(f"{path}: a {kind} key file; its public key is {about['public_key']}")
    for name, value in found.metadata.items():
        print_line(f"{name}: {value}")


def _make(folder: Path, name: str) -> tuple[Path, Path]:
    """Makes a key pair and writes its two files, of which `_check` found none."""
    try:
        from inferential.zmtp.curve import key_pair
    except ModuleNotFoundError as error:
        raise missing("inferential keys", error, "curve") from error
    _make_folder(folder)
    keys = key_pair(os.urandom)
    try:
        return write_certificates(folder, name, keys.public, keys.secret, {"name": name})
    except OSError as error:
        raise CliError(f"cannot write keys to {folder}: {system_reason(error)}") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    except OSError as error:
        raise CliError(f"cannot make the folder {folder}: {error.strerror}") from error


def _check(folder: Path, name: str) -> None:
    """Checks that keys of that name can be made in a folder."""
    _check_name(name)
    try:
        check_new(folder, name)
    except FileExistsError as error:
        raise CliError(f"{error}; revoke it, or move it away, first") from error


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except CertificateError as error:
        raise CliError(str(error)) from error


def _revoked(folder: Path) -> list[str]:
    suffix = PUBLIC_SUFFIX + REVOKED_SUFFIX
    return [path.name.removesuffix(suffix) for path in (folder / "clients").glob(f"*{suffix}")]
