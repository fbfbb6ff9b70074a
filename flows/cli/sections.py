"""Lists of commands in help: in `effnet --help` by what people do with them, in that of a group all at once."""

from __future__ import annotations

import click

SECTIONS = {
    "Build a family": ("init", "plan", "family", "shard", "search", "fit", "study", "forecast", "find-rate", "train"),
    "Use a model": ("choose", "predict", "evaluate", "cam", "export", "import-weights"),
    "Look": ("runs", "show", "compare", "describe", "data", "verify"),
    "Servers and records": ("up", "down", "deploy", "doctor", "sync", "job"),
}


class Sections(click.Group):
    """A group whose help lists its commands in sections, each with its whole first sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's own signature
        """Write the sections."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, first_sentence(self.commands[name])) for name in names])


class Listed(click.Group):
    """A group whose help lists its commands, each with its whole first sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's own signature
        """Write the list."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_sentence(command)) for name, command in sorted(self.commands.items())])


def first_sentence(command: click.Command) -> str:
    """Return the first sentence of a command's help, on one line."""
    paragraph = " ".join((command.help or "").partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".")
