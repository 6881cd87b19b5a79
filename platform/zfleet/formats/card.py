"""The model card of an export: where it is from, and what it lost on the way, matrix by matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from zfleet.formats.lora_export import Truncation
from zfleet.formats.projection import Residual

CARD = "README.md"


def adapter_card(title: str, base_model: str, facts: Mapping[str, str], rows: Sequence[Truncation]) -> str:
    """Write the card of a LoRA adapter.

    Args:
        title: The expert's reference.
        base_model: The base's name, for a hub's metadata.
        facts: The expert's provenance.
        rows: What the adapter has of each matrix.
    """
    total = Residual.total(Residual(row.matrix, row.change, row.missing) for row in rows)
    text = (
        f"A LoRA adapter of the z-vector {title}: W' = W + B A. The change W' - W has the Frobenius norm "
        f"{total.change:.4g} over all matrices. Of it the adapter lacks {total.residual:.4g}, {total.relative:.2%}; "
        "this is exact but for the rounding of B and A.\n"
    )
    cells = [
        (row.matrix, row.rank, f"{row.change:.6g}", f"{row.missing:.6g}", f"{row.relative:.3%}", _share(row))
        for row in rows
    ]
    header = ("matrix", "rank", "change", "missing", "of the change", "of the weights")
    return _card(title, "peft", base_model, facts, text, header, cells)


def merged_card(title: str, base_model: str, facts: Mapping[str, str], rows: Sequence[Residual]) -> str:
    """Write the card of a merged checkpoint; arguments as ``adapter_card``, with what rounding adds to each matrix."""
    total = Residual.total(rows)
    text = (
        f"The base with the z-vector {title} in its weights. Rounding to the stored type adds {total.residual:.4g} to "
        f"a change of {total.change:.4g} (Frobenius norms over all matrices), {total.relative:.2%} of it.\n"
    )
    cells = [(row.matrix, f"{row.change:.6g}", f"{row.residual:.6g}", f"{row.relative:.3%}") for row in rows]
    header = ("matrix", "change", "rounding", "of the change")
    return _card(title, "transformers", base_model, facts, text, header, cells)


def _share(row: Truncation) -> str:
    return f"{row.missing / row.weight:.3%}" if row.weight else "0"


def _card(
    title: str,
    library: str,
    base_model: str,
    facts: Mapping[str, str],
    text: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
) -> str:
    table = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *rows))
    # JSON is YAML too, and escapes whatever a name holds. A fence of five is in no value by chance.
    front = f"---\nlibrary_name: {library}\nbase_model: {json.dumps(base_model)}\ntags:\n- zfleet\n- svf\n---\n"
    origin = f"`````json\n{json.dumps(dict(facts), indent=2)}\n`````"
    return f"{front}\n# {title}\n\n{text}\n## Origin\n\n{origin}\n\n## Matrices\n\n{table}\n"
