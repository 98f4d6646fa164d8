"""From a version's files to something that answers, step by step."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog

from forwardpass.artefact import (
    CARD_KEY,
    CardError,
    GraphError,
    ManifestError,
    card_from_json,
)
from forwardpass.server.loading.batch_curve import inline_rows
from forwardpass.server.loading.cache import Findings
from forwardpass.server.loading.config import ModelConfig, check_tensors, narrowed, read_labels
from forwardpass.server.loading.config_text import CONFIG_FILE, ConfigError
from forwardpass.server.loading.division import Guards, find_guards, guarded
from forwardpass.server.loading.examples import Example
from forwardpass.server.loading.files import FileError, RepositoryFiles
from forwardpass.server.loading.golden import GoldenError, GoldenResult, replay
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.loading.measure import measure
from forwardpass.server.loading.options import LoadOptions
from forwardpass.server.loading.padding import padded
from forwardpass.server.loading.sandbox import SandboxError
from forwardpass.server.loading.source import (
    Source,
    SourceError,
    Unparsed,
    complete,
    parse_graph,
    read_files,
)
from forwardpass.server.loading.vocabulary import find_vocabulary
from forwardpass.server.loading.warmup import warmup_inputs
from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.onnx.session import Session, SessionError
from forwardpass.server.onnx.signature import (
    Signature,
    SignatureError,
    card_signature,
    graph_signature,
)
from forwardpass.server.scheduling.executor import ThreadExecutor
from forwardpass.server.scheduling.failure_detector import FailureDetector
from forwardpass.server.scheduling.inline_executor import InlineExecutor
from forwardpass.server.scheduling.queue import BatchPolicy
from forwardpass.v1 import model_card_pb2, model_service_pb2

_log = structlog.get_logger()
State = model_service_pb2.ModelState
# What a version may fail with by its own fault: the message is the reason.
LOAD_ERRORS = (
    SandboxError,
    CardError,
    ConfigError,
    FileError,
    GoldenError,
    GraphError,
    ManifestError,
    SessionError,
    SignatureError,
    SourceError,
)


def load(
    name: str,
    number: int,
    folder: Path,
    config: ModelConfig,
    counters: ModelCounters,
    *,
    files: RepositoryFiles,
    options: LoadOptions,
    moved: Callable[["model_service_pb2.ModelState.ValueType"], None],
    judged: Callable[[], None],
    changed: Callable[[], None],
) -> Loaded:
    """Loads a version, which must pass every check.

    Args:
        name: The model's name.
        number: The version's number.
        folder: Where its files lie.
        config: What the model's config.pbtxt decides.
        counters: What is counted for it.
        files: Opens its files.
        options: What the server decides.
        moved: Is told each state as it is entered.
        judged: Called when the runs of the loaded version begin to fail, and when that is over.
        changed: Called when it is no longer run on the transport's own thread.

    Raises:
        OSError: A file cannot be read.
        Exception: Any of LOAD_ERRORS: it did not pass.
    """
    started = time.perf_counter()
    _look_for_config(name, number, folder, files)
    moved(State.MODEL_STATE_VERIFYING)
    unparsed = read_files(files, folder, manifest_required=options.manifest_required)
    moved(State.MODEL_STATE_LOADING)
    source, known, guards = _parse(unparsed, config, options)
    if guards is None:
        guards = find_guards(source, options.providers)
    model = guarded(source.model, guards)
    session = Session(model, source.weights, options.threads, options.providers)
    del model
    with ExitStack() as on_failure:
        on_failure.callback(session.close)
        card, signature = _describe(session, config, source)
        output_labels = _output_labels(card, config, signature, files)
        vocabulary = find_vocabulary(signature, card.labels if card is not None else ())
        moved(State.MODEL_STATE_WARMING)
        golden = _replay(session, source, card, signature)
        warmups = [warmup_inputs(signature, warmup, files) for warmup in config.warmups]
        for warmup, inputs in zip(config.warmups, warmups, strict=True):
            session.capture(inputs)
            for _ in range(warmup.count):
                session.run(list(signature.outputs), inputs)
        # Measuring is what warms a GPU up, and what has its runs captured.
        on_cpu = all(p.device[0] == "cpu" and not p.captures for p in options.providers)
        measured = measure(
            name,
            session,
            signature,
            source,
            config,
            has_card=card is not None,
            golden=golden,
            warmups=warmups,
            known=known if on_cpu else None,
        )
        signature, curve, batching = measured.signature, measured.curve, measured.batching
        if options.cache is not None and known is None:
            findings = Findings(curve, guards, measured.independence)
            options.cache.keep(source, config, findings)
        on_failure.pop_all()
    # From here on nothing of the version's can fail, and what has threads may begin.
    # Only the sizes that were measured are captured.
    sizes = [point.rows for point in curve]
    run = padded(session.run, sizes) if session.captures and sizes else session.run
    policy = BatchPolicy(
        batching.max_rows,
        config.max_queue_size or options.max_queued,
        max(1, config.priorities),
        config.max_queue_delay,
    )
    threaded = ThreadExecutor(
        f"{name}-{number}",
        run,
        policy,
        counters,
        failure_detector=FailureDetector(_probe(session, signature, measured.example), judged),
        instances=config.instances,
    )
    executor: ThreadExecutor | InlineExecutor = threaded
    rows = 0 if source.has_control_flow else inline_rows(curve, batching, signature, options.cores)
    alone = config.instances == 1 and not config.max_queue_delay and not session.captures
    if options.tick is not None and rows and alone:
        policy = dataclasses.replace(policy, max_rows=rows)
        seconds = max(point.seconds for point in curve if point.rows <= rows)
        executor = InlineExecutor(
            name,
            options.tick,
            options.watchdog,
            session.run_inline,
            session.stop_inline,
            seconds,
            policy,
            counters,
            threaded,
            changed,
        )
    counters.pending = lambda: executor.waiting
    return Loaded(
        name=name,
        number=number,
        counters=counters,
        digest=source.digest,
        card=card,
        config=config,
        signature=signature,
        output_labels=output_labels,
        session=session,
        golden=golden,
        curve=curve,
        batching=batching,
        independence=measured.independence,
        executor=executor,
        seconds=time.perf_counter() - started,
        vocabulary=vocabulary,
        cached=known is not None,
    )


def _look_for_config(name: str, number: int, folder: Path, files: RepositoryFiles) -> None:
    """Tells of a configuration that nobody reads."""
    with suppress(OSError, FileError):
        files.stamp(folder / CONFIG_FILE)
        reason = f"{CONFIG_FILE} belongs into the model's folder, not into a version's"
        _log.warning("config_ignored", model=name, version=number, reason=reason)


def _parse(
    unparsed: Unparsed, config: ModelConfig, options: LoadOptions
) -> tuple[Source, Findings | None, Guards | None]:
    """Returns what the files say, once they were tried, and what is known of them already.

    What was never tried is not even parsed here before the sandbox has done so.
    """
    cache, sandbox = options.cache, options.sandbox
    dims = {name: extents for name, _, extents in config.inputs}
    tried = None
    if sandbox is not None and (cache is None or not cache.has_tried(unparsed)):
        tried = sandbox.check(unparsed, dims)
    source = complete(unparsed, parse_graph(unparsed))
    known = None if cache is None else cache.find(source, config)
    if sandbox is not None and tried is None and known is None:
        tried = sandbox.check(unparsed, dims)
    if tried is not None and tried.identity != source.identity:
        raise SourceError("its files changed while it was being tried")
    if known is not None:
        return source, known, known.guards
    return source, None, None if tried is None else tried.guards


def _describe(
    session: Session, config: ModelConfig, source: Source
) -> tuple[model_card_pb2.ModelCard | None, Signature]:
    """Returns the card and the signature, which card, configuration and graph must agree on."""
    signature = graph_signature(session.inputs, session.outputs, source.unranked)
    text = session.metadata.get(CARD_KEY)
    card = None if text is None else card_from_json(text)
    if card is not None:
        signature = card_signature(signature, card)
    check_tensors(config, signature)
    signature = narrowed(config, signature)
    if config.max_batch_size is None:
        return card, signature
    if config.max_batch_size == 0:
        return card, dataclasses.replace(signature, batched=False, max_rows=0)
    return card, _with_batch_axis(signature, config.max_batch_size)


def _with_batch_axis(signature: Signature, most: int) -> Signature:
    for spec in (*signature.inputs.values(), *signature.outputs.values()):
        if not spec.shape or spec.shape[0] != -1:
            raise ConfigError(
                f"{CONFIG_FILE}: max_batch_size is {most}, but axis 0 of {spec.name!r} is not open "
                f"in its shape, {list(spec.shape)}"
            )
    stated = signature.max_rows
    return dataclasses.replace(
        signature, batched=True, max_rows=min(most, stated) if stated else most
    )


def _replay(
    session: Session,
    source: Source,
    card: model_card_pb2.ModelCard | None,
    signature: Signature,
) -> GoldenResult | None:
    if source.golden is None:
        return None
    if card is None:
        raise SourceError("it has golden data, but no card to say how exact it must be")
    try:
        dataclasses.replace(signature, max_rows=0).check(source.golden.inputs)
    except Exception as error:
        raise SourceError(f"the golden data do not fit the model: {error}") from error
    return replay(session, source.golden, card.tolerance, batched=signature.batched)


def _probe(
    session: Session, signature: Signature, example: Example | None
) -> Callable[[], object] | None:
    """Returns what runs the model on an input that it has answered; None where there is none."""
    if example is None:
        return None
    inputs, outputs = example(1), list(signature.outputs)
    return lambda: session.run(outputs, inputs)


def _output_labels(
    card: model_card_pb2.ModelCard | None,
    config: ModelConfig,
    signature: Signature,
    files: RepositoryFiles,
) -> Mapping[str, Sequence[str]]:
    labels: dict[str, Sequence[str]] = {
        name: read_labels(file, files) for name, file in (config.label_files or {}).items()
    }
    if card is not None and card.labels:
        scores = (
            model_card_pb2.TENSOR_ROLE_PROBABILITIES,
            model_card_pb2.TENSOR_ROLE_LOGITS,
        )
        for spec in signature.outputs.values():
            if spec.role in scores:
                labels[spec.name] = list(card.labels)
    return labels
