"""Architectures against the numbers their papers and the course give."""

import numpy as np
import pytest
import torch
from torch import nn

from forwardpass.trainer.models.dcgan import (
    ConditionalDiscriminator,
    ConditionalGenerator,
    Sampler,
    between,
    discriminator,
    generator,
)
from forwardpass.trainer.models.embedding import LogitsAndEmbedding, ProbabilitiesAndEmbedding
from forwardpass.trainer.models.fashion import FashionCnn
from forwardpass.trainer.models.kernels import KERNELS, Kernels
from forwardpass.trainer.models.lenet import LeNet
from forwardpass.trainer.models.mlp import ACTIVATIONS, mlp
from forwardpass.trainer.models.pixels import Normalize, NormalizeChannels
from forwardpass.trainer.models.resnet import (
    CIFAR_DEPTHS,
    PaddedShortcut,
    ResNet,
    basic_block,
    bottleneck_block,
    cifar_resnet,
    imagenet_resnet,
    mnist_resnet,
    padded_block,
)
from forwardpass.trainer.models.scaling import Rescale, Standardize
from forwardpass.trainer.recipes.regression import WIDTHS


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_courses_weights_solve_xor() -> None:
    network = mlp([2, 2, 1])
    network.load_state_dict(
        {
            "0.weight": torch.ones(2, 2),  # W, which is its own transpose
            "0.bias": torch.tensor([0.0, -1.0]),  # c
            "2.weight": torch.tensor([[1.0, -2.0]]),  # w
            "2.bias": torch.zeros(1),  # b
        }
    )
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])

    assert network[:2](points).tolist() == [[0, 0], [1, 0], [1, 0], [2, 1]]
    assert network(points).tolist() == [[0], [1], [1], [0]]


def test_parameter_counts() -> None:
    assert count(mlp([2, 2, 1])) == 9
    assert count(mlp([64, 128, 10], dropout=0.5)) == 64 * 128 + 128 + 128 * 10 + 10
    assert count(mlp(WIDTHS)) == 1_003_501  # the course's network for a curve
    assert count(LeNet(0.13, 0.31)) == 61_706
    # One more row of the first layer's weights for each class, and one more channel.
    assert count(ConditionalGenerator(10, 10, 32)) == count(generator(10, 32)) + 10 * 9 * 128
    assert count(ConditionalDiscriminator(10, 32)) == count(discriminator(32)) + 10 * 16 * 32
    assert count(mnist_resnet(0.13, 0.31)) == 77_754
    assert count(FashionCnn(0.29, 0.35, dropout=0.3)) == 241_770


# Of He et al. 2015, table 6, in millions; the exact count is of what is built here.
@pytest.mark.parametrize(
    ("depth", "parameters", "paper"),
    [
        (20, 269_722, 0.27),
        (32, 464_154, 0.46),
        (44, 658_586, 0.66),
        (56, 853_018, 0.85),
        (110, 1_727_962, 1.7),
    ],
)
def test_residual_networks_for_cifar_have_the_papers_layers_and_parameters(
    depth: int, parameters: int, paper: float
) -> None:
    network = make_cifar_resnet(depth)

    weighted = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(weighted) == depth
    assert count(network) == parameters
    digits = 1 if depth == 110 else 2  # as many as the paper prints
    assert round(parameters / 1e6, digits) == paper
    assert depth in CIFAR_DEPTHS


def make_cifar_resnet(depth: int) -> ResNet:
    return cifar_resnet(depth, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))


def test_a_residual_network_for_cifar_halves_its_maps_twice_and_doubles_their_number() -> None:
    network = make_cifar_resnet(20)
    shapes = []
    for block in network.blocks.children():
        block.register_forward_hook(lambda _, __, maps: shapes.append(tuple(maps.shape)))

    embedding = network.embed(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))

    assert shapes == 3 * [(2, 16, 32, 32)] + 3 * [(2, 32, 16, 16)] + 3 * [(2, 64, 8, 8)]
    assert embedding.shape == (2, 64)


def test_a_shortcut_of_option_a_takes_every_other_pixel_and_adds_zeros() -> None:
    x = torch.randn(2, 3, 6, 4)

    y = PaddedShortcut(3, 8, stride=2)(x)

    assert y.shape == (2, 8, 3, 2)
    for row in range(3):
        for column in range(2):
            assert y[:, :3, row, column].equal(x[:, :, 2 * row, 2 * column])
    assert not y[:, 3:].any()


def test_a_padded_block_without_residual_is_its_shortcut() -> None:
    for channels, width, stride in ((4, 4, 1), (4, 8, 2)):
        block = padded_block(channels, width, stride).eval()
        torch.nn.init.zeros_(block.residual.get_parameter("3.weight"))
        x = torch.randn(2, channels, 6, 6)

        assert block(x).equal(PaddedShortcut(channels, width, stride)(x).relu())
        assert not list(block.shortcut.parameters())


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    network = FashionCnn(0.29, 0.35, dropout=0.3).eval()
    images = torch.randint(0, 256, (3, 28, 28, 1), dtype=torch.uint8)

    logits, embedding = LogitsAndEmbedding(network)(images)
    probabilities, same = ProbabilitiesAndEmbedding(network)(images)

    assert probabilities.equal(logits.softmax(dim=1))
    assert same.equal(embedding)
    assert embedding.shape == (3, 128)


