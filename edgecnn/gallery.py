"""A gallery of embeddings: enrol what is known, then say who or what a new picture shows.

    gallery = Gallery.for_model(model)
    gallery.enrol("anna", model(photo))
    gallery.identify(model(frame))        # the names that are most like it, best first
    gallery.verify("anna", model(frame))  # how much like anna

Likeness is the cosine between vectors of length 1. Someone who was enrolled several times is as like as
the closest of those. Vectors of different networks mean nothing to each other: a gallery remembers which
network its vectors are of, and refuses others.

On disk it is one `.npz` file: `vectors` (N, D) float32, `names` (N,) text, and `about`, a JSON object with
the version and the network. It is written whole or not at all, and read without pickles.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError, InputError, ModelFormatError, ModelNotFoundError
from edgecnn.files import check_output, write_atomic
from edgecnn.results import Embedding

if TYPE_CHECKING:
    from edgecnn.model import Model

__all__ = ["Gallery", "Match", "network_id"]

VERSION = 1
LARGEST_BYTES = 1 << 31


class Match(NamedTuple):
    """A name, and how like it is: the cosine in [-1, 1]."""

    name: str
    similarity: float


class Gallery:
    """Names and their embeddings. Not for several threads at once.

    Args:
        network: which network the vectors are of, as `network_id` gives it; empty for any.
        vectors: (N, D) float32, each of length 1.
        names: of each vector; the same name may stand several times.
    """

    def __init__(
        self, network: str = "", vectors: NDArray[np.float32] | None = None, names: Sequence[str] = ()
    ) -> None:
        self.network = network
        self.vectors: NDArray[np.float32] = np.zeros((0, 0), np.float32) if vectors is None else vectors
        self.entries = list(names)

    @classmethod
    def for_model(cls, model: Model) -> Gallery:
        """An empty gallery for the embeddings of this model."""
        return cls(network_id(model))

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        """Who is enrolled, each once, in order of enrolment."""
        return list(dict.fromkeys(self.entries))

    def enrol(self, name: str, embedding: Embedding) -> None:
        """Add a picture of someone. Raises InputError for a vector of another length."""
        vector = self._checked(embedding)
        self.vectors = np.concatenate([self.vectors.reshape(-1, len(vector)), vector[None]])
        self.entries.append(name)

    def forget(self, name: str) -> None:
        """Remove all pictures of someone. Raises DataError where there are none."""
        keep = np.array([entry != name for entry in self.entries], bool)
        if keep.all():
            raise _unknown(name, self.names)
        self.vectors = self.vectors[keep]
        self.entries = [entry for entry in self.entries if entry != name]

    def identify(self, embedding: Embedding, *, k: int = 1, min_similarity: float = -1.0) -> list[Match]:
        """The `k` names that are most like it, best first; those below `min_similarity` are left out."""
        if not self.entries:
            return []
        likeness = self.vectors @ self._checked(embedding)
        best: dict[str, float] = {}
        for name, value in zip(self.entries, likeness.tolist(), strict=True):
            best[name] = max(value, best.get(name, -1.0))
        ranked = sorted(best.items(), key=lambda item: -item[1])[:k]
        return [Match(name, min(1.0, value)) for name, value in ranked if value >= min_similarity]

    def verify(self, name: str, embedding: Embedding) -> float:
        """How like the closest picture of `name`: a cosine. Raises DataError where there is none."""
        mine = np.array([entry == name for entry in self.entries], bool)
        if not mine.any():
            raise _unknown(name, self.names)
        return float(min(1.0, (self.vectors[mine] @ self._checked(embedding)).max()))

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write a `.npz` file. Raises OutputError, OutputExistsError."""
        import msgspec

        target = check_output(path, force=force)
        about = msgspec.json.encode({"version": VERSION, "network": self.network}).decode()
        data = io.BytesIO()
        np.savez(data, vectors=self.vectors, names=np.array(self.entries, dtype=str), about=np.array(about))
        write_atomic(target, data.getvalue(), force=force)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model | None = None) -> Gallery:
        """Read what `save` wrote.

        Args:
            path: the file.
            model: where given, the gallery must be of this network.

        Raises:
            ModelNotFoundError: no such file.
            ModelFormatError: no gallery, or one of a newer version.
            DataError: its vectors are another network's.
        """
        file = Path(path)
        if not file.is_file():
            raise ModelNotFoundError(f"gallery {file} does not exist", expected="a .npz file of Gallery.save")
        gallery = _read(file)
        if model is not None and gallery.network != network_id(model):
            raise DataError(
                f"gallery {file} is of another network than {model.name}",
                got=f"{gallery.network[:12] or 'none'}…",
                expected=f"{network_id(model)[:12]}…",
                remedy="Enrol the pictures again with this model",
            )
        return gallery

    def _checked(self, embedding: Embedding) -> NDArray[np.float32]:
        vector = embedding.vector
        if self.entries and vector.shape != self.vectors.shape[1:]:
            raise InputError(
                "the embedding is of another length than the gallery's",
                got=str(len(vector)),
                expected=str(self.vectors.shape[1]),
            )
        return vector


def network_id(model: Model) -> str:
    """What makes a model's embeddings comparable: where its weights come from, and how frames are prepared.

    The same for FP32, FP16 and INT8 builds of one export, whose vectors differ a little only. A foreign ONNX
    file does not say where it comes from: it is known by its spec and its outputs alone.

    Returns:
        SHA-256 in hex.
    """
    from edgecnn.metadata import EXPORT_KEY

    origin = model.backend.metadata.get(EXPORT_KEY, "")
    outputs = [(info.name, info.shape[1:]) for info in model.backend.outputs]
    text = "\n".join([origin, model.spec.to_json(), repr(outputs)])
    return hashlib.sha256(text.encode()).hexdigest()


def _read(file: Path) -> Gallery:
    import msgspec

    try:
        with zipfile.ZipFile(file) as packed:  # a few bytes can be packed zeros without end
            size = sum(entry.file_size for entry in packed.infolist())
        if size > LARGEST_BYTES:
            raise ValueError(f"{size} bytes, unpacked")
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            vectors, names, about = stored["vectors"], stored["names"], str(stored["about"])
        found: dict[str, Any] = msgspec.json.decode(about, type=dict[str, Any])
        version, network = found["version"], str(found["network"])
    except (
        ValueError,
        KeyError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
        msgspec.MsgspecError,
        RecursionError,
    ) as error:
        raise ModelFormatError(
            f"{file} is no gallery", got=str(error), expected="what Gallery.save wrote"
        ) from error
    if version != VERSION:
        raise ModelFormatError(f"{file} is of another version", got=str(version), expected=str(VERSION))
    fits = vectors.ndim == 2 and vectors.dtype == np.float32 and names.shape == vectors.shape[:1]
    fits = fits and names.dtype.kind == "U"
    if not fits or not np.isfinite(vectors).all():
        raise ModelFormatError(
            f"{file} is damaged", got=f"{vectors.dtype} {vectors.shape}", expected="(N, D) float32"
        )
    return Gallery(network, vectors, names.tolist())


def _unknown(name: str, names: Sequence[str]) -> DataError:
    return DataError(
        "nobody of that name is enrolled",
        got=name,
        expected="one of " + ", ".join(names) if names else "no one yet",
    )
