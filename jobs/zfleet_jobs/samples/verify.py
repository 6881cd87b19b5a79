"""Proof that what was sampled is what was trained: every sample was answered under a z that the learner published.

Two sides wrote it down. The engine gives each answer the digest of the z in its row of the table, whose numbers it
hashed. The learner writes beside the samples of a step the digests of the z at which the step began and of the one that
it led to. Both must tell one story, from the first step to the last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from zfleet_jobs.samples.find import RunFiles, find_files
from zfleet_jobs.samples.layout import Move, SampleFile, Training
from zfleet_jobs.samples.read import read_table

_SHOWN = 12
"""Digits of a digest that messages show."""


@dataclass(frozen=True)
class Verified:
    """What the samples of one training prove.

    Attributes:
        training: The training.
        steps: How many have samples.
        samples: How many there are.
        reached: Digest of the z that its last step led to; empty if no step was taken.
        faults: What does not fit, step by step; nothing if every sample was answered under the z that was published.
    """

    training: Training
    steps: int
    samples: int
    reached: str
    faults: Sequence[str]


def verify_samples(run: str, storage: str, expert: str | None = None) -> list[Verified]:
    """Verify every training of a run; the arguments and errors are those of ``find_files``.

    Raises:
        SamplesError: A file is damaged.
    """
    found = find_files(run, storage, expert)
    by_training: dict[Training, dict[int, list[SampleFile]]] = defaultdict(lambda: defaultdict(list))
    for file in found.files:
        by_training[file.training][file.step].append(file)
    return [_verified(found, training, steps) for training, steps in by_training.items()]


def _verified(found: RunFiles, training: Training, files: Mapping[int, Sequence[SampleFile]]) -> Verified:
    tables = {step: [read_table(found.system, file, ("z", "staleness")) for file in files[step]] for step in files}
    moves = {step: _moves(tables[step]) for step in sorted(tables)}
    taken = [move for step in moves for move in moves[step]]
    return Verified(
        training,
        len(tables),
        sum(len(table) for some in tables.values() for table in some),
        taken[-1].reached if taken else "",
        [*_chain_faults(moves), *_sample_faults(tables, moves)],
    )


def _moves(tables: Sequence[pa.Table]) -> list[Move]:
    """List the different moves that the files of a step name: one, if all is well; none of a step not taken."""
    named = (Move.of(table.schema.metadata) for table in tables)
    return list(dict.fromkeys(move for move in named if move is not None))


def _chain_faults(moves: Mapping[int, Sequence[Move]]) -> Iterator[str]:
    before: Move | None = None
    for number in range(1, max(moves) + 1):
        if number not in moves:
            yield f"step {number} has no samples"
        elif len(moves[number]) > 1:
            yield f"step {number}: its workers name different z"
        elif not moves[number]:
            yield f"step {number} names no z: it was not taken, or an older version wrote it"
        elif before is not None and moves[number][0].began_at != before.reached:
            yield (
                f"step {number} began at z {_short(moves[number][0].began_at)}, and the step before led to "
                f"{_short(before.reached)}"
            )
        before = moves[number][0] if moves.get(number) else None


def _sample_faults(tables: Mapping[int, Sequence[pa.Table]], moves: Mapping[int, Sequence[Move]]) -> Iterator[str]:
    published = {step: some[0].reached for step, some in moves.items() if some}
    if moves.get(1):
        published[0] = moves[1][0].began_at
    for step in sorted(tables):
        counted = pa.concat_tables(table.replace_schema_metadata(None) for table in tables[step])
        counted = counted.group_by(["z", "staleness"]).aggregate([([], "count_all")])
        counted = counted.sort_by([("z", "ascending"), ("staleness", "ascending")])
        for z, staleness, count in zip(
            *(counted[name].to_pylist() for name in ("z", "staleness", "count_all")), strict=True
        ):
            at = step - 1 - staleness
            if at not in published:
                yield f"step {step}: {count} samples are of the z after step {at}, which no file names"
            elif z != published[at]:
                yield (
                    f"step {step}: {count} samples were answered under z {_short(z)}, published was "
                    f"{_short(published[at])}"
                )


def _short(digest: str) -> str:
    return digest[:_SHOWN] or "none"
