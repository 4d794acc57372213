from __future__ import annotations

import json
import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.errors import SpecError
from edgecnn.spec import PRESETS, Color, ImageSpec, Interpolation, Layout, ModelSpec, Resize, image_spec

SMALL = ImageSpec(size_hw=(8, 16))
CROP = ImageSpec(size_hw=(224, 224), resize="crop", resize_hw=(256, 256))


def model_spec(**changes: Any) -> ModelSpec:
    return ModelSpec(**{"task": "classification", "image": SMALL, **changes})


# --- round trip

sides = st.integers(1, 16384)
levels = st.floats(-999_999, 999_999)
texts = st.text(st.characters(exclude_categories=["Cs"]))  # Cs: halves of surrogate pairs
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def image_specs(draw: st.DrawFn) -> ImageSpec:
    color = draw(st.sampled_from(get_args(Color)))
    channels = 1 if color == "GRAY" else 3
    size = draw(st.tuples(sides, sides))
    resize = draw(st.sampled_from(get_args(Resize)))
    larger = st.tuples(*(st.integers(side, 16384) for side in size))
    return ImageSpec(
        size_hw=size,
        layout=draw(st.sampled_from(get_args(Layout))),
        color=color,
        resize=resize,
        resize_hw=draw(larger) if resize == "crop" else None,
        interpolation=draw(st.sampled_from(get_args(Interpolation))),
        pad_value=draw(st.integers(0, 255)),
        scale=draw(st.floats(1e-9, 1e5)),
        mean=draw(st.tuples(*[levels] * channels)),
        std=draw(st.tuples(*[st.floats(1e-5, 1e5)] * channels)),
    )


@given(image_specs(), st.dictionaries(texts, json_values, max_size=3), st.lists(texts, max_size=3), texts)
def test_json_gives_the_same_spec_back(
    image: ImageSpec, head: dict[str, Any], labels: list[str], name: str
) -> None:
    spec = ModelSpec(task="raw", image=image, head=head, labels=tuple(labels), name=name)
    text = spec.to_json()
    again = ModelSpec.from_json(text)
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.to_json() == text
    assert json.loads(text)["head"] == head


@given(image_specs())
def test_the_shape_has_the_channels_where_the_layout_says(image: ImageSpec) -> None:
    assert math.prod(image.shape) == image.channels * math.prod(image.size_hw)
    first = 1 if image.layout == "NCHW" else 0
    assert image.shape[first : first + 2] == image.size_hw


def test_json_names_every_field() -> None:
    raw = json.loads(model_spec().to_json())
    assert raw.keys() == {item.name for item in fields(ModelSpec)}
    assert raw["image"].keys() == {item.name for item in fields(ImageSpec)}
    assert raw["version"] == 1


def test_json_does_not_depend_on_the_order_of_a_mapping() -> None:
    first, second = (model_spec(head=dict(pairs)) for pairs in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)]))
    assert first.to_json() == second.to_json()


# --- what Python callers pass


def test_lists_and_numpy_numbers_become_plain_values() -> None:
    image = ImageSpec(
        size_hw=[np.int64(8), np.uint8(16)],  # type: ignore[arg-type]
        resize="crop",
        resize_hw=np.array([10, 20]),  # type: ignore[arg-type]
        pad_value=np.int32(7),
        scale=1,
        mean=np.float64([127, 127, 127]),  # type: ignore[arg-type]
        std=[128, np.float32(0.5), 1],  # type: ignore[arg-type]
    )
    same = ImageSpec(
        size_hw=(8, 16), resize="crop", resize_hw=(10, 20), pad_value=7, scale=1.0,
        mean=(127.0, 127.0, 127.0), std=(128.0, 0.5, 1.0),
    )  # fmt: skip
    assert image == same
    assert model_spec(image=image).to_json() == model_spec(image=same).to_json()  # "127.0", not "127"
    for value in (*image.size_hw, *(image.resize_hw or ()), image.pad_value):
        assert type(value) is int
    for value in (image.scale, *image.mean, *image.std):
        assert type(value) is float


