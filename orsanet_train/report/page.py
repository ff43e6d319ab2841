"""A report as one self-contained HTML file, and as Markdown.

Everything that comes from a user (file, class, tag and run names) is text: jinja2 escapes it. The
page's content security policy allows its own style sheet and embedded pictures; it forbids scripts
and requests.
"""

import base64
import hashlib
import json
import textwrap
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from orsanet_cache.errors import OrsanetError
from orsanet_cache.inspection.tiles import PALETTE, PARTS
from orsanet_cache.outputs import Kind
from orsanet_cache.streams import printable
from orsanet_train.config import config_toml
from orsanet_train.evaluation.metrics import FEW_IMAGES
from orsanet_train.evaluation.statistics import decimals
from orsanet_train.evaluation.tables import accuracy_baselines, baseline_text, comparison_text
from orsanet_train.report.album import ReportPicture
from orsanet_train.report.contents import Report
from orsanet_train.report.paper import CAPTION, HEADING
from orsanet_train.report.text import between, day, images, markdown_text, percent, points

PAGE, MARKDOWN, NUMBERS = "report.html", "report.md", "report.json"
FOLDER = Kind(
    "a report",
    {
        NUMBERS: rb'\{\s*"runs": \[\s*\{\s*"name": ',
        MARKDOWN: rb"# ",
        PAGE: rb"<!DOCTYPE html>.{,1000}<title>ORSANet report: ",
    },
    marks=(NUMBERS, PAGE),
)


def check_same_runs(report: Report, folder: Path) -> None:
    """Raises OrsanetError if the folder has a report of other runs, which must not be replaced."""
    if not (folder / NUMBERS).exists():
        return
    try:
        before = [run["name"] for run in json.loads((folder / NUMBERS).read_bytes())["runs"]]
    except (ValueError, LookupError, TypeError, RecursionError):  # damaged: of no use to anybody
        return
    if _runs(before) != _runs(now := [run.name for run in report.runs]):
        raise OrsanetError(
            f"{folder}: has the report of {', '.join(map(str, before))}, not of {', '.join(now)}; choose another folder with --out"
        )


def _runs(names: Sequence[object]) -> list[str]:
    """The runs' folders, without the seeds that they have at present."""
    return [str(name).partition(", seed ")[0] for name in names]


def write_report(report: Report, pictures: Sequence[Sequence[ReportPicture]], out: Path) -> None:
    """Write report.html, report.md and report.json into the folder `out`, which exists.

    `pictures` has the pictures of each run of the report.
    """
    environment = _environment()
    style = _file("style.css") + "".join(
        f".part-{label} {{ background: rgb({red}, {green}, {blue}); }}\n"
        for label, (red, green, blue) in enumerate(PALETTE.tolist())
    )
    content = report.as_json()
    values = {
        "report": report,
        "parts": PARTS,
        "few": FEW_IMAGES,
        "published": {"heading": HEADING, "caption": CAPTION},
        "runs": list(zip(report.runs, pictures, strict=True)),
    }
    page = environment.get_template("report.html").render(
        **values, style=Markup(style), style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    )
    markdown = environment.get_template("report.md").render(**values)
    for name, text in ((NUMBERS, json.dumps(content, indent=2, allow_nan=False)), (MARKDOWN, markdown), (PAGE, page)):
        (out / name).write_text(text, encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=DictLoader({name: _file(name) for name in ("report.html", "comparison.html", "report.md")}),
        autoescape=lambda name: name != "report.md",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"zip": zip, "baseline_text": baseline_text, "accuracy_baselines": accuracy_baselines}
    environment.filters |= {
        "percent": percent, "points": points, "between": between, "day": day, "decimals": decimals, "images": images, "md": markdown_text, "indented": lambda text: textwrap.indent(printable(text), "    "),
        "comparison_text": comparison_text, "toml": config_toml, "pretty": lambda value: json.dumps(value, indent=2),
    }  # fmt: skip
    return environment


def _file(name: str) -> str:
    return (files("orsanet_train.report") / "templates" / name).read_text(encoding="utf-8")
