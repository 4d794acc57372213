"""`edgecnn cache`: the engines that were built when models were loaded."""

from __future__ import annotations

from datetime import datetime

import click

from edgecnn.cli.common import emit, example_help, json_option, print_table

__all__ = ["command"]


@click.command("cache", epilog=example_help("edgecnn cache\nedgecnn cache --clear"))
@click.option("--clear", is_flag=True, help="Remove everything in it.")
@json_option
def command(*, clear: bool, as_json: bool) -> None:
    """Show what loading a model with a precision has built, or remove it.

    EDGECNN_CACHE names another folder than the user's.
    """
    from edgecnn.engine_cache import LIMIT_BYTES, EngineCache

    cache = EngineCache()
    removed = cache.clear() if clear else 0
    entries = cache.entries()
    total = sum(entry.size_bytes for entry in entries)
    rows = [
        (
            entry.key.get("model", "")[:12],
            entry.key.get("precision"),
            f"{entry.key.get('library')} {entry.key.get('version')}",
            (entry.key.get("gpu") or {}).get("name", "–"),
            f"{entry.size_bytes / 1e6:.1f}",
            datetime.fromtimestamp(entry.used_at).astimezone().strftime("%Y-%m-%d %H:%M"),
        )
        for entry in entries
    ]
    title = f"{cache.folder}: {total / 1e6:.1f} MB of at most {LIMIT_BYTES / 1e9:.0f} GB"
    if clear:
        title += f", {removed / 1e6:.1f} MB removed"
    header = ("model's SHA-256", "precision", "library", "GPU", "MB", "last used")
    print_table(title, rows, header, as_json=as_json, align="left")
    emit(
        {
            "path": str(cache.folder),
            "size_bytes": total,
            "limit_bytes": LIMIT_BYTES,
            "removed_bytes": removed,
            "entries": [entry.to_dict() for entry in entries],
        },
        as_json,
    )
