"""A service without Ray, fresh for every test."""

from collections.abc import AsyncIterator

import pytest

from zfleet_serve.testing import Stage, fake_stage


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with fake_stage() as stage:
        yield stage
