"""The documents: their commands are accepted by the real command lines, their code runs, their links lead somewhere, their site builds.

What is read: README.md, CONTRIBUTING.md and docs/*.md. Commands are parsed by click, down to the sub-command, and not invoked; README's and
those of docs/data-sets.md also run as they stand, in tests/test_readme.py, tests/test_demo.py and tests/cache/test_layouts.py.
"""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from copy import copy
from functools import cache
from pathlib import Path
from typing import NamedTuple

import bs4
import click
import numpy as np
import pytest
from click.testing import CliRunner
from documented_commands import COMMAND_LINES, accepted, without_torchrun
from markdown_it import MarkdownIt
from markdown_it.token import Token
from myst_parser.slugs import github_slugify, unique_slug
from PIL import Image

import orsanet_cache
import orsanet_train
from orsanet_cache.builder.disk import bytes_needed
from orsanet_cache.store.schema import schema
from orsanet_train.bench import gpu_check
from orsanet_train.config import RunConfig, load_config
from orsanet_train.evaluation.metrics import group_report
from orsanet_train.evaluation.tables import text_table
from orsanet_train.model.complexity import complexity
from orsanet_train.report.paper import ORSANET, published

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
SHELL = ("bash", "console", "sh")
SHOWN_ONLY = ("", "text", "csv")  # what a program prints or reads
OTHER_PROGRAMS = {"awk", "pip", "apt"}  # allowed in a block, and not checked here
OPTIONS_OF_OTHERS = {"--help", "--index-url", "--logdir", "--nproc-per-node"}  # of click, pip, tensorboard, torchrun


class Block(NamedTuple):
    page: Path
    line: int  # counted from 1
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


class Command(NamedTuple):
    where: str
    words: list[str]


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def inline(page: Path) -> Iterator[Token]:
    for token in tokens(page):
        yield from token.children or ()


def code_in_prose(page: Path) -> list[str]:
    return [" ".join(token.content.split()) for token in inline(page) if token.type == "code_inline"]


def blocks(*languages: str) -> list[Block]:
    """Those in these languages, or all that are no directive of Sphinx."""
    found = []
    for page in PAGES:
        for token in tokens(page):
            language = token.info.strip()
            if token.type == "fence" and (language in languages or not (languages or language.startswith("{"))):
                assert token.map is not None
                found.append(Block(page, token.map[0] + 2, language, token.content))
    return found


def commands_of(block: Block) -> list[Command]:
    """Its lines as words: continued lines joined, comments, settings of the environment and `> FILE` taken away."""
    commands = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if ">" in words:
            words = words[: words.index(">")]
        if words:
            commands.append(Command(f"{block} {line.strip()}", without_torchrun(words)))
    return commands


def every_command(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    for part, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, f"{name} {part}")
        else:
            yield f"{name} {part}", command


def options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


GPU_CHECK = ("gpu-check", gpu_check.main)  # of `make`, and of no command line
OF_COMMAND_LINES = [found for name, group in COMMAND_LINES.items() for found in every_command(group, name)]
ALL_COMMANDS = [GPU_CHECK, *OF_COMMAND_LINES]
SHELL_COMMANDS = [command for block in blocks(*SHELL) for command in commands_of(block)]
OURS = [command for command in SHELL_COMMANDS if command.words[0] in COMMAND_LINES]


@pytest.mark.parametrize("command", OURS, ids=lambda command: command.where)
def test_a_command_in_a_block_is_accepted_by_the_command_line(command: Command) -> None:
    accepted(command.words)


@pytest.mark.parametrize(
    "line",
    [
        "orsanet-cache biuld m.toml --out s --segmenter a --landmarks b",
        "orsanet-cache",
        "orsanet-cache weights",
        "orsanet-cache build --out s --segmenter a --landmarks b",
        "orsanet-cache build m.toml --out s --segmenter a --landmarks b --view clean,hflip",
        "orsanet-cache build m.toml --out s --segmenter a --landmarks b --precision half",
        "orsanet-cache info s.zarr t.zarr",
        "orsanet-cache verify s.zarr --sample 4/3",
        "orsanet-train report",
        "torchrun --nproc-per-node 2 -m orsanet_train run --store s --manifest m --preset small",
    ],
)
def test_the_check_refuses_what_the_command_line_refuses(line: str) -> None:
    """No such command, none, no argument, no option, another option, another choice, too many arguments, an impossible value."""
    with pytest.raises(click.UsageError):
        accepted(without_torchrun(shlex.split(line)))