def test_labels_and_head_are_copied() -> None:
    labels, head = ["cat", "dog"], {"anchors": (1, 2), "scale": np.float32(0.5)}
    spec = model_spec(labels=labels, head=head)
    labels.append("cow")
    head["anchors"] = ()
    assert spec.labels == ("cat", "dog")
    assert spec.head == {"anchors": [1, 2], "scale": 0.5}
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_hw": 224}, "size_hw is wrong: got 224, expected two whole numbers from 1 to 16384"),
        ({"size_hw": None}, "size_hw is wrong: got None"),
        ({"size_hw": "88"}, "size_hw is wrong: got 88"),
        ({"size_hw": (8,)}, r"size_hw is wrong: got \(8,\)"),
        ({"size_hw": (8, 8, 3)}, "size_hw is wrong"),
        ({"size_hw": (8.0, 8.0)}, "size_hw is wrong"),
        ({"size_hw": (True, True)}, "size_hw is wrong"),
        ({"size_hw": (0, 8)}, "size_hw is wrong"),
        ({"size_hw": (8, 16385)}, "size_hw is wrong"),
        ({"size_hw": (8, 10**5000)}, "size_hw is wrong: got a huge number"),
        ({"layout": "CHW"}, "layout is wrong: got CHW, expected one of NCHW, NHWC"),
        ({"layout": ["NCHW"]}, "layout is wrong"),
        ({"color": "rgb"}, "color is wrong: got rgb, expected one of RGB, BGR, GRAY"),
        ({"color": None}, "color is wrong: got None"),
        ({"resize": "pad"}, "resize is wrong"),
        ({"interpolation": "lanczos"}, "interpolation is wrong"),
        ({"mean": 0.5}, "mean is wrong: got 0.5, expected 3 finite numbers for RGB"),
        ({"mean": (0.5,)}, "mean is wrong"),
        ({"mean": "abc"}, "mean is wrong"),
        ({"mean": (0.5, None, 0.5)}, "mean is wrong"),
        ({"mean": (0, 0, math.nan)}, "mean is wrong"),
        ({"mean": (0, 0, -math.inf)}, "mean is wrong"),
        ({"mean": (0, 0, 10**400)}, "mean is wrong"),
        ({"mean": (False, 0, 0)}, "mean is wrong"),
        ({"mean": np.zeros((3, 3))}, "mean is wrong"),
        ({"color": "GRAY"}, "mean is wrong: .* expected 1 finite numbers for GRAY"),
        ({"std": (1, 0, 1)}, "std is wrong: .* expected 3 positive numbers for RGB"),
        ({"std": (1, -1, 1)}, "std is wrong"),
        ({"std": (1, 1e-300, 1)}, "std is wrong"),  # would be infinite after the division
        ({"std": (1, math.nan, 1)}, "std is wrong"),
        ({"scale": 0}, "scale is wrong"),
        ({"scale": math.inf}, "scale is wrong"),
        ({"scale": "1"}, "scale is wrong"),
        ({"scale": True}, "scale is wrong"),
        ({"pad_value": 256}, "pad_value is wrong: got 256, expected a whole number from 0 to 255"),
        ({"pad_value": -1}, "pad_value is wrong"),
        ({"pad_value": 114.0}, "pad_value is wrong"),
        ({"pad_value": None}, "pad_value is wrong"),
        ({"resize_hw": (8, 8)}, r"resize_hw is wrong: got \(8, 8\), expected nothing for stretch"),
        ({"resize": "crop"}, r"resize_hw is wrong: got None, expected for crop, a size from \(8, 16\)"),
        ({"resize": "crop", "resize_hw": (7, 16)}, "resize_hw is wrong"),
        ({"resize": "crop", "resize_hw": (8, 15)}, "resize_hw is wrong"),
        ({"resize": "crop", "resize_hw": 256}, "resize_hw is wrong"),
        ({"resize": "crop", "resize_hw": (8, 16385)}, "resize_hw is wrong"),
    ],
)
def test_a_wrong_image_spec_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": ""}, "task is wrong"),
        ({"task": None}, "task is wrong: got None, expected a task's name"),
        ({"task": "_private"}, "task is wrong"),
        ({"task": "../../etc/passwd"}, "task is wrong"),
        ({"task": "os.path"}, "task is wrong"),
        ({"image": {"size_hw": (8, 8)}}, "image is wrong: .* expected an ImageSpec"),
        ({"head": None}, "head is wrong: got None, expected a mapping"),
        ({"head": {1: 2}}, "head is wrong"),
        ({"head": {"threshold": math.nan}}, "head.threshold is wrong: got nan"),  # JSON would make it null
        ({"head": {"a": [1, {"b": -math.inf}]}}, r"head.a\[1\].b is wrong: got -inf"),
        ({"head": {"a": {1, 2}}}, "head.a is wrong"),
        ({"head": {"a": b"bytes"}}, "head.a is wrong"),
        ({"head": {"a": 2**63}}, "head.a is wrong: .* a whole number of 64 bits"),
        ({"head": {"a": "\udc80"}}, "head.a is wrong"),
        ({"labels": "cat"}, "labels is wrong: got cat, expected a tuple of class names"),
        ({"labels": None}, "labels is wrong"),
        ({"labels": ("cat", 7)}, "labels is wrong: got 7 for class 1, expected class names as text"),
        ({"labels": ("cat", "\udc80")}, "labels is wrong: got '.udc80' for class 1"),
        ({"name": None}, "name is wrong"),
        ({"name": "photo\udcff"}, "name is wrong"),  # how Python spells a file name that is not UTF-8
        ({"version": 2}, "version is wrong: got 2, expected 1"),
        ({"version": True}, "version is wrong"),
    ],
)
def test_a_wrong_model_spec_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        model_spec(**changes)


