"""Texts of one's own, with a class each."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from forwardpass.trainer.data import own_texts
from forwardpass.trainer.data.own_texts import OwnTexts
from forwardpass.trainer.errors import DataError, SettingError, UnknownNameError

TEXTS = [f"{'lovely' if row % 2 else 'broken'} thing, number {row}" for row in range(40)]
KINDS = ["praise" if row % 2 else "complaint" for row in range(40)]


def load(folder: Path, texts: Sequence[str] = TEXTS, kinds: Sequence[str] = KINDS) -> OwnTexts:
    file = folder / "texts.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([("text", "kind"), *zip(texts, kinds, strict=True)])
    return own_texts.load(file, "text", "kind")


def test_each_text_has_a_class(tmp_path: Path) -> None:
    data = load(tmp_path)
    assert data.labels == ("complaint", "praise")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [26, 6, 8]
    for text, kind in zip(data.test.inputs, data.test.targets, strict=True):
        assert text.startswith(("broken", "lovely")[kind])
    assert data.source().origin == "texts.csv"


def test_a_limit_takes_texts_from_all_over_a_sorted_file(tmp_path: Path) -> None:
    data = load(tmp_path, kinds=sorted(KINDS)).limited(6)
    assert len(data.train) == len(data.validation) == len(data.test) == 6
    assert sorted(set(data.train.targets.tolist())) == [0, 1]
    with pytest.raises(SettingError, match="limit=1 leaves nothing to tell apart"):
        data.limited(1)


def test_numbers_may_be_classes(tmp_path: Path) -> None:
    assert load(tmp_path, kinds=[str(row % 3 / 2) for row in range(40)]).labels == ("0", "0.5", "1")


def test_equal_texts_are_in_one_split_whatever_their_class(tmp_path: Path) -> None:
    texts = [TEXTS[row // 4] + " " * (row % 2) for row in range(40)]
    data = load(tmp_path, texts)
    parts = [
        {text.strip() for text in part.inputs} for part in (data.train, data.validation, data.test)
    ]
    assert all(parts)
    assert sum(map(len, parts)) == 10


def test_rows_without_a_text_or_a_class_are_left_out_and_counted(tmp_path: Path) -> None:
    data = load(tmp_path, ["", " ", *TEXTS[2:]], [*KINDS[:39], ""])
    assert data.left_out.notes() == [
        "left out: 2 rows without a text, lines 2, 3",
        "left out: 1 row without a kind, line 41",
    ]


def test_what_nothing_can_be_learned_from_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kind has one class only, 'praise'"):
        load(tmp_path, kinds=["praise"] * 40)
    with pytest.raises(DataError, match="40 rows are copies of 2, which are too few"):
        load(tmp_path, KINDS)
    with pytest.raises(DataError, match="no class with enough rows"):
        load(tmp_path, [""] * 40)
    load(tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'text'"):
        own_texts.load(tmp_path / "texts.csv", "txt", "kind")
    with pytest.raises(SettingError, match="text=kind is the target, too"):
        own_texts.load(tmp_path / "texts.csv", "kind", "kind")
