"""The names of tasks that zfleet generates itself, for any instruction model."""

from __future__ import annotations

from typing import Literal

GeneratedName = Literal["placeholder"]