def test_every_block_is_checked_or_shows_no_commands() -> None:
    for block in blocks():
        assert block.language in (*SHELL, *SHOWN_ONLY, "python", "toml"), block
        if block.language in SHOWN_ONLY:
            assert not re.search(r"^(orsanet-\w+|torchrun|make|pip) ", block.text, flags=re.MULTILINE), block
        if block.language == "toml":
            assert tomllib.loads(block.text), block


def test_every_other_program_in_a_block_is_one_that_is_meant() -> None:
    programs = {command.words[0] for command in SHELL_COMMANDS}
    assert programs <= {*COMMAND_LINES, "make", *OTHER_PROGRAMS}
    assert len(OURS) >= 50
    assert {block.language for block in blocks(*SHELL)} == set(SHELL)


def test_every_make_target_exists() -> None:
    named = {word for command in SHELL_COMMANDS if command.words[0] == "make" for word in command.words[1:]}
    for page in PAGES:
        named |= {code.split()[1] for code in code_in_prose(page) if re.fullmatch(r"make [a-z-]+( [A-Z_]+=\S+)*", code)}
    assert {"demo", "test", "check", "docs", "contracts"} <= named
    for target in sorted(named):
        result = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def commands_named(code: str) -> list[tuple[str, click.Command]]:
    """Those that words in prose may mean: `orsanet-cache build …`, `build …`, `manifest LAYOUT …` (any of its layouts)."""
    words = without_torchrun(code.split())
    if words[0] == GPU_CHECK[0]:
        return [GPU_CHECK]
    starts = [words] if words[0] in COMMAND_LINES else [[program, *words] for program in COMMAND_LINES]
    found = []
    for start in starts:
        for length in range(len(start), 1, -1):
            name = " ".join(start[:length])
            if named := [each for each in ALL_COMMANDS if each[0] == name or each[0].startswith(f"{name} ")]:
                found += named
                break
    return found


def test_an_option_beside_a_command_in_prose_is_that_commands() -> None:
    checked = 0
    for page in PAGES:
        for code in code_in_prose(page):
            options = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code)) - OPTIONS_OF_OTHERS
            named = commands_named(code)
            assert named or code.split()[0] not in COMMAND_LINES or len(code.split()) == 1, f"{page.name}: {code}"
            if named and options:
                known = set[str]().union(*(options_of(command) for _, command in named))
                assert options <= known, f"{page.name}: {code}"
                checked += 1
    assert checked >= 20


def test_every_option_named_in_prose_exists() -> None:
    known = {option for _, command in ALL_COMMANDS for option in options_of(command)} | OPTIONS_OF_OTHERS
    named = {
        (page.name, option)
        for page in PAGES
        for code in code_in_prose(page)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code)
    }
    assert len(named) >= 40
    assert not {(page, option) for page, option in named if option not in known}


def test_every_command_is_shown_somewhere() -> None:
    text = " ".join(
        [*(" ".join(command.words) for command in OURS), *(code for page in PAGES for code in code_in_prose(page))]
    )
    missing = [name for name, _ in ALL_COMMANDS if not re.search(rf"{name}\b", text)]
    assert not missing


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    found: set[str] = set()
    for heading, content in zip(tokens(page), tokens(page)[1:], strict=False):
        if heading.type == "heading_open":
            plain = "".join(child.content for child in content.children or ())
            found.add(unique_slug(github_slugify(plain), found))
    return found


def test_every_relative_link_leads_to_a_file_and_an_anchor_that_are_there() -> None:
    checked = 0
    for page in PAGES:
        for token in inline(page):
            target = token.attrGet("href") if token.type == "link_open" else token.attrGet("src")
            if not isinstance(target, str) or re.match(r"(https?|mailto):", target):
                continue
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), f"{page.name}: {target}"
            assert file.is_relative_to(ROOT), f"{page.name}: {target}"
            if anchor:
                assert anchor in slugs(file), f"{page.name}: {target}"
            checked += 1
    assert checked >= 40


# ---------------------------------------------------------------- code that runs


def python_block(page: str) -> str:
    (block,) = [block for block in blocks("python") if block.page.name == page]
    return block.text


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def called(words: list[str]) -> str:
    result = CliRunner(catch_exceptions=False).invoke(COMMAND_LINES[words[0]], words[1:])
    assert result.exit_code == 0, f"{' '.join(words)}\n{result.output}"
    return result.output


def test_python_blocks_are_those_that_run_in_tests() -> None:
    """dareloss.md in tests/train/bench/test_dare.py, store-format.md in tests/test_store_format.py, python.md and
    README.md in tests/test_python_page.py, own-priors.md in tests/test_own_priors_page.py, occlusion.md below."""
    found = {block.page.name for block in blocks("python")}
    assert found == {"README.md", "dareloss.md", "occlusion.md", "own-priors.md", "python.md", "store-format.md"}


