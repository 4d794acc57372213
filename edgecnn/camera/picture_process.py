"""A process that takes pictures from its stdin. It may die or hang: that costs an error message, no more."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from time import monotonic

__all__ = ["PictureProcess"]

_PIPE_BYTES = 1 << 20  # what Linux allows everyone; its usual 64 KB cost a switch of processes each
_CLOSE_S = 1.0


class PictureProcess:
    """A running process; what it says on stderr is kept.

    Args:
        command: the program and its arguments.
        environment: variables that it gets besides ours.

    Attributes:
        stdout: file descriptor of what it says.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                cwd="/",
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for us
                bufsize=0,
            )
        except BaseException:
            self._said.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self.stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def send(self, data: bytes | memoryview, *, within_s: float) -> None:
        """Write everything.

        Raises:
            BrokenPipeError: it does not listen any more.
            TimeoutError: it does not listen now.
        """
        rest = memoryview(data)
        deadline = monotonic() + within_s
        while rest:
            if not select.select([], [self._stdin], [], max(0.0, deadline - monotonic()))[1]:
                raise TimeoutError
            rest = rest[os.write(self._stdin, rest) :]

    def last_words(self, *about: str) -> str:
        """The first line it said that has one of these words, else the last line that it said."""
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").splitlines()
        lines = [line.strip() for line in said if line.strip()]
        found = [line for line in lines if any(word in line for word in about)]
        return (found or lines[-1:] or ["a process that ended"])[0]

    def close(self) -> None:
        """Let it end, by closing its stdin, or end it."""
        if self._process.returncode is not None:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()
