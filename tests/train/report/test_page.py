"""The report's page in a real browser: it needs nothing else, shows every picture, fits a phone, and a user's text stays text."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from orsanet_cache import PriorStore, load_manifest
from orsanet_cache.builder.build import build
from orsanet_cache.inspection.tiles import PALETTE, PARTS
from orsanet_train.config import load_config
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.report.album import ReportPicture, albums
from orsanet_train.report.contents import Beside, Report
from orsanet_train.report.page import write_report
from orsanet_train.report.report import make_report
from orsanet_train.report.text import day, markdown_text
from orsanet_train.run.train import train

CPU = torch.device("cpu")
HOSTILE_FILE = '"><img src=x onerror=alert(1)>.png'
HOSTILE_CLASS = "<script>alert(2)</script>|`*"
SMALL = (
    "epochs=2", "batch_size=6", "model.depth=1", "model.width=32", "model.backbone_channels=[8,8,16]",
    "model.backbone_units=[1,1,1]",
)  # fmt: skip


Made = tuple[Report, list[list[ReportPicture]]]


@pytest.fixture(scope="module")
def made(world, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report of two small runs on pictures one of which has a hostile name, of classes one of which has, with an occluded view."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(world.folder / "images", folder / "images")
    shutil.move(folder / "images" / "test_0.png", folder / "images" / HOSTILE_FILE)
    quoted = HOSTILE_FILE.replace('"', '""')
    table = (world.folder / "samples.csv").read_text(encoding="utf-8")
    table = table.replace("images/test_0.png", f'"images/{quoted}"').replace(",anger,", f",{HOSTILE_CLASS},")
    (folder / "samples.csv").write_text(table, encoding="utf-8")
    text = (world.folder / "dataset.toml").read_text(encoding="utf-8").replace("anger", HOSTILE_CLASS)
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    manifest = load_manifest(folder / "dataset.toml")
    build(manifest, folder / "store.zarr", world.priors, ["clean", "hflip", "erase-20"], device=CPU)
    store = PriorStore.open(folder / "store.zarr")
    runs = [folder / "first", folder / "second"]
    for seed, run in enumerate(runs):
        train(load_config("small", [*SMALL, f"seed={seed}"]), manifest, store, run, device=CPU)
        evaluate(run / "best.safetensors", manifest, store, run / "evaluation-best", groups=None, device=CPU)
    report, sources = make_report(runs, "best", None, None)
    return report, albums(sources, None, CPU)


@pytest.fixture(scope="module")
def reported(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    write_report(*made, folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs the browser chromium (on Debian: apt install chromium)")
    with sync_playwright() as playwright:
        # --no-sandbox: without it Chromium refuses to run as root, as CI does
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """The page opened at one width, with everything it said and asked for."""

    def __init__(self, browser: Browser, path: Path, width: int, scheme: str = "light") -> None:
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri(), wait_until="load")

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()


@pytest.mark.parametrize("width", [360, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_in_silence_asks_for_nothing_and_shows_every_picture(
    reported: Path, browser: Browser, width: int, scheme: str
) -> None:
    with Visit(browser, reported / "report.html", width, scheme) as visit:
        sizes = visit.page.evaluate("Array.from(document.images, image => [image.complete, image.naturalWidth])")
        assert len(sizes) >= 2 * 6  # of both runs
        assert all(complete and natural > 0 for complete, natural in sizes)
        assert visit.said == []
        assert [url for url in visit.requests if not url.startswith("data:image/")] == [
            (reported / "report.html").as_uri(), *(["data:,"] if "data:," in visit.requests else [])
        ]  # fmt: skip
        # Tables and code scroll in themselves; the page does not.
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        red = int(re.findall(r"\d+", ground)[0])
        assert red < 64 if scheme == "dark" else red > 192


def test_a_hostile_name_stays_text(reported: Path, browser: Browser) -> None:
    with Visit(browser, reported / "report.html", 1280) as visit:
        text = visit.page.evaluate("document.body.innerText")
        assert f"images/{HOSTILE_FILE}" in text
        assert HOSTILE_CLASS in text
        assert visit.page.evaluate("document.scripts.length") == 0
        sources = visit.page.evaluate("Array.from(document.images, image => image.getAttribute('src').slice(0, 11))")
        assert set(sources) == {"data:image/"}
        assert visit.page.evaluate("document.querySelectorAll('[onerror]').length") == 0


def test_the_policy_forbids_what_the_page_does_not_need(reported: Path, browser: Browser) -> None:
    """A script that got into the page all the same would not run, and nothing would be fetched."""
    injected = reported / "injected.html"
    page = (reported / "report.html").read_text(encoding="utf-8")
    attack = '<script>document.title="owned"</script><img src="http://127.0.0.1:9/x.png"><p style="color:red">'
    injected.write_text(page.replace("<main>", f"<main>{attack}"), encoding="utf-8")
    with Visit(browser, injected, 1280) as visit:
        assert visit.page.title() != "owned"
        assert len([line for line in visit.said if "Content Security Policy" in line]) >= 3
    injected.unlink()


def test_it_prints(reported: Path, browser: Browser) -> None:
    with Visit(browser, reported / "report.html", 1280, "dark") as visit:
        visit.page.emulate_media(media="print")
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert visit.page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        # What is folded away on the screen is printed too.
        heights = visit.page.evaluate(
            "Array.from(document.querySelectorAll('pre'), block => block.getBoundingClientRect().height)"
        )
        assert len(heights) == 2 * 3
        assert all(height > 20 for height in heights)
        assert visit.page.pdf().startswith(b"%PDF-")


def test_the_papers_numbers_stand_beside_ours_evaluated_or_not(made: Made, tmp_path: Path) -> None:
    report, albums = made
    first = report.runs[0]
    beside = (
        Beside("ORSANet", "test", 0.9228, 3068, "its paper", "", first.detailed),
        Beside("POSTER", "test@erase-30", 0.8402, None, "a table", "contradicted by 84.03", None),
    )
    write_report(replace(report, runs=(replace(first, beside=beside), *report.runs[1:])), albums, tmp_path)
    rows = {row[0]: row for row in rows_of((tmp_path / "report.html").read_text(encoding="utf-8")) if row}
    assert rows["ORSANet"][1:5] == ["3068", "92.28", "test", "6"]
    assert rows["POSTER"][1:] == ["–", "84.02", "test@erase-30", "not evaluated", "a table", "contradicted by 84.03"]
    for name in ("report.html", "report.md"):
        assert "Published numbers, measured under other protocols" in (tmp_path / name).read_text(encoding="utf-8")
    assert "| POSTER | – | 84.02 | test@erase-30 |" in (tmp_path / "report.md").read_text(encoding="utf-8")


def rows_of(page: str) -> list[list[str]]:
    """The text of every cell of every table row."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, flags=re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, flags=re.DOTALL) for row in rows]
    return [[" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in row] for row in cells]


def test_page_markdown_and_json_have_the_same_numbers(reported: Path) -> None:
    said = json.loads((reported / "report.json").read_text(encoding="utf-8"))
    page = (reported / "report.html").read_text(encoding="utf-8")
    markdown = (reported / "report.md").read_text(encoding="utf-8")
    assert [run["name"] for run in said["runs"]] == ["first", "second"]
    assert page.count('-compared-attention"') == 1  # below the first run
    sections = page.split("<section>")[1:]
    written = markdown[markdown.index("\n# first") :].split("\n# second")
    for run, section, part in zip(said["runs"], sections, written, strict=True):
        assert run["stamp"] == "best of 2 epochs on 'valid'"
        assert [group["name"] for group in run["groups"]] == [
            "valid", "valid:occluded", "valid@erase-20", "test", "test:occluded", "test@erase-20"
        ]  # fmt: skip
        for group in run["groups"]:
            cells = [
                f"{100 * group[headline]['value']:.0f}"  # of six images no decimal has a meaning
                + (
                    " – "
                    if group[headline]["low"] is None
                    else f" {100 * group[headline]['low']:.0f} … {100 * group[headline]['high']:.0f} "
                )
                for headline in ("accuracy", "balanced_accuracy", "macro_f1", "top2_accuracy")
            ]
            shown = next(row for row in rows_of(section) if row[0].split(" ")[0] == group["name"])
            header = next(row for row in rows_of(section) if row[0] == "group")
            columns = [header.index(name) for name in ("accuracy", "balanced accuracy", "macro F1", "top-2 accuracy")]
            assert [f"{shown[column]} " for column in columns] == cells
            for baseline in group["baselines"]:
                assert shown[header.index(baseline["name"])] == f"{100 * baseline['accuracy']:.0f}"
                assert markdown_text(baseline["meaning"]) in part
            assert group["baselines"][0]["name"] == "commonest class"
            line = next(line for line in part.splitlines() if line.startswith(f"| {group['name']} "))
            assert " ".join(" ".join(line.split("|")[4:]).split()).startswith(cells[0].strip())
            assert all(cell.split()[0] in line for cell in cells)
        assert [drop["view"] for drop in run["robustness"]] == ["erase-20"]
        assert len(run["worst"]) == 6
    (difference,) = [one for one in said["comparison"]["differences"] if one["group"] == "test"]
    assert f"{100 * difference['pairs'][0]['difference']['value']:+.0f}" in page
    (seed,) = said["comparison"]["differing"]
    assert seed == {"what": "configuration", "key": "seed", "values": {"first": "0", "second": "1"}}
    assert page.index("configuration: seed") < page.index("Accuracy in per cent")
    assert markdown.index("configuration: seed") < markdown.index("accuracy")


def test_small_tags_are_folded_away_until_they_are_asked_for(reported: Path, browser: Browser) -> None:
    with Visit(browser, reported / "report.html", 390) as visit:
        section = visit.page.locator("section").first
        folded = section.locator("td", has_text="test:occluded")
        assert not folded.is_visible()
        assert section.locator("td", has_text="test@erase-20").is_visible()
        section.get_by_text("2 tags with fewer than 50 images").click()
        assert folded.is_visible()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_colours_of_the_maps_are_explained_and_shown(reported: Path, browser: Browser) -> None:
    with Visit(browser, reported / "report.html", 1280) as visit:
        entries = visit.page.locator("#run1-attention .entry")
        assert [text.strip() for text in entries.all_inner_texts()] == list(PARTS)
        colours = visit.page.evaluate(
            "Array.from(document.querySelectorAll('#run1-attention .part'), part => getComputedStyle(part).backgroundColor)"
        )
        assert colours == [f"rgb({red}, {green}, {blue})" for red, green, blue in PALETTE.tolist()]


def test_the_page_names_networks_dates_versions_and_training_images_and_shows_one_confusion_matrix(
    made: Made, reported: Path
) -> None:
    report, _ = made
    page, markdown = ((reported / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    for run in report.runs:
        assert [network.demo for network in run.networks] == [False, False]
        assert run.evaluated is not None
        for text in (page, markdown):
            assert all(network.weights_sha256[:12] in text and (network.file or "") in text for network in run.networks)
            assert day(run.evaluated) in text
            assert run.trained_with[0] in text
            assert run.trained_with[0].startswith("orsanet ")
    assert report.date in page
    assert page.count('-compared-attention"') == 1  # below the first run
    sections = page.split("<section>")[1:]
    counts = {row[0]: row[1] for row in rows_of(sections[0]) if row and row[0] in ("happiness", "neutral")}
    assert counts == {name: str((report.runs[0].training_classes or {})[name]) for name in ("happiness", "neutral")}
    for section in sections:
        assert section.count('alt="Confusion matrix') == 1
        assert "Images of each true class" not in section


def test_what_an_evaluation_from_before_did_not_record_is_said(made: Made, tmp_path: Path) -> None:
    report, albums = made
    first = report.runs[0]
    groups = tuple(replace(group, baselines=None) for group in first.groups)
    old = replace(
        first,
        groups=groups,
        detailed=groups[0],
        trained_with=(),
        evaluated=None,
        evaluated_with=None,
        training_classes=None,
    )
    write_report(replace(report, runs=(old,), comparison=None), albums[:1], tmp_path)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert text.count("not recorded") >= len(groups) + len(first.detailed.classes) + 3


def test_markdown_holds_no_html_of_a_user(reported: Path) -> None:
    markdown = (reported / "report.md").read_text(encoding="utf-8")
    assert "<img" not in markdown
    assert "<script" not in markdown
    assert "&lt;script&gt;" in markdown
    tables = re.findall(r"(?:^\|.*\|$\n?)+", markdown, flags=re.MULTILINE)
    assert len(tables) >= 2 * 6
    for table in tables:  # no bar of a name makes a column
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_every_picture_is_whole_and_within_the_page(reported: Path) -> None:
    page = (reported / "report.html").read_text(encoding="utf-8")
    encoded = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page)
    assert len(encoded) >= 2 * 6
    for number, content in enumerate(encoded):
        path = reported / f"picture{number}"
        path.write_bytes(base64.b64decode(content))
        with Image.open(path) as picture:
            picture.load()
        path.unlink()
