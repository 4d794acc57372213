"""Built models in the user's cache folder, found by what they were built from.

    <cache>/engines/<SHA-256 of the key>/model.engine, model.engine.json, entry.json
    <cache>/engines/lock                     held while one process builds
    <cache>/engines/.building-…              a build under way, renamed when it is whole

The key says everything that the result depends on, so nothing in here can be out of date: something else is
simply not found. `entry.json` holds the key, for people, and size and hash of each file: an entry that is
damaged is built again. One process builds at a time, since TensorRT measures kernels while it builds and
two at once would disturb each other and share the memory; whoever waited finds what the other one built. The
lock is the kernel's, so a process that crashed holds none. After each build the least recently used entries
go until at most 4 GB are left.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.errors import OutputError
from edgecnn.files import sha256_file, write_atomic
from edgecnn.progress import Progress, no_progress

__all__ = ["LIMIT_BYTES", "CacheEntry", "EngineCache", "cache_folder"]

LIMIT_BYTES = 4 * 10**9

_ENTRY = "entry.json"
_BUILDING = ".building-"
_DIGEST = re.compile("[0-9a-f]{64}")


def cache_folder() -> Path:
    """For what can be made again: `$EDGECNN_CACHE`, else `edgecnn` in the user's cache folder."""
    own = os.environ.get("EDGECNN_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "edgecnn")
    return base.expanduser().absolute()


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """A built model.

    Attributes:
        model: its file.
        key: what it was built from.
        size_bytes: of all its files.
        used_at: when it was last found, in seconds since 1970.
    """

    model: Path
    key: Mapping[str, Any]
    size_bytes: int
    used_at: float

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**vars(self), "model": str(self.model), "key": dict(self.key)}


class EngineCache:
    """The cache. Safe from any thread and any number of processes.

    Args:
        folder: `engines` in `cache_folder()` where None.
        limit_bytes: what may stay after a build; the newest entry stays in any case.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self.folder = cache_folder() / "engines" if folder is None else Path(folder)
        self._limit_bytes = limit_bytes

    def fetch(
        self,
        key: Mapping[str, Any],
        name: str,
        build: Callable[[Path], object],
        *,
        progress: Progress = no_progress,
    ) -> Path:
        """The model that was built from `key`, which is built now if there is none.

        Args:
            key: what the result depends on, all of it; plain values.
            name: of the model's file in the entry, such as `model.engine`.
            build: writes it to the path that it gets, and what belongs to it into the same folder. What it
                raises comes through, and leaves nothing.
            progress: hears of waiting for another process.

        Raises:
            OutputError: the folder cannot be written.
        """
        found = self._find(key, name)
        if found is not None:
            return found
        with self._locked(progress):
            found = self._find(key, name)  # another process may have built it meanwhile
            if found is not None:
                return found
            self._remove_remains()
            entry = self.folder / _digest(key)
            building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=self.folder))
            try:
                build(building / name)
                files = {
                    path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
                    for path in sorted(building.iterdir())
                }
                content = {"key": key, "model": name, "files": files}
                write_atomic(building / _ENTRY, json.dumps(content, indent=2, sort_keys=True).encode())
                shutil.rmtree(entry, ignore_errors=True)  # a damaged one
                building.rename(entry)
            finally:
                shutil.rmtree(building, ignore_errors=True)
            self._prune(keep=entry)
        return entry / name

    def discard(self, key: Mapping[str, Any]) -> None:
        """Remove what was built from `key`: it is whole, and the library refuses it."""
        with self._locked(no_progress):
            shutil.rmtree(self.folder / _digest(key), ignore_errors=True)

    def entries(self) -> list[CacheEntry]:
        """What is there, the most recently used first."""
        found = []
        for path in self.folder.glob(f"{'[0-9a-f]' * 64}/{_ENTRY}"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                content = json.loads(path.read_bytes())
                found.append(
                    CacheEntry(
                        model=path.parent / content["model"],
                        key=content["key"],
                        size_bytes=_size(path.parent),
                        used_at=path.stat().st_mtime,
                    )
                )
        return sorted(found, key=lambda entry: -entry.used_at)

    def clear(self) -> int:
        """Remove everything; returns how many bytes that was."""
        if not self.folder.is_dir():
            return 0
        with self._locked(no_progress):
            before = _size(self.folder)
            self._remove_remains()
            for entry in self.entries():
                shutil.rmtree(entry.model.parent, ignore_errors=True)
            return before - _size(self.folder)

    def _find(self, key: Mapping[str, Any], name: str) -> Path | None:
        """The whole and undamaged file, which counts as used now."""
        entry = self.folder / _digest(key)
        try:
            content = json.loads((entry / _ENTRY).read_bytes())
            for file, known in content["files"].items():
                path = entry / file
                if path.stat().st_size != known["bytes"] or sha256_file(path) != known["sha256"]:
                    return None
            if name not in content["files"]:
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none there, or damaged
            return None
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(entry / _ENTRY)
        return entry / name

    @contextlib.contextmanager
    def _locked(self, progress: Progress) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise OutputError(
                f"the cache {self.folder} cannot be written",
                got=os.strerror(error.errno or 0),
                remedy="Set EDGECNN_CACHE to another folder, or build to a file with `edgecnn build`",
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for another process that builds", 0, None)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # which gives the lock back

    def _remove_remains(self) -> None:
        """What processes that were killed have left, and what is damaged: the lock is ours, so nobody builds.

        Folders of other names are not ours.
        """
        whole = {entry.model.parent for entry in self.entries()}
        for path in self.folder.iterdir():
            if path.name.startswith(_BUILDING) or (_DIGEST.fullmatch(path.name) and path not in whole):
                shutil.rmtree(path, ignore_errors=True)

    def _prune(self, keep: Path) -> None:
        total = 0
        for entry in self.entries():
            total += entry.size_bytes
            if total > self._limit_bytes and entry.model.parent != keep:
                shutil.rmtree(entry.model.parent, ignore_errors=True)


def _digest(key: Mapping[str, Any]) -> str:
    text = json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
