"""Sphinx: these pages as a site. The pages are Markdown that also reads well where it is stored; docstrings are plain prose."""

import json
import re
from collections.abc import Iterator
from importlib.metadata import version as installed_version
from typing import Any, Literal, get_args, get_origin

from docutils import nodes
from pydantic import BaseModel
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

project = "ORSANet"
author = "The contributors of this project"
copyright = "2026, the contributors of this project. Apache-2.0"  # Sphinx's name for the footer's text
release = version = installed_version("orsanet")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
html_theme = "furo"
html_title = f"ORSANet {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3
highlight_language = "none"  # a block without a language is what a program printed, or a tree of files
smartquotes = False  # they would make a dash of --option
default_role = "literal"  # `name` in a docstring is code
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

ARRAY = re.compile(
    r"~?[\w.]*\bndarray\[tuple\[~?[\w.]*\bAny, \.\.\.\], ~?[\w.]*\bdtype\[~?(?:\w+\.)*(\w+)(?:\[[^]]*\])?\]\]"
)
LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _plain_prose(_app: Sphinx, what: str, _name: str, documented: Any, _options: Any, lines: list[str]) -> None:
    """In our docstrings nothing is markup but the backtick; a paragraph that begins indented is shown as it stands."""
    if what == "module":  # Sphinx takes the indentation away where every paragraph but the first has it
        lines[:] = documented.__doc__.splitlines()
    paragraphs = "\n".join(lines).rstrip().split("\n\n")
    prose = [_shown(text) for text in paragraphs]
    if isinstance(documented, type) and issubclass(documented, BaseModel):
        prose += _keys(documented)
    lines[:] = [*"\n\n".join(prose).split("\n"), ""]


def _shown(paragraph: str) -> str:
    if paragraph.startswith(" "):
        return f"::\n\n{paragraph}"
    if paragraph.startswith("Args:\n"):  # a line for each argument; deeper lines go on with it
        arguments = re.split(r"\n {4}(?=\S)", paragraph)[1:]
        return "\n".join(["Arguments:", "", *(_argument(" ".join(text.split())) for text in arguments)])
    return _escaped(paragraph)


def _argument(text: str) -> str:
    name, _, meaning = text.partition(": ")
    return f"- `{name}`: {_escaped(meaning)}"


def _escaped(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", text)  # prose and code in turn
    return "".join(part if part.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", part) for part in parts)


def _keys(model: type[BaseModel]) -> Iterator[str]:
    """Every key of a configuration: its default, what is allowed, what it means."""
    meanings = ModuleAnalyzer.for_module(model.__module__).find_attr_docs()
    for name, field in model.model_fields.items():
        default = field.get_default()
        if isinstance(default, BaseModel):
            continue  # a table of its own in the file, and documented by itself
        if get_origin(field.annotation) is Literal:
            allowed = [" or ".join(json.dumps(choice) for choice in get_args(field.annotation))]
        else:
            rules = [(sign, getattr(rule, limit, None)) for rule in field.metadata for limit, sign in LIMITS.items()]
            allowed = [f"{sign} {value}" for sign, value in rules if value is not None]
        entry = f"- `{name}`" if field.is_required() else f"- `{name} = {json.dumps(default)}`"
        entry += f" ({', '.join(allowed)})" if allowed else ""
        meaning = " ".join(meanings.get((model.__name__, name), ()))
        yield f"{entry}: {_escaped(meaning)}" if meaning else entry


def _short_arrays(
    _app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """NDArray[uint8], much as in the source, for what Python makes of it."""

    def shortened(text: str | None) -> str | None:
        return text and ARRAY.sub(lambda found: f"NDArray[{found[1]}]", text)

    return shortened(signature), shortened(returned)


def _skip_generated(_app: Sphinx, _what: str, _name: str, member: Any, skip: bool, _options: Any) -> bool:
    """A named tuple's fields are in its signature; their generated docstrings say nothing."""
    return skip or str(getattr(member, "__doc__", "")).startswith("Alias for field number")


def _whole_command_names(_app: Sphinx, page: nodes.document) -> None:
    """sphinx-click heads `orsanet-cache bench build` with `build` alone."""
    for section in page.findall(nodes.section):
        for name in section["names"]:
            if name.startswith(("orsanet-cache ", "orsanet-train ")):
                title = next(section.findall(nodes.title))
                title.replace_self(nodes.title(text=name))


def _kept_together(_app: Sphinx, page: nodes.document) -> None:
    """For the style sheet: a table's cells that hold nothing but numbers, as in 55.17 ± 1.26, and short code, as in --out."""
    for cell in page.findall(nodes.entry):
        if re.fullmatch(r"[+−-]?\d[\d\s.,%±…–()+−e-]*", cell.astext()):
            cell["classes"].append("number")
    for code in page.findall(nodes.literal):
        if len(code.astext()) <= 24:
            code["classes"].append("short")


def setup(app: Sphinx) -> None:
    # A shell's lexer would colour `test` and `read`, which here are names.
    for language in ("bash", "console", "sh", "shell"):
        app.add_lexer(language, TextLexer)
    app.connect("autodoc-process-docstring", _plain_prose)
    app.connect("autodoc-process-signature", _short_arrays)
    app.connect("autodoc-skip-member", _skip_generated)
    app.connect("doctree-read", _kept_together)
    app.connect("doctree-read", _whole_command_names, priority=100)  # before the tables of contents are made
