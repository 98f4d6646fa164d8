"""What a caller gives as a sample, and which answers to it would prove nothing."""

import numpy as np
import pandas as pd
import pytest
import torch

from forwardpass.artefact import Golden
from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.sample import check_answers, golden_rows, read_sample

X = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_arrays_tensors_and_texts_become_arrays() -> None:
    sample = read_sample(
        {"array": X, "tensor": torch.ones(3, 2, requires_grad=True), "text": ["a", "b", "c"]}
    )
    assert [array.dtype for array in sample.values()] == [np.float32, np.float32, object]
    np.testing.assert_array_equal(sample["tensor"], np.ones((3, 2)))


def test_a_data_frame_is_its_columns() -> None:
    sample = read_sample(pd.DataFrame({"age": [1.0, 2.0], "name": ["x", "y"]}))
    assert list(sample) == ["age", "name"]
    assert sample["name"].tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "inputs is empty"),
        (X, 'inputs is a ndarray; give a sample by name, such as inputs={"image": images}'),
        ({"x": [1 + 2j, 3]}, "input 'x' cannot be a tensor: a tensor cannot hold complex128"),
        ({"x": [[1, 2], [3]]}, "input 'x' cannot be a tensor"),
        ({"x": np.array([{}, {}])}, "input 'x' holds objects that are no strings"),
    ],
)
def test_what_is_no_sample_is_refused(given: object, message: str) -> None:
    with pytest.raises(PublishError, match=message):
        read_sample(given)  # type: ignore[arg-type]


def test_golden_rows_are_spread_over_the_sample() -> None:
    rows = golden_rows({"x": np.arange(100), "y": np.arange(100) * 2})
    assert len(rows["x"]) == 16
    assert rows["x"][0] == 0
    assert rows["x"][-1] == 99
    np.testing.assert_array_equal(rows["y"], rows["x"] * 2)
    assert golden_rows({"x": X})["x"].tolist() == X.tolist()


@pytest.mark.parametrize(
    ("sample", "given"),
    [
        ({"x": X[:1]}, "x has 1"),
        ({"x": X, "y": X[:2]}, "x has 3, y has 2"),
        ({"x": np.float32(1)}, "x has 0"),
    ],
)
def test_fewer_than_two_rows_or_unequal_ones_are_refused(
    sample: dict[str, np.ndarray], given: str
) -> None:
    with pytest.raises(PublishError, match=f"two rows or more, as many of each input; {given}"):
        golden_rows(sample)


def golden(answers: np.ndarray, inputs: np.ndarray = X) -> Golden:
    return Golden({"x": inputs}, {"y": answers})


def test_an_answer_that_is_no_number_is_told_by_its_row() -> None:
    for value in (np.nan, np.inf):
        answers = X.copy()
        answers[2, 0] = value
        with pytest.raises(PublishError, match=f"output 'y' is {value} at row 2 of the sample"):
            check_answers(golden(answers), batched=True)
    with pytest.raises(PublishError, match=r"output 'y' is nan at element \[2, 1\]"):
        check_answers(golden(np.where(X == 5, np.nan, X)), batched=False)


def test_answers_that_are_all_alike_are_refused() -> None:
    with pytest.raises(PublishError, match=r"output 'y' is the same for all 3 rows.* trained"):
        check_answers(golden(np.ones((3, 2), np.float32)), batched=True)
    with pytest.raises(PublishError, match="rows of the sample are all alike"):
        check_answers(golden(np.ones((3, 2), np.float32), np.ones_like(X)), batched=True)


@pytest.mark.parametrize("answers", [np.float32(3), np.ones((2, 3), np.float32)])
def test_an_output_without_a_row_for_each_is_refused(answers: np.ndarray) -> None:
    with pytest.raises(PublishError, match=r"output 'y' has the shape .*, but 3 rows went in"):
        check_answers(golden(np.asarray(answers)), batched=True)


def test_answers_that_differ_and_labels_that_do_not_pass() -> None:
    check_answers(golden(X), batched=True)
    check_answers(golden(np.array(["a", "a", "a"], object)), batched=True)
    check_answers(golden(np.ones((3, 2), np.float32)), batched=False)
