"""`edgecnn doctor`: what this machine has and lacks, and how to get it."""

from __future__ import annotations

import click

from edgecnn.cli.common import emit, example_help, json_option, print_table

__all__ = ["command"]

_MARKS = {"ok": "✓", "missing": "–", "warning": "!"}


@click.command("doctor", epilog=example_help("edgecnn doctor\nedgecnn doctor --json"))
@json_option
def command(as_json: bool) -> int:
    """Show what this machine has of what edgecnn can use, what it lacks, and the command that gets it.

    Exit code 1 where it cannot run any model.
    """
    from edgecnn import __version__
    from edgecnn.doctor import examine

    findings = examine()
    rows = [
        (f"{_MARKS[finding.state]} {finding.name}", finding.found, finding.needed_for, finding.remedy) for finding in findings
    ]
    print_table(f"edgecnn {__version__}", rows, ("", "found", "needed for", "remedy"), as_json=as_json, align="left")
    there = {finding.name for finding in findings if finding.state != "missing"}
    can_run = {"OpenCV", "ONNX Runtime"} <= there
    can_prepare = can_run and {"torch", "onnx", "onnxscript", "onnx-ir"} <= there
    verdicts = [f"{verb}: {'yes' if able else 'no'}" for verb, able in (("run models", can_run), ("export and calibrate", can_prepare))]
    click.echo("This machine can " + ", ".join(verdicts), err=as_json)
    report = [finding.to_dict() for finding in findings]
    emit({"edgecnn": __version__, "can_run": can_run, "can_prepare": can_prepare, "findings": report}, as_json)
    return 0 if can_run else 1
