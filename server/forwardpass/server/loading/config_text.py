"""The text of a config.pbtxt: which fields it sets, at any depth, and what becomes of each.

protos/open_inference/model_config.proto has the part of Triton's message that is read here, with
its numbers and meanings. Of Triton's other fields those whose loss would change answers are
refused, and the rest are told. A name that is no field of Triton's is a mistake, as it is there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format

from forwardpass.server.errors import nearest, quote
from forwardpass.wire.open_inference import message_class

CONFIG_FILE = "config.pbtxt"
# How deep messages may lie in one another; Triton's own lie 5 deep.
_MAX_DEPTH = 32
# Fields of Triton's that are not read, whose loss would change what a model answers.
_DECISIVE = {
    *("ensemble_scheduling", "sequence_batching", "batch_input", "batch_output"),
    *("model_operations", "cc_model_filenames", "runtime"),
    *("input.is_non_linear_format_io", "output.is_non_linear_format_io"),
}
# Others that are not read: they tell how fast a model is, where it runs or what is measured of it.
_UNREAD = {
    *("optimization", "metric_tags", "model_repository_agents", "response_cache", "model_metrics"),
    *(
        f"instance_group.{name}"
        for name in ("rate_limiter", "secondary_devices", "profile", "passive", "host_policy")
    ),
}
# Fields that are read, and change nothing.
_WITHOUT_EFFECT = {
    *("input.format", "instance_group.gpus", "instance_group.kind"),
    *("dynamic_batching.preferred_batch_size", "dynamic_batching.preserve_ordering"),
    "dynamic_batching.priority_queue_policy",
}
_TIMEOUT_ACTION = "dynamic_batching.default_queue_policy.timeout_action"


class ConfigError(ValueError):
    """A configuration that cannot be honoured; the message says which field and why."""


@dataclass(frozen=True, slots=True)
class ConfigText:
    """What a text sets.

    Attributes:
        message: What is read of it: a ModelConfig.
        fields: The paths of all fields that it sets, such as "dynamic_batching.priority_levels".
        ignored: Those among them that have no effect here.
    """

    message: Any
    fields: frozenset[str]
    ignored: tuple[str, ...]


def read_text(data: bytes) -> ConfigText:
    """Returns what the text of a configuration sets.

    Args:
        data: Its bytes.

    Raises:
        ConfigError: It is no configuration of Triton's, or sets what is not supported.
    """
    text = data.decode(errors="replace")
    message: Any = message_class("ModelConfig")()
    try:
        paths = frozenset(_paths(text))
        ignored = {path for path in sorted(paths) if not _is_read(message.DESCRIPTOR, path)}
        text_format.Parse(text, message, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise ConfigError(f"{CONFIG_FILE}: {error}") from None
    if message.dynamic_batching.default_queue_policy.timeout_action:
        # To go to the end of the queue is not done; to be refused is.
        ignored.add(_TIMEOUT_ACTION)
    # Of a message that is told the fields within it are not.
    outermost = {path for path in ignored if path.rpartition(".")[0] not in ignored}
    return ConfigText(message, paths, tuple(sorted(outermost)))


def _is_read(descriptor: Any, path: str) -> bool:
    """Whether a field has an effect.

    Raises:
        ConfigError: There is no such field, or it would change answers.
    """
    names = path.split(".")
    for depth, name in enumerate(names):
        so_far = ".".join(names[: depth + 1])
        if so_far in _DECISIVE:
            raise ConfigError(f"{CONFIG_FILE}: {so_far} would change answers and is not supported")
        if so_far in _UNREAD or so_far in _WITHOUT_EFFECT:
            return False
        field = descriptor.fields_by_name.get(name) if descriptor is not None else None
        if field is None:
            known = descriptor.fields_by_name if descriptor is not None else ()
            raise ConfigError(
                f"{CONFIG_FILE}: there is no field {quote(so_far)}{nearest(name, known)}"
            )
        descriptor = field.message_type
    return True


def _paths(text: str) -> Iterator[str]:
    """Yields the path of each field that a text sets, those of no message too."""
    words = text_format.Tokenizer(text.split("\n"))
    # The fields whose messages or lists are open; a list's own elements are of the same field.
    outer: list[str] = []
    field = previous = ""
    while not words.AtEnd():
        word = words.token
        if word in (":", "{", "<", "[") and previous.isidentifier():
            field = ".".join([*outer[-1:], previous])
            yield field
        if word in ("{", "<", "["):
            outer.append(field)
        elif word in ("}", ">", "]") and outer:
            field = outer.pop()
        if len(outer) > _MAX_DEPTH:
            raise ConfigError(f"{CONFIG_FILE}: it is nested more than {_MAX_DEPTH} deep")
        previous = word
        words.NextToken()
