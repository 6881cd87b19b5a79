"""The end of a pool, one of whose members is dead."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import ray

from zfleet_cluster.fleet.actors import _end


def test_a_dead_member_keeps_no_other_from_closing(ray_cluster: None, tmp_path: Path) -> None:
    class Closing:
        async def close(self) -> None:
            await asyncio.sleep(0.3)
            (tmp_path / "closed").touch()

    actor: Any = ray.remote(num_cpus=0)(Closing)
    dead, alive = actor.remote(), actor.remote()
    ray.get(alive.__ray_ready__.remote())
    ray.kill(dead)
    _end((dead, alive))
    assert (tmp_path / "closed").exists()
