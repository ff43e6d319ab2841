"""Command lines in documents and examples: the command and the options that they come to, without running it."""

import click
import pytest

from orsanet_cache.cli import main as cache_main
from orsanet_train.cli import main as train_main

COMMAND_LINES: dict[str, click.Group] = {"orsanet-cache": cache_main, "orsanet-train": train_main}
MODULES = {
    "orsanet_cache": "orsanet-cache",
    "orsanet_train": "orsanet-train",
    "orsanet_train.bench.gpu_check": "gpu-check",
}


def without_torchrun(words: list[str]) -> list[str]:
    """torchrun's and Python's own part taken away: … -m orsanet_train run X -> orsanet-train run X."""
    if words[0] in ("torchrun", "python", "python3") and "-m" in words:
        module, *arguments = words[words.index("-m") + 1 :]
        assert module in MODULES, f"python -m {module}"
        return [MODULES[module], *arguments]
    return words


def sub_command(words: list[str]) -> tuple[click.Command, list[str], list[str]]:
    """The command that the words name, its own name in words, and what is left of them. Raises UsageError for none."""
    command: click.Command = COMMAND_LINES[words[0]]
    path, rest = [words[0]], words[1:]
    while isinstance(command, click.Group):
        if not rest:
            raise click.UsageError(f"{' '.join(path)}: a command is missing")
        name, found, rest = command.resolve_command(click.Context(command, info_name=path[-1]), rest)
        assert name is not None
        assert found is not None
        command, path = found, [*path, name]
    return command, path, rest


def accepted(words: list[str]) -> click.Context:
    """Options and arguments as the command would get them; click's UsageError for what it would refuse. Its files need not be there."""
    command, path, rest = sub_command(words)
    with pytest.MonkeyPatch.context() as patch:
        for parameter in command.params:
            if isinstance(parameter.type, click.Path):
                patch.setattr(parameter.type, "exists", False)
        with command.make_context(" ".join(path), rest) as context:  # left again: --quiet would stay
            return context
