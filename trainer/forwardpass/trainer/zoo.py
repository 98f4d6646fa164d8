"""The architectures of an introductory deep-learning course, by name, and how big each is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from forwardpass.trainer.data import mnist
from forwardpass.trainer.errors import UnknownNameError
from forwardpass.trainer.export.draft import Roles
from forwardpass.trainer.models.alexnet import AlexNet
from forwardpass.trainer.models.embedding import EmbeddingNetwork, LogitsAndEmbedding
from forwardpass.trainer.models.inception import InceptionV3
from forwardpass.trainer.models.keras_resnet import keras_resnet50
from forwardpass.trainer.models.lenet import LeNet
from forwardpass.trainer.models.mlp import Regressor, mlp
from forwardpass.trainer.models.resnet import IMAGENET_DEPTHS, imagenet_resnet
from forwardpass.trainer.models.vgg import Vgg16
from forwardpass.v1 import model_card_pb2

_IMAGE_INPUT: Roles = {"image": model_card_pb2.TENSOR_ROLE_IMAGE}
_IMAGE_OUTPUTS: Roles = {
    "logits": model_card_pb2.TENSOR_ROLE_LOGITS,
    "embedding": model_card_pb2.TENSOR_ROLE_EMBEDDING,
}
_FEATURES_INPUT: Roles = {"features": model_card_pb2.TENSOR_ROLE_FEATURES}
_FEATURES_OUTPUT: Roles = {"values": model_card_pb2.TENSOR_ROLE_VALUES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One network of the zoo.

    Attributes:
        name: What people type, and the published model's name.
        summary: What it is, in a few words that go on from "a" or "an".
        reference: The paper that it is from.
        shape: Of one input: (features), or (height, width, channels) of an image.
        build: Returns the network as it is served, with whatever weights torch starts from.
        build_trainee: Returns the network with what only its training needs, where that is more.
    """

    name: str
    summary: str
    reference: str
    shape: tuple[int, ...]
    build: Callable[[], nn.Module]
    build_trainee: Callable[[], nn.Module] | None = None

    @property
    def takes_images(self) -> bool:
        """Whether its input is uint8 images; else it is float32 features."""
        return len(self.shape) == 3

    @property
    def inputs(self) -> Roles:
        """What its input means, by name."""
        return _IMAGE_INPUT if self.takes_images else _FEATURES_INPUT

    @property
    def outputs(self) -> Roles:
        """What its outputs mean, by name, in the order in which `served` gives them."""
        return _IMAGE_OUTPUTS if self.takes_images else _FEATURES_OUTPUT

    def served(self, network: nn.Module) -> nn.Module:
        """Returns what is published of a network of this architecture: all its outputs."""
        if isinstance(network, EmbeddingNetwork):
            return LogitsAndEmbedding(network)
        return Regressor(network)


@dataclass(frozen=True, slots=True)
class Size:
    """What a network holds, and what one forward pass of one input takes.

    Attributes:
        parameters: Trained numbers in what is served.
        trainee_parameters: With those that only training has.
        multiply_adds: Products of convolutions and linear layers, each added to a sum. Biases,
            normalisation, activations, pooling and the pixels' preprocessing are not counted.
        input: The shape of one input.
        outputs: The shape of each output for it, by name.
    """

    parameters: int
    trainee_parameters: int
    multiply_adds: int
    input: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]


def measure(architecture: Architecture) -> Size:
    """Returns the network's size, without memory or arithmetic: on torch's meta device.

    Multiply-adds are half of what torch's FlopCounterMode counts in a forward pass of one input.
    """
    dtype = torch.uint8 if architecture.takes_images else torch.float32
    with torch.device("meta"), torch.inference_mode():
        network = architecture.build().eval()
        trainee = (architecture.build_trainee or architecture.build)()
        example = torch.empty(1, *architecture.shape, dtype=dtype)
        with FlopCounterMode(display=False) as counter:
            answers = architecture.served(network)(example)
    if isinstance(answers, Tensor):
        answers = (answers,)
    shapes = (tuple(answer.shape[1:]) for answer in answers)
    return Size(
        parameters=count_parameters(network),
        trainee_parameters=count_parameters(trainee),
        multiply_adds=counter.get_total_flops() // 2,
        input=architecture.shape,
        outputs=dict(zip(architecture.outputs, shapes, strict=True)),
    )


def count_parameters(network: nn.Module) -> int:
    """Returns how many trained numbers it has."""
    return sum(parameter.numel() for parameter in network.parameters())


def find_architecture(name: str) -> Architecture:
    """Returns the architecture.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name not in ARCHITECTURES:
        raise UnknownNameError("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def _perceptron(name: str, *widths: int) -> Architecture:
    hidden = "one hidden layer" if len(widths) == 3 else f"{len(widths) - 2} hidden layers"
    return Architecture(
        name=name,
        summary=f"multi-layer perceptron with {hidden}",
        reference='Rumelhart, Hinton and Williams, "Learning representations by back-propagating '
        'errors", 1986',
        shape=widths[:1],
        build=partial(mlp, widths),
    )


def _resnet(depth: int) -> Architecture:
    changed = ", with the stride at the 3 x 3 convolution of a bottleneck" if depth >= 50 else ""
    return Architecture(
        name=f"resnet-{depth}",
        summary=f"residual network of {depth} layers",
        reference='He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015'
        + changed,
        shape=(224, 224, 3),
        build=partial(imagenet_resnet, depth),
    )


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="linear",
            summary="linear regression on one feature: a slope and an intercept",
            reference='Legendre, "Nouvelles méthodes pour la détermination des orbites des '
            'comètes", 1805',
            shape=(1,),
            build=partial(mlp, (1, 1)),
        ),
        _perceptron("mlp-2-1-1", 2, 1, 1),
        _perceptron("mlp-2-3-2", 2, 3, 2),
        _perceptron("mlp-3-4-4-4-3", 3, 4, 4, 4, 3),
        _perceptron("mlp-5-10x10-5", 5, *[10] * 10, 5),
        Architecture(
            name="lenet-5",
            summary="convolutional network for handwritten digits",
            reference='LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to '
            'document recognition", 1998',
            shape=(28, 28, 1),
            build=partial(LeNet, mnist.MEAN, mnist.DEVIATION),
        ),
        Architecture(
            name="alexnet",
            summary="convolutional network of eight layers",
            reference='Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep '
            'convolutional neural networks", 2012, as in Krizhevsky, "One weird trick for '
            'parallelizing convolutional neural networks", 2014',
            shape=(224, 224, 3),
            build=AlexNet,
        ),
        Architecture(
            name="vgg-16",
            summary="convolutional network of sixteen layers",
            reference='Simonyan and Zisserman, "Very deep convolutional networks for large-scale '
            'image recognition", 2014',
            shape=(224, 224, 3),
            build=Vgg16,
        ),
        Architecture(
            name="inception-v3",
            summary="convolutional network whose modules have several ways through",
            reference='Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception '
            'architecture for computer vision", 2015',
            shape=(299, 299, 3),
            build=InceptionV3,
            build_trainee=partial(InceptionV3, auxiliary=True),
        ),
        *map(_resnet, IMAGENET_DEPTHS),
        Architecture(
            name="resnet50-v1-keras",
            summary="residual network of 50 layers with a bias in every convolution",
            reference='He, Zhang, Ren and Sun, "Deep residual learning for image recognition", '
            "2015, as in Keras Applications",
            shape=(224, 224, 3),
            build=keras_resnet50,
        ),
    )
}
