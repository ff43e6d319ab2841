"""A URL is the place of a store or a run, or it is refused: by every command, in one sentence, and no folder `s3:` is ever made."""

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command_lines import in_process

from orsanet_cache import OrsanetError, PriorStore, load_manifest
from orsanet_cache.builder.build import build
from orsanet_cache.cli import main as cache_main
from orsanet_cache.console import RUN, STORE
from orsanet_cache.paths import Url, as_path, as_place
from orsanet_cache.writing.convert import convert
from orsanet_train.cli import main as train_main
from orsanet_train.config import load_config

REFUSED = ("https://host/a", "file:///tmp/x", "S3://bucket/a", "hdfs://host/a", "s3:/bucket/a")
SECRET = "hunter2"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def paths_of(group: click.Group) -> list[tuple[tuple[str, ...], click.Parameter]]:
    """Every argument and option of every command that is a path."""
    return [
        (path, parameter)
        for path, command in commands(group)
        for parameter in command.params
        if isinstance(parameter.type, click.Path)
    ]


def words(path: tuple[str, ...], parameter: click.Parameter, command: click.Command, url: str) -> list[str]:
    """A command line with the URL at one place, and something everywhere else."""
    line = list(path)
    for other in command.params:
        value = url if other is parameter else _some(other)
        if isinstance(other, click.Argument):
            line += [value] if other.required or other is parameter else []
        elif other is parameter or other.required:
            line += [other.opts[0], value]
    return line


def _some(parameter: click.Parameter) -> str:
    """A value that the parameter accepts."""
    return parameter.type.choices[0] if isinstance(parameter.type, click.Choice) else "x.toml"


@pytest.mark.parametrize(("name", "group"), [("orsanet-cache", cache_main), ("orsanet-train", train_main)])
def test_every_command_refuses_a_url_where_a_file_is_meant(
    name: str, group: click.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    of_path = dict(commands(group))
    found = paths_of(group)
    assert len(found) > 20
    for number, (path, parameter) in enumerate(found):
        kinds = (
            REFUSED[number % len(REFUSED)],
            "ftp://host/a" if parameter.type in (STORE, RUN) else "s3://bucket/a.zarr",
        )
        for url in kinds:
            ended = in_process(group, *words(path, parameter, of_path[path], url))
            assert ended.returncode == 2, (path, parameter.name, url, ended)
            assert "support" in ended.stderr, (path, parameter.name, url, ended.stderr)
            assert url.partition(":")[0] in ended.stderr
    assert os.listdir(tmp_path) == []


def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (
        f"s3://key:{SECRET}@bucket/a.zarr",
        f"s3://bucket/a.zarr?secret={SECRET}",
        f"https://u:{SECRET}@host/a?b={SECRET}",
    ):
        ended = in_process(cache_main, "info", url)
        assert ended.returncode == 2
        assert SECRET not in ended.stdout + ended.stderr
        with pytest.raises(OrsanetError) as raised:
            PriorStore.open(url)
        assert SECRET not in str(raised.value)


def test_places_and_paths() -> None:
    assert as_place("s3://bucket/a/b.zarr/", "store") == Url("s3://bucket/a/b.zarr")
    assert str(as_place("gs://bucket/a.zarr", "store") / "train/zarr.json") == "gs://bucket/a.zarr/train/zarr.json"  # type: ignore[operator]
    assert as_place("folder/a.zarr", "store") == Path("folder/a.zarr")
    assert as_path("a:b/c", "file") == Path("a:b/c")
    for wrong in ("s3://bucket", "s3://bucket/", "s3:///a", "s3://bucket/a/../b", "s3://bucket//a"):
        with pytest.raises(OrsanetError, match="not the place of a store"):
            as_place(wrong, "store")
    with pytest.raises(OrsanetError, match=r"not supported"):
        as_path(Path("s3://bucket/a"), "file")
    with pytest.raises(TypeError, match="store: expected a path"):
        as_place(3, "store")


def test_functions_refuse_urls_where_a_file_is_meant(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: load_manifest("s3://bucket/faces.toml"),
        lambda: load_config("s3://bucket/run.toml"),
        lambda: build(world.manifest, "https://host/store.zarr"),
        lambda: convert(world.store, "https://host/store.zarr"),
        lambda: convert("ftp://host/store.zarr", tmp_path / "x.h5"),
        lambda: PriorStore.open("http://host/store.zarr"),
        lambda: PriorStore.open("memory://a/b.zarr", cache="s3://bucket/cache"),
    ):
        with pytest.raises(OrsanetError, match="not supported"):
            call()
    assert os.listdir(tmp_path) == []
