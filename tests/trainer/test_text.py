"""Recipes that take texts: what is counted in the graph, and the two networks' own claims."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from training import Publish

from forwardpass.trainer.data import spam
from forwardpass.trainer.data.pictures import write_pictures
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.export.front import COUNTS, Front
from forwardpass.trainer.export.graph import export_graph
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.models.text import MeanVector, SkipGram, TextNetwork, TfIdf
from forwardpass.trainer.plots.words import nearest_words
from forwardpass.trainer.recipes.spam import RULES, rule_hits
from forwardpass.trainer.training.workspace import Workspace

TEXTS = [
    "The cat sat on the mat, and the CAT's hat is $$$ 100",
    "a dog! A dog!! it's a dog's life",
    "100 free cats, click HERE now!!!",
    "",
]
HOSTILE = [
    *TEXTS,
    " \t\r\n",
    "\0",
    "free\0click",
    "🐈 cat 🐈‍⬛ sat",
    "# # cat #",  # what rows of tokens are filled up with
    "unknown words alone",
    "é cat É İ ﬀ ß",
    "cat\u2028sat\u00a0mat",
    "cat " * 1000,
    "x" * 1_000_000,
    "cat sat " * 125_000,
]


@pytest.mark.parametrize(
    "vectorizer",
    [
        CountVectorizer(token_pattern=r"[A-Za-z0-9][A-Za-z0-9']*|[$!]+", lowercase=False),
        CountVectorizer(token_pattern=r"[a-z]+(?:'[a-z]+)?"),
    ],
)
def test_the_graph_counts_words_as_scikit_learn_does(vectorizer: CountVectorizer) -> None:
    front = Front(vectorizer.fit(TEXTS))
    session = counting_session(front)

    expected = front.counts(HOSTILE)
    together = session.run(["answer"], {"text": np.array(HOSTILE, dtype=object)})[0]
    alone = [session.run(["answer"], {"text": np.array([t], dtype=object)})[0] for t in HOSTILE]

    assert expected.sum() > 250_000
    np.testing.assert_array_equal(together, expected)
    np.testing.assert_array_equal(np.concatenate(alone), expected)
    assert session.run(["answer"], {"text": np.array([], dtype=object)})[0].shape == (
        0,
        len(front.words),
    )


def counting_session(front: Front) -> Any:
    class AsTheyAre(torch.nn.Module):
        def forward(self, counts: torch.Tensor) -> torch.Tensor:
            return counts * 1

    head = export_graph(AsTheyAre().eval(), {COUNTS: front.counts(TEXTS)}, ["answer"])
    return open_session(front.join(head, "text").SerializeToString())


def test_a_long_text_among_short_ones_takes_the_memory_of_one(publish_once: Publish) -> None:
    code = """
