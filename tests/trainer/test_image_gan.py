"""A generator of pictures like those in a folder of one's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training import PICTURES, MakeWorkspace, Publish, run_recipe

from forwardpass.artefact import draw_latents
from forwardpass.trainer.errors import DataError, SettingError, TrainerError
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.models.dcgan import discriminator, generator
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2 as pb

QUICK = ("size=16", "rounds=1", "width=4", "batch_size=8", "latent=6")


@pytest.mark.parametrize("size", [16, 20, 28, 32, 64, 100])
def test_both_players_are_for_images_of_a_size(size: int) -> None:
    images = generator(5, 2, size, 3)(torch.zeros(4, 5))

    assert images.shape == (4, 3, size, size)
    assert discriminator(2, 3, size)(images).shape == (4, 1)


def test_it_draws_in_the_colours_of_the_pictures(workspace: Workspace, tmp_path: Path) -> None:
    """Eight are one batch, and a round may have more steps than there are batches."""
    for number in range(8):
        pixels = np.full((30, 40, 3), 30 * number, np.uint8)
        pixels[..., 0] = 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    settings = ("steps=80", "average=0.9", "name=red", *QUICK)

    published = run_recipe("image-gan", workspace, f"data={tmp_path}", *settings)

    card = published.card
    assert published.folder == workspace.models / "red" / "1"
    assert [spec.role for spec in card.signature.inputs] == [pb.TENSOR_ROLE_LATENT]
    assert card.data.left_out == {"file": 1}
    session = open_session((published.folder / "model.onnx").read_bytes())
    (images,) = session.run(None, {"latent": draw_latents(0, 5, 6)})
    assert images.shape == (5, 16, 16, 3)
    # It has begun to learn that they are red.
    assert images[..., 0].mean() > images[..., 1].mean() + 10
    assert {plot.name for plot in (published.folder / "plots").iterdir()} == {
        "samples.png",
        "real.png",
        "interpolation.png",
        "losses.png",
    }


def test_it_draws_in_grey_where_all_pictures_are(publish_once: Publish) -> None:
    (images,) = publish_once("image-gan").card.signature.outputs

    assert list(images.shape) == [-1, 16, 16, 1]


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([], SettingError, "give data, such as by forwardpass-train run image-gan data=paintings"),
        (["data=nowhere"], DataError, "data=nowhere: No such file or directory; give the path of"),
        (["size=30"], SettingError, "size=30: give a multiple of 4 from 16 to 128"),
        (["size=256"], SettingError, "size=256: give a multiple of 4 from 16 to 128"),
        (
            [f"data={PICTURES}", "batch_size=100"],
            DataError,
            "there are 24 pictures, and a step takes batch_size=100; give more, or a smaller",
        ),
    ],
)
def test_what_nothing_can_be_learned_from_is_told(
    pairs: list[str], error: type[TrainerError], message: str, make_workspace: MakeWorkspace
) -> None:
    with pytest.raises(error, match=message):
        run_recipe("image-gan", make_workspace(), *pairs)
