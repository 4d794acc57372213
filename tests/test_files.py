from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgecnn.errors import OutputError, OutputExistsError
from edgecnn.files import atomic_output, check_output, sha256_file, write_atomic


def test_writes_the_bytes_and_nothing_else(tmp_path: Path) -> None:
    assert write_atomic(tmp_path / "a.bin", b"abc") == tmp_path / "a.bin"
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a.bin", b"abc")]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_the_temporary_file_keeps_the_suffix_and_is_hidden(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "clip.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        assert temporary.name.startswith(".")
        assert temporary.parent == tmp_path


def test_the_file_appears_only_at_the_end(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"half"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_output(target, force=True) as temporary:
            temporary.write_bytes(b"new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a", b"old")]


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with pytest.raises(OutputExistsError, match="--force"):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    write_atomic(target, b"new", force=True)
    assert target.read_bytes() == b"new"


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"old")
    for same in (source, tmp_path / "folder" / ".." / "a"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match="got a path that is given twice, expected another file"):
            check_output(same, force=True, inputs=(None, source))
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    assert check_output(tmp_path / "b", force=True, inputs=(None, source, circle)) == tmp_path / "b"


def test_a_file_that_appears_while_writing_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "a"

    def overtaken() -> None:
        with atomic_output(target) as temporary:
            temporary.write_bytes(b"ours")
            target.write_bytes(b"theirs")

    with pytest.raises(OutputExistsError):
        overtaken()
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a", b"theirs")]


def test_a_folder_is_no_file_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="got a folder"):
        check_output(tmp_path, force=True)


def test_a_missing_folder_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no folder .*/missing.*mkdir -p"):
        check_output(tmp_path / "missing" / "a")


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no folder"):
        check_output(tmp_path / "file" / "a")


def test_a_device_is_never_replaced() -> None:
    # Renaming a file over it would break /dev/null for the whole machine.
    with pytest.raises(OutputError, match="a device or pipe"):
        check_output("/dev/null", force=True)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=os.strerror(errno.ENAMETOOLONG)):
        check_output(tmp_path / ("a" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="permission"):
        check_output(tmp_path / "a")


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may, so the answer is planted
    with pytest.raises(OutputError, match="no permission to write"):
        check_output(tmp_path / "a")


_DISK_FULL = """
import resource, sys
from edgecnn.errors import OutputError
from edgecnn.files import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(sys.argv[1], b"x" * 5000, force=True)
except OutputError as error:
    print(error)
"""


def test_a_full_disk_is_reported_and_the_old_file_kept(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    command = [sys.executable, "-c", _DISK_FULL, str(target)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert (
        run.stdout.strip() == f"cannot write {target}: got File too large. What was there before is as it was"
    )
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a", b"old")]


def test_an_error_of_another_kind_is_not_disguised(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), atomic_output(tmp_path / "a"):
        raise ConnectionResetError(errno.ECONNRESET, "peer")


def test_sha256_of_a_file_longer_than_one_block(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000  # 1.28 MB
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