import resource, sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
def peak(texts):
    session.run(None, {"text": np.array(texts, dtype=object)})
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
long = "a cat " * 200_000
print(peak([long]), peak([long] + ["cat"] * 63))
"""
    model = publish_once("words").folder / "model.onnx"
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True
    )
    alone, among = map(int, done.stdout.split())
    # Rows as long as the longest would take 64 times 400,000 tokens of 32 bytes: 800 MB.
    assert among - alone < 100_000  # kilobytes


def test_lower_case_is_made_by_the_locale_that_every_machine_has(publish_once: Publish) -> None:
    folder = publish_once("words").folder
    body = next(n for n in onnx.load(folder / "model.onnx").graph.node if n.op_type == "Loop")
    normalizers = [
        {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for node in body.attribute[0].g.node
        if node.op_type == "StringNormalizer"
    ]
    assert [normalizer["locale"] for normalizer in normalizers] == [b"C"]
    code = (
        "import sys, numpy as np, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1])\n"
        "texts = np.array(['LINUX', 'linux', 'ŻÓŁW linux'], dtype=object)\n"
        "print(np.ptp(session.run(None, {'text': texts})[0], axis=0).max())"
    )
    for locale in ("C", "C.UTF-8", "nonsense"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder / "model.onnx")],
            env={**os.environ, "LC_ALL": locale, "LANG": locale},
            capture_output=True,
            text=True,
            check=True,
        )
        assert float(done.stdout) == 0


def test_tf_idf_is_scikit_learns() -> None:
    counts = CountVectorizer().fit(TEXTS)
    expected = TfidfVectorizer(sublinear_tf=True).fit(TEXTS).transform(HOSTILE).toarray()
    training, asked = (counts.transform(texts).toarray() for texts in (TEXTS, HOSTILE))
    weights = TfIdf(torch.from_numpy((training > 0).sum(axis=0)), len(TEXTS))

    np.testing.assert_allclose(
        weights(torch.from_numpy(asked).float()).numpy(), expected, atol=1e-6
    )


def test_the_networks_have_the_parameters_that_are_told() -> None:
    network = TextNetwork(TfIdf(torch.ones(20_000), 10), 64, 2, 0.3, 0.5)
    assert sum(p.numel() for p in network.parameters()) == 20_000 * 64 + 64 + 64 * 2 + 2
    skip_gram = SkipGram(1000, 100)
    assert sum(p.numel() for p in skip_gram.parameters()) == 2 * 1000 * 100


def test_a_texts_vector_is_the_mean_of_its_words_and_zero_without_any() -> None:
    vectors = torch.randn(3, 5)
    counts = torch.tensor([[1.0, 0, 3], [0, 0, 0]])

    answer = MeanVector(vectors)(counts)

    torch.testing.assert_close(answer[0], (vectors[0] + 3 * vectors[2]) / 4)
    assert (answer[1] == 0).all()


def test_skip_gram_puts_words_of_like_neighbours_together() -> None:
    """Words 0 and 1 are near 4 and 5; 2 and 3 are near 6 and 7."""
    torch.manual_seed(0)
    near = {0: (4, 5), 1: (4, 5), 2: (6, 7), 3: (6, 7)}
    rows = [(word, context) for word, contexts in near.items() for context in contexts]
    words = torch.tensor([(w, c, other) for w, c in rows for other in range(4, 8)])
    true = torch.tensor([[1.0, float(other in near[w])] for w, c in rows for other in range(4, 8)])
    network = SkipGram(8, 4)
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    for _ in range(100):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(words), true)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    vectors = network.vectors.weight.detach().numpy()[:4]
    assert [nearest_words(vectors, word, 1)[0] for word in range(4)] == [[1], [0], [3], [2]]


def test_the_corpus_has_no_duplicate_in_two_splits(workspace: Workspace) -> None:
    data = spam.load(workspace.cache, workspace.reporter)

    assert [len(s) for s in (data.train, data.validation, data.test)] == [3_649, 500, 1_000]
    shares = [split.targets.mean() for split in (data.train, data.validation, data.test)]
    assert shares == pytest.approx([0.238] * 3, abs=0.001)
    seen = [words_of(text) for text in (*data.train.inputs, *data.validation.inputs)]
    for text in data.test.inputs[::50]:
        words = words_of(text)
        assert max(len(words & s) / max(len(words | s), 1) for s in seen) < 0.8


def test_texts_have_no_pictures_to_write(tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(DataError, match="spam has texts"):
        write_pictures(spam.load(workspace.cache, workspace.reporter, limit=3), tmp_path, 1)


def words_of(text: str) -> set[str]:
    return set("".join(c if c.isascii() and c.isalpha() else " " for c in text).lower().split())


def test_of_texts_that_are_alike_the_first_is_kept() -> None:
    text = "buy one of ten fine things at half of what it costs elsewhere today"
    texts = [
        text,
        "something else",
        text.upper() + " 12345 !!!",
        text.replace("today", "XKCDQ"),
        "",
        "123",
        "half of it is other words and so buy one of ten fine things stays",
    ]

    assert spam.first_of_alike(texts) == [0, 1, 4, 6]


def test_traces_of_mailing_lists_are_left_out() -> None:
    text = (
        "[ILUG] Re: dinner\n\nCome to jm@example.org\nand eat.\n"
        "Irish Linux Users' Group: x\nhttp://www.linux.ie/mailman/listinfo/ilug for more\n"
    )

    assert spam.clean(text).split() == ["Re:", "dinner", "Come", "to", "and", "eat."]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Cheap V!agr@ today", 0),
        ("cheap VIAGRA", 0),
        ("Click here", 1),
        ("the lowest rates", 5),
        ("Dear Friend,", 10),
        ("so cheap!!!", 11),
    ],
)
def test_rules_mark_what_they_were_written_for(text: str, rule: int) -> None:
    assert np.flatnonzero(rule_hits(np.array([text], dtype=object))[0]).tolist() == [rule]
    assert not rule_hits(np.array(["Lunch at noon, at Bob's house?"], dtype=object)).any()
    assert len(RULES) == 12


def test_spam_is_compared_with_rules_and_regression(publish_once: Publish) -> None:
    card = publish_once("spam").card

    assert tuple(card.labels) == ("ham", "spam")
    for name in ("accuracy", "logistic_regression_accuracy", "rules_accuracy"):
        assert card.metrics["always_ham_accuracy"] - 0.05 < card.metrics[name] < 1
    # A few steps from a few examples order e-mails much better than chance does.
    assert card.metrics["area_under_roc"] > 0.85
    assert card.metrics["logistic_regression_area_under_roc"] > 0.85
