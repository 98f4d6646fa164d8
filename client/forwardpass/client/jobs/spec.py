"""What a job does, as it stands in its folder."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from forwardpass.client.jobs.embedder import Space
from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.listing import Kind
from forwardpass.client.jobs.pipeline import Plan

FORMAT = 1
# What a kill costs, at most, of each shard in hand.
MAX_SHARD_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Spec:
    """What a job does. Two jobs of the same id write the same tables.

    Attributes:
        kind: What the rows become.
        space: Whose vectors they get.
        plan: How.
        rows: How many there are.
        shard_rows: How many of them a file holds.
        listing: The digest of the list.
        skipped: How many files were passed over for their suffix, by suffix.
        links: How many links led to what is listed, or were not followed.
        part: Which of how many parts of the job this folder holds, as (index, count).
    """

    kind: Kind
    space: Space
    plan: Plan
    rows: int
    shard_rows: int
    listing: str
    skipped: Mapping[str, int]
    links: int
    part: tuple[int, int]

    @property
    def id(self) -> str:
        """What tells a job from others, whatever its part: 32 hexadecimal digits."""
        facts = self.to_json()
        for name in ("part", "skipped", "links"):
            del facts[name]
        # Another version may give the same vectors.
        del facts["space"]["version"]
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def shards(self) -> range:
        """The numbers of this part's shards."""
        count = -(-self.rows // self.shard_rows)
        return range(self.part[0], count, self.part[1])

    @property
    def part_rows(self) -> int:
        """How many rows this part has."""
        return sum(len(self.rows_of(shard)) for shard in self.shards)

    def rows_of(self, shard: int) -> range:
        """Returns which rows a shard holds."""
        start = shard * self.shard_rows
        return range(start, min(start + self.shard_rows, self.rows))

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` takes."""
        return {"format": FORMAT, **asdict(self), "part": list(self.part)}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Returns what was written.

        Raises:
            JobError: A later version wrote it.
            KeyError: It is none.
            TypeError: It is none.
        """
        if facts["format"] != FORMAT:
            raise JobError(
                f"the job has format {facts['format']}; this version of forwardpass reads {FORMAT}"
            )
        return cls(
            kind=Kind(facts["kind"]),
            space=Space(**facts["space"]),
            plan=Plan.from_json(facts["plan"]),
            rows=facts["rows"],
            shard_rows=facts["shard_rows"],
            listing=facts["listing"],
            skipped=facts["skipped"],
            links=facts["links"],
            part=tuple(facts["part"]),
        )
