"""Writing files so that nothing is lost: never half a file, never over another one unasked.

A file is written under a temporary name in the folder where it will end up, flushed to the disk, and
renamed into place in one step. A crash, Ctrl-C or a full disk leaves what was there before.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgecnn.errors import OutputError, OutputExistsError

__all__ = ["atomic_output", "check_output", "sha256_file", "write_atomic"]


def check_output(
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    inputs: Iterable[str | os.PathLike[str] | None] = (),
) -> Path:
    """Refuse an output path early, before any long work.

    Args:
        path: of the file that is to be written.
        force: overwrite it.
        inputs: what the work reads or writes besides, and must not overwrite even so.

    Raises:
        OutputExistsError: something is there and `force` is false.
        OutputError: it is a folder or a device, its folder is missing or not writable, or it is an input.
    """
    target = Path(path)
    try:
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except OSError as error:
        raise OutputError(f"cannot write {target}", got=os.strerror(error.errno or 0)) from error
    if mode is not None and not stat.S_ISREG(mode):  # renaming over /dev/null would replace it for everyone
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise OutputError(f"cannot write {target}", got=kind, expected="a file name")
    if not target.parent.is_dir():
        raise OutputError(
            f"cannot write {target}", got=f"no folder {target.parent}", remedy=f"mkdir -p {target.parent}"
        )
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"cannot write {target}", got=f"no permission to write in {target.parent}")
    if mode is not None and not force:
        raise OutputExistsError(f"{target} exists", remedy="Use --force (force=True) to overwrite it")
    real = os.path.realpath  # Path.resolve() raises where links go round in a circle
    if any(real(target) == real(other) for other in inputs if other is not None):
        raise OutputError(f"cannot write {target}", got="a path that is given twice", expected="another file")
    return target


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes `path`, on any exception it is removed.

    The temporary name keeps the suffix, since writers such as OpenCV's choose the format by it.

    Raises:
        OutputExistsError, OutputError: as `check_output`, and where the writing itself failed
            (disk full, file too large, input/output error).
    """
    target = check_output(path, force=force)
    temporary = target.with_name(f".edgecnn-{secrets.token_hex(8)}{target.suffix}")
    try:
        # with the permissions that any new file gets, which tempfile would not give it
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        check_output(target, force=force)  # again: a file may have appeared meanwhile
        temporary.replace(target)
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in _WRITE_FAILURES:
            raise
        raise OutputError(
            f"cannot write {target}",
            got=os.strerror(error.errno or 0),
            remedy="What was there before is as it was",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


_WRITE_FAILURES = {
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG, errno.ENOSPC, errno.EPERM,
    errno.EROFS,
}  # fmt: skip


def write_atomic(path: str | os.PathLike[str], data: bytes, *, force: bool = False) -> Path:
    """Write `data` to `path`, whole or not at all. Raises as `atomic_output`."""
    with atomic_output(path, force=force) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
