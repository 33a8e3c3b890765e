"""The DICOM objects on real and defective series: every volume that the reader makes of the torture set."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from scanloom.pipeline.errors import PipelineError, StudyError
from scanloom.pipeline.outputs import measure, write_dicom_seg, write_dicom_sr, write_rtstruct
from scanloom.pipeline.outputs.dicom_source import read_source
from scanloom.pipeline.studies import find_series, read_series
from scanloom.pipeline.volume import Volume

TORTURE = Path(__file__).resolve().parents[4] / "shared" / "torture"
NOTHING_TO_REFER_TO = {"empty_uids", "hostile_tags"}
"""Classes of cases whose UIDs are missing or no UIDs."""
OF_ITS_SOURCE = re.compile(r'Error - Illegal root for UID - "(?P<uid>[0-9.]+)"')
"""An error that a true reference to a source with such UIDs can not avoid."""


@dataclass(frozen=True)
class Case:
    name: str
    classes: frozenset[str]


def cases() -> list:
    index = TORTURE / "index.json"
    found = json.loads(index.read_text())["cases"] if index.is_file() else []
    return [
        pytest.param(Case(case["id"], frozenset(case.get("classes", []))), id=case["id"])
        for case in found
        if case["id"][0] in "rda" and {"load", "load_warn", "select"} & {case["expect"]["outcome"]}
    ] or [pytest.param(None, marks=pytest.mark.skip(reason=f"needs the torture set: no {index}"))]


def volumes_of(case: Case) -> list[Volume]:
    """What the reader makes of the case; tests of the reader say what it must."""
    found = []
    try:
        for series in find_series(TORTURE / "cases" / case.name):
            try:
                found.append(read_series(series))
            except PipelineError:
                continue
    except PipelineError:
        pass
    return found


def ball(shape: tuple[int, int, int]) -> np.ndarray:
    """Label 1 off the centre, label 2 in its core."""
    radius = np.zeros(shape)
    for axis, (size, centre, share) in enumerate(zip(shape, (0.45, 0.52, 0.5), (0.3, 0.3, 0.7), strict=True)):
        distance = (np.arange(size) + 0.5 - size * centre) / (size * share)
        radius += np.expand_dims(distance**2, tuple({0, 1, 2} - {axis}))
    return np.select([radius < 0.2, radius < 1], [2, 1]).astype(np.uint8)


@pytest.mark.data
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", cases())
def test_every_object_is_sound_and_lies_on_its_source(tmp_path, case, bundle, dciodvfy_errors, caplog, capfd):
    volumes = volumes_of(case)
    if not volumes:
        pytest.skip("the reader makes no volume of it")
    caplog.clear()
    capfd.readouterr()
    for volume in volumes:
        labels = ball(volume.spatial_shape)
        try:
            written = write_all(tmp_path, labels, volume, bundle)
        except StudyError as error:
            assert error.code == "seg-source"
            assert "PHICANARY" not in str(error)
            assert case.classes & NOTHING_TO_REFER_TO
            continue
        source = read_source(volume)
        uids = {source.study_uid, source.series_uid, *(plane.sop_uid for plane in source.planes)}
        for path in written:
            errors = [line for line in dciodvfy_errors(path) if not _is_of_its_source(line, uids)]
            assert errors == []
        check_frames(tmp_path / "seg.dcm", labels, volume)
    assert "PHICANARY" not in caplog.text + "".join(capfd.readouterr())


def write_all(folder: Path, labels: np.ndarray, volume: Volume, bundle) -> list[Path]:
    segmentation = write_dicom_seg(folder / "seg.dcm", labels, volume, bundle)
    write_dicom_seg(folder / "map.dcm", labels, volume, bundle, labelmap=True)
    write_dicom_sr(folder / "sr.dcm", measure(labels, volume, bundle), volume, bundle, segmentation)
    write_rtstruct(folder / "rt.dcm", labels, volume, bundle)
    return [folder / name for name in ("seg.dcm", "map.dcm", "sr.dcm", "rt.dcm")]


def check_frames(path: Path, labels: np.ndarray, volume: Volume) -> None:
    """Each frame holds its slice's labels and lies where the header of the plane that it refers to says."""
    segmentation = hd.seg.segread(path)
    assert segmentation.number_of_segments == 2
    pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    frames = {}
    for frame, item in zip(pixels, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        (source,) = item.DerivationImageSequence[0].SourceImageSequence
        key = str(source.ReferencedSOPInstanceUID), source.get("ReferencedFrameNumber")
        segment = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        frames[(*key, segment)] = frame, item.PlanePositionSequence[0].ImagePositionPatient
    assert len(frames) == 2 * len(volume.sources)
    read = lru_cache(lambda file: pydicom.dcmread(file, stop_before_pixels=True, force=True))
    for place in volume.sources:
        header = read(place.file)
        number = None if place.frame is None else place.frame + 1
        at = header
        if number is not None:
            groups = header.PerFrameFunctionalGroupsSequence[place.frame], header.SharedFunctionalGroupsSequence[0]
            (at,) = next(group.PlanePositionSequence for group in groups if "PlanePositionSequence" in group)
        for segment in (1, 2):
            frame, position = frames[header.SOPInstanceUID, number, segment]
            np.testing.assert_allclose(np.array(position, float), np.array(at.ImagePositionPatient, float), atol=1e-5)
            np.testing.assert_array_equal(frame, segment == labels[:, :, round(place.z)].T)


def _is_of_its_source(line: str, uids: set[str]) -> bool:
    found = OF_ITS_SOURCE.match(line)
    return found is not None and found["uid"] in uids