def test_a_residual_network_takes_images_of_any_extent() -> None:
    with torch.device("meta"):  # shapes without memory or arithmetic
        network = imagenet_resnet(18)

        assert network.embed(torch.empty(1, 64, 96, 3)).shape == (1, 512)


def test_the_blocks_of_a_stage_share_what_they_add() -> None:
    for block in imagenet_resnet(18).blocks.children():  # two in each stage
        last = [m for m in block.get_submodule("residual").modules() if hasattr(m, "weight")][-1]
        assert isinstance(last, torch.nn.BatchNorm2d)
        torch.testing.assert_close(last.weight.square(), torch.full_like(last.weight, 0.5))


def test_a_bottlenecks_stride_is_its_middle_convolutions() -> None:
    strides = [m.stride for m in bottleneck_block(64, 256, 2).modules() if hasattr(m, "stride")]

    assert strides == [(1, 1), (2, 2), (1, 1), (2, 2)]  # the last is the shortcut's


def test_an_mlp_ends_in_a_linear_layer_with_and_without_dropout() -> None:
    for dropout in (0.0, 0.5):
        layers = [type(layer).__name__ for layer in mlp([4, 3, 2], dropout)]
        assert layers[0] == layers[-1] == "Linear"
        assert ("Dropout" in layers) == bool(dropout)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_mlp_has_the_activation_it_is_asked_for_but_not_at_its_end(name: str) -> None:
    layers = list(mlp([2, 3, 4, 1], activation=ACTIVATIONS[name]))

    assert [type(layer) for layer in layers[1::2]] == [ACTIVATIONS[name]] * 2
    assert isinstance(layers[-1], torch.nn.Linear)


def test_rows_are_standardized_and_come_back() -> None:
    rows = torch.tensor([[1.0, 10.0], [2.0, 30.0], [6.0, 20.0]])

    standard = Standardize.of(rows)(rows)

    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(2))
    torch.testing.assert_close(standard.std(dim=0), torch.ones(2))
    torch.testing.assert_close(Rescale.of(rows)(standard), rows)


def test_normalize_shifts_and_scales_raw_pixels() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)

    normal = Normalize(mean=0.2, deviation=0.5)(pixels)

    assert normal.shape == (1, 1, 3, 1)
    torch.testing.assert_close(normal.flatten(), torch.tensor([-0.4, 0.0, 1.6]))


def test_channels_are_normalized_each_by_its_own() -> None:
    image = torch.randint(0, 256, (2, 5, 4, 3), dtype=torch.uint8)
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    normal = NormalizeChannels(mean, deviation)(image)

    for channel in range(3):
        alone = Normalize(mean[channel], deviation[channel])(image[..., channel : channel + 1])
        torch.testing.assert_close(normal[:, channel : channel + 1], alone)


def test_a_block_without_residual_is_its_shortcut() -> None:
    block = basic_block(4, 4, stride=1).eval()
    torch.nn.init.zeros_(block.residual.get_parameter("3.weight"))
    x = torch.randn(2, 4, 6, 6)

    assert block(x).equal(x.relu())
    assert basic_block(4, 8, stride=2)(x).shape == (2, 8, 3, 3)


def test_images_of_a_generator_fit_its_discriminator() -> None:
    latent = torch.randn(3, 10)

    images = generator(10, width=4)(latent)

    assert images.shape == (3, 1, 28, 28)
    assert images.abs().max() <= 1
    assert discriminator(width=4)(images).shape == (3, 1)
    pixels = Sampler(generator(10, width=4))(latent)
    assert (pixels.shape, pixels.dtype) == ((3, 28, 28, 1), torch.uint8)


def test_kernels_are_sums_of_neighbours_rounded_and_cut() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)

    filtered = dict(zip(KERNELS, Kernels()(torch.from_numpy(image)), strict=True))

    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    for name, kernel in KERNELS.items():
        sums = (around * np.array(kernel)).sum(axis=(-2, -1))  # (2, 5, 7, 3)
        expected = np.rint(sums).clip(0, 255).astype(np.uint8)
        assert (filtered[name].numpy() == expected).all()
    assert (filtered["identity"].numpy() == image).all()
    grey = torch.full((1, 4, 4, 3), 100, dtype=torch.uint8)
    for name, plain in zip(KERNELS, Kernels()(grey), strict=True):
        assert (plain == (0 if name == "edge_detection" else 100)).all()


def test_the_discriminator_is_told_the_class() -> None:
    critic = ConditionalDiscriminator(classes=10, width=4).eval()
    images = torch.rand((2, 1, 28, 28)) * 2 - 1

    same = critic(images, torch.tensor([3, 3]))
    other = critic(images, torch.tensor([3, 4]))

    assert same.shape == (2, 1)
    assert same[0] == other[0]
    assert same[1] != other[1]


def test_the_way_between_two_latents_keeps_to_their_sphere() -> None:
    first, last = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])

    way = between(first, last, 3)

    half = 2**0.5
    torch.testing.assert_close(way, torch.tensor([[[2.0, 0.0], [half, half], [0.0, 2.0]]]))
