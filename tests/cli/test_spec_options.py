from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edgecnn.cli import main
from edgecnn.cli.spec_options import SpecOptions, model_spec, spec_options
from edgecnn.errors import SpecError
from edgecnn.spec import ImageSpec, ModelSpec, image_spec
from tests.colours import SPEC, write_colour_onnx
from tests.onnx_files import write_means

BASE = ModelSpec(
    task="classification",
    image=ImageSpec(size_hw=(192, 160), resize="crop", resize_hw=(192, 160), mean=(0.1, 0.2, 0.3)),
    labels=("cat", "dog"),
    head={"scores": "probabilities"},
    name="pets",
)


def options(*arguments: str) -> SpecOptions:
    """What the options of a command line become."""

    @click.command()
    @spec_options
    def command(spec_options: SpecOptions) -> SpecOptions:
        return spec_options

    result = command.main(list(arguments), standalone_mode=False)
    assert isinstance(result, SpecOptions)
    return result


def resolved(*arguments: str, base: ModelSpec | None = None) -> ModelSpec:
    spec = options(*arguments).resolve(base)
    assert spec is not None
    return spec


def test_saying_nothing() -> None:
    assert not options().any_given
    assert options().resolve() is None
    assert options().resolve(BASE) is BASE


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["--input-size", "96x128"], {"size_hw": (96, 128)}),
        (["--input-size", "96"], {"size_hw": (96, 96)}),
        (["--layout", "NHWC"], {"layout": "NHWC"}),
        (["--color", "BGR"], {"color": "BGR"}),
        (["--resize", "letterbox"], {"resize": "letterbox"}),
        (["--resize", "letterbox", "--pad-value", "0"], {"resize": "letterbox", "pad_value": 0}),
        (["--resize", "crop", "--resize-to", "300x400"], {"resize": "crop", "resize_hw": (300, 400)}),
        (["--resize", "crop", "--crop-fraction", "1"], {"resize": "crop", "crop_fraction": 1.0}),
        (["--interpolation", "nearest"], {"interpolation": "nearest"}),
        (["--scale", "1"], {"scale": 1.0}),
        (["--mean", "1,2,3"], {"mean": (1.0, 2.0, 3.0)}),
        (["--mean", "127.5", "--std", "2"], {"mean": (127.5,), "std": (2.0,)}),
    ],
)
def test_each_option_is_an_argument_of_image_spec(arguments: list[str], changes: dict[str, Any]) -> None:
    assert resolved("--preset", "unit", *arguments).image == image_spec("unit", **changes)
    assert resolved(*arguments, base=BASE).image == image_spec(BASE.image, **changes)


def test_without_a_base_the_options_are_all_there_is() -> None:
    assert resolved("--preset", "imagenet") == ModelSpec(task="classification", image=image_spec("imagenet"))
    assert resolved("--input-size", "8", "--task", "raw") == ModelSpec(
        task="raw", image=ImageSpec(size_hw=(8, 8))
    )
    with pytest.raises(SpecError, match=r"no input size: expected a preset or size_hw \(--input-size HxW\)"):
        resolved("--task", "raw")


def test_what_is_not_said_stays_as_the_model_says() -> None:
    spec = resolved("--interpolation", "cubic", base=BASE)
    assert spec.image == ImageSpec(
        size_hw=(192, 160), resize="crop", resize_hw=(192, 160), mean=(0.1, 0.2, 0.3), interpolation="cubic"
    )
    assert (spec.task, spec.labels, spec.head, spec.name) == (BASE.task, BASE.labels, BASE.head, BASE.name)


def test_a_crop_keeps_its_ratio_to_a_new_size() -> None:
    assert resolved("--input-size", "96x80", base=BASE).image.resize_hw == (96, 80)
    assert resolved("--resize", "crop", base=BASE).image.resize_hw == (192, 160)


def test_a_preset_replaces_the_preprocessing_and_not_the_graphs_size() -> None:
    spec = resolved("--preset", "imagenet", base=BASE)
    assert spec.image == image_spec("imagenet", size_hw=(192, 160))
    assert spec.labels == BASE.labels
    assert resolved("--preset", "imagenet", "--input-size", "64", base=BASE).image.size_hw == (64, 64)


