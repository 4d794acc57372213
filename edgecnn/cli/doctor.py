"""`edgecnn doctor`: what this machine has and lacks, and how to get it."""

from __future__ import annotations

import click

from edgecnn.cli.common import emit, example_help, json_option, print_table

__all__ = ["command"]

_MARKS = {"ok": "✓", "missing": "–", "warning": "!"}


@click.command("doctor", epilog=example_help("edgecnn doctor\nedgecnn doctor --json"))
@json_option
def command(as_json: bool) -> int:
    """Show what this machine has, what it lacks, and how to get it.

    Exit code 1 where it cannot run any model.
    """
    from edgecnn import __version__
    from edgecnn.doctor import examine

    findings = examine()
    rows = [
        (f"{_MARKS[entry.state]} {entry.name}", entry.found, entry.needed_for, entry.remedy)
        for entry in findings
    ]
    header = ("", "found", "needed for", "remedy")
    print_table(f"edgecnn {__version__}", rows, header, as_json=as_json, align="left")
    there = {entry.name for entry in findings if entry.state != "missing"}
    can_run = {"OpenCV", "ONNX Runtime"} <= there
    can_prepare = can_run and {"torch", "onnx", "onnxscript", "onnx-ir"} <= there
    able = (("run models", can_run), ("export and calibrate", can_prepare))
    verdicts = [f"{verb}: {'yes' if can else 'no'}" for verb, can in able]
    click.echo("This machine can " + ", ".join(verdicts), err=as_json)
    report = [entry.to_dict() for entry in findings]
    emit(
        {"edgecnn": __version__, "can_run": can_run, "can_prepare": can_prepare, "findings": report}, as_json
    )
    return 0 if can_run else 1
