"""The command `orsanet-train config`: the presets, and what every key of a configuration means."""

import click


@click.command()
@click.argument("preset", required=False)
def config(preset: str | None) -> None:
    """Print every key of PRESET with its value and meaning, as a configuration file. Without
    PRESET, list the presets.

    PRESET is the name of a preset, or a .toml file, whose missing keys are filled in. The output
    is TOML: `orsanet-train config rafdb > my.toml`, change it, then `run --preset my.toml`.
    """
    from orsanet_train.config import load_config
    from orsanet_train.config_text import config_text, preset_list

    if preset is None:
        click.echo(preset_list())
        return
    click.echo(config_text(load_config(preset), preset), nl=False)
