"""`edgecnn completion`: what a shell needs to complete edgecnn's commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from edgecnn.cli.common import emit, example_help, json_option

__all__ = ["command"]


@click.command(
    "completion",
    epilog=example_help(
        """
edgecnn completion bash > ~/.local/share/bash-completion/completions/edgecnn
edgecnn completion fish > ~/.config/fish/completions/edgecnn.fish
eval "$(edgecnn completion zsh)"        # in ~/.zshrc
"""
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
def command(shell: str, as_json: bool) -> None:
    """Print the completion script for a shell."""
    from edgecnn.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None  # the three that click knows
    script = kind(cli, {}, "edgecnn", "_EDGECNN_COMPLETE").source()
    # bash then offers files where click offers nothing: a model, a source and a sink may be a file or not
    script = script.replace("complete -o nosort -F", "complete -o nosort -o default -F")
    if as_json:
        emit({"shell": shell, "script": script}, as_json)
    else:
        click.echo(script)
