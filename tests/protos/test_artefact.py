import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiny_models import Publisher, classifier

from forwardpass.artefact import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    CardError,
    Golden,
    ManifestError,
    card_from_json,
    card_to_json,
    draw_latents,
    draw_uniforms,
    load_golden,
    max_absolute_error,
    relative_difference,
    save_golden,
    space_id,
    verify_manifest,
    within,
)
from forwardpass.v1 import model_card_pb2


@pytest.fixture
def folder(repository: Publisher) -> Path:
    return repository("m", classifier())


def test_a_folder_is_what_its_manifest_says(folder: Path) -> None:
    assert set(verify_manifest(folder).files) == {MODEL_FILE, GOLDEN_FILE}


def test_one_flipped_bit_is_found(folder: Path) -> None:
    path = folder / MODEL_FILE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=r"model\.onnx has been altered"):
        verify_manifest(folder)


def test_a_missing_file_an_extra_one_and_a_short_one_are_found(folder: Path) -> None:
    golden = (folder / GOLDEN_FILE).read_bytes()
    (folder / GOLDEN_FILE).unlink()
    with pytest.raises(ManifestError, match=r"golden\.npz is missing"):
        verify_manifest(folder)
    (folder / GOLDEN_FILE).write_bytes(golden[:-1])
    with pytest.raises(ManifestError, match=f"{len(golden) - 1} bytes, not {len(golden)}"):
        verify_manifest(folder)
    (folder / GOLDEN_FILE).write_bytes(golden)
    (folder / "more.bin").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"more\.bin is not in"):
        verify_manifest(folder)


def test_links_are_refused(folder: Path, tmp_path: Path) -> None:
    original = folder / GOLDEN_FILE
    elsewhere = tmp_path / "elsewhere.npz"
    os.link(original, elsewhere)
    with pytest.raises(ManifestError, match="hard links"):
        verify_manifest(folder)
    original.unlink()
    original.symlink_to(elsewhere)
    with pytest.raises(ManifestError, match="not a plain file"):
        verify_manifest(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid"),
        ("[]", "not valid"),
        ('{"schema_version": 2}', "schema version 2"),
        (
            json.dumps(
                {
                    "schema_version": 1,
                    "created": "",
                    "files": {"../m": {"size": 0, "sha256": ""}},
                }
            ),
            "not in the folder",
        ),
    ],
)
def test_a_bad_manifest_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / MANIFEST_FILE).write_text(text)
    with pytest.raises(ManifestError, match=message):
        verify_manifest(folder)


def test_a_card_comes_back_and_a_later_schema_is_refused() -> None:
    card = model_card_pb2.ModelCard(recipe="r", labels=["a"], metrics={"accuracy": 0.5})
    text = card_to_json(card)
    back = card_from_json(text)
    assert back.schema_version == 1
    back.ClearField("schema_version")
    assert back == card
    with pytest.raises(CardError, match="schema version 2"):
        card_from_json(text.replace('"schemaVersion": 1', '"schemaVersion": 2'))
    with pytest.raises(CardError, match="not valid"):
        card_from_json("{")


def test_golden_data_comes_back_and_equal_data_give_equal_bytes(tmp_path: Path) -> None:
    golden = Golden(
        {"a/b": np.array(["x", "ü"], object), "c": np.eye(2, dtype=np.float16)},
        {"y": np.array([1, 2], np.int8)},
    )
    save_golden(tmp_path / "1.npz", golden)
    save_golden(tmp_path / "2.npz", golden)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    back = load_golden(tmp_path / "1.npz")
    assert back.rows == 2
    assert back.inputs["a/b"].tolist() == ["x", "ü"]
    assert back.inputs["c"].dtype == np.float16
    assert back.outputs["y"].tolist() == [1, 2]


