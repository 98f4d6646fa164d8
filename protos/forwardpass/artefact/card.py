"""The card as JSON, the form in which it travels inside the ONNX file."""

from google.protobuf import json_format

from forwardpass.v1 import model_card_pb2
from forwardpass.wire import PreparationError, from_preparation

# The key of the ONNX metadata property that holds the card.
CARD_KEY = "forwardpass.card"
SCHEMA_VERSION = 1


class CardError(ValueError):
    """A card that cannot be used; the message says why."""


def card_to_json(card: model_card_pb2.ModelCard) -> str:
    """Returns the card as JSON with sorted keys, stamped with the schema version."""
    stamped = model_card_pb2.ModelCard()
    stamped.CopyFrom(card)
    stamped.schema_version = SCHEMA_VERSION
    return json_format.MessageToJson(stamped, sort_keys=True, indent=None)


def card_from_json(text: str) -> model_card_pb2.ModelCard:
    """Returns the card.

    Raises:
        CardError: Not a card, or one of a later schema than this version knows, or one that asks
            for what there is not.
    """
    try:
        card = json_format.Parse(text, model_card_pb2.ModelCard(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise CardError(f"the card is not valid: {error}") from None
    if card.schema_version != SCHEMA_VERSION:
        raise CardError(
            f"the card has schema version {card.schema_version}; "
            f"this version of forwardpass reads {SCHEMA_VERSION}"
        )
    try:
        from_preparation(card.image.preparation)
    except PreparationError as error:
        raise CardError(f"the card's preparation of images: {error}") from None
    return card
