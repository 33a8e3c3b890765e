from dataclasses import replace
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from matplotlib.figure import Figure
from scanloom.pipeline.errors import BundleError, PipelineError
from scanloom.pipeline.outputs import write_preview
from scanloom.pipeline.outputs.preview import choose_window, outline, scale_bar_mm, volume_text
from scanloom.pipeline.outputs.sections import cut_sections


def colored_pixels(path: Path) -> int:
    """How many pixels are neither grey nor the background's nearly grey."""
    picture = matplotlib.image.imread(path)[..., :3]
    return int((np.ptp(picture, axis=-1) > 0.1).sum())


def test_labels_are_drawn_in_their_colours(tmp_path, make_volume, make_labels, bundle):
    write_preview(tmp_path / "preview.png", make_labels(), make_volume(), bundle)
    picture = np.rint(matplotlib.image.imread(tmp_path / "preview.png")[..., :3] * 255).astype(int)
    for label in bundle.labels:
        assert (np.abs(picture - label.color).max(axis=-1) < 3).sum() > 50


def test_an_empty_label_map_gives_a_picture_without_labels(tmp_path, make_volume, make_labels, bundle):
    write_preview(tmp_path / "with.png", make_labels(), make_volume(), bundle)
    write_preview(tmp_path / "without.png", make_labels() * np.uint8(0), make_volume(), bundle)
    assert colored_pixels(tmp_path / "without.png") < 1000 < colored_pixels(tmp_path / "with.png")


@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 5, 1), (2, 60, 3), (80, 90, 4)])
def test_any_shape_gives_a_picture_of_bounded_size(tmp_path, make_volume, bundle, shape):
    write_preview(tmp_path / "preview.png", np.ones(shape, np.uint8), make_volume(shape), bundle)
    height, width, _ = matplotlib.image.imread(tmp_path / "preview.png").shape
    assert 100 < height <= 800
    assert 800 < width <= 1500


def test_the_same_case_gives_the_same_bytes(tmp_path, make_volume, make_labels, bundle):
    for name in ("one.png", "two.png"):
        write_preview(tmp_path / name, make_labels(), make_volume(), bundle)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_names_with_dollars_foreign_letters_and_great_length_are_drawn(tmp_path, make_volume, make_labels, make_bundle):
    one, two = make_bundle().metadata["label_classes"]
    bundle = make_bundle(one | {"name": "$\\frac{"}, two | {"name": "海馬" * 50}, name="$x$")
    write_preview(tmp_path / "preview.png", make_labels(), make_volume(case="a$b_$c"), bundle)
    assert colored_pixels(tmp_path / "preview.png") > 1000


def test_many_labels_are_named_up_to_a_limit(tmp_path, make_volume, make_bundle):
    one, _ = make_bundle().metadata["label_classes"]
    bundle = make_bundle(*(one | {"value": value, "name": f"structure {value}"} for value in range(1, 61)))
    labels = np.arange(9 * 8 * 7).reshape(9, 8, 7) % 61
    write_preview(tmp_path / "preview.png", labels.astype(np.uint8), make_volume(), bundle)
    assert matplotlib.image.imread(tmp_path / "preview.png").shape[0] < 1000


def test_the_window_follows_the_modality_and_ignores_what_is_no_number(make_volume, make_labels):
    volume = make_volume()
    sections = cut_sections(make_labels(), volume)
    values = np.concatenate([section.image.ravel() for section in sections.planes])
    assert choose_window(sections, "CT") == (-160.0, 240.0)
    assert choose_window(sections, None) == pytest.approx(tuple(np.percentile(values, (1, 99))))
    nothing = replace(volume, array=np.full_like(volume.array, np.nan))
    assert choose_window(cut_sections(make_labels(), nothing), "MR") == (0.0, 1.0)
    flat = replace(volume, array=np.full_like(volume.array, 5))
    assert choose_window(cut_sections(make_labels(), flat), "MR") == (5.0, 6.0)


def test_an_outline_follows_the_pixel_edges():
    mask = np.zeros((4, 5), bool)
    mask[1, 1] = True
    edges = {tuple(map(tuple, edge)) for edge in outline(mask)}
    assert edges == {((1, 1), (1, 2)), ((2, 1), (2, 2)), ((1, 1), (2, 1)), ((1, 2), (2, 2))}
    assert len(outline(np.ones((4, 5), bool))) == 2 * (4 + 5)


@pytest.mark.parametrize(("width", "length"), [(35, 5), (200, 50), (512, 100), (3.9, 0.5), (1e-3, 2e-4)])
def test_a_scale_bar_is_a_round_length_of_at_most_a_quarter(width, length):
    assert scale_bar_mm(width) == pytest.approx(length)


@pytest.mark.parametrize(
    ("volume", "text"), [(1.8, "1.80 ml"), (23.42, "23.4 ml"), (1210.4, "1210 ml"), (5e-4, "0.000500 ml")]
)
def test_volumes_have_three_digits_that_count(volume, text):
    assert volume_text(volume) == text


def test_labels_without_a_name_or_of_another_grid_are_refused(tmp_path, make_volume, make_labels, bundle):
    with pytest.raises(BundleError, match="which label_classes does not name"):
        write_preview(tmp_path / "preview.png", make_labels() * 3, make_volume(), bundle)
    with pytest.raises(PipelineError, match="Bring the labels back to the source grid"):
        write_preview(tmp_path / "preview.png", make_labels((4, 4, 4)), make_volume(), bundle)


def test_a_writer_that_fails_midway_leaves_nothing(tmp_path, make_volume, make_labels, bundle, monkeypatch):
    def save_half(self, name, **kwargs):
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", save_half)
    with pytest.raises(PipelineError, match=r"preview.png: can not be written \(No space left on device\)"):
        write_preview(tmp_path / "out" / "preview.png", make_labels(), make_volume(), bundle)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.data
def test_a_real_case_is_drawn(tmp_path, make_volume, bundle, data_folder):
    folder = data_folder / "msd_hippocampus"
    image = nib.load(folder / "images" / "hippocampus_003.nii.gz")
    labels = np.asarray(nib.load(folder / "labels" / "hippocampus_003.nii.gz").dataobj).astype(np.uint8)
    volume = replace(make_volume(affine=image.affine), array=np.asarray(image.dataobj)[None])
    write_preview(tmp_path / "preview.png", labels, volume, bundle)
    assert colored_pixels(tmp_path / "preview.png") > 10_000
