"""What a job does with a list and a model."""

from dataclasses import asdict, dataclass

from forwardpass.client.jobs.embedder import Subject, rows_a_batch
from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.listing import Kind, Listing
from forwardpass.client.jobs.pipeline import Plan
from forwardpass.client.jobs.sources import Takes
from forwardpass.client.jobs.spec import MAX_SHARD_ROWS, Spec


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of a job, beside its rows and its model.

    Attributes:
        normalize: Whether to scale each vector to length 1.
        invert: Whether to embed the pictures' negatives.
        column: The column of Parquet files to read.
        part: Which of how many parts of the job to do, as (index, count).
    """

    normalize: bool = False
    invert: bool = False
    column: str | None = None
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
        JobError: Negatives are asked for of what are no pictures.
    """
    if wishes.invert and listing.kind is not Kind.PICTURES:
        raise JobError(f"--invert is for pictures, and these are {listing.kind}")
    if listing.kind is Kind.PICTURES:
        assert subject.image is not None
        image = subject.image
        name, row_bytes = image.input, image.height * image.width * image.channels
    else:
        text = subject.input_of("text") if listing.kind is Kind.TEXTS else None
        name = (text or subject.inputs[0]).name
        row_bytes = int(listing.sizes.max())
    return Plan(
        name, rows_a_batch(subject, row_bytes), wishes.normalize, wishes.invert, wishes.column
    )


def spec_for(listing: Listing, subject: Subject, wishes: Wishes) -> Spec:
    """Returns what a new job does; as `plan_for`."""
    plan = plan_for(listing, subject, wishes)
    return Spec(
        kind=listing.kind,
        space=subject.space,
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
        JobError: It is another job.
    """
    plan = spec.plan
    begun_with = Wishes(plan.normalize, plan.invert, plan.column, spec.part)
    asked = {"model": model, **asdict(wishes)}
    begun = {"model": spec.space.model, **asdict(begun_with)}
    differing = [name for name in asked if asked[name] != begun[name]]
    if differing:
        name = differing[0]
        raise JobError(
            f"the folder holds another job: its {name} is {begun[name]}, not {asked[name]}. Give "
            "another --out, or repeat the command that began it"
        )
