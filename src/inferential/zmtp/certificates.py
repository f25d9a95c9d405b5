"""Key files, in the format of ZeroMQ's certificates: `zmq.auth` reads what is written here, and the reverse.

A public certificate, NAME.key, has the public key; a secret one, NAME.key_secret, both. Keys are 32 bytes, written as
40 characters of Z85 (https://rfc.zeromq.org/spec/32/).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inferential.errors import InferentialError

PUBLIC_SUFFIX, SECRET_SUFFIX = ".key", ".key_secret"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_KEY_CHARACTERS = 40
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PUBLIC_HEAD = "# CURVE public certificate: may be given to any peer that is to trust its owner.\n"
_SECRET_HEAD = "# CURVE secret certificate: stays on this machine, readable by its owner alone.\n"


class CertificateError(InferentialError, ValueError):
    """A key file that cannot be used; the text names the file and what to do."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a key file holds.

    Attributes:
        public_key: 32 bytes.
        secret_key: 32 bytes; None in a public certificate.
        metadata: the lines of its metadata section, by name.
    """

    public_key: bytes
    secret_key: bytes | None = field(default=None, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)


def encode_z85(data: bytes) -> str:
    """Returns bytes as Z85: five characters for every four.

    Raises:
        ValueError: the number of bytes is no multiple of 4.
    """
    if len(data) % 4:
        raise ValueError(f"Z85 takes a multiple of 4 bytes, got {len(data)}")
    characters: list[str] = []
    for at in range(0, len(data), 4):
        number = int.from_bytes(data[at : at + 4], "big")
        characters.extend(_DIGITS[number // 85**power % 85] for power in (4, 3, 2, 1, 0))
    return "".join(characters)


def decode_z85(text: str) -> bytes:
    """Returns the bytes that Z85 text stands for.

    Raises:
        ValueError: it is not Z85.
    """
    if len(text) % 5:
        raise ValueError(f"Z85 has a multiple of 5 characters, got {len(text)}")
    data = bytearray()
    for at in range(0, len(text), 5):
        number = 0
        for character in text[at : at + 5]:
            if character not in _VALUES:
                raise ValueError(f"{character!r} is no character of Z85")
            number = number * 85 + _VALUES[character]
        if number >= 2**32:
            raise ValueError(f"{text[at : at + 5]!r} is no group of Z85")
        data += number.to_bytes(4, "big")
    return bytes(data)


def decode_key(text: str, what: str) -> bytes:
    """Returns the key that 40 characters of Z85 stand for.

    Args:
        text: the characters.
        what: names the key in an error.

    Raises:
        CertificateError: it is no key.
    """
    if len(text) != _KEY_CHARACTERS:
        raise CertificateError(f"{what}: expected {_KEY_CHARACTERS} characters of Z85, got {len(text)}")
    try:
        return decode_z85(text)
    except ValueError as error:
        raise CertificateError(f"{what}: {error}") from error


def read_certificate(path: str | Path) -> Certificate:
    """Reads a key file.

    Raises:
        CertificateError: it cannot be read, has no public key, or has a secret key that others may read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CertificateError(f"key file {path}: {reason}") from error
    sections: dict[str, dict[str, str]] = {}
    for section, name, value in _lines(text):
        sections.setdefault(section, {})[name] = value
    keys = sections.get("curve", {})
    if "public-key" not in keys:
        raise CertificateError(f"key file {path}: it has no line 'public-key = \"...\"' under 'curve'")
    secret = keys.get("secret-key")
    if secret is not None and mode & _OTHERS:
        raise CertificateError(
            f"key file {path}: others may read its secret key (mode {stat.S_IMODE(mode):04o}); "
            f"run 'chmod 600 {path}', and make a new key if others use this machine"
        )
    return Certificate(
        decode_key(keys["public-key"], f"key file {path}: public-key"),
        None if secret is None else decode_key(secret, f"key file {path}: secret-key"),
        sections.get("metadata", {}),
    )


def _lines(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields the settings of a file in ZPL (https://rfc.zeromq.org/spec/4/): section, name, value."""
    section = ""
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if equals:
            yield section, name.strip(), value.strip().strip("\"'")
        elif not line[0].isspace():
            section = stripped


def check_new(folder: str | Path, name: str) -> tuple[Path, Path]:
    """Returns where the files NAME.key and NAME.key_secret go.

    Raises:
        FileExistsError: one of them is there; keys are not overwritten.
    """
    public_path, secret_path = Path(folder, name + PUBLIC_SUFFIX), Path(folder, name + SECRET_SUFFIX)
    for path in (public_path, secret_path):
        if path.exists():
            raise FileExistsError(f"{path} exists; keys are not overwritten")
    return public_path, secret_path


def write_certificates(
    folder: str | Path, name: str, public_key: bytes, secret_key: bytes, metadata: Mapping[str, str] | None = None
) -> tuple[Path, Path]:
    """Writes NAME.key and NAME.key_secret; returns their paths.

    The secret one is never readable by others, not even for the moment of its making.

    Raises:
        FileExistsError: one of them is there; keys are not overwritten.
        OSError: the folder cannot be written to.
    """
    public_path, secret_path = check_new(folder, name)
    section = "metadata\n" + "".join(f'    {key} = "{value}"\n' for key, value in (metadata or {}).items())
    public = f'curve\n    public-key = "{encode_z85(public_key)}"\n'
    secret = f'    secret-key = "{encode_z85(secret_key)}"\n'
    _write(secret_path, _SECRET_HEAD + section + public + secret, 0o600)
    try:
        _write(public_path, _PUBLIC_HEAD + section + public, 0o644)
    except OSError:
        secret_path.unlink()
        raise
    return public_path, secret_path


def _write(path: Path, text: str, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise FileExistsError(f"{path} exists; keys are not overwritten") from error
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:  # such as a full disk: half a file would be in the way of the next try
        path.unlink()
        raise