def test_specs_are_values() -> None:
    spec = model_spec(head={"a": [1]}, labels=("x",))
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert {spec: 1}[model_spec(head={"a": [1]}, labels=("x",))] == 1
    with pytest.raises(FrozenInstanceError):
        spec.task = "raw"  # type: ignore[misc]


# --- JSON from elsewhere


@pytest.mark.parametrize(
    ("change", "unknown"),
    [
        ({"tiles": 4}, "tiles"),
        ({"image": {"size_hw": [8, 16], "gamma": 2.2}}, "image.gamma"),
        ({"version": 2}, "version 2"),
        ({"version": 2, "tiles": 4}, "tiles"),
    ],
)
def test_what_a_newer_version_says_is_not_skipped(change: dict[str, Any], unknown: str) -> None:
    text = json.dumps({**json.loads(model_spec().to_json()), **change})
    with pytest.raises(SpecError, match="says what this version") as caught:
        ModelSpec.from_json(text)
    assert caught.value.got == unknown
    assert caught.value.remedy == "Update: pip install --upgrade edgecnn"


def test_what_is_left_out_has_its_default() -> None:
    spec = ModelSpec.from_json('{"task": "raw", "image": {"size_hw": [8, 16]}}')
    assert spec == ModelSpec(task="raw", image=SMALL)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "7",
        "{}",
        '{"task": "raw"}',
        '{"task": "raw", "image": null}',
        '{"task": "raw", "image": [8, 16]}',
        '{"task": 7, "image": {"size_hw": [8, 16]}}',
        '{"task": "raw", "image": {"size_hw": [8]}}',
        '{"task": "raw", "image": {"size_hw": [8, "16"]}}',
        '{"task": "raw", "image": {"size_hw": [0, 16]}}',
        '{"task": "raw", "image": {"size_hw": [8, 1e999]}}',
        '{"task": "raw", "image": {"size_hw": [8, 16], "scale": NaN}}',
        '{"task": "raw", "image": {"size_hw": [8, 16]}, "labels": "cat"}',
        '{"task": "raw", "image": {"size_hw": [8, 16]}, "head": {"a": 1e999}}',
        '{"task": "raw", "image": {"size_hw": [8, 16]}, "version": "1"}',
        '{"task": "raw", "image": {"size_hw": [8, 16]}',
        '{"head": ' * 100_000,
        b"\xff\xfe",
        b'{"task": "\xff", "image": {"size_hw": [8, 16]}}',
    ],
)
def test_damaged_json_is_a_spec_error(text: str | bytes) -> None:
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_json(text)
    assert len(str(caught.value).splitlines()) == 1


@given(st.text() | st.binary() | json_values.map(json.dumps))
def test_no_text_is_anything_but_a_spec_or_a_spec_error(text: str | bytes) -> None:
    with pytest.raises(SpecError):
        ModelSpec.from_json(text)


def test_metadata_without_a_spec_is_a_foreign_files() -> None:
    assert ModelSpec.from_metadata({"author": "somebody"}) is None
    spec = model_spec(labels=("Katze", "犬", "naïve\tname"))
    assert ModelSpec.from_metadata({"edgecnn.spec": spec.to_json()}) == spec


# --- presets and options


