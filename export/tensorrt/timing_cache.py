"""What TensorRT measured of its kernels in earlier builds, on disk: the next build takes less time.

The file is keyed by what the measurements depend on, the library's version and the GPU. Its content is
TensorRT's own, which refuses what does not belong to it; then a new one is begun.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgecnn.files import write_atomic
from edgecnn.gpu import read_gpu

__all__ = ["TimingCache"]


class TimingCache:
    """A file of measured kernels.

    Args:
        wanted: its path; None for one in `folder`; False for none.
        folder: for a path of our own choice.
        library: name and version of the library.
        used: False for a library that measures nothing.
    """

    def __init__(self, wanted: str | bool | None, *, folder: str, library: str, used: bool = True) -> None:
        self.path: Path | None = None
        if not used or wanted is False:
            return
        if isinstance(wanted, str):
            self.path = Path(wanted)
            return
        gpu = read_gpu()
        name = f"{library}-{gpu.name}-{gpu.compute_capability}" if gpu else f"{library}-no-gpu"
        plain = "".join(c if c.isalnum() or c in ".-_" else "_" for c in name)
        self.path = Path(folder, f"{plain}.timing")

    def load(self, config: Any) -> None:
        """Give what is there to a builder's configuration, or begin a new cache."""
        if self.path is None:
            return
        try:
            content = self.path.read_bytes()
        except OSError:  # none yet, or none that can be read: it only makes builds faster
            content = b""
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):  # of another version or GPU
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def save(self, config: Any) -> str | None:
        """Keep what a build measured; the reason in words where that failed, since the plan is there."""
        cache = config.get_timing_cache() if self.path is not None else None
        if self.path is None or cache is None:
            return None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, bytes(cache.serialize()), force=True)
        except OSError as error:
            return f"the timing cache was not kept: {error}"
        return None
