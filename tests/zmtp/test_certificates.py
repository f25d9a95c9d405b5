"""Key files: the same ones that ZeroMQ's own tools read and write."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq.auth
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from inferential.zmtp import certificates as c
from inferential.zmtp import curve

KEYS = curve.key_pair(os.urandom)


@given(st.binary(max_size=64).map(lambda data: data[: len(data) // 4 * 4]))
def test_z85_is_the_one_of_pyzmq(data: bytes) -> None:
    text = c.encode_z85(data)
    assert text.encode() == z85.encode(data)
    assert c.decode_z85(text) == data


@given(st.text(max_size=15))
def test_text_that_is_not_z85_raises_a_value_error(text: str) -> None:
    try:
        data = c.decode_z85(text)
    except ValueError:
        return
    assert c.encode_z85(data) == text


def test_pyzmq_reads_what_is_written(tmp_path: Path) -> None:
    public, secret = c.write_certificates(tmp_path, "arm-01", KEYS.public, KEYS.secret, {"owner": "lab"})
    assert zmq.auth.load_certificate(public) == (z85.encode(KEYS.public), None)
    assert zmq.auth.load_certificate(secret) == (z85.encode(KEYS.public), z85.encode(KEYS.secret))
    assert c.read_certificate(public) == c.Certificate(KEYS.public, None, {"owner": "lab"})
    assert c.read_certificate(secret) == c.Certificate(KEYS.public, KEYS.secret, {"owner": "lab"})


def test_what_pyzmq_writes_is_read_once_its_secret_is_private(tmp_path: Path) -> None:
    public, secret = map(Path, zmq.auth.create_certificates(tmp_path, "arm-01", {"owner": "lab"}))
    secret.chmod(0o600)
    read = c.read_certificate(secret)
    assert read.public_key == c.read_certificate(public).public_key == curve.public_key(read.secret_key or b"")
    assert read.metadata == {"owner": "lab"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_secret_key_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    _, secret = c.write_certificates(tmp_path, "arm-01", KEYS.public, KEYS.secret)
    secret.chmod(mode)
    with pytest.raises(c.CertificateError, match=f"mode {mode:04o}.*chmod 600 {secret}"):
        c.read_certificate(secret)


def test_a_secret_key_is_written_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        public, secret = c.write_certificates(tmp_path, "arm-01", KEYS.public, KEYS.secret)
    finally:
        os.umask(before)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644


@contextmanager
def full_disk() -> Iterator[None]:
    """No file grows beyond ten bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_no_half_of_a_key(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(OSError, match="File too large"):
        c.write_certificates(tmp_path, "arm-01", KEYS.public, KEYS.secret)
    assert list(tmp_path.iterdir()) == []
    c.write_certificates(tmp_path, "arm-01", KEYS.public, KEYS.secret)


@pytest.mark.parametrize("suffix", [c.PUBLIC_SUFFIX, c.SECRET_SUFFIX])
def test_keys_are_never_overwritten(tmp_path: Path, suffix: str) -> None:
    there = tmp_path / f"arm-01{suffix}"
    there.write_text("older")
    with pytest.raises(FileExistsError, match=f"{there} exists"):
        c.write_certificates(tmp_path, "arm-01", KEYS.public, KEYS.secret)
    assert there.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == [there.name]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no line 'public-key"),
        ("curve\n", "no line 'public-key"),
        ('metadata\n    public-key = "x"\n', "no line 'public-key"),
        ('curve\n    public-key = "short"\n', "public-key: expected 40 characters of Z85, got 5"),
        (f'curve\n    public-key = "{"~" * 40}"\n', "public-key: '~' is no character of Z85"),
        (f'curve\n    public-key = "{"#" * 40}"\n', "public-key: '#####' is no group of Z85"),
    ],
)
def test_a_file_that_holds_no_key_is_refused_with_the_reason(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "arm-01.key"
    path.write_text(text)
    with pytest.raises(c.CertificateError) as refused:
        c.read_certificate(path)
    assert str(refused.value).startswith(f"key file {path}: ")
    assert says in str(refused.value)


def test_a_file_that_is_not_there_or_not_text_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(c.CertificateError, match=r"arm-01.key: No such file or directory"):
        c.read_certificate(tmp_path / "arm-01.key")
    (tmp_path / "arm-02.key").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(c.CertificateError, match=r"arm-02.key: it is not text"):
        c.read_certificate(tmp_path / "arm-02.key")


def test_a_secret_key_is_not_shown() -> None:
    assert repr(KEYS.secret) not in repr(c.Certificate(KEYS.public, KEYS.secret))
