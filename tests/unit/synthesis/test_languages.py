"""A text in another language is told, a short or technical one is let be."""

import pytest

from components.synthesis.languages import is_other_language
from components.synthesis.prompts import load_prompts

CODES = list(load_prompts().languages)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("how do I keep only the newest log files", "en"),
        ("matrix norms in numpy, with an infinite order", "en"),
        ("vector norms", "en"),
        ("sqlite pragma journal_mode wal", "en"),
        ("convert mp4 gif ffmpeg", "en"),
        ("如何计算矩阵的范数", "zh"),
        ("如何使用 numpy.linalg.norm 计算范数", "zh"),
        ("行列のノルムを計算する方法", "ja"),
        ("Wie behalte ich nur die neuesten Protokolldateien", "de"),
        ("Hvordan beholder jeg bare de nyeste loggfilene", "no"),
        ("42", "en"),
        ("anything at all in a tongue that nobody here can tell", "xx"),
    ],
)
def test_a_text_in_its_language_passes(text: str, code: str):
    assert not is_other_language(text, code, CODES)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("how do I keep only the newest log files", "zh"),
        ("如何计算矩阵的范数", "en"),
        ("Wie behalte ich nur die neuesten Protokolldateien", "en"),
        ("Cette fonction renvoie le nombre de lignes de la table", "de"),
        ("This function returns the number of rows", "fr"),
    ],
)
def test_a_text_in_another_language_is_told(text: str, code: str):
    assert is_other_language(text, code, CODES)


def test_the_languages_of_the_prompts_are_known():
    for code in CODES:
        assert not is_other_language("", code, CODES)
