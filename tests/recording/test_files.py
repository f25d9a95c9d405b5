"""The files of a recording, written without a server: what a disk, a clock and other servers do to them."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mcap")

from mcap.writer import Writer

from inferential.observation.slots import ObservationError
from inferential.proto import Observation
from inferential.recording import files as files_module
from inferential.recording.cameras import Images
from inferential.recording.entries import Entry
from inferential.recording.files import RecordingFiles
from inferential.recording.reading import Recorded, read_recording

KEEP = Images()
HOUR_NS = 3_600_000_000_000


class Requests:
    """Makes entries, each a millisecond after the one before; all have noise of so many bytes."""

    def __init__(self, noise: int = 100_000) -> None:
        self._random, self._size = np.random.default_rng(2), noise
        self._count = 0
        self.clock_ns = HOUR_NS

    def next(self, client_id: str = "arm", **changes: Any) -> Entry:
        self._count += 1
        observation = Observation(model_id="pi0")
        observation.tensors.add(key="noise", dtype=5, shape=[self._size], byte_length=self._size)
        at_ns = self._count * 1_000_000
        common = {"client_id": client_id, "client_type": "", "model_id": "pi0", "session": "1-0", "request_id": 7}
        fields: dict[str, Any] = {
            "envelope": observation.SerializeToString(),
            "payload": self._random.bytes(self._size),
            **changes,
        }
        return Entry(
            at_ns, at_ns, self.clock_ns, self._count, common, {}, {"end": "answered"}, result_envelope=None,
            result_payload=b"", **fields,
        )  # fmt: skip


def files_of(folder: Path, split: int = 1 << 40, keep: int = 1 << 50) -> RecordingFiles:
    found = RecordingFiles(folder)
    found.limit(split, keep)
    return found


def recorded(folder: Path) -> list[list[Recorded]]:
    return [list(read_recording(path)) for path in sorted(folder.glob("*.mcap"))]


def test_a_request_is_never_split_between_two_files(tmp_path: Path) -> None:
    files, requests = files_of(tmp_path, split=300_000), Requests()
    for _ in range(20):
        files.write(requests.next(), KEEP)
    files.close()
    found = recorded(tmp_path)
    assert len(found) > 3
    assert sum(map(len, found)) == 20
    assert all(one.observation is not None for some in found for one in some)


def test_all_files_together_take_no_more_than_is_kept_however_large_each_may_be(tmp_path: Path) -> None:
    files, requests = files_of(tmp_path, split=1 << 30, keep=3_000_000), Requests()
    for _ in range(100):
        files.write(requests.next(), KEEP)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3_000_000
    files.close()
    assert sum(map(len, recorded(tmp_path))) >= 10


def test_a_clock_that_is_put_back_deletes_no_newer_file_before_an_older_one(tmp_path: Path) -> None:
    files, requests = files_of(tmp_path, split=300_000, keep=1_000_000), Requests()
    begun: list[Path] = []
    for _ in range(30):
        files.write(requests.next(), KEEP)
        for path in tmp_path.iterdir():
            if path not in begun:
                begun.append(path)
                os.utime(path, (1e9 - len(begun), 1e9 - len(begun)))
    files.close()
    present = set(tmp_path.iterdir())
    assert len(begun) > len(present) > 1
    assert present == set(begun[-len(present) :])


def test_a_name_that_is_taken_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "2026-11-29T12-00-00")
    for _ in range(3):  # servers, one after another
        files = files_of(tmp_path)
        files.write(Requests().next(), KEEP)
        files.close()
    assert [len(some) for some in recorded(tmp_path)] == [1, 1, 1]


def test_two_servers_with_one_folder_do_not_delete_what_the_other_writes(tmp_path: Path) -> None:
    first, requests = files_of(tmp_path), Requests()
    first.write(requests.next(), KEEP)
    first.write(requests.next(), KEEP)
    second = files_of(tmp_path, split=300_000, keep=700_000)
    for _ in range(20):
        second.write(requests.next(), KEEP)
        first.write(requests.next(), KEEP)
    first.close()
    second.close()
    assert len(recorded(tmp_path)[0]) == 22


def test_what_another_server_has_just_deleted_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "2026-11-29T12-00-00-001.mcap"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([gone]))
    files = files_of(tmp_path)
    files.write(Requests().next(), KEEP)
    files.close()


def test_only_files_of_recordings_are_deleted(tmp_path: Path) -> None:
    mine = tmp_path / "good run.mcap"
    mine.write_bytes(bytes(2_000_000))
    os.utime(mine, (0, 0))
    files, requests = files_of(tmp_path, split=300_000, keep=1_000_000), Requests()
    for _ in range(20):
        files.write(requests.next(), KEEP)
    files.close()
    assert mine.exists()


def test_a_file_that_is_deleted_while_it_is_written_is_an_error_and_a_new_one_begun(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    files, requests = files_of(folder), Requests()
    files.write(requests.next(), KEEP)
    (path,) = folder.iterdir()
    path.unlink()
    folder.rmdir()
    with pytest.raises(OSError, match="was deleted while it was written"):
        files.write(requests.next(), KEEP)
    assert files.lost == 2
    files.write(requests.next(), KEEP)
    files.close()
    assert [len(some) for some in recorded(folder)] == [1]


def test_a_full_disk_leaves_no_empty_files_and_counts_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Writer):
        def add_message(self, *args: Any, **options: Any) -> None:
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().add_message(*args, **options)

    monkeypatch.setattr(files_module, "Writer", Full)
    full = False
    files, requests = files_of(tmp_path), Requests(1000)
    for _ in range(5):
        files.write(requests.next(), KEEP)
    full = True
    for lost in (6, 1, 1):
        with pytest.raises(OSError, match="No space left"):
            files.write(requests.next(), KEEP)
        assert files.lost == lost
    assert list(tmp_path.iterdir()) == []
    full = False
    files.write(requests.next(), KEEP)
    files.close()
    assert [len(some) for some in recorded(tmp_path)] == [1]


def test_a_step_of_the_clock_begins_a_new_file_and_times_in_each_are_in_order(tmp_path: Path) -> None:
    files, requests = files_of(tmp_path), Requests(10)
    for step_ns in (0, 0, 5_000_000, -HOUR_NS, 0, 0):  # adjusted slightly, then put back by an hour
        requests.clock_ns += step_ns
        files.write(requests.next(), KEEP)
    files.close()
    times = [[one.received_ns // 1_000_000 for one in some] for some in recorded(tmp_path)]
    hour = HOUR_NS // 1_000_000
    assert times == [[hour + 1, hour + 2, hour + 3], [5 + 4, 5 + 5, 5 + 6]]


def test_many_robots_with_ids_of_their_own_take_more_than_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "MOST_CHANNELS", 10)
    files, requests = files_of(tmp_path), Requests(10)
    for number in range(12):
        files.write(requests.next(f"robot-{number}"), KEEP)
    files.close()
    assert [len(some) for some in recorded(tmp_path)] == [5, 5, 2]


def test_thousands_of_robots_have_one_file(tmp_path: Path) -> None:
    files, requests = files_of(tmp_path), Requests(10)
    for number in range(5_200):
        files.write(requests.next(f"robot-{number}"), KEEP)
    files.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_read_is_an_error_and_leaves_no_part_of_it(tmp_path: Path) -> None:
    files, requests = files_of(tmp_path), Requests(10)
    files.write(requests.next(), KEEP)
    for changes in ({"envelope": b"\xff\xff"}, {"payload": b"short"}):
        with pytest.raises(ObservationError):
            files.write(requests.next(**changes), KEEP)
    files.write(requests.next(), KEEP)
    files.close()
    assert [len(some) for some in recorded(tmp_path)] == [2]
