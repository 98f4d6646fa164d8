"""A served feature extractor as a transformer of scikit-learn (extra `sklearn`).

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from forwardpass.client.sklearn import EmbeddingTransformer

classifier = make_pipeline(EmbeddingTransformer("mnist-resnet"), LogisticRegression())
classifier.fit(["digits/7/0.png", "digits/2/0.png"], [7, 2])
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from forwardpass.client.channel import Tls
from forwardpass.client.client import Client
from forwardpass.client.errors import WrongTask
from forwardpass.client.models import Model, Version, check_loaded
from forwardpass.client.preparation import Preparation
from forwardpass.client.settings import DEFAULT_TARGET, DEFAULT_TIMEOUT

# Rows of a call, where the model states no limit.
_ROWS = 64


class EmbeddingTransformer(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]  # scikit-learn has no types
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Turns rows, pictures or texts into vectors, by a server.

    Nothing is learned: `fit` looks at what the model takes and gives. Each call of it and of
    `transform` opens a connection and closes it, so that the transformer can be copied, pickled and
    handed to other processes.

    Args:
        model: The model's name.
        targets: As `Client` takes it, as the next three.
        timeout: Seconds that a call may take.
        tls: How to secure the connection.
        token: The bearer token.
        version: As in `Client.embed`, as the next three.
        output: The embedding output to use; the model's first where None.
        normalize: Whether to scale each vector to length 1.
        preparation: How the server prepares pictures, instead of as the model's card says.

    Attributes:
        kind_: What it was fitted with: "rows", "images" or "texts".
        n_features_in_: How many columns its rows have.
        space_id_: The identity of the vectors.
    """

    def __init__(  # noqa: PLR0917  # each is a parameter
        self,
        model: str = "",
        targets: str | Sequence[str] = DEFAULT_TARGET,
        timeout: float = DEFAULT_TIMEOUT,
        tls: Tls | None = None,
        token: str | None = None,
        version: Version = None,
        output: str | None = None,
        normalize: bool = False,
        preparation: Preparation | None = None,
    ) -> None:
        self.model = model
        self.targets = targets
        self.timeout = timeout
        self.tls = tls
        self.token = token
        self.version = version
        self.output = output
        self.normalize = normalize
        self.preparation = preparation

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002, N803  # as scikit-learn calls them
        """Looks at what the model takes and gives.

        Args:
            X: Numbers, (rows, features), for a model of features; or as many paths or files of
                pictures, or texts, as rows.
            y: Not looked at.

        Raises:
            ForwardpassError: The model is not there, or gives no vectors.
            ValueError: X is nothing that it takes.
        """
        with self._client() as client:
            self._look(client, X)
        return self

    def _look(self, client: Client, given: Any) -> None:
        """Learns what the model takes and gives, by a row of what it is fitted with."""
        known = client.model(self.model, self.version)
        check_loaded(known)
        self.kind_ = _kind(known, given)
        rows = self._checked(given, is_first=True)
        spaces = [space for space in known.embedding_spaces if self.output in (None, space.output)]
        if not spaces:
            raise WrongTask(f"{self.model} has no embedding output {self.output or ''}".rstrip())
        self._n_features_out = spaces[0].dimension
        # Rows of a model that is not batched may change one another.
        is_batched = known.signature.batched
        self._rows = min(known.signature.max_rows or _ROWS, _ROWS) if is_batched else 1
        self.space_id_ = self._embed(client, rows[:1])[1]

    def transform(self, X: Any) -> NDArray[np.float32]:  # noqa: N803  # as scikit-learn calls it
        """Returns the vectors, float32 (rows, dimension).

        Raises:
            ForwardpassError: The model could not be asked.
            ValueError: X is not of the kind that it was fitted with, or the vectors are of another
                space: they would not go together with what was learned of others.
        """
        check_is_fitted(self)
        rows = self._checked(X, is_first=False)
        parts = []
        with self._client() as client:
            for start in range(0, len(rows), self._rows):
                vectors, space_id = self._embed(client, rows[start : start + self._rows])
                if space_id != self.space_id_:
                    raise ValueError(
                        f"{self.model} gives vectors of space {space_id} now, and was fitted with "
                        f"those of {self.space_id_}: fit again, or name the version"
                    )
                parts.append(vectors)
        return np.concatenate(parts)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.input_tags.string = True
        return tags

    def _client(self) -> Client:
        return Client(self.targets, timeout=self.timeout, tls=self.tls, token=self.token)

    def _checked(self, rows: Any, *, is_first: bool) -> Sequence[Any] | NDArray[Any]:
        """Returns rows as they are sent; of numbers how many columns they have is looked at."""
        if self.kind_ == "rows":
            checked: NDArray[Any] = validate_data(self, rows, reset=is_first, dtype="numeric")
            # These two the client casts to what the model takes.
            return checked.astype(np.float64 if checked.dtype.kind == "f" else np.int64)
        listed = list(rows)
        if not listed:
            raise ValueError(f"0 {self.kind_}: at least one is needed")
        return listed

    def _embed(self, client: Client, rows: Any) -> tuple[NDArray[np.float32], str]:
        given = {"images" if self.kind_ == "images" else "texts": rows}
        if self.kind_ == "rows":
            given = {"inputs": rows}
        answer = client.embed(
            self.model,
            **given,
            output=self.output,
            normalize=self.normalize,
            preparation=self.preparation,
            version=self.version,
        )
        return answer.vectors, answer.space_id


def _kind(known: Model, rows: Any) -> str:
    """Returns what rows are to a model."""
    roles = {spec.role for spec in known.signature.inputs}
    if "text" in roles:
        return "texts"
    if "image" in roles and getattr(rows, "dtype", np.dtype(object)).kind in "OSU":
        return "images"
    return "rows"
