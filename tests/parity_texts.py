"""200 texts in three languages, an empty one and one that is cut among them."""

from itertools import product

_SENTENCES = {
    "How do I {} {}?": (
        ["open", "delete", "sort", "merge", "print", "share"],
        ["a table", "two files", "the index", "a long list", "my photos", "an old record", "the last line",
         "every page", "this folder", "a matrix", "the report"],
    ),
    "Wie kann ich {} {}?": (
        ["{} öffnen", "{} löschen", "{} ordnen", "{} verbinden", "{} drucken", "{} teilen"],
        ["eine Tabelle", "zwei Dateien", "das Verzeichnis", "eine lange Liste", "meine Fotos", "einen alten Eintrag",
         "die letzte Zeile", "jede Seite", "diesen Ordner", "eine Matrix", "den Bericht"],
    ),
    "怎样{}{}？": (
        ["打开", "删除", "排序", "合并", "打印", "分享"],
        ["一个表格", "两个文件", "索引", "一个长列表", "我的照片", "一条旧记录", "最后一行", "每一页", "这个文件夹",
         "一个矩阵", "这份报告"],
    ),
}  # fmt: skip


def parity_texts() -> list[str]:
    texts = []
    for frame, (verbs, nouns) in _SENTENCES.items():
        for number, (verb, noun) in enumerate(product(verbs, nouns)):
            sentence = frame.format(verb, noun) if "{}" not in verb else f"Wie kann ich {verb.format(noun)}?"
            texts.append(" ".join([sentence] * (1 + number % 4)))
    return [*texts, "", "a text that is longer than any model reads at once " * 200]