def test_the_occlusion_page_draws_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing, building = [command.words for command in OURS if "occlusion.md" in command.where][-2:]
    code = python_block("occlusion.md")
    monkeypatch.chdir(tmp_path)
    called(drawing)
    numbers = re.search(r"for number in \(([\d, ]+)\)", code)
    assert numbers is not None
    shown = {f"images/{int(number):05d}.jpg" for number in numbers[1].split(",")}
    table = tmp_path / "faces" / "samples.csv"
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="", encoding="utf-8") as file:  # the other faces are not in the picture
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(row for row in rows if row["image"] in shown)
    called(building)
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "occlusion.jpg") as made, Image.open(DOCS / "occlusion.jpg") as shipped:
        assert made.size == shipped.size


def test_the_quick_start_leads_from_class_folders_to_what_the_readme_goes_on_from(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first half as it stands, but for what it downloads: small networks with random weights lie there. The second runs in
    tests/test_readme.py."""
    pictures = sorted((world.folder / "images").glob("*.png"))
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        for name in ("anger", "happiness", "neutral"):
            folder = tmp_path / "my-faces" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                shutil.copy(pictures.pop(), folder / f"{index}.png")
    (tmp_path / "model_299.pt").symlink_to(world.segmenter)
    (tmp_path / "mobilefacenet_model_best.pth.tar").symlink_to(world.landmarks)
    monkeypatch.chdir(tmp_path)
    commands = [command.words for command in OURS if command.where.startswith("quick-start.md")]
    training = next(index for index, words in enumerate(commands) if words[0] == "orsanet-train")
    for words in commands[:training]:
        if words[1:3] != ["weights", "fetch"]:
            called(words)
    assert {path.name for path in tmp_path.iterdir()} >= {"my-faces.toml", "my-faces.csv", "store.zarr", "sheet.png"}
    of_the_readme = [command.words for command in OURS if command.where.startswith("README.md")]
    assert len(commands[training:]) == 3
    assert all(words in of_the_readme for words in commands[training:])


def test_the_evaluation_page_shows_the_columns_that_evaluate_prints() -> None:
    printed = text_table([group_report("test", np.array([0, 1]), np.eye(2), ["anger", "neutral"])]).splitlines()[0]
    headers = [block.text.splitlines()[0] for block in blocks("") if block.page.name == "evaluation.md"]
    (shown,) = [header for header in headers if "95 % interval" in header]
    assert re.split(" {2,}", shown.strip()) == re.split(" {2,}", printed.strip())


# ---------------------------------------------------------------- the numbers of docs/reproduce.md

REPRODUCE = DOCS / "reproduce.md"
DATA_SETS = {
    "RAF-DB": ("rafdb", "surprise,fear,disgust,happiness,sadness,anger,neutral"),
    "AffectNet-7": ("affectnet7", "surprise,fear,disgust,happiness,sadness,anger,neutral"),
    "AffectNet-8": ("affectnet8", "surprise,fear,disgust,happiness,sadness,anger,neutral,contempt"),
    "Occlu-FER": ("occlu-fer", "surprise,fear,disgust,happiness,sadness,anger,neutral,contempt"),
}


TABLE_6 = ("full", "no-segmentation", "no-cross-interaction", "single-scale", "no-reintegration", "no-dare")


def tables(first_column: str) -> list[dict[str, str]]:
    """The rows of the page's tables whose first column has that heading."""
    rows = []
    heading: list[str] = []
    for line in REPRODUCE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            heading = []
        elif not heading:
            heading = cells
        elif heading[0] == first_column and not set(line) <= set("|- "):
            rows.append(dict(zip(heading, cells, strict=True)))
    return rows


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_published_numbers_are_those_that_a_report_shows() -> None:
    shown = {(row["group"], number(row["published, %"]), number(row["images"])) for row in tables("table")}
    ours = {
        (entry.group, round(100 * entry.accuracy, 2), entry.images)
        for name, classes in DATA_SETS.values()
        for entry in published(name, classes.split(","))
        if entry.model == ORSANET and "sentence" not in entry.source
    }
    assert len(shown) == len(ours) == 8
    assert shown == ours


def test_intervals_of_published_numbers_are_calculated_as_said() -> None:
    for row in tables("table"):
        share, images = number(row["published, %"]) / 100, number(row["images"])
        assert f"{196 * (share * (1 - share) / images) ** 0.5:.2f}" == row["95 %, ± points"], row


def test_the_full_row_of_table_6_is_the_main_result() -> None:
    assert tuple(row["variant"] for row in tables("variant")) == TABLE_6
    full = tables("variant")[0]
    main = {(row["group"], row["images"]): row["published, %"] for row in tables("table")}
    assert full["RAF-DB, %"] == main["test", "3,068"]
    assert full["RAF-DB occluded, %"] == main["test:occluded", "734"]
    assert full["Occlu-FER, %"] == main["valid", "880"]


def test_hours_are_calculated_as_said() -> None:
    parts = complexity(load_config("rafdb").model, 7)
    trained = sum(part.multiply_adds for part in parts if part.trainable)
    frozen = {part.name: part.multiply_adds for part in parts if part.frozen}
    seen = frozen["SegFace encoder"] + frozen["MobileFaceNet"]  # by the published step

    def work(training: float, evaluated: float, seen: int) -> float:
        return training * 2 * (3 * trained + seen) + evaluated * (trained + seen)

    before, here = 400 * work(12_271, 3_068, seen), 400 * work(12_271, 3_068, 0)
    logs = {row["log"]: row for row in tables("log") if "hours" in row}  # their clock stops before validation
    assert logs.keys() == DATA_SETS.keys()
    rate = 400 * work(12_271, 0, seen) / number(logs["RAF-DB"]["hours"])  # an hour
    rows = {row["data set"]: row for row in tables("data set") if "epochs" in row}
    assert rows.keys() == DATA_SETS.keys()
    ours = {}
    for name, row in rows.items():
        epochs, training, evaluated = (number(row[key]) for key in ("epochs", "trained on", "evaluated on"))
        assert epochs == load_config(DATA_SETS[name][0]).epochs == number(logs[name]["epochs"])
        minutes = number(logs[name]["minutes an epoch"])
        assert minutes * epochs / 60 == pytest.approx(number(logs[name]["hours"]), rel=0.003), name
        assert f"{minutes * 60e3 / training:.1f}" == logs[name]["milliseconds an image"], name
        published_hours, hours = (epochs * work(training, evaluated, cost) / rate for cost in (seen, 0))
        assert f"{published_hours:.1f}" == row["published, h"], name
        assert f"{hours:.1f}" == row["here, h"], name
        assert row["range, h"] == f"{published_hours / 2.03:.1f}–{published_hours:.1f}", name
        ours[name] = published_hours, hours

    text = " ".join(REPRODUCE.read_text(encoding="utf-8").split())
    views = (12_271 + 3_068) * 2 + 3 * 3_068
    for said in (
        f"trained part {trained / 1e9:.2f}, frozen encoder and landmark network {seen / 1e9:.2f}",
        f"{before / 400e12:.0f} against {here / 400e12:.0f} thousand billion an epoch, {before / here:.2f} times less",
        f"{rate / 3600e12:.2f} thousand billion a second",
        f"18 runs: {18 * ours['RAF-DB'][1]:.0f} hours for RAF-DB, at most {18 * ours['RAF-DB'][0]:.0f}, "
        f"and {18 * ours['Occlu-FER'][1]:.0f} for Occlu-FER",
        f"{sum(frozen.values()) / 1e9:.1f} billion a view",
        f"{views:,} views are {views * sum(frozen.values()) / 1e12:.0f} thousand billion",
        f"which makes {views / 2.76 / 3600:.1f} hours",
        f"would take {8_695 * 400 / 86_400:.0f} days",
    ):
        assert said in text


def test_storage_is_what_a_build_estimates() -> None:
    row_bytes = {kind: bytes_needed(1, schema(1024, 512, kind)) for kind in ("float16", "float32", "int8")}
    text = REPRODUCE.read_text(encoding="utf-8")
    assert all(f"{size:,}" in text for size in row_bytes.values())
    stores = [row for row in tables("data set") if "rows" in row]
    assert len(stores) == len(DATA_SETS)
    for row in stores:
        for kind, size in row_bytes.items():
            assert f"{number(row['rows']) * size / 1e9:.2f}" == row[f"{kind}, GB"], row


# ---------------------------------------------------------------- the site


class Site(NamedTuple):
    folder: Path
    pages: dict[str, bs4.BeautifulSoup]  # by file name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--builder", "html"]
    # As a user's shell: how Sphinx's extensions call Sphinx is not ours to mend.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return Site(
        folder, {path.name: bs4.BeautifulSoup(path.read_bytes(), "html.parser") for path in folder.glob("*.html")}
    )


