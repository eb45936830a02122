"""Sphinx extension: what surrounds the chapters. Their look, and what others learn about a page.

Search engines and chat programs get a description (a page's first paragraph), a picture, the canonical
address and a sitemap; whoever follows a dead link gets a page that says where everything is. The book's
own address follows from the repository's, which stands in `_config.yml` and nowhere else.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from docutils import nodes
from markupsafe import Markup
from sphinx.application import Sphinx
from sphinx.config import Config

HERE = Path(__file__).parent
PICTURE = "_static/social.jpg"
ICON_SCRIPT = re.compile(r"\s*<script[^>]*/fontawesome\.js[^>]*></script>")
IMAGE = re.compile(r'<img(?![^>]*\swidth=)([^>]*\ssrc="(?:\.\./)*_images/([^"]+\.png)"[^>]*?)\s*/?>')
# Roles and labels that contradict what they are on: a list whose parts are no list items, and a label that
# says something else than the text that is seen.
CONTRADICTIONS = {
    '<div role="list" class="citation-list">': '<div class="citation-list">',
    '<summary aria-label="Toggle hidden content">': "<summary>",
}
LONGEST = 200  # characters of a description; search engines show about 160


def derive_address(app: Sphinx, config: Config) -> None:
    """Let Sphinx know where GitHub Pages will serve the book, unless _config.yml says otherwise."""
    config.templates_path.append(str(HERE / "templates"))
    repository = config.html_theme_options.get("repository_url", "")
    if not config.html_baseurl and repository:
        owner, name = repository.rstrip("/").split("/")[-2:]
        config.html_baseurl = f"https://{owner.lower()}.github.io/{name}/"


# ---- what the head of a page says ----


def description(doctree: nodes.document | None) -> str:
    """Return the first paragraph of a page, cut at the end of a word where it is long."""
    if doctree is None:
        return ""
    paragraph = next(doctree.findall(nodes.paragraph), None)
    text = " ".join(paragraph.astext().split()) if paragraph else ""
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rpartition(' ')[0].rstrip(',;:')} …"


def without_icon_script(head: str) -> Markup:
    """Drop the theme's tag for Font Awesome's script: 1.5 MB that draw again what its fonts draw."""
    return Markup(ICON_SCRIPT.sub("", head))


def add_context(
    app: Sphinx, page: str, template: str, context: dict[str, object], doctree: nodes.document | None
) -> None:
    """Give the templates what they need, and the pictures of a page their size."""
    context["summary"] = description(doctree)
    context["without_icon_script"] = without_icon_script
    context["social_picture"] = f"{app.config.html_baseurl}{PICTURE}"
    if "body" in context:
        sources = {name: Path(app.srcdir, source) for source, name in app.builder.images.items()}
        body = IMAGE.sub(lambda match: with_size(match, sources), context["body"])
        for wrong, right in CONTRADICTIONS.items():
            body = body.replace(wrong, right)
        context["body"] = body


def with_size(match: re.Match[str], sources: dict[str, Path]) -> str:
    """Write width and height into an image's tag, so that the page does not jump when it arrives."""
    source = sources.get(match[2])
    if source is None or not source.is_file():
        return match[0]
    width, height = struct.unpack(">II", source.read_bytes()[16:24])  # PNG's first chunk
    lazy = ' loading="lazy"' if 'class="still"' in match[1] else ""  # one that is replaced before it is seen
    return f'<img width="{width}" height="{height}"{lazy}{match[1]}/>'


def settle_on_light(app: Sphinx, error: Exception | None) -> None:
    """Where no script runs, nothing turns the theme "auto" into one that has colours: write "light"."""
    if error or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text("utf8")
        if 'data-theme="auto"' in text:
            page.write_text(text.replace('data-theme="auto"', 'data-theme="light"', 1), "utf8")


# ---- pages that no chapter writes ----


def chapters(app: Sphinx) -> list[tuple[str, str]]:
    """Return name and title of every page, as the table of contents orders them."""
    root = app.config.root_doc
    order = [root, *(page for page in app.env.toctree_includes.get(root, []))]
    order += sorted(app.env.found_docs - set(order))
    return [(page, app.env.titles[page].astext()) for page in order if page in app.env.titles]


def write_extra_pages(app: Sphinx, error: Exception | None) -> None:
    """Write sitemap.xml, and the 404.html that GitHub Pages shows for any address it does not know."""
    if error or app.builder.format != "html":
        return
    base = app.config.html_baseurl
    path = "/" + base.partition("://")[2].partition("/")[2]
    context = {"base": base, "path": path, "chapters": chapters(app), "title": app.config.html_title}
    for name in ("sitemap.xml", "404.html"):
        Path(app.outdir, name).write_text(app.builder.templates.render(name, context), "utf8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", derive_address)
    app.connect("html-page-context", add_context)
    app.connect("build-finished", write_extra_pages)
    app.connect("build-finished", settle_on_light)
    app.add_css_file("book.css", priority=900)  # after the theme's
    return {"parallel_read_safe": True, "parallel_write_safe": True}