def test_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("Käse\n{0}\n", encoding="utf-8")
    spec = resolved("--labels", str(tmp_path / "labels.txt"), base=BASE)
    assert (spec.labels, spec.image, spec.head) == (("Käse", "{0}"), BASE.image, BASE.head)
    assert len(resolved("--preset", "imagenet", "--labels", "imagenet").labels) == 1000
    for name in ("", str(tmp_path / "gone.txt")):
        with pytest.raises(SpecError, match="labels"):
            resolved("--preset", "imagenet", "--labels", name)


def test_the_head_is_merged_and_another_tasks_is_dropped() -> None:
    assert resolved("--scores", "logits", base=BASE).head == {"scores": "logits"}
    assert resolved("--head", "multi_label=true", base=BASE).head == {
        "scores": "probabilities",
        "multi_label": True,
    }
    assert resolved("--task", "classification", base=BASE).head == BASE.head
    assert resolved("--task", "raw", base=BASE).head == {}
    assert resolved("--task", "raw", "--head", "a=1", base=BASE).head == {"a": 1}


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("output=probs", "output", "probs"),
        ("multi_label=true", "multi_label", True),
        ("output=null", "output", None),
        ("threshold=0.5", "threshold", 0.5),
        ("anchors=[1, 2]", "anchors", [1, 2]),
        ('name="7"', "name", "7"),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", ""),
        ("limit=NaN", "limit", "NaN"),  # JSON has none
        ("deep=" + "[" * 100_000, "deep", "[" * 100_000),
    ],
)
def test_settings_of_the_head_are_json_or_text(text: str, key: str, value: Any) -> None:
    assert options("--head", text).head == {key: value}
    assert options("--head", text).any_given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "multi_label"], "'multi_label' is no setting; expected KEY=VALUE"),
        (["--head", "=1"], "'=1' is no setting"),
        (["--mean", "a,b,c"], "'a,b,c' is no list of numbers; expected R,G,B"),
        (["--mean", "1,,2"], "is no list of numbers"),
        (["--input-size", "big"], "'big' is no size; expected HxW"),
        (["--preset", "resnet"], "'resnet' is not one of"),
        (["--pad-value", "256"], "256 is not in the range"),
    ],
)
def test_what_cannot_be_read_is_wrong_usage(arguments: list[str], message: str) -> None:
    @click.command()
    @spec_options
    def command(spec_options: SpecOptions) -> None: ...

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mean", "1,2"],
        ["--mean", "nan"],
        ["--std", "0"],
        ["--std", "inf"],
        ["--scale", "nan"],
        ["--crop-fraction", "2"],
        ["--resize", "stretch", "--crop-fraction", "0.5"],
        ["--pad-value", "0"],
        ["--task", "../x"],
        ["--input-size", "99999"],
    ],
)
def test_values_that_make_no_sense_are_spec_errors(arguments: list[str]) -> None:
    with pytest.raises(SpecError, match="is wrong"):
        resolved("--preset", "imagenet", *arguments)


# --- with a file


def test_the_specs_of_files(tmp_path: Path, colour_onnx: Path) -> None:
    foreign = write_means(tmp_path / "foreign.onnx")
    assert model_spec(foreign, options()) is None
    assert model_spec(colour_onnx, options()) is None  # the file's own is used
    assert model_spec(foreign, options("--input-size", "8")) == ModelSpec(
        task="classification", image=ImageSpec(size_hw=(8, 8))
    )
    changed = model_spec(colour_onnx, options("--color", "BGR"))
    assert changed is not None
    assert (changed.image.color, changed.labels) == ("BGR", SPEC.labels)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert main([*map(str, arguments), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_foreign_file_is_used_by_options(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = write_colour_onnx(tmp_path / "foreign.onnx", spec=None)
    (tmp_path / "labels.txt").write_text("rot\ngrün\nblau\n", encoding="utf-8")
    said = ["--preset", "unit", "--input-size", "8", "--labels", tmp_path / "labels.txt"]
    source = ["--source", photos / "coffee.png", "--sink", "-"]  # brown on brown
    line, report = run_json(capsys, "run", foreign, *source, *said)
    assert line["result"]["classes"][0]["label"] == "rot"
    assert report["frames"] == 1
    assert main(["run", str(foreign), *map(str, source)]) == 1
    assert "does not say how to use it" in capsys.readouterr().err
