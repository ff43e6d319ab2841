"""Names, lists and label numbers of downloaded data sets, and `orsanet-cache manifest` on their folders."""

from collections.abc import Iterable
from pathlib import Path

from click.testing import CliRunner, Result
from PIL import Image

from orsanet_cache import Manifest, OrsanetError, load_manifest
from orsanet_cache.commands.manifest import manifest as command


def draw(path: Path, size: tuple[int, int] = (20, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = sum(path.name.encode()) % 256
    Image.new("RGB", size, (shade, 90, 255 - shade)).save(path)


def make(*arguments: object) -> Result:
    """The command as click runs it; a mistake stays an exception."""
    result = CliRunner().invoke(command, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, OrsanetError | SystemExit):
        raise result.exception
    return result


def made(*arguments: object) -> tuple[Manifest, str]:
    """The manifest that the command wrote, loaded as every other command loads it, and what was printed."""
    result = make(*arguments)
    assert result.exit_code == 0, result.exception or result.output
    return load_manifest(Path(str(arguments[arguments.index("--out") + 1]))), result.output


def refused(*arguments: object) -> str:
    """The one sentence of a command that refuses, which has written nothing."""
    result = make(*arguments)
    assert isinstance(result.exception, OrsanetError), result.output
    message = str(result.exception)
    assert "\n" not in message
    out = Path(str(arguments[arguments.index("--out") + 1]))
    assert not out.exists()
    assert not out.with_suffix(".csv").exists()
    return message


def labels(manifest: Manifest) -> dict[str, str]:
    return {Path(sample.image).stem: manifest.classes[sample.label] for sample in manifest.samples}


def tagged(manifest: Manifest, tag: str) -> set[str]:
    return {Path(sample.image).stem for sample in manifest.samples if tag in sample.tags}


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def exchange(first: Path, second: Path) -> None:
    first.rename(first.with_suffix(".away"))
    second.rename(first)
    first.with_suffix(".away").rename(second)


def replace_first(table: Path, old: str, new: str) -> None:
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))


RAF_TRAIN, RAF_TEST = 14, 7


def raf_list(raf: Path) -> Path:
    return raf / "EmoLabel/list_patition_label.txt"


def hashed(index: int) -> str:
    """A file name as AffectNet's first release has them."""
    return f"{index * 2654435761 % 16**8:08x}" * 7


AFFECTNET_EXPRESSIONS = [expression for expression in range(8) for _ in range(3)] + [
    8,
    9,
    10,
    8,
]  # of the training list


FERPLUS_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
FERPLUS_ROWS = [
    "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0",
    "Training,fer0000001.png,0,10,0,0,0,0,0,0,0,0",
    "Training,fer0000002.png,4,0,0,4,1,0,0,0,1,0",  # a tie
    "Training,fer0000003.png,0,0,6,0,0,0,4,0,0,0",
    "Training,fer0000004.png,1,0,0,0,0,0,0,0,9,0",  # unknown
    "Training,fer0000005.png,1,0,0,0,0,0,0,0,0,9",  # not a face
    "Training,,0,0,0,0,0,0,0,0,0,10",
    "PublicTest,fer0028638.png,0,0,0,0,0,0,0,8,2,0",
    "PrivateTest,fer0032220.png,0,0,0,0,0,7,3,0,0,0",
]
