"""The image planes of a source, as the DICOM objects written here place themselves on them and refer to them.

Everything is in LPS mm here; `dicom_source` brings it there from the volume's RAS.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset


@dataclass(frozen=True)
class SourcePlane:
    """One image plane of the source.

    Attributes:
        sop_class: SOPClassUID (0008,0016) of its instance.
        sop_uid: SOPInstanceUID (0008,0018) of its instance.
        frame: its frame from 1, as ReferencedFrameNumber (0008,1160) counts; None in a single-frame instance.
        index: the nearest slice of the volume.
        position: (3,), ImagePositionPatient: LPS mm of the centre of the first voxel.
    """

    sop_class: str
    sop_uid: str
    frame: int | None
    index: int
    position: np.ndarray


@dataclass(frozen=True)
class DicomSource:
    """The planes of one volume, in the order of their places, and what they share.

    Attributes:
        case: the volume's name, for messages.
        planes: at least one.
        frames: SOPInstanceUID -> frames that the instance holds, for the multi-frame ones.
        patient_and_study: what every object copies; see `dicom_attributes`.
        of_the_images: what an image copies besides.
        study_uid: StudyInstanceUID (0020,000D).
        series_uid: SeriesInstanceUID (0020,000E).
        series_number: SeriesNumber (0020,0011); 0 where there is none above 0.
        frame_of_reference: FrameOfReferenceUID (0020,0052); a new one where the source has none.
        size: (columns, rows).
        axes: (3, 2), steps in LPS mm from a column and from a row to the next.
        spacing_between: distance of neighbouring planes along their normal, in mm; None where they are unevenly spaced.
        thickness: SliceThickness (0018,0050), or the volume's slice step where there is none above 0.
    """

    case: str
    planes: tuple[SourcePlane, ...]
    frames: dict[str, int]
    patient_and_study: Dataset
    of_the_images: Dataset
    study_uid: str
    series_uid: str
    series_number: int
    frame_of_reference: str
    size: tuple[int, int]
    axes: np.ndarray
    spacing_between: float | None
    thickness: float

    @property
    def instances(self) -> dict[tuple[str, str], list[int]]:
        """(SOPClassUID, SOPInstanceUID) -> the frames used of it, from 1; none for a single-frame instance."""
        used: dict[tuple[str, str], list[int]] = {}
        for plane in self.planes:
            frames = used.setdefault((plane.sop_class, plane.sop_uid), [])
            if plane.frame is not None:
                frames.append(plane.frame)
        return {instance: sorted(frames) for instance, frames in used.items()}

    def references(self, *, with_frames: bool) -> list[Dataset]:
        """References to the instances, in the order of their places, each a new item.

        Args:
            with_frames: name the frames where only some of an instance's are used.
        Source: PS3.3 table 10-3 (Image SOP Instance Reference).
        """
        items = []
        for (sop_class, sop_uid), frames in self.instances.items():
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
            if with_frames and frames and len(frames) != self.frames.get(sop_uid):
                item.ReferencedFrameNumber = frames
            items.append(item)
        return items

    @property
    def orientation(self) -> list[float]:
        """ImageOrientationPatient (0020,0037)."""
        return [float(part) for part in (self.axes / np.linalg.norm(self.axes, axis=0)).T.ravel()]

    @property
    def pixel_spacing(self) -> list[float]:
        """PixelSpacing (0028,0030): from row to row, from column to column; mm."""
        column, row = (float(length) for length in np.linalg.norm(self.axes, axis=0))
        return [row, column]


@dataclass(frozen=True)
class WrittenSegmentation:
    """What another object needs to refer to a segmentation."""

    sop_class: str
    sop_uid: str
    series_uid: str


def uid_of(*words: str) -> str:
    """A UID that is the same for the same words, under the root for UUIDs. Source: DICOM PS3.5 B.2."""
    return f"2.25.{int(hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:32], 16)}"
