"""One sentence of a document: prose, whole where there is one, the same on every machine."""

import pytest

from components.synthesis.sentences import draw_sentence

MANUAL = """Small. Fast. Reliable.
Home
Menu
About
The write-ahead log is checkpointed when it holds
a thousand pages. Readers go on while it is written! Is the file locked in the meantime?
PRAGMA journal_mode=WAL;
See also: VACUUM
"""


def drawn(text: str) -> set[str | None]:
    return {draw_sentence(text, f"row {number}", seed=0) for number in range(200)}


def test_whole_sentences_are_drawn_lines_joined_and_menus_left_out():
    assert drawn(MANUAL) == {
        "The write-ahead log is checkpointed when it holds a thousand pages.",
        "Readers go on while it is written!",
        "Is the file locked in the meantime?",
    }


def test_without_a_whole_sentence_a_line_will_do():
    text = "Create an archive from some files: tar cf {{target.tar}} {{file1}}\nExtract it: tar xf {{x}}"
    assert drawn(text) == {"Create an archive from some files"}


def test_chinese_is_cut_at_its_own_stops():
    assert drawn("显示目录中最大的十个文件。该命令不会删除任何文件。ls -S") == {
        "显示目录中最大的十个文件。",
        "该命令不会删除任何文件。",
    }


@pytest.mark.parametrize("text", ["", "ls -la", "x = f(y) + {z} | sort", "Home\nMenu\nAbout", "word " * 100])
def test_what_has_no_sentence_gives_none(text: str):
    assert drawn(text) == {None}


def test_a_document_of_ten_megabytes_takes_no_time():
    assert draw_sentence("The lamp is cleaned by hand. " * 360_000, "a", 0) == "The lamp is cleaned by hand."
