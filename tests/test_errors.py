from __future__ import annotations

import builtins
import copy
import json
import pickle
import re

import pytest

from edgecnn import errors
from edgecnn.errors import EdgeCNNError

ERRORS: list[type[EdgeCNNError]] = [getattr(errors, name) for name in errors.__all__]


def test_every_error_is_public_and_has_one_root() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)
    assert all(issubclass(error, EdgeCNNError) for error in ERRORS)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Each line names an error and the builtin that it is; the indentation shows its parent."""
    lines = re.findall(r"^([ │├└─]*)(\w+Error)(?: +\((\w+)\))?", errors.__doc__ or "", re.MULTILINE)
    assert {name for _, name, _ in lines} == set(errors.__all__)
    parents: list[tuple[int, str]] = []
    for prefix, name, builtin in lines:
        error = getattr(errors, name)
        parents = [entry for entry in parents if entry[0] < len(prefix)]
        if parents:
            assert issubclass(error, getattr(errors, parents[-1][1])), name
        if builtin:
            assert issubclass(error, getattr(builtins, builtin)), name
        parents.append((len(prefix), name))


@pytest.mark.parametrize("error", ERRORS)
def test_the_message_has_all_parts_in_one_line(error: type[EdgeCNNError]) -> None:
    raised = error("the frame is wrong", got="7", expected="8", remedy="Try again")
    assert str(raised) == "the frame is wrong: got 7, expected 8. Try again"
    assert (raised.what, raised.got, raised.expected, raised.remedy) == (
        "the frame is wrong",
        "7",
        "8",
        "Try again",
    )
    assert raised.to_dict() == {
        "type": error.__name__,
        "message": str(raised),
        "what": "the frame is wrong",
        "got": "7",
        "expected": "8",
        "remedy": "Try again",
    }


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_travels_between_processes(error: type[EdgeCNNError]) -> None:
    raised = error("what", got="got", remedy="remedy")
    for again in (pickle.loads(pickle.dumps(raised)), copy.copy(raised), copy.deepcopy(raised)):
        assert type(again) is error
        assert again.to_dict() == raised.to_dict()
        assert str(again) == str(raised)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "what"),
        ({"got": "7"}, "what: got 7"),
        ({"expected": "8"}, "what: expected 8"),
        ({"remedy": "Do it"}, "what. Do it"),
        ({"got": "", "expected": "", "remedy": ""}, "what"),
        ({"got": "A sentence.", "remedy": "Do it"}, "what: got A sentence. Do it"),
        ({"got": "several\nlines\r\nof a library"}, "what: got several lines of a library"),
    ],
)
def test_parts_that_are_not_known_are_left_out(parts: dict[str, str], message: str) -> None:
    error = EdgeCNNError("what", **parts)
    assert str(error) == message
    assert set(error.to_dict()) == {
        "type",
        "message",
        "what",
        *(name for name, value in parts.items() if value),
    }


def test_an_error_is_json() -> None:
    error = EdgeCNNError("odd names: \udcff \x1b[31m")
    assert json.loads(json.dumps(error.to_dict())) == error.to_dict()


def test_what_knows_nothing_of_edgecnn_catches_them() -> None:
    for builtin, error in (
        (FileNotFoundError, errors.ModelNotFoundError),
        (ImportError, errors.BackendUnavailableError),
    ):
        with pytest.raises(builtin, match=r"^gone\. Look again$"):
            raise error("gone", remedy="Look again")
