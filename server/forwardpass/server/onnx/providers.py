"""What runs the models: ONNX Runtime's execution providers, in order, and their options.

ONNX Runtime falls back to the CPU where a provider is not there, and says so in a warning at most.
Here a provider that was asked for and is not there is an error.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# By the name in the settings.
_NAMES = {"cpu": CPU, "cuda": CUDA}
# These bring a module of the same name, of which only one can be there.
_PACKAGES = ("onnxruntime", "onnxruntime-gpu")
_INSTALL = "pip uninstall onnxruntime, then pip install 'forwardpass[server-cuda]'"


class ProviderError(RuntimeError):
    """Models cannot be run as asked; the message says what is missing, or which option is wrong."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider of ONNX Runtime.

    Attributes:
        name: ONNX Runtime's name for it.
        options: Its options, as ONNX Runtime writes them.
        device: The type and the number of what it computes on, in ONNX Runtime's names.
        captures: Whether runs of known shapes are captured, to be replayed.
    """

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    device: tuple[str, int] = ("cpu", 0)
    captures: bool = False


CPU_ONLY = (Provider(CPU),)


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """How models use a GPU, in ONNX Runtime's names.

    Attributes:
        device_id: Which GPU, from 0.
        gpu_mem_limit: Bytes that the arena may take, without weights and cuDNN's work space; 0 for
            all.
        arena_extend_strategy: How the arena grows.
        cudnn_conv_algo_search: How cuDNN's algorithm for a convolution is found.
        do_copy_in_default_stream: Whether copies wait for the computation before them.
        use_tf32: Whether float32 is rounded to 10 bits of fraction in products.
        enable_cuda_graph: Whether runs are captured in CUDA graphs.
    """

    device_id: int
    gpu_mem_limit: int
    arena_extend_strategy: str
    cudnn_conv_algo_search: str
    do_copy_in_default_stream: bool
    use_tf32: bool
    enable_cuda_graph: bool

    def as_provider(self) -> Provider:
        """Returns the provider with these options."""
        options = {
            "device_id": str(self.device_id),
            "arena_extend_strategy": self.arena_extend_strategy,
            "cudnn_conv_algo_search": self.cudnn_conv_algo_search,
            "do_copy_in_default_stream": str(int(self.do_copy_in_default_stream)),
            "use_tf32": str(int(self.use_tf32)),
            "enable_cuda_graph": str(int(self.enable_cuda_graph)),
        }
        if self.gpu_mem_limit:
            options["gpu_mem_limit"] = str(self.gpu_mem_limit)
        return Provider(CUDA, options, ("cuda", self.device_id), self.enable_cuda_graph)


def choose(names: Sequence[str], cuda: CudaOptions) -> tuple[Provider, ...]:
    """Returns the providers of the settings' names, in their order."""
    return tuple(cuda.as_provider() if name == "cuda" else Provider(_NAMES[name]) for name in names)


def check_installed(providers: Sequence[Provider], available: Collection[str]) -> None:
    """Compares the providers with what the installed ONNX Runtime has.

    Args:
        providers: What is asked for.
        available: The providers that ONNX Runtime says it has.

    Raises:
        ProviderError: One is missing, or two packages of ONNX Runtime are installed.
    """
    if all(map(_is_installed, _PACKAGES)):
        raise ProviderError(
            "onnxruntime and onnxruntime-gpu are both installed, and one has overwritten the "
            "other's files: uninstall both, then pip install 'forwardpass[server]' or, for GPUs, "
            "'forwardpass[server-cuda]'"
        )
    for provider in providers:
        if provider.name not in available:
            raise ProviderError(
                f"the installed ONNX Runtime has no {provider.name}; the one that has it takes its "
                f"place: {_INSTALL}"
            )


def check_taken(providers: Sequence[Provider], in_use: Mapping[str, Mapping[str, str]]) -> None:
    """Compares the providers with what a session has taken up.

    Args:
        providers: What was asked for.
        in_use: What the session says it uses, in order, with the options in force.

    Raises:
        ProviderError: One was left out, stands elsewhere, or has another value of an option.
    """
    names = [provider.name for provider in providers]
    if list(in_use)[: len(names)] != names:
        raise ProviderError(
            f"asked for {', '.join(names)}, but ONNX Runtime took {', '.join(in_use)}: its log "
            "says which library of CUDA, cuDNN or the driver (libcuda) it could not load"
        )
    for provider in providers:
        taken = in_use[provider.name]
        for option, value in provider.options.items():
            if taken.get(option) != value:
                raise ProviderError(
                    f"{provider.name} was given {option}={value}, but has {taken.get(option)}"
                )


def _is_installed(package: str) -> bool:
    # Where all is well nobody asks, and to import it takes 25 ms of each start.
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
