"""The licence that a base's folder names."""

from __future__ import annotations

from pathlib import Path

import pytest

from zfleet.models.licence import licence_of


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# A model\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: my-licence\n---\n", "my-licence"),
        ("# A model\nlicense: mit\n", ""),
        ("---\nlicense: [\n---\n", ""),
        ("---\nlicense: [mit, bsd]\n---\n", ""),
        ("---\njust a text\n---\n", ""),
    ],
)
def test_the_header_of_the_model_card_names_it(card: str, licence: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence


def test_a_folder_without_a_card_names_none(tmp_path: Path) -> None:
    assert licence_of(tmp_path) == ""
    (tmp_path / "README.md").write_bytes(b"\xff\xfe")
    assert licence_of(tmp_path) == ""
