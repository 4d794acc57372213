"""`python -m edgecnn` is `edgecnn`, for where the script is not on the path."""

from __future__ import annotations

from edgecnn.cli import entry_point

if __name__ == "__main__":
    entry_point()
