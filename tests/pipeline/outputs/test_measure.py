import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scanloom.pipeline.errors import BundleError, PipelineError
from scanloom.pipeline.outputs import measure, write_measurements
from scanloom.pipeline.outputs.measure import measurements_document, size_text, volume_text
from scanloom.pipeline.volume import Notice


def test_each_label_is_counted_and_averaged_as_masks_do_it(make_volume, make_labels, bundle):
    affine = np.array([[0, -2, 0, 5], [1, 0, 0.3, -7], [0, 0, 3, 11], [0, 0, 0, 1.0]])
    volume, labels = make_volume(affine=affine), make_labels()
    for row in measure(labels, volume, bundle):
        mask = labels == row.value
        assert row.voxels == mask.sum()
        assert row.volume_ml == pytest.approx(mask.sum() * 6.0 / 1000)
        assert row.mean_intensity == pytest.approx(volume.array[0][mask].mean(dtype=np.float64))
        centroid = affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]
        assert row.centroid_ras_mm == pytest.approx(tuple(centroid))


def test_an_absent_label_has_zero_volume_and_no_mean(make_volume, make_labels, bundle):
    absent = measure(np.minimum(make_labels(), 1), make_volume(), bundle)[1]
    assert (absent.value, absent.name, absent.voxels, absent.volume_ml) == (2, "posterior", 0, 0.0)
    assert absent.mean_intensity is None
    assert absent.centroid_ras_mm is None


def test_a_mean_that_is_no_number_is_none(make_volume, make_labels, bundle):
    volume = make_volume()
    volume.array[...] = np.nan
    assert measure(make_labels(), volume, bundle)[0].mean_intensity is None


def test_large_integers_do_not_overflow(make_volume, make_labels, bundle):
    volume = make_volume()
    volume = replace(volume, array=np.full(volume.array.shape, 2**15 - 1, np.int16))
    assert measure(make_labels(), volume, bundle)[0].mean_intensity == 2**15 - 1


def test_a_value_without_a_name_is_refused(make_volume, make_labels, bundle):
    with pytest.raises(BundleError, match=r"test_bundle: labels hold 6, 7, which label_classes does not name. Add"):
        measure(make_labels() + np.uint8(5) * (make_labels() > 0), make_volume(), bundle)


def test_a_bundle_of_one_label_and_one_of_none_are_measured(make_volume, make_bundle):
    labels = np.zeros((9, 8, 7), np.uint8)
    one = make_bundle().metadata["label_classes"][:1]
    assert [row.voxels for row in measure(labels, make_volume(), make_bundle(*one))] == [0]
    assert measure(labels, make_volume(), make_bundle(label_classes=[])) == []


def test_labels_of_another_grid_are_refused(make_volume, make_labels, bundle):
    with pytest.raises(PipelineError, match="Bring the labels back to the source grid"):
        measure(make_labels((4, 4, 4)), make_volume(), bundle)


@pytest.mark.parametrize(("modality", "unit"), [("CT", "HU"), ("MR", "as in the source"), (None, "as in the source")])
def test_both_files_hold_the_measurements_with_their_units(tmp_path, make_volume, make_labels, bundle, modality, unit):
    volume = make_volume(modality=modality)
    measurements = measure(np.minimum(make_labels(), 1), volume, bundle)

    json_path, csv_path = write_measurements(tmp_path, measurements, volume)

    document = json.loads(json_path.read_text())
    assert document["case"] == "case_1"
    assert document["units"]["mean_intensity"] == unit
    assert [row["voxels"] for row in document["labels"]] == [row.voxels for row in measurements]
    assert document["labels"][1]["mean_intensity"] is None
    with csv_path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["label"] == "anterior"
    assert first["intensity_unit"] == unit
    assert float(first["volume_ml"]) == pytest.approx(measurements[0].volume_ml)
    assert float(first["centroid_superior_mm"]) == pytest.approx(measurements[0].centroid_ras_mm[2], abs=1e-3)
    assert (second["voxels"], second["mean_intensity"], second["centroid_right_mm"]) == ("0", "", "")


def test_the_size_of_a_label_of_a_picture_is_its_pixels(make_volume, bundle):
    volume = make_volume((20, 10, 1), is_picture=True)
    labels = np.zeros((20, 10, 1), np.uint8)
    labels[:5, :5] = 1
    first, second = measure(labels, volume, bundle)
    assert (size_text(first, volume), size_text(second, volume)) == ("25 pixels (12.5 %)", "0 pixels (0 %)")
    assert size_text(first, make_volume((20, 10, 1))) == volume_text(first.volume_ml)


def test_tiny_volumes_have_a_power_of_ten_and_tiny_places_their_digits(tmp_path, make_volume, bundle):
    assert volume_text(3.2e-13) == "3.2e-13 ml"
    volume = make_volume((20, 10, 1), affine=np.diag([-4e-6, -4e-6, 1, 1]), is_picture=True)
    labels = np.ones((20, 10, 1), np.uint8)
    write_measurements(tmp_path, measure(labels, volume, bundle), volume)
    assert ",-3.8e-05,-1.8e-05,0" in (tmp_path / "measurements.csv").read_text()


def test_measurements_say_whether_the_spacing_is_known(make_volume, bundle):
    notices = (Notice("no-spacing", "none is told"),)
    for volume, known in ((make_volume(), True), (make_volume(notices=notices), False)):
        assert measurements_document([], volume)["spacing_known"] is known