def test_the_site_builds_without_a_warning_and_has_every_document(site: Site) -> None:
    assert {path.with_suffix(".html").name for path in DOCS.glob("*.md")} <= site.pages.keys()
    sidebar = {link["href"] for link in site.pages["index.html"].select(".sidebar-tree a")}
    assert len(sidebar) >= 18


def test_the_site_needs_no_network(site: Site) -> None:
    for name, page in site.pages.items():
        needed = [str(tag["src"]) for tag in page.select("script[src], img[src], iframe[src]")]
        needed += [str(tag["href"]) for tag in page.select("link[href]")]
        assert not [address for address in needed if re.match(r"(https?:)?//", address)], name


def test_every_link_and_picture_of_the_site_leads_somewhere(site: Site) -> None:
    ids = {name: {tag["id"] for tag in page.select("[id]")} for name, page in site.pages.items()}
    checked = 0
    for name, page in site.pages.items():
        targets = [str(tag["href"]) for tag in page.select("a[href]")]
        targets += [str(tag["src"]) for tag in page.select("img[src]")]
        for target in targets:
            if re.match(r"(https?|mailto):", target):
                continue
            path, _, anchor = target.partition("#")
            file = path.partition("?")[0] or name
            assert (site.folder / file).is_file(), f"{name}: {target}"
            if anchor and file in ids:
                assert anchor in ids[file], f"{name}: {target}"
            checked += 1
    assert checked >= 500
    shown = {
        token.attrGet("src") for page in PAGES if page.parent == DOCS for token in inline(page) if token.type == "image"
    }
    assert len(shown) >= 4
    assert shown == {path.name for path in (site.folder / "_images").iterdir()}


