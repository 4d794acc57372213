"""Recognize again: enrol things or people by pictures of them, then say who a new picture shows.

python samples/reidentify.py embedder.onnx enrol people.npz anna anna-1.jpg anna-2.jpg
python samples/reidentify.py embedder.onnx identify people.npz 0 --min-similarity 0.6
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

import edgecnn
from edgecnn.camera import read_image
from edgecnn.gallery import Gallery


def enrol(model: edgecnn.Model, file: Path, name: str, pictures: list[Path]) -> None:
    """Add pictures of someone to the gallery, which is made if there is none."""
    gallery = Gallery.load(file, model) if file.exists() else Gallery.for_model(model)
    for picture in pictures:
        embedding = model(read_image(picture))
        assert isinstance(embedding, edgecnn.Embedding)
        gallery.enrol(name, embedding)
    gallery.save(file, force=True)  # whole or not at all
    print(f"{name} is enrolled with {len(pictures)} pictures; {file} knows {', '.join(gallery.names)}")


def identify(model: edgecnn.Model, file: Path, source: str, min_similarity: float) -> None:
    """Say who each frame shows."""
    gallery = Gallery.load(file, model)
    with edgecnn.Pipeline(source, model) as pipeline:
        for output in pipeline:
            assert isinstance(output.result, edgecnn.Embedding)
            matches = gallery.identify(output.result, k=2)
            best = matches[0]
            known = best.similarity >= min_similarity
            second = f", then {matches[1].name} {matches[1].similarity:.2f}" if len(matches) > 1 else ""
            who = best.name if known else "nobody that is known"
            place = output.frame.path.name if output.frame.path else f"frame {output.frame.index}"
            print(f"{place}: {who} (like {best.name} {best.similarity:.2f}{second})")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="an embedding network that edgecnn built")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("enrol", help="add pictures of someone")
    adding.add_argument("gallery", type=Path, help=".npz file")
    adding.add_argument("name")
    adding.add_argument("pictures", nargs="+", type=Path)
    asking = commands.add_parser("identify", help="say who is seen")
    asking.add_argument("gallery", type=Path, help=".npz file")
    asking.add_argument("source", help="camera number, video, picture or folder of pictures")
    asking.add_argument("--min-similarity", type=float, default=0.6, help="cosine; below it, nobody")
    arguments = parser.parse_args()

    with edgecnn.load(arguments.model) as model:
        if arguments.command == "enrol":
            enrol(model, arguments.gallery, arguments.name, arguments.pictures)
        else:
            identify(model, arguments.gallery, arguments.source, arguments.min_similarity)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
