from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.errors import SpecError
from edgecnn.labels import read_labels


def test_imagenet_has_a_thousand_classes_in_the_usual_order() -> None:
    labels = read_labels("imagenet")
    assert len(labels) == len([label for label in labels if label.strip() == label != ""]) == 1000
    known = {
        0: "tench",
        99: "goose",
        281: "tabby",
        282: "tiger cat",
        285: "Egyptian cat",
        671: "mountain bike",
    }
    assert {index: labels[index] for index in known} == known
    assert labels[967] == "espresso"
    assert labels[999] == "toilet tissue"


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (b"cat\ndog\n", ("cat", "dog")),
        (b"cat\ndog", ("cat", "dog")),
        (b"cat\r\ndog\r\n", ("cat", "dog")),
        (b"\xef\xbb\xbfcat\r\ndog", ("cat", "dog")),  # a byte order mark, as Windows' editors write it
        (b"cat\ndog\n\n \n", ("cat", "dog")),
        (b"cat\n\ndog\n", ("cat", "", "dog")),  # the numbers of the classes must not move
        (b"  cat \t\n dog\n", ("cat", "dog")),
        ("Käse\n犬\n🐈 cat\n".encode(), ("Käse", "犬", "🐈 cat")),
        ("a\x0bb\x1cc\u2028d\n%s{0}\n".encode(), ("a\x0bb\x1cc\u2028d", "%s{0}")),  # one line stays one class
    ],
)
def test_one_name_a_line(tmp_path: Path, content: bytes, labels: tuple[str, ...]) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    assert read_labels(tmp_path / "labels.txt") == labels
    assert read_labels(str(tmp_path / "labels.txt")) == labels


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b" \r\n"])
def test_no_names_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(SpecError, match=r"labels\.txt is empty: expected one class name a line"):
        read_labels(tmp_path / "labels.txt")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes("Käse".encode("latin-1"))
    with pytest.raises(
        SpecError, match=r"cannot read labels from .*latin1\.txt: .* expected a UTF-8 text file"
    ):
        read_labels(tmp_path / "latin1.txt")
    with pytest.raises(SpecError, match="cannot read labels from"):
        read_labels(tmp_path)
    with pytest.raises(SpecError, match="cannot read labels from"):
        read_labels("a\0b")
    with pytest.raises(SpecError, match=r"no labels file .*gone\.txt: expected .* or imagenet"):
        read_labels(tmp_path / "gone.txt")
