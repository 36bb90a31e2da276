"""Pages as their readers see them: what a browser or a renderer of Markdown would show, and nothing else."""

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.corpus.pages import Page, read_page

MARKDOWN = """\
---
title: Installing the thing
tags: [a]
---

# Installing the thing

Use **pip**, or [conda](https://example.org "x"); see `thing --help`.

## Options

- first
- second ![a picture](p.png)

| name | what |
|---|---|
| depth | how far |

```sh
pip install thing   # <b>as it is</b>
```

<div align="center"><p>Shown &amp; read</p><script>no()</script></div>
"""

HTML = """\
<!doctype html><html><head><meta charset="iso-8859-1"><title>Caf\xe9 &mdash; Site</title>
<style>p { color: red }</style></head><body>
<h1>Site</h1><nav><ul><li>Home<li>About</ul></nav>
<main><h1>The caf\xe9<a href="#x">\xb6</a></h1><p>First   paragraph,
with <b>bold</b>letters.</p><ul><li>one</li><li>two</li></ul>
<table><tr><td>a</td><td>b</td></tr></table><pre>x = 1
    y</pre></main><footer>Imprint</footer></body></html>
"""


def test_markdown():
    title, text = read_page("a/guide.md", MARKDOWN.encode())
    assert title == "Installing the thing"
    assert text.split("\n\n") == [
        "Use pip, or conda; see thing --help.", "Options", "first", "second a picture", "name\twhat", "depth\thow far",
        "pip install thing   # <b>as it is</b>", "Shown & read",
    ]  # fmt: skip


def test_html_in_the_encoding_that_it_states():
    title, text = read_page("index.HTML", HTML.encode("iso-8859-1"))
    assert title == "The café"
    assert [line for line in text.splitlines() if line] == [
        "First paragraph, with boldletters.", "one", "two", "a\tb", "x = 1", "    y",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "page"),
    [
        ("a.txt", "A title\n\nThe text.\nMore.", Page("A title", "The text.\nMore.")),
        ("a.rst", "A title\n=======\n\nThe text.", Page("A title", "The text.")),
        ("a.txt", "A sentence.\n\nThe text.", Page(None, "A sentence.\n\nThe text.")),
        ("a.txt", "one\ntwo\nthree", Page(None, "one\ntwo\nthree")),
        ("a.txt", "", Page(None, "")),
        ("a.md", "## Second level first\n\nText.", Page("Second level first", "Text.")),
        ("a.md", "Text before.\n\n## Not a title", Page(None, "Text before.\n\nNot a title")),
        ("a.md", "---\ntitle: [a, b\n---\n# Heading\n\nText.", Page("Heading", "Text.")),
        ("a.html", "<title>Only this</title><p>Text.", Page("Only this", "Text.")),
        ("a.html", "<title>T</title><h1>H</h1><p>Text.", Page("H", "Text.")),
        ("a.html", "<title>T</title><h1>Site</h1><main><h2>H</h2>Text.</main>", Page("T", "H\n\nText.")),
    ],
)
def test_where_the_title_is(name, content, page):
    assert read_page(name, content.encode()) == page


def test_a_page_that_is_in_no_encoding():
    with pytest.raises(ValueError, match=r"docs/a.md: invalid UTF-8 at byte 3; save it as UTF-8"):
        read_page("docs/a.md", b"caf\xe9")
    with pytest.raises(ValueError, match="states the encoding `latin-99`"):
        read_page("a.html", b"<meta charset=latin-99>caf\xe9")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"))), max_size=8))
def test_no_word_of_a_paragraph_is_lost_in_html(words):
    page = read_page("a.html", f"<div><p>{html.escape(' '.join(words))}</p></div>".encode())
    assert page.text.split() == " ".join(words).split()
