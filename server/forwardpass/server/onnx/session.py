"""A loaded graph. Beside its neighbours in this package, nobody knows ONNX Runtime."""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from forwardpass.server.aligned import Aligned, align
from forwardpass.server.errors import RunError
from forwardpass.server.onnx.cuda_graph import BoundRun, Shapes, shapes_of
from forwardpass.server.onnx.providers import (
    CPU,
    CPU_ONLY,
    CUDA,
    Provider,
    ProviderError,
    check_installed,
    check_taken,
)
from forwardpass.server.onnx.run_memory import (
    ENTRIES,
    SHRINK,
    bytes_asked_for,
    check_outputs,
    too_much_for_a_step,
)
from forwardpass.server.onnx.values import (
    BFLOAT16_TENSOR,
    STRING_TENSOR,
    from_ort_value,
    size_of,
    with_bfloat16,
)
from forwardpass.wire import Array

ONNXRUNTIME_VERSION: str = ort.__version__
# Nothing: what goes wrong is raised, and logged as we log. Its own lines are not JSON, and callers
# could fill the log with them.
_QUIET = 4
# ONNX Runtime keeps a captured graph for the thread that captured it, and what another thread does
# with the GPU meanwhile (allocate, copy) fails and spoils the capture. So where runs are captured,
# one thread does all that there is to do with the GPU: for every model, loading included.
_CAPTURING = ThreadPoolExecutor(1, "capturing")
# Which captured graph a run replays: 0 is ONNX Runtime's own, this is none.
_GRAPH_ID, _NO_GRAPH = "gpu_graph_id", "-1"
# A model that gives its input back: one float, opset 13.
_PROBE = (
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01pZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12'
    b"\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


# What a run may fail with, beside values that ONNX Runtime itself finds wrong.
_RUN_ERRORS = (
    ort_errors.RuntimeException,
    ort_errors.Fail,
    ort_errors.EPFail,
    ort_errors.NotImplemented,
)
# What stands before a sentence of its, and the files that it names.
_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_PATH = re.compile(r"(?:/[\w.+-]+)+(?::\d+)?|\b[\w.+-]+\.(?:cc|cpp|cu|h)(?::\d+)?")
_SENTENCE_BYTES = 256
# What it says of a graph whose types do not fit one another, at an operator or at a subgraph.
_TYPES = re.compile(r"Type Error: |\[(?:Type|Shape)InferenceError\]")


class SessionError(Exception):
    """ONNX Runtime cannot load the graph; the message is its own."""


class TypesError(SessionError):
    """The graph's operators are given values of types that they do not take."""


class Session:
    """A graph that ONNX Runtime has loaded and optimised. `run` may be called from many threads.

    Attributes:
        providers: The execution providers in use, in order.

    Args:
        model: The bytes of the ONNX file.
        weights: The bytes of each file that it refers to, by the name that it uses.
        threads: Threads for one run.
        providers: What runs it, in order. Operators that none of them has make the graph fail.
            Where the first one captures, runs take turns, with those of all such sessions.
        optimize: Whether the graph is to run fast, and not only to be asked about.

    Raises:
        TypesError: Operators of the graph do not take what they are given.
        SessionError: ONNX Runtime refuses the graph, or it cannot be captured.
    """

    def __init__(
        self,
        model: bytes,
        weights: Mapping[str, bytes],
        threads: int,
        providers: Sequence[Provider] = CPU_ONLY,
        *,
        optimize: bool = True,
    ) -> None:
        options = ort.SessionOptions()
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.add_session_config_entry("session.disable_prepacking", "1")
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        # Spinning threads burn the cores that other models and the transport need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for key, value in ENTRIES.items():
            options.add_session_config_entry(key, value)
        if all(provider.name != CPU for provider in providers):
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if weights:
            buffers = list(weights.values())
            options.add_external_initializers_from_files_in_memory(
                list(weights), buffers, [len(buffer) for buffer in buffers]
            )
        self._unstopped = _quiet_options()
        self._inline = _quiet_options()
        # By their shapes; None where runs are not captured.
        self._bound: dict[Shapes, BoundRun] | None = {} if providers[0].captures else None
        self._device = providers[0].device

        def make() -> Any:
            return ort.InferenceSession(
                model,
                options,
                providers=[(provider.name, dict(provider.options)) for provider in providers],
                # Else ONNX Runtime tries again without the provider that failed.
                enable_fallback=0,
            )

        try:
            self._session = make() if self._bound is None else _CAPTURING.submit(make).result()
            check_taken(providers, self._session.get_provider_options())
        except Exception as error:
            kind = TypesError if _TYPES.search(str(error)) else SessionError
            raise kind(str(error)) from error
        # The package's `run` first checks the names, which takes 2 µs and was done here. A package
        # that keeps no session inside is called itself.
        self._run_graph = getattr(self._session, "_sess", self._session).run
        self.providers: Sequence[str] = self._session.get_providers()
        # ONNX Runtime's Python interface has no numpy type for these; they take a way of their own.
        self._bfloat16_in = any(node.type == BFLOAT16_TENSOR for node in self.inputs)
        self._bfloat16_out = {node.name for node in self.outputs if node.type == BFLOAT16_TENSOR}
        if self._bfloat16_out and any(node.type == STRING_TENSOR for node in self.inputs):
            raise SessionError(
                f"it takes text and gives {min(self._bfloat16_out)!r} as bfloat16, which ONNX "
                "Runtime's Python interface cannot do together: cast the output to float32"
            )
        # Others, whose size the inputs' shapes do not tell, are looked at before they are copied.
        self._by_value = self._bfloat16_out | self._unforeseen()
        if self._bound is not None:
            self._check_capturable()

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the ONNX file says of itself."""
        metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        return metadata

    @property
    def inputs(self) -> Sequence[Any]:
        """The graph's inputs: each has `name`, `type` ("tensor(float)") and `shape`."""
        inputs: Sequence[Any] = self._session.get_inputs()
        return inputs

    @property
    def outputs(self) -> Sequence[Any]:
        """The graph's outputs, as `inputs`."""
        outputs: Sequence[Any] = self._session.get_outputs()
        return outputs

    @property
    def captures(self) -> bool:
        """Whether runs of the shapes given to `capture` are captured."""
        return self._bound is not None

    def capture(self, inputs: Mapping[str, Array]) -> None:
        """Keeps buffers for runs of these shapes, and captures one; nothing where none is.

        Args:
            inputs: An array for each input.

        Raises:
            SessionError: A run of these shapes cannot be captured.
        """
        if self._bound is None or shapes_of(inputs) in self._bound:
            return
        try:
            _CAPTURING.submit(self._capture, inputs).result()
        except Exception as error:
            raise SessionError(f"a run of it cannot be captured: {_first_line(error)}") from error

    def close(self) -> None:
        """Frees what the GPU holds, where that takes a thread of its own; no run may follow."""
        if self._bound is not None:
            _CAPTURING.submit(self._let_go).result()

    def run(
        self,
        outputs: Sequence[str],
        inputs: Mapping[str, Array],
        on_begin: Callable[[Callable[[], None]], None] | None = None,
    ) -> list[Array]:
        """Returns the outputs named, in order.

        Args:
            outputs: Which.
            inputs: An array for each input.
            on_begin: Is told, before the run begins, what stops it from another thread.

        Raises:
            InvalidInput: The graph refuses the values, such as an index out of range.
        """
        options = self._unstopped
        if on_begin is not None or self._bound is not None:
            options = _quiet_options()
        if on_begin is not None:
            on_begin(lambda: setattr(options, "terminate", True))
        return self._run(outputs, inputs, options)

    def run_inline(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """Returns the outputs named, in order, all as `run`; for one thread at a time.

        `stop_inline` ends it, and all that follow. The options by which it does are made once:
        making them takes as long as a small run.
        """
        return self._run(outputs, inputs, self._inline)

    def stop_inline(self) -> None:
        """Ends the run of `run_inline` between two operators; from another thread."""
        self._inline.terminate = True

    def _run(
        self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Any
    ) -> list[Array]:
        aligned = align(inputs)
        try:
            return self._try(outputs, aligned, options)
        except ort_errors.InvalidArgument as error:
            raise RunError(_sentence(error)).blame_values() from error
        except _RUN_ERRORS as error:
            if bytes_asked_for(error) is None:
                raise RunError(_sentence(error)) from error
        return self._run_in_an_empty_arena(outputs, aligned)

    def _run_in_an_empty_arena(self, outputs: Sequence[str], inputs: Aligned) -> list[Array]:
        """Runs once more what the arena had no room for.

        What earlier runs have left there is in pieces of their sizes.
        """
        options = _quiet_options()
        options.add_run_config_entry(*SHRINK)
        # The arena is emptied as a run ends, also where it fails.
        with suppress(*_RUN_ERRORS):
            return self._try(outputs, inputs, options)
        try:
            return self._try(outputs, inputs, options)
        except _RUN_ERRORS as error:
            asked = bytes_asked_for(error)
            if asked is None:
                raise RunError(_sentence(error)) from error
            raise too_much_for_a_step(asked) from error

    def _try(self, outputs: Sequence[str], inputs: Aligned, options: Any) -> list[Array]:
        if self._bound is not None:
            return _CAPTURING.submit(self._run_bound, outputs, inputs, options).result()
        if not self._by_value.isdisjoint(outputs):
            return self._run_by_values(outputs, inputs, options)
        feeds = with_bfloat16(inputs) if self._bfloat16_in else inputs
        values: list[Array] = self._run_graph(list(outputs), feeds, options)
        return values

    def _run_by_values(
        self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Any
    ) -> list[Array]:
        feeds = {
            name: value
            if isinstance(value, ort.OrtValue)
            else ort.OrtValue.ortvalue_from_numpy(value)
            for name, value in with_bfloat16(inputs).items()
        }
        values = self._session.run_with_ort_values(list(outputs), feeds, options)
        check_outputs(sum(size_of(value) for value in values))
        arrays = zip(outputs, map(from_ort_value, values), strict=True)
        # An output that is an input lies where the input does, and that is used again.
        return [array.copy() if name in inputs else array for name, array in arrays]

    def _run_bound(
        self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Any
    ) -> list[Array]:
        """Runs in the buffers for the inputs' shapes; where there are none, without capturing."""
        assert self._bound is not None
        bound = self._bound.get(shapes_of(inputs))
        if bound is None:
            return self._run_uncaptured(outputs, inputs, options)
        options.add_run_config_entry(_GRAPH_ID, str(bound.graph))
        try:
            return bound(
                lambda binding: self._session.run_with_iobinding(binding, options), outputs, inputs
            )
        except RuntimeError as error:
            if not options.terminate:
                # Such a run does not tell errors of different kinds apart; this one raises its own.
                self._run_uncaptured(outputs, inputs, _quiet_options())
            raise RunError(_sentence(error)) from error

    def _run_uncaptured(
        self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Any
    ) -> list[Array]:
        options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
        values: list[Array] = self._session.run(list(outputs), dict(inputs), options)
        return values

    def _unforeseen(self) -> set[str]:
        """Returns the outputs whose size depends on values, as far as the graph tells."""
        if any(node.type == STRING_TENSOR for node in self.inputs):
            return set()
        known = {extent for node in self.inputs for extent in node.shape or ()}
        return {
            node.name
            for node in self.outputs
            if node.type.startswith("tensor(")
            and not all(isinstance(extent, int) or extent in known for extent in node.shape or [""])
        }

    def _capture(self, inputs: Mapping[str, Array]) -> None:
        assert self._bound is not None
        values = {
            name: ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), *self._device)
            for name, array in inputs.items()
        }
        options = _quiet_options()
        options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
        bound = BoundRun(self._session, values, self._device, options, len(self._bound) + 1)
        options = _quiet_options()
        options.add_run_config_entry(_GRAPH_ID, str(bound.graph))
        # The first run with a graph's number captures it.
        bound(lambda binding: self._session.run_with_iobinding(binding, options), (), inputs)
        self._bound[shapes_of(inputs)] = bound

    def _let_go(self) -> None:
        assert self._bound is not None
        self._bound.clear()
        del self._session, self._run_graph

    def _check_capturable(self) -> None:
        for node in (*self.inputs, *self.outputs):
            if node.type in {STRING_TENSOR, BFLOAT16_TENSOR}:
                self.close()
                raise SessionError(
                    f"{node.name!r} is {node.type}, which runs that are captured cannot take or "
                    "give; without cuda_graph it serves"
                )