# Made once with draw_latents; a change of any of them breaks every seed that somebody wrote down.
@pytest.mark.parametrize(
    ("seed", "dimension", "start", "expected"),
    [
        (7, 101, 0, [-0.4962984, 0.06813551, -1.1704413, 0.94949585]),
        (2**64 - 1, 3, 0, [-1.4437611, -0.17210211, 0.901327]),
    ],
)
def test_latents_are_the_committed_ones(
    seed: int, dimension: int, start: int, expected: list[float]
) -> None:
    drawn = draw_latents(seed, 1, dimension, start)[0, : len(expected)]
    assert drawn.tolist() == pytest.approx(expected, abs=1e-7)


def test_uniforms_are_the_committed_ones() -> None:
    drawn = draw_uniforms(7, 3, 2)
    expected = [
        [0.87207345482, 0.295365381514],
        [0.102817094686, 0.587703804712],
        [0.906365353246, 0.989666816545],
    ]
    assert drawn == pytest.approx(np.array(expected), abs=1e-11)


def test_uniforms_are_uniform_and_those_of_fewer_steps_are_the_first_of_those_of_more() -> None:
    uniforms = draw_uniforms(11, 500, 200)
    assert (draw_uniforms(11, 3, 5) == uniforms[:3, :5]).all()
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    shares = np.histogram(uniforms, 10, (0, 1))[0] / uniforms.size
    assert shares == pytest.approx(0.1, abs=0.005)


def test_a_sample_is_the_same_alone_and_among_others() -> None:
    together = draw_latents(3, 10, 7)
    assert (draw_latents(3, 1, 7, start=6)[0] == together[6]).all()
    assert draw_latents(3, 0, 7).shape == (0, 7)


def test_latents_are_normal() -> None:
    latents = draw_latents(11, 2000, 50).astype(np.float64)
    assert np.isfinite(latents).all()
    assert latents.mean() == pytest.approx(0, abs=0.02)
    assert latents.std() == pytest.approx(1, abs=0.02)
    assert (latents**4).mean() == pytest.approx(3, abs=0.1)


def test_spaces_differ_by_model_and_by_output() -> None:
    ids = {space_id(digest, output) for digest in ("a", "b") for output in ("x", "y")}
    assert len(ids) == 4
    assert all(len(one) == 32 for one in ids)


def test_agreement_counts_nan_with_nan_and_nothing_else() -> None:
    tolerance = model_card_pb2.Tolerance(relative=0.1, absolute=0.5)
    reference = np.array([10.0, np.nan, np.inf])
    assert within(np.array([11.4, np.nan, np.inf]), reference, tolerance)
    assert not within(np.array([11.6, np.nan, np.inf]), reference, tolerance)
    assert not within(np.array([10.0, 0.0, np.inf]), reference, tolerance)
    assert not within(reference[:2], reference, tolerance)
    assert max_absolute_error(np.array([11.5, np.nan, np.inf]), reference) == pytest.approx(1.5)
    assert max_absolute_error(np.array([10.0, 0.0, np.inf]), reference) == np.inf
    assert max_absolute_error(np.array([255], np.uint8), np.array([0], np.uint8)) == 255


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([2.0, -8.0, np.inf, np.nan], 0.0),
        ([2.0, -7.0, np.inf, np.nan], 0.125),
        ([2.0, -8.0, np.inf, 0.0], np.inf),
        ([2.0, -8.0, -np.inf, np.nan], np.inf),
        ([2.0, -8.0], np.inf),
    ],
)
def test_a_difference_is_a_share_of_the_greatest_element(
    answer: list[float], expected: float
) -> None:
    reference = np.array([2.0, -8.0, np.inf, np.nan])
    assert relative_difference(np.array(answer), reference) == expected


@pytest.mark.parametrize(
    ("reference", "other"), [([0.0], [1e-30]), ([3], [4]), ([True], [False]), (["a"], ["b"])]
)
def test_what_has_no_size_differs_wholly(reference: list[object], other: list[object]) -> None:
    first, second = np.array(reference), np.array(other)
    assert relative_difference(first, first) == 0
    assert relative_difference(second, first) == np.inf
