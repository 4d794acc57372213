"""The program `edgecnn`, also as `python -m edgecnn`.

What the commands need is imported behind a `try`, so that Ctrl-C while Python is still importing ends like
any other Ctrl-C: with one line.
"""

from __future__ import annotations

import sys


def entry_point() -> None:
    """Run the command line and exit with its code."""
    try:
        from edgecnn.cli import entry_point as run

        run()
    except KeyboardInterrupt:
        print("edgecnn: error: interrupted", file=sys.stderr)  # noqa: T201 (nothing else is imported yet)
        sys.exit(1)
    finally:
        # CPython remembers a KeyboardInterrupt that left an exec(), as dataclasses use while they are
        # imported, and would exit by that signal although it was handled. The next exec() makes it forget.
        exec("")


if __name__ == "__main__":
    entry_point()