def check_providers(providers: Sequence[Provider]) -> None:
    """Tries the providers on a graph of one operator, which tells wrong options at the start.

    Raises:
        ProviderError: One is missing, cannot start, or does not take its options.
    """
    check_installed(providers, ort.get_available_providers())
    if any(provider.name == CUDA for provider in providers):
        # CUDA and cuDNN may come as Python packages, where no loader looks by itself.
        ort.preload_dlls()
    has_cpu = any(provider.name == CPU for provider in providers)
    try:
        session = Session(_PROBE, {}, 1, providers if has_cpu else (*providers, *CPU_ONLY))
    except SessionError as error:
        raise ProviderError(str(error)) from error
    session.run(["y"], {"x": np.zeros(1, np.float32)})


def shrink_run_memory() -> None:
    """Gives back what the arena of all models has and no run uses."""
    options = _quiet_options()
    options.add_run_config_entry(*SHRINK)
    _smallest_session().run(["y"], {"x": np.zeros(1, np.float32)}, options)


@cache
def _smallest_session() -> Any:
    """Any session has the arena shrunk, which all share."""
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    for key, value in ENTRIES.items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(_PROBE, options, providers=[CPU])


def _quiet_options() -> Any:
    options = ort.RunOptions()
    options.log_severity_level = _QUIET
    return options


def _sentence(error: Exception) -> str:
    """Returns what ONNX Runtime says of a run, without its code and the paths of its sources."""
    text = _CODE.sub("", " ".join(str(error).split()))
    text = " ".join(_PATH.sub("", text).split())
    return text.encode()[:_SENTENCE_BYTES].decode(errors="ignore")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
