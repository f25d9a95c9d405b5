"""The folder of the clients' keys: NAME.key of each, whose id is NAME."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from inferential.zmtp.certificates import PUBLIC_SUFFIX, CertificateError, read_certificate

_MAX_ID_BYTES = 255  # of an identity


class ClientKeys:
    """Knows whose each key is.

    Args:
        folder: has a file NAME.key for each client; files with other names are ignored.

    Raises:
        CertificateError: the folder cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._keys: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}
        self.problems: list[str] = self._read()
        """What is wrong with files of the folder, found by the last reading."""

    def name_of(self, key: bytes) -> str | None:
        """Returns the name of the client with a key; None if there is none."""
        return self._names.get(key)

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def reload(self) -> bool:
        """Reads the folder again; returns whether a key has changed.

        A file that cannot be read, as one that is just being written, keeps the key that it had.

        Raises:
            CertificateError: the folder cannot be read; all keys stay.
        """
        before = dict(self._keys)
        self.problems = self._read()
        return before != self._keys

    def _read(self) -> list[str]:
        keys, problems = read_folder(self._folder, self._keys)
        self._keys = keys
        self._names = {key: name for name, key in keys.items()}
        return problems


def read_folder(folder: Path, before: Mapping[str, bytes]) -> tuple[dict[str, bytes], list[str]]:
    """Returns the keys in a folder by name, and what is wrong with files in it.

    Args:
        folder: with files NAME.key.
        before: the keys that files which cannot be read had before.

    Raises:
        CertificateError: it cannot be read, or others than its owner's group may write to it.
    """
    keys: dict[str, bytes] = {}
    problems: list[str] = []
    if os.name == "posix" and folder.is_dir() and folder.stat().st_mode & stat.S_IWOTH:
        raise CertificateError(
            f"folder {folder}: others may write to it, and let in whom they like: chmod o-w {folder}"
        )
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == PUBLIC_SUFFIX)
    except OSError as error:
        raise CertificateError(f"folder {folder}: {error.strerror}") from error
    owners: dict[bytes, str] = {}
    for path in paths:
        name = path.name.removesuffix(PUBLIC_SUFFIX)
        try:
            check_name(name)
            key = read_certificate(path).public_key
        except CertificateError as error:
            problems.append(str(error))
            if name not in before:
                continue
            key = before[name]
        if key in owners:
            problems.append(f"key file {path}: it has the key of {owners[key]}; each client needs one of its own")
            continue
        owners[key] = name
        keys[name] = key
    return keys, problems


def check_name(name: str) -> None:
    """Checks that a name can be a client's id, and a file's name.

    Raises:
        CertificateError: it cannot.
    """
    if not name or not name.isprintable() or "/" in name or name.startswith(".") or len(name.encode()) > _MAX_ID_BYTES:
        raise CertificateError(f"name {name!r}: expected 1 to {_MAX_ID_BYTES} bytes of printable text, without '/'")