def test_presets_are_what_the_families_train_with() -> None:
    assert image_spec("imagenet") == ImageSpec(
        size_hw=(224, 224), resize="crop", resize_hw=(256, 256), interpolation="area",
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    assert image_spec("efficientnet-lite") == ImageSpec(
        size_hw=(224, 224), resize="crop", resize_hw=(256, 256), interpolation="cubic",
        scale=1.0, mean=(127.0,) * 3, std=(128.0,) * 3,
    )  # fmt: skip
    assert image_spec("inception") == ImageSpec(
        size_hw=(299, 299), resize="crop", resize_hw=(342, 342), interpolation="area",
        mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    assert image_spec("yolo") == ImageSpec(size_hw=(640, 640), resize="letterbox")
    assert image_spec("unit") == ImageSpec(size_hw=(224, 224))
    assert set(PRESETS) == {"imagenet", "efficientnet-lite", "inception", "yolo", "unit"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_leaves_no_trace_but_its_numbers(preset: str) -> None:
    assert preset not in model_spec(image=image_spec(preset)).to_json()


def test_without_a_preset_the_defaults_are_image_specs() -> None:
    assert image_spec(size_hw=(8, 16)) == SMALL


def test_options_override_the_preset() -> None:
    spec = image_spec("imagenet", size_hw=[192, 160], interpolation="linear", scale=2, layout="NHWC")
    assert spec == ImageSpec(
        size_hw=(192, 160), layout="NHWC", resize="crop", resize_hw=(219, 183), interpolation="linear",
        scale=2.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip


@pytest.mark.parametrize("value", [0.5, (0.5,), [0.5], np.array([0.5])])
def test_one_number_serves_every_channel(value: Any) -> None:
    spec = image_spec("unit", mean=value, std=value)
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.5,) * 3)
    assert image_spec("unit", color="GRAY", mean=value).mean == (0.5,)


def test_mean_and_std_follow_the_colour_order() -> None:
    spec = image_spec("imagenet", color="BGR")
    assert spec.mean == (0.406, 0.456, 0.485)  # blue first, as the channels are
    assert spec.std == (0.225, 0.224, 0.229)
    assert image_spec("imagenet", color="BGR", mean=(1, 2, 3)).mean == (1, 2, 3)  # already in its order


def test_a_grey_network_gets_the_average_of_a_colour_preset() -> None:
    spec = image_spec("imagenet", color="GRAY")
    assert spec.mean == pytest.approx((0.449,))
    assert spec.std == pytest.approx((0.226,))
    assert image_spec(spec, color="RGB").mean == spec.mean * 3


def test_switching_between_crop_and_the_others() -> None:
    letterbox = image_spec("imagenet", resize="letterbox", pad_value=0)
    assert (letterbox.resize_hw, letterbox.pad_value) == (None, 0)
    assert image_spec("imagenet", resize="stretch").resize_hw is None
    assert image_spec("yolo", resize="crop").resize_hw == (731, 731)  # 640 / 0.875
    assert image_spec("yolo", resize="crop", crop_fraction=1).resize_hw == (640, 640)
    assert image_spec("yolo", resize="crop", resize_hw=(700, 800)).resize_hw == (700, 800)


def test_a_spec_to_start_from() -> None:
    assert image_spec(CROP) == CROP
    assert image_spec(CROP, pad_value=None, mean=None) == CROP
    assert image_spec(CROP, size_hw=(112, 448)).resize_hw == (128, 512)  # the ratio is kept
    tight = ImageSpec(size_hw=(224, 224), resize="crop", resize_hw=(224, 224))
    assert image_spec(tight, size_hw=(192, 192)).resize_hw == (192, 192)
    assert image_spec(tight, resize="crop", color="BGR").resize_hw == (224, 224)
    assert image_spec(SMALL, resize="crop").resize_hw == (9, 18)
    assert image_spec(CROP, resize="stretch") == ImageSpec(size_hw=(224, 224))


@given(image_specs())
def test_starting_from_a_spec_without_options_changes_nothing(image: ImageSpec) -> None:
    assert image_spec(image) == image
    assert image_spec(image, resize=image.resize, color=image.color, size_hw=image.size_hw) == image


@pytest.mark.parametrize(
    ("preset", "options", "message"),
    [
        ("resnet", {}, "unknown preset: got resnet, expected one of imagenet, "),
        (["imagenet"], {}, "unknown preset"),
        (None, {}, "no input size: expected a preset or size_hw"),
        ("imagenet", {"size_hw": 224}, "size_hw is wrong: got 224"),
        ("imagenet", {"size_hw": (1, 2, 3)}, "size_hw is wrong"),
        ("imagenet", {"size_hw": ("a", "b")}, "size_hw is wrong"),
        ("imagenet", {"crop_fraction": 0.0}, "crop_fraction is wrong: got 0.0, expected 0.01 to 1"),
        ("imagenet", {"crop_fraction": 1.01}, "crop_fraction is wrong"),
        ("imagenet", {"crop_fraction": math.nan}, "crop_fraction is wrong"),
        ("imagenet", {"crop_fraction": "half"}, "crop_fraction is wrong"),
        ("imagenet", {"crop_fraction": 0.5, "resize_hw": (256, 256)}, "expected nothing beside resize_hw"),
        ("imagenet", {"resize": "stretch", "crop_fraction": 0.5}, "crop_fraction is wrong: .* for stretch"),
        ("imagenet", {"resize": "stretch", "resize_hw": (256, 256)}, "resize_hw is wrong: .* for stretch"),
        ("yolo", {"crop_fraction": 0.5}, "expected nothing for letterbox"),
        ("imagenet", {"pad_value": 0}, "pad_value is wrong: got 0, expected nothing for crop"),
        ("imagenet", {"mean": (1, 2)}, r"mean is wrong: got \(1, 2\), expected 3 finite numbers"),
        ("imagenet", {"mean": "0.5"}, "mean is wrong"),
        ("imagenet", {"std": 0}, "std is wrong"),
        ("imagenet", {"std": True}, "std is wrong"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(
    preset: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        image_spec(preset, **options)
