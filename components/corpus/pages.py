"""Markdown, HTML and text files, one document each: its title, and its text without markup."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import NamedTuple

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

LONGEST_TITLE = 120
"""Characters of a text file's first line that may be its title."""

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)
_UNDERLINE = re.compile(r"([=\-~^*#\"'+])\1{2,}")
_LEFT_OUT = {
    "script", "style", "noscript", "template", "svg", "iframe", "nav", "footer", "aside", "button", "select",
}  # fmt: skip
"""Elements of a page that are no text of it."""
_PARAGRAPHS = {
    "p", "div", "section", "article", "main", "header", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table",
    "pre", "blockquote", "figure", "figcaption", "caption", "hr", "form", "fieldset", "details", "summary",
}  # fmt: skip
_BEGIN_LINES = {"br", "li", "tr", "dt", "dd"}
_CELLS = {"td", "th"}
_CONTENT = {"main", "article"}
"""Where a page has one, its text is what stands in it."""


class Page(NamedTuple):
    """What a file says; the text is empty where it says nothing."""

    title: str | None
    text: str


def read_page(name: str, content: bytes) -> Page:
    """The page in a file whose name ends in one of `SUFFIXES`.

    Raises:
        ValueError: it is not in UTF-8, nor, as a page of HTML may be, in the encoding that it states.
    """
    kind = next(kind for suffix, kind in KINDS.items() if name.lower().endswith(suffix))
    stated = _CHARSET.search(content[:1024]) if kind is _html else None
    encoding = stated[1].decode() if stated and not content.startswith(b"\xef\xbb\xbf") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise ValueError(f"{name}: states the encoding `{encoding}`, which there is not") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name}: invalid {error.encoding.upper()} at byte {error.start}; save it as UTF-8"
        ) from error
    title, body = kind(text.replace("\r\n", "\n").replace("\0", ""))
    return Page(" ".join(title.split()) or None if title else None, body.strip())


def _text(text: str) -> Page:
    """The first line is the title if it is short and underlined or followed by an empty line."""
    first, _, rest = text.lstrip().partition("\n")
    line, _, below = rest.partition("\n")
    if not rest.strip() or len(first) > LONGEST_TITLE or first.rstrip().endswith((".", ",", ";", ":")):
        return Page(None, text)
    if _UNDERLINE.fullmatch(line.strip()):
        return Page(first, below)
    return Page(first, rest) if not line.strip() else Page(None, text)


def _markdown(text: str) -> Page:
    """The title is the front matter's, else the first heading of level 1, else a heading that begins the page."""
    title, front_matter = None, _FRONT_MATTER.match(text)
    if front_matter:
        title, text = _title_of(front_matter[1]), text[front_matter.end() :]
    blocks = _blocks(MarkdownIt("commonmark").enable("table").parse(text))
    if title is None:
        first = next((at for at, (tag, _) in enumerate(blocks) if tag == "h1"), None)
        if first is None and blocks and blocks[0][0].startswith("h"):
            first = 0
        if first is not None:
            title = blocks.pop(first)[1]
    elif blocks and blocks[0][1].casefold() == title.casefold():
        blocks.pop(0)
    return Page(title, "\n\n".join(block for _, block in blocks if block.strip()))


def _title_of(front_matter: str) -> str | None:
    try:
        said = yaml.safe_load(front_matter)
    except yaml.YAMLError:
        return None
    title = said.get("title") if isinstance(said, dict) else None
    return str(title).strip() or None if title is not None else None


