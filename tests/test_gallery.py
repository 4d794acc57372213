from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.backends import FunctionBackend, TensorInfo
from edgecnn.errors import DataError, InputError, ModelFormatError, ModelNotFoundError, OutputExistsError
from edgecnn.gallery import Gallery, Match
from edgecnn.metadata import BUILD_KEY, EXPORT_KEY
from edgecnn.model import Model
from edgecnn.results import Embedding
from edgecnn.spec import ImageSpec, ModelSpec


def embedding(*values: float) -> Embedding:
    vector = np.array(values, np.float32)
    return Embedding(vector / np.linalg.norm(vector))


def model(origin: str = '{"source": "a"}', **metadata: str) -> Model:
    """Mean colour of the frame, as a vector."""
    return Model(
        FunctionBackend(
            lambda feeds: {"v": feeds["image"].mean(axis=(2, 3)) + np.float32(0.01)},
            inputs=(TensorInfo("image", (1, 3, 8, 8), "float32"),),
            outputs=(TensorInfo("v", (1, 3), "float32"),),
            metadata={EXPORT_KEY: origin, **metadata},
        ),
        ModelSpec(task="embedding", image=ImageSpec(size_hw=(8, 8))),
    )


def people() -> Gallery:
    gallery = Gallery()
    for name, values in (("anna", (1, 0, 0)), ("bob", (0, 1, 0)), ("anna", (1, 0, 1))):
        gallery.enrol(name, embedding(*values))
    return gallery


def test_who_is_most_alike() -> None:
    gallery = people()
    assert (len(gallery), gallery.names) == (3, ["anna", "bob"])
    best, second = gallery.identify(embedding(1, 0.1, 1), k=5)
    assert (best.name, second.name) == ("anna", "bob")
    assert best.similarity == pytest.approx(2 / np.sqrt(2 * 2.01))
    assert gallery.identify(embedding(0, 0, 1), min_similarity=0.9) == []
    assert gallery.verify("anna", embedding(1, 0, 1)) == pytest.approx(1)
    assert gallery.verify("bob", embedding(1, 0, 1)) == pytest.approx(0)
    gallery.forget("anna")
    (left,) = gallery.identify(embedding(1, 0.1, 1))
    assert left == Match("bob", left.similarity)
    assert left.similarity == pytest.approx(0.1 / np.sqrt(2.01))
    assert Gallery().identify(embedding(1, 0)) == []


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "people.npz"
    with model() as network:
        gallery = Gallery.for_model(network)
        red, green = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
        red[..., 2] = green[..., 1] = 255
        gallery.enrol("rot", network(red))  # type: ignore[arg-type]  # an Embedding
        gallery.enrol("grün", network(green))  # type: ignore[arg-type]
        gallery.save(path)
        back = Gallery.load(path, network)
        assert back.names == ["rot", "grün"]
        assert back.identify(network(green))[0].name == "grün"  # type: ignore[arg-type]
        np.testing.assert_array_equal(back.vectors, gallery.vectors)
    with pytest.raises(OutputExistsError):
        gallery.save(path)
    gallery.forget("rot")
    gallery.save(path, force=True)
    assert Gallery.load(path).names == ["grün"]
    Gallery().save(tmp_path / "empty.npz")
    assert len(Gallery.load(tmp_path / "empty.npz")) == 0


def test_another_networks_gallery_is_refused_and_another_precisions_is_not(tmp_path: Path) -> None:
    path = tmp_path / "people.npz"
    with model() as network:
        gallery = Gallery.for_model(network)
        gallery.enrol("a", embedding(1, 0, 0))
        gallery.save(path)
    with model(**{BUILD_KEY: '{"precision": "int8"}'}) as built:
        assert len(Gallery.load(path, built)) == 1
    with (
        model('{"source": "b"}') as other,
        pytest.raises(DataError, match="is of another network than model"),
    ):
        Gallery.load(path, other)


def test_errors(tmp_path: Path) -> None:
    gallery = people()
    with pytest.raises(
        DataError, match="nobody of that name is enrolled: got carl, expected one of anna, bob"
    ):
        gallery.verify("carl", embedding(1, 0, 0))
    with pytest.raises(DataError, match="expected no one yet"):
        Gallery().forget("carl")
    with pytest.raises(InputError, match="another length than the gallery's: got 2, expected 3"):
        gallery.identify(embedding(1, 0))
    with pytest.raises(InputError, match="another length"):
        gallery.enrol("x", embedding(1, 0))
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        Gallery.load(tmp_path / "none.npz")


def write(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"vectors": np.zeros((1, 2), np.float32), "names": np.array(["a"])},
        {"vectors": np.zeros((1, 2), np.float32), "names": np.array(["a"]), "about": np.array("[")},
        {"vectors": np.zeros((1, 2), np.float32), "names": np.array(["a"]), "about": np.array("{}")},
        {
            "vectors": np.zeros((1, 2)),
            "names": np.array(["a"]),
            "about": np.array('{"version":1,"network":""}'),
        },
        {
            "vectors": np.full((1, 2), np.nan, np.float32),
            "names": np.array(["a"]),
            "about": np.array('{"version":1,"network":""}'),
        },
        {
            "vectors": np.zeros((2, 2), np.float32),
            "names": np.array(["a"]),
            "about": np.array('{"version":1,"network":""}'),
        },
        {
            "vectors": np.zeros((1, 2), np.float32),
            "names": np.array([{"code": "runs"}], dtype=object),
            "about": np.array('{"version":1,"network":""}'),
        },
        {
            "vectors": np.zeros((1, 2), np.float32),
            "names": np.array(["a"]),
            "about": np.array('{"version":2,"network":""}'),
        },
    ],
)
def test_files_that_are_no_gallery(tmp_path: Path, arrays: dict[str, Any]) -> None:
    write(tmp_path / "g.npz", **arrays)
    with pytest.raises(ModelFormatError):
        Gallery.load(tmp_path / "g.npz")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut off", b"text", b"\x93NUMPY\x01\x00"])
def test_bytes_that_are_no_gallery(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "g.npz").write_bytes(data)
    with pytest.raises(ModelFormatError, match="is no gallery"):
        Gallery.load(tmp_path / "g.npz")
