"""The zoo's networks against the numbers that their papers, the course and torchvision give."""

import numpy as np
import onnx
import pytest
import torch
from training import MakeWorkspace

from forwardpass.artefact import load_golden
from forwardpass.trainer.errors import UnknownNameError
from forwardpass.trainer.models.alexnet import AlexNet
from forwardpass.trainer.models.embedding import EmbeddingNetwork, LogitsAndEmbedding
from forwardpass.trainer.models.inception import InceptionV3
from forwardpass.trainer.models.initial import initialize
from forwardpass.trainer.models.lenet import LeNet
from forwardpass.trainer.models.vgg import Vgg16
from forwardpass.trainer.untrained import publish_untrained
from forwardpass.trainer.zoo import ARCHITECTURES, count_parameters, find_architecture, measure

# Parameters, multiply-adds, and numbers in the embedding (0 for none) and in the other output.
SIZES = {
    "linear": (2, 1, 0, 1),
    "mlp-2-1-1": (5, 2 + 1, 0, 1),
    "mlp-2-3-2": (17, 6 + 6, 0, 2),
    "mlp-3-4-4-4-3": (71, 12 + 16 + 16 + 12, 0, 3),
    "mlp-5-10x10-5": (1_105, 50 + 9 * 100 + 50, 0, 5),
    # Each map's extent, times its weights: C1, C3, C5, F6 and the output.
    "lenet-5": (
        61_706,
        28 * 28 * 6 * 25 + 10 * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 840,
        84,
        10,
    ),
    "alexnet": (61_100_840, 714_188_480, 4096, 1000),
    "vgg-16": (138_357_544, 15_470_264_320, 4096, 1000),
    "inception-v3": (23_834_568, 5_713_216_096, 2048, 1000),
    "resnet-18": (11_689_512, 1_814_073_344, 512, 1000),
    "resnet-34": (21_797_672, 3_663_761_408, 512, 1000),
    "resnet-50": (25_557_032, 4_089_184_256, 2048, 1000),
    "resnet-101": (44_549_160, 7_801_405_440, 2048, 1000),
    "resnet-152": (60_192_808, 11_513_626_624, 2048, 1000),
    "resnet50-v1-keras": (25_583_592, 3_857_973_248, 2048, 1000),
}


def test_the_table_has_every_architecture() -> None:
    assert list(ARCHITECTURES) == list(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_it_is_as_big_as_its_paper_says(name: str) -> None:
    parameters, multiply_adds, embedding, output = SIZES[name]

    size = measure(find_architecture(name))

    assert size.parameters == parameters
    assert size.multiply_adds == multiply_adds
    expected = {"logits": (output,), "embedding": (embedding,)} if embedding else {}
    assert size.outputs == (expected or {"values": (output,)})
    with_auxiliary_head = {"inception-v3": 27_161_264}
    assert size.trainee_parameters == with_auxiliary_head.get(name, parameters)


def test_an_unknown_architecture_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="architecture 'vgg16'; did you mean 'vgg-16'"):
        find_architecture("vgg16")


def test_what_is_trained_gives_the_logits_that_are_served() -> None:
    for architecture in ARCHITECTURES.values():
        if architecture.takes_images:
            with torch.device("meta"):
                logits = architecture.build().eval()(
                    torch.empty(2, *architecture.shape, dtype=torch.uint8)
                )
            assert logits.shape == (2, *measure(architecture).outputs["logits"])
    lenet = LeNet(0.13, 0.31).eval()
    images = torch.randint(0, 256, (3, 28, 28, 1), dtype=torch.uint8)
    served, embedding = LogitsAndEmbedding(lenet)(images)
    assert served.equal(lenet(images))
    assert lenet.head(embedding).equal(served)


def test_inceptions_auxiliary_head_answers_in_training_alone() -> None:
    with torch.device("meta"):
        network = InceptionV3(auxiliary=True)
        image = torch.empty(2, 299, 299, 3, dtype=torch.uint8)
        network.train()
        logits, auxiliary = network(image)
        network.eval()
        alone = network(image)

    assert logits.shape == auxiliary.shape == alone.shape == (2, 1000)
    assert network.auxiliary is not None
    assert count_parameters(network.auxiliary) == 27_161_264 - 23_834_568


def test_inceptions_grids_are_the_papers() -> None:
    grids: list[tuple[int, ...]] = []
    with torch.device("meta"):
        network = InceptionV3().eval()
        for part in (network.stem, *network.to_17, *network.to_8):
            part.register_forward_hook(lambda _, __, maps: grids.append(tuple(maps.shape[1:])))
        network(torch.empty(1, 299, 299, 3, dtype=torch.uint8))

    assert grids == [
        (192, 35, 35),
        (256, 35, 35),
        *[(288, 35, 35)] * 2,
        *[(768, 17, 17)] * 5,
        (1280, 8, 8),
        *[(2048, 8, 8)] * 2,
    ]


@pytest.mark.parametrize(("network", "dropouts"), [(AlexNet, 2), (Vgg16, 2), (InceptionV3, 1)])
def test_values_are_dropped_in_training_alone(
    network: type[EmbeddingNetwork], dropouts: int
) -> None:
    with torch.device("meta"):
        layers = [m for m in network().modules() if isinstance(m, torch.nn.Dropout)]

    assert [layer.p for layer in layers] == [0.5] * dropouts
    ones = torch.ones(1000)
    assert layers[0].eval()(ones).equal(ones)
    assert 300 < (layers[0].train()(ones) == 0).sum() < 700


def test_initial_weights_neither_grow_nor_vanish() -> None:
    torch.manual_seed(0)
    layers = (torch.nn.Linear(256, 256), torch.nn.Conv2d(256, 256, 3), torch.nn.Conv2d(256, 8, 3))
    network = initialize(torch.nn.Sequential(*layers))

    for layer in layers:
        inputs = layer.weight[0].numel()
        assert layer.weight.var().item() * inputs == pytest.approx(2, rel=0.05)
        assert layer.bias is not None
        assert 0 < layer.bias.std() < 0.5
    assert network[0] is layers[0]


@pytest.mark.parametrize("name", ["linear", "lenet-5"])
def test_a_seed_gives_the_same_file_and_another_seed_another(
    name: str, make_workspace: MakeWorkspace
) -> None:
    architecture = find_architecture(name)
    workspace = make_workspace()

    first, again, other = (
        publish_untrained(architecture, workspace, seed).folder for seed in (1, 1, 2)
    )

    for file in ("model.onnx", "golden.npz"):
        assert (first / file).read_bytes() == (again / file).read_bytes()
        assert (first / file).read_bytes() != (other / file).read_bytes()


def test_an_untrained_networks_card_says_so(make_workspace: MakeWorkspace) -> None:
    published = publish_untrained(find_architecture("mlp-2-3-2"), make_workspace(), seed=5)
    card = published.card

    assert published.folder.parent.name == "mlp-2-3-2"
    assert card.description.startswith("UNTRAINED: ")
    assert (card.recipe, card.parameters, card.seed, dict(card.metrics)) == ("", 17, 5, {})
    assert card.reference.startswith("Rumelhart")
    assert not card.HasField("data")
    graph = onnx.load(published.folder / "model.onnx").graph
    golden = load_golden(published.folder / "golden.npz")
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    assert sum(array.size for array in weights) == 17
    assert golden.inputs["features"].dtype == np.float32