def _blocks(tokens: list[Token]) -> list[tuple[str, str]]:
    """(tag, text) of each block: a heading (`h1`), a row of a table, anything else (`p`)."""
    blocks: list[tuple[str, str]] = []
    cells: list[str] | None = None
    tag = "p"
    for token in tokens:
        match token.type:
            case "heading_open":
                tag = token.tag
            case "heading_close":
                tag = "p"
            case "tr_open":
                cells = []
            case "tr_close":
                blocks.append(("p", "\t".join(cells or [])))
                cells = None
            case "fence" | "code_block":
                blocks.append(("p", token.content.rstrip()))
            case "html_block":
                blocks.append(("p", _html(token.content).text.strip()))
            case "inline" if cells is not None:
                cells.append(_plain(token))
            case "inline":
                blocks.append((tag, _plain(token)))
    return blocks


def _plain(inline: Token) -> str:
    """The text of a line of Markdown: of links what is shown of them, of images what stands for them."""
    parts = []
    for child in inline.children or []:
        match child.type:
            case "softbreak" | "hardbreak":
                parts.append("\n")
            case "text" | "code_inline" | "image":
                parts.append(child.content)
    return "".join(parts).strip()


def _html(text: str) -> Page:
    """The title is the first `h1` of main or article; of a page that has neither, its first `h1`; else its `title`."""
    parser = _Html()
    parser.feed(text)
    parser.close()
    content = "".join(parser.content).strip()
    # Outside of the content the heading is often the site's.
    candidates = [parser.headings[True], parser.title if content else parser.headings[False], parser.title]
    titles = ("".join(found).strip(" \n\t¶§#") for found in candidates)
    body = re.sub(r"[ \t]+\n", "\n", content or "".join(parser.body))
    return Page(next(filter(None, titles), None), re.sub(r"\n{3,}", "\n\n", body))


class _Html(HTMLParser):
    """The text of a page as its reader sees it; `content` is that of main and article."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.headings: dict[bool, list[str]] = {True: [], False: []}
        """The first of the content, and the first outside of it."""
        self.body: list[str] = []
        self.content: list[str] = []
        self._left_out: tuple[str, int] = ("", 0)
        """An element that is passed over, and how many of its kind are open."""
        self._open = dict.fromkeys(("title", "h1", "pre", *_CONTENT), 0)
        self._read_headings: set[bool] = set()
        self._begins_line = True

    def handle_starttag(self, tag: str, attrs: object) -> None:
        name, depth = self._left_out
        if depth:
            self._left_out = name, depth + (tag == name)
        elif tag in _LEFT_OUT:
            self._left_out = tag, 1
        else:
            if tag in self._open:
                self._open[tag] += 1
            if tag in _PARAGRAPHS:
                self._add("\n\n")
            elif tag in _BEGIN_LINES:
                self._add("\n")
            elif tag in _CELLS and not self._begins_line:
                self._add("\t")

    def handle_endtag(self, tag: str) -> None:
        name, depth = self._left_out
        if depth:
            self._left_out = name, depth - (tag == name)
            return
        if tag in _PARAGRAPHS:
            self._add("\n\n")
        if tag in self._open:
            self._open[tag] = max(0, self._open[tag] - 1)
        if tag == "h1" and "".join(self.headings[self._in_content]).strip():
            self._read_headings.add(self._in_content)

    def handle_data(self, data: str) -> None:
        if self._left_out[1]:
            return
        if self._open["title"]:
            self.title.append(data)
        elif self._open["h1"] and self._in_content not in self._read_headings:
            self.headings[self._in_content].append(data)
        elif self._open["pre"]:
            self._add(data)
        else:
            folded = re.sub(r"\s+", " ", data)
            self._add(folded.lstrip() if self._begins_line else folded)

    def _add(self, text: str) -> None:
        if text:
            self._begins_line = text.endswith("\n")
        self.body.append(text)
        if self._in_content:
            self.content.append(text)

    @property
    def _in_content(self) -> bool:
        return any(self._open[tag] for tag in _CONTENT)


KINDS: dict[str, Callable[[str], Page]] = {
    ".md": _markdown, ".markdown": _markdown, ".html": _html, ".htm": _html, ".txt": _text, ".rst": _text,
}  # fmt: skip
SUFFIXES = tuple(KINDS)
