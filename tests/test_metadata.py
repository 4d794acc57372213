from __future__ import annotations

import pytest

from edgecnn.errors import ModelFormatError
from edgecnn.metadata import BUILD_KEY, read_json


def test_an_object_is_read_and_a_missing_key_is_none() -> None:
    assert read_json({BUILD_KEY: '{"precision": "int8", "n": [1, 2.5, null]}', "author": "x"}, BUILD_KEY) == {
        "precision": "int8",
        "n": [1, 2.5, None],
    }
    assert read_json({"author": "x"}, BUILD_KEY) is None


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "7", "null", '{"a": NaN}', '{"a": Infinity}', '{"a": 1e999}', '{"a":' * 100_000]
)
def test_anything_else_is_damaged(text: str) -> None:
    with pytest.raises(
        ModelFormatError, match=r"metadata edgecnn\.build is damaged: got .* expected a JSON object"
    ):
        read_json({BUILD_KEY: text}, BUILD_KEY)
