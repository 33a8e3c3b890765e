"""The labels of a bundle as DICOM names them: numbers, codes, colours and tracking identifiers, one a label."""

from __future__ import annotations

import highdicom as hd
from pydicom.sr.codedict import codes

from ..bundle import Bundle, Code, LabelClass
from .dicom_planes import DicomSource, uid_of

LONG_STRING = 64
"""Characters that the value representation LO holds. Source: DICOM PS3.5 6.2."""


def describe_segments(bundle: Bundle, source: DicomSource) -> list[hd.seg.SegmentDescription]:
    """SegmentSequence (0062,0002): segment numbers 1, 2, … in the order of the label values.

    Source: PS3.3 C.8.20.2, which wants the numbers of a BINARY segmentation without gaps.
    """
    algorithm = hd.AlgorithmIdentificationSequence(
        name=bundle.name[:LONG_STRING],
        family=codes.DCM.ArtificialIntelligence,
        version=bundle.version[:LONG_STRING],
        source="scanloom",
        parameters={"weights_sha256": bundle.weights_sha256},
    )
    return [
        _describe(number, label, tracking_uid(label, bundle, source), algorithm)
        for number, label in enumerate(bundle.labels, start=1)
    ]


def concept(code: Code) -> hd.sr.CodedConcept:
    """The code as highdicom takes it."""
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def tracking_uid(label: LabelClass, bundle: Bundle, source: DicomSource) -> str:
    """TrackingUID (0062,0021) of a label's region: the same in every object that this bundle makes of these planes."""
    first = source.planes[0]
    return uid_of("tracking", bundle.name, str(label.value), source.series_uid, first.sop_uid, str(first.frame))


def _describe(
    number: int, label: LabelClass, tracking: str, algorithm: hd.AlgorithmIdentificationSequence
) -> hd.seg.SegmentDescription:
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label.name[:LONG_STRING],
        segmented_property_category=concept(label.category),
        segmented_property_type=concept(label.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=tracking,
        tracking_id=label.name[:LONG_STRING],
        display_color=hd.color.CIELabColor.from_rgb(*label.color),
    )
    if label.modifier is not None:
        # highdicom has no argument for it; the sequence lies inside the type's item. Source: PS3.3 table C.8.20-4.
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [concept(label.modifier)]
    return description
