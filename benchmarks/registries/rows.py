"""Write the rows of many versions to a registry's database in batches.

They are the rows that registering would leave: versions with all their tags, aliases, and logs whose chains hold.
MLflow runs some fifty statements to register a version, so ten thousand take a quarter of an hour of one core. The
artifacts of these versions are not written: they all name one file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy
import torch
from mlflow.store.model_registry.dbmodels import models
from sqlalchemy.orm import Session

from zfleet.config.names import CHAMPION
from zfleet.svf.zvector import ZVector
from zfleet_registry import Provenance
from zfleet_registry.log import Action, Entry
from zfleet_registry.log.chain import seal
from zfleet_registry.log.store import FORMAT, log_model
from zfleet_registry.provenance import Registration, card
from zfleet_registry.references import model_name
from zfleet_registry.tags import PREFIX, split_tags
from zfleet_registry.version import ExpertVersion, to_tags

_BATCH = 20
"""Experts in one transaction."""


def fill(uri: str, template: ExpertVersion, names: list[str], versions: int) -> Iterator[str]:
    """Write experts, each with a champion, and yield their names as they are written.

    Args:
        uri: The database.
        template: A registered version, whose base, run and artifact these have.
        names: The experts.
        versions: How many versions each has.
    """
    engine = sqlalchemy.create_engine(uri)
    try:
        for start in range(0, len(names), _BATCH):
            some = names[start : start + _BATCH]
            with Session(engine) as session:
                for place, name in enumerate(some):
                    session.add_all(_rows_of(template, name, versions, start + place))
                session.commit()
            yield from some
    finally:
        engine.dispose()


def _rows_of(template: ExpertVersion, name: str, versions: int, seed: int) -> Iterator[Any]:
    model, now = model_name(template.base_slug, name), int(time.time() * 1000)
    registration = template.registration or Registration(template.base_slug, template.run_id)
    for title in (model, log_model(model)):
        yield models.SqlRegisteredModel(name=title, creation_time=now, last_updated_time=now)
    actions = []
    for number in range(1, versions + 1):
        z = ZVector(
            {"m.up": torch.full((64,), 1 + seed + number / versions)}, template.provenance.base, "f" * 64, "mlp"
        )
        provenance = Provenance.of(z, task="benchmark")
        tags = to_tags(name, template.base_slug, provenance, registration, template.artifact, template.artifact_sha256)
        text = card.description(model, provenance, registration)
        source = f"{template.run_id}/artifacts/{template.artifact.rpartition('/')[0]}"
        yield from _version(model, number, now, source, text, tags, template.run_id)
        actions.append(Action("register", model, version=number))
    actions.append(Action("set", model, CHAMPION, 1))
    before: Entry | None = None
    for number, action in enumerate(actions, start=1):
        before = seal(number, action, before)
        tags = {f"{PREFIX}format": FORMAT, **split_tags({"action": action.to_json()})}
        tags[f"{PREFIX}seal"] = before.seal.to_json()
        yield from _version(log_model(model), number, now, f"zfleet-log:/{model}", action.sentence, tags, None)
    yield models.SqlRegisteredModelAlias(name=model, alias=CHAMPION, version=1)


def _version(
    model: str, number: int, now: int, source: str, text: str, tags: dict[str, str], run_id: str | None
) -> Iterator[Any]:
    yield models.SqlModelVersion(
        name=model,
        version=number,
        creation_time=now,
        last_updated_time=now,
        description=text,
        source=source,
        storage_location=source,
        run_id=run_id,
    )
    for key, value in tags.items():
        yield models.SqlModelVersionTag(name=model, version=number, key=key, value=value)
