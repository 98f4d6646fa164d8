"""What a job does with a list and a model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from forwardpass.artefact import space_id
from forwardpass.client.jobs.embedder import Space, Subject, rows_a_batch
from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.listing import Kind, Listing
from forwardpass.client.jobs.pipeline import Plan
from forwardpass.client.jobs.sources import Takes
from forwardpass.client.jobs.spec import MAX_SHARD_ROWS, Spec
from forwardpass.wire import Preparation, PreparationError


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of a job, beside its rows and its model.

    Attributes:
        normalize: Whether to scale each vector to length 1.
        invert: Whether to embed the pictures' negatives.
        column: The column of Parquet files to read.
        preparation: Fields of `Preparation` that are to be other than on the model's card.
        part: Which of how many parts of the job to do, as (index, count).
    """

    normalize: bool = False
    invert: bool = False
    column: str | None = None
    preparation: Mapping[str, Any] = field(default_factory=dict)
    part: tuple[int, int] = (0, 1)


def takes(subject: Subject) -> Takes:
    """Returns what a model can be given."""
    return Takes(
        pictures=subject.image is not None,
        texts=subject.input_of("text") is not None,
        arrays=len(subject.inputs) == 1,
    )


def plan_for(listing: Listing, subject: Subject, wishes: Wishes) -> Plan:
    """Returns how rows become vectors.

    Args:
        listing: The rows, of a kind that the model takes.
        subject: The model.
        wishes: What is asked for.

    Raises:
        JobError: Negatives or a preparation are asked for of what are no pictures, or there is no
            such preparation.
    """
    if listing.kind is not Kind.PICTURES:
        for option, is_given in (("--invert", wishes.invert), ("resizing", wishes.preparation)):
            if is_given:
                raise JobError(f"{option} is for pictures, and these are {listing.kind}")
    usual = preparation = None
    if listing.kind is Kind.PICTURES:
        assert subject.image is not None
        image = subject.image
        name, row_bytes = image.input, image.height * image.width * image.channels
        usual = image.preparation
        preparation = _prepared(usual, wishes)
    else:
        text = subject.input_of("text") if listing.kind is Kind.TEXTS else None
        name = (text or subject.inputs[0]).name
        row_bytes = int(listing.sizes.max())
    return Plan(
        name,
        rows_a_batch(subject, row_bytes),
        wishes.normalize,
        wishes.invert,
        wishes.column,
        preparation,
        usual,
    )


def space_for(subject: Subject, plan: Plan) -> Space:
    """Returns whose vectors a plan gives: pictures prepared in another way give others."""
    space = subject.space
    if plan.preparation == plan.card_preparation:
        return space
    return replace(space, space_id=space_id(space.digest, space.output, plan.preparation))


def spec_for(listing: Listing, subject: Subject, wishes: Wishes) -> Spec:
    """Returns what a new job does; as `plan_for`."""
    plan = plan_for(listing, subject, wishes)
    return Spec(
        kind=listing.kind,
        space=space_for(subject, plan),
        plan=plan,
        rows=len(listing),
        shard_rows=max(1, MAX_SHARD_ROWS // plan.batch_rows) * plan.batch_rows,
        listing=listing.digest(),
        skipped=listing.skipped,
        links=listing.links,
        part=wishes.part,
    )


def check_same(spec: Spec, model: str, wishes: Wishes) -> None:
    """Holds a job that was begun against what is asked for now.

    Raises:
        JobError: It is another job, or there is no such preparation.
    """
    plan = spec.plan
    asked = {"model": model, **asdict(replace(wishes, preparation={}))}
    begun_with = Wishes(plan.normalize, plan.invert, plan.column, part=spec.part)
    begun = {"model": spec.space.model, **asdict(begun_with)}
    if plan.card_preparation is not None:
        asked["preparation"] = _prepared(plan.card_preparation, wishes)
        begun["preparation"] = plan.preparation
    differing = [name for name in asked if asked[name] != begun[name]]
    if differing:
        name = differing[0]
        raise JobError(
            f"the folder holds another job: its {name} is {begun[name]}, not {asked[name]}. Give "
            "another --out, or repeat the command that began it"
        )


def _prepared(usual: Preparation, wishes: Wishes) -> Preparation:
    try:
        return replace(usual, **wishes.preparation)
    except PreparationError as error:
        raise JobError(str(error)) from None
