"""The cache of built models: what is found, what is built once, what a crash leaves, what is removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn.engine_cache import EngineCache, cache_folder
from edgecnn.errors import OutputError

KEY = {"model": "abc", "precision": "int8"}


def writes(content: bytes) -> Callable[[Path], None]:
    def build(output: Path) -> None:
        output.write_bytes(content)
        output.with_name("notes.json").write_text("{}")

    return build


def never(output: Path) -> None:
    raise AssertionError("it was there")


def left(folder: Path) -> list[str]:
    """What is in the cache besides the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def test_built_once_and_found(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    path = cache.fetch(KEY, "model.engine", writes(b"plan"))
    assert path.read_bytes() == b"plan"
    assert cache.fetch(dict(reversed(KEY.items())), "model.engine", never) == path
    (entry,) = cache.entries()
    assert (entry.model, entry.key) == (path, KEY)
    assert entry.size_bytes > 6
    assert json.dumps(entry.to_dict())


@pytest.mark.parametrize("other", [{"precision": "fp16"}, {"model": "abd"}, {"option": None}])
def test_another_key_is_another_model(tmp_path: Path, other: dict[str, Any]) -> None:
    cache = EngineCache(tmp_path)
    first = cache.fetch(KEY, "model.engine", writes(b"first"))
    second = cache.fetch({**KEY, **other}, "model.engine", writes(b"second"))
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b"plaN"),
        lambda path: path.write_bytes(b"pl"),
        lambda path: path.unlink(),
        lambda path: path.with_name("notes.json").unlink(),
        lambda path: path.with_name("entry.json").write_text("{"),
        lambda path: path.with_name("entry.json").write_text('{"files": []}'),
        lambda path: path.with_name("entry.json").write_text('{"files": {}}'),
    ],
)
def test_a_damaged_entry_is_built_again(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    cache = EngineCache(tmp_path)
    harm(cache.fetch(KEY, "model.engine", writes(b"plan")))
    assert cache.fetch(KEY, "model.engine", writes(b"plan")).read_bytes() == b"plan"
    assert cache.fetch(KEY, "model.engine", never).read_bytes() == b"plan"


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)

    def fail(output: Path) -> None:
        output.write_bytes(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.fetch(KEY, "model.engine", fail)
    assert left(tmp_path) == []
    assert cache.fetch(KEY, "model.engine", writes(b"plan")).read_bytes() == b"plan"


def test_the_least_recently_used_goes(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit_bytes=2_500)
    paths = {name: cache.fetch({"model": name}, "m.onnx", writes(b"x" * 700)) for name in "ab"}
    for age, name in enumerate("ba"):  # b was used last
        os.utime(paths[name].with_name("entry.json"), (1e9 - age, 1e9 - age))
    cache.fetch({"model": "a"}, "m.onnx", never)  # and now a was
    cache.fetch({"model": "c"}, "m.onnx", writes(b"x" * 700))
    assert sorted(entry.key["model"] for entry in cache.entries()) == ["a", "c"]
    big = cache.fetch({"model": "d"}, "m.onnx", writes(b"x" * 9_000))  # more than the limit by itself
    assert [entry.model for entry in cache.entries()] == [big]


def test_clear(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "cache")
    assert cache.clear() == 0
    cache.fetch(KEY, "model.engine", writes(b"plan"))
    size = cache.entries()[0].size_bytes
    own = tmp_path / "cache" / "my engines" / "entry.json"  # of somebody who keeps other things there
    own.parent.mkdir()
    own.write_text("{}")
    assert [entry.key for entry in cache.entries()] == [KEY]
    assert cache.clear() == size
    assert cache.entries() == []
    assert own.exists()


def test_damaged_entries_go_with_the_next_build(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.fetch(KEY, "model.engine", writes(b"plan")).with_name("entry.json").write_text("{")
    (tmp_path / ".building-killed").mkdir()
    other = cache.fetch({"model": "other"}, "model.engine", writes(b"plan"))
    assert left(tmp_path) == [other.parent.name]


def test_a_key_is_discarded(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.fetch(KEY, "model.engine", writes(b"one"))
    cache.discard(KEY)
    assert cache.fetch(KEY, "model.engine", writes(b"two")).read_bytes() == b"two"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="EDGECNN_CACHE"):
        EngineCache(tmp_path / "file" / "cache").fetch(KEY, "model.engine", never)


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGECNN_CACHE", raising=False)
    assert cache_folder() == tmp_path / "edgecnn"
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "own"))
    assert EngineCache().folder == tmp_path / "own" / "engines"


# A process that builds until it is told to end, and says when it begins.
BUILDER = """
import sys
from pathlib import Path
from edgecnn.engine_cache import EngineCache

def build(output):
    output.write_bytes(b"half")
    print("building", flush=True)
    sys.stdin.readline()
    output.write_bytes(b"plan")

def waiting(stage, done, total):
    print("waiting", flush=True)

try:
    path = EngineCache(sys.argv[1]).fetch({"model": "abc"}, "model.engine", build, progress=waiting)
    print(path.read_bytes().decode(), flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def builder(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_processes_build_once(tmp_path: Path) -> None:
    first = builder(tmp_path)
    others = []
    try:
        assert says(first) == "building"
        others = [builder(tmp_path) for _ in range(3)]
        assert [says(other) for other in others] == ["waiting"] * 3
        first.communicate("go on\n")
        assert [says(other) for other in others] == ["plan"] * 3
    finally:
        for process in (first, *others):
            end(process)
    assert len(left(tmp_path)) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_dies_holds_nobody_up(tmp_path: Path, number: int) -> None:
    first, second = builder(tmp_path), builder(tmp_path)
    try:
        states = {says(first): first, says(second): second}
        assert set(states) == {"building", "waiting"}
        states["building"].send_signal(number)
        if number == signal.SIGINT:
            assert says(states["building"]) == "interrupted"
        assert says(states["waiting"]) == "building"
        out, _ = states["waiting"].communicate("go on\n")
        assert out.strip() == "plan"
    finally:
        end(first)
        end(second)
    assert len(left(tmp_path)) == 1  # no remains of the other one


def test_ctrl_c_while_waiting(tmp_path: Path) -> None:
    first = builder(tmp_path)
    second = None
    try:
        assert says(first) == "building"
        second = builder(tmp_path)
        assert says(second) == "waiting"
        second.send_signal(signal.SIGINT)
        assert says(second) == "interrupted"
    finally:
        for process in filter(None, (first, second)):
            end(process)
