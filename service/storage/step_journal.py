"""Marks of running steps that outlive the process, and counts of how often each stream's steps have ended it."""

import fcntl
import json
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.telemetry.logs import log

SUFFIX = ".journal"
COUNTS, LOCK = "counts.json", "lock"


class StepJournal:
    """Marks the streams whose steps run, in this process's journal, and counts the marks that dead processes left.

    A mark is written without waiting for the disk: it must survive the process, but not the machine. Faults of the
    folder are logged and stop no step.

    Args:
        folder: Holds journals and counts; None to count in memory only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._counts: dict[str, int] = {}
        self._changing, self._marking = threading.Lock(), threading.Lock()
        self._path: Path | None = None
        self._file: int | None = None
        if folder is not None:
            try:
                self._open(folder)
            except OSError as error:
                log.warning("steps_not_journalled", reason=str(error))

    def count(self, stream_id: str) -> int:
        """Return how often a stream's steps have ended a process since its count was last cleared."""
        return self._counts.get(stream_id, 0)

    def set_count(self, stream_id: str, count: int) -> None:
        """Store another count; 0 removes it."""
        with self._changing:
            _put(self._counts, stream_id, count)
            if self._folder is None or self._file is None:
                return
            try:
                with _locked(self._folder):  # processes that share the folder may have changed other streams' counts
                    kept = _read(self._folder)
                    _put(kept, stream_id, count)
                    _write(self._folder, kept)
            except OSError as error:
                log.warning("step_count_not_kept", stream=stream_id, reason=str(error))

    @contextmanager
    def under_way(self, stream_ids: Iterable[str]) -> Iterator[None]:
        """Mark streams while the block runs, on the worker, one block at a time."""
        self._mark(stream_ids)
        try:
            yield
        finally:
            self._mark(())

    def close(self) -> None:
        """Remove this process's journal, since the process ends in order."""
        with self._marking:  # a step that hangs at the stop may still end at any moment
            file, self._file = self._file, None
            if file is not None and self._path is not None:
                self._path.unlink(missing_ok=True)
                os.close(file)

    def _open(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            self._counts = _read(folder)
            dead = _dead_journals(folder)
            marked = [stream_id for _, stream_ids in dead for stream_id in stream_ids]
            for stream_id in marked:
                self._counts[stream_id] = self.count(stream_id) + 1
                log.warning("step_ended_process", stream=stream_id, times=self._counts[stream_id])
            if marked:
                _write(folder, self._counts)
            for path, _ in dead:
                path.unlink(missing_ok=True)
            self._path = folder / f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            self._file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)  # the lock ends with the process

    def _mark(self, stream_ids: Iterable[str]) -> None:
        try:
            with self._marking:
                if self._file is not None:  # readers ignore everything after the first line
                    os.pwrite(self._file, " ".join(stream_ids).encode() + b"\n", 0)
        except OSError as error:
            log.warning("steps_not_journalled", reason=str(error))
            self.close()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the counts while the block runs."""
    handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _dead_journals(folder: Path) -> list[tuple[Path, list[str]]]:
    """Return the journals of dead processes, with the streams whose steps were running."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        handle = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            line, end, _ = path.read_bytes().partition(b"\n")
            found.append((path, line.decode(errors="replace").split() if end else []))
        except BlockingIOError:  # its process lives
            continue
        finally:
            os.close(handle)
    return found


def _read(folder: Path) -> dict[str, int]:
    """Return the stored counts; none if the file is damaged."""
    try:
        kept = json.loads((folder / COUNTS).read_bytes())
        return {str(stream_id): int(count) for stream_id, count in kept.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        log.warning("step_counts_not_read", reason=str(error))
        return {}


def _write(folder: Path, counts: dict[str, int]) -> None:
    temporary = folder / f"{COUNTS}.new"
    temporary.write_text(json.dumps(counts))
    os.replace(temporary, folder / COUNTS)


def _put(counts: dict[str, int], stream_id: str, count: int) -> None:
    if count:
        counts[stream_id] = count
    else:
        counts.pop(stream_id, None)