def test_no_markup_of_a_docstring_is_left_over(site: Site) -> None:
    for name, page in site.pages.items():
        assert not page.select(".system-message, .problematic"), name
        for article in page.select("article"):
            prose = copy(article)
            for tag in prose.select("pre, code, .highlight"):
                tag.extract()
            assert "`" not in prose.get_text(), name


def test_the_python_reference_has_what_a_user_imports(site: Site) -> None:
    ids = {tag["id"] for name, page in site.pages.items() if name.startswith("api") for tag in page.select("[id]")}
    wanted = {
        "orsanet_cache": (
            *orsanet_cache.__all__, "PriorStore.read", "FrozenPriors.load", "data.manifest.with_tags", "frozen.segface.SegFace",
            "frozen.mobilefacenet.MobileFaceNet", "store.schema.LAPA_CLASSES", "frozen.loading.read_weights",
        ),
        "orsanet_train": (
            *orsanet_train.__all__, "Predictor.stream", "PictureResult.overlay", "FaceResult.attention", "engine.losses.training_loss",
            "model.model.build_model", "report.paper.published", "feed.feed.Feed.epoch",
        ),
    }  # fmt: skip
    assert not [
        f"{package}.{name}" for package, names in wanted.items() for name in names if f"{package}.{name}" not in ids
    ]


def test_the_python_reference_has_every_key_of_a_configuration(site: Site) -> None:
    shown = {code.get_text().partition(" = ")[0] for code in site.pages["api-train.html"].select("li code")}
    defaults = RunConfig().model_dump()
    keys = {key for key, value in defaults.items() if not isinstance(value, dict)}
    keys |= {key for value in defaults.values() if isinstance(value, dict) for key in value}
    assert len(keys) >= 30
    assert keys <= shown


def test_commands_are_listed_in_the_order_of_work() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    for (name, group), order in zip(
        COMMAND_LINES.items(),
        ("manifest doctor weights build show verify", "config run evaluate report compare predict export"),
        strict=True,
    ):
        helped = CliRunner().invoke(group, ["--help"]).output.partition("Commands:")[2]
        listed = re.findall(r"^  ([a-z]\S*)", helped, re.MULTILINE)
        assert re.search(r" .*".join(order.split()), " ".join(listed))
        (page,) = re.findall(rf":prog: {name}\n   :commands: (.*)", text)
        assert page.split(",") == listed


def test_the_command_reference_has_every_command_and_option(site: Site) -> None:
    page = site.pages["commands.html"]
    ids = {tag["id"] for tag in page.select("[id]")}
    titles = {tag.get_text().removesuffix("¶").removesuffix("#").strip() for tag in page.select("h1, h2, h3, h4, h5")}
    for name, command in OF_COMMAND_LINES:
        slug = name.replace(" ", "-")
        assert slug in ids
        assert name in titles
        for option in options_of(command):
            if option.startswith("--"):
                assert f"cmdoption-{slug}{option[1:]}" in ids or f"cmdoption-{slug}-{option}" in ids, (name, option)
