"""DICOM codes of labels that a bundle only names, as the Model Zoo's metadata do: common organs and findings.

A name that is not in it gets a private code of the scheme 99SCANLOOM with the name as its meaning, which is valid DICOM
and which no other software understands. Sources: DICOM PS3.16 CID 7150 (categories), CID 7166 and SNOMED CT's subset.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

PRIVATE_SCHEME = "99SCANLOOM"
"""Private schemes begin with 99. Source: DICOM PS3.16 8.2."""
ANATOMY = ("91723000", "Anatomical Structure")
ABNORMAL = ("49755003", "Morphologically Abnormal Structure")
TISSUE = ("85756007", "Tissue")
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
ORGANS = {
    "adrenal gland": "23451007", "aorta": "15825003", "artery": "51114001", "bladder": "89837001",
    "blood vessel": "59820001", "bone": "272673000", "brain": "12738006", "brain stem": "119238007",
    "breast": "76752008", "cerebellum": "113305005", "clavicle": "51299004", "colon": "71854001",
    "duodenum": "38848004", "esophagus": "32849002", "eye": "81745001", "femur": "71341001", "gallbladder": "28231008",
    "heart": "80891009", "hip": "29836001", "hippocampus": "5366008", "humerus": "85050009", "iliac artery": "10293006",
    "inferior vena cava": "64131007", "kidney": "64033007", "left atrium": "82471001", "left ventricle": "87878005",
    "liver": "10200004", "lung": "39607008", "lymph node": "59441001", "mandible": "91609006", "muscle": "71616004",
    "optic nerve": "18234004", "pancreas": "15776009", "parotid gland": "45289007", "portal vein": "32764006",
    "prostate": "41216001", "pulmonary artery": "81040000", "rectum": "34402009", "rib": "113197003",
    "right atrium": "73829009", "right ventricle": "53085002", "sacrum": "54735007", "scapula": "79601000",
    "skull": "89546000", "small intestine": "30315005", "spinal cord": "2748008", "spleen": "78961009",
    "splenic vein": "35819009", "sternum": "56873002", "stomach": "69695003", "thyroid": "69748006",
    "trachea": "44567001", "uterus": "35039007", "vein": "29092000", "vertebra": "51282000",
    "white matter": "389080008",
}  # fmt: skip
FINDINGS = {
    "cyst": "367643001", "edema": "79654002", "lesion": "52988006", "mass": "4147007", "necrosis": "6574001",
    "neoplasm": "108369006", "nodule": "27925004", "tumor": "108369006",
}  # fmt: skip
SYNONYMS = {
    "tumour": "tumor", "oesophagus": "esophagus", "urinary bladder": "bladder", "postcava": "inferior vena cava",
    "gall bladder": "gallbladder", "brainstem": "brain stem", "thyroid gland": "thyroid", "kidneys": "kidney",
    "lungs": "lung", "oedema": "edema", "suprarenal gland": "adrenal gland", "small bowel": "small intestine",
    "vertebrae": "vertebra", "ribs": "rib", "vessel": "blood vessel", "vessels": "blood vessel",
}  # fmt: skip


@dataclass(frozen=True)
class OrganCode:
    """A label's codes, each value, coding scheme designator and meaning.

    Attributes:
        category: SegmentedPropertyCategoryCodeSequence (0062,0003).
        type: SegmentedPropertyTypeCodeSequence (0062,000F).
        modifier: the side, where the name says one.
        is_private: no code is known for the name.
    """

    category: tuple[str, str, str]
    type: tuple[str, str, str]
    modifier: tuple[str, str, str] | None
    is_private: bool


def organ_code(name: str) -> OrganCode:
    """The codes of what a label is called, such as "spleen", "left kidney" or "Kidney_R"."""
    words = [word.lower() for word in re.findall(r"[A-Za-z]+", name)]
    plain, side = _without_side(words)
    for table, category in ((ORGANS, ANATOMY), (FINDINGS, ABNORMAL)):
        for each, of_side in ((" ".join(words), None), (plain, side)):
            known = SYNONYMS.get(each, each)
            if known in table:
                modifier = _snomed(SIDES[of_side]) if of_side else None
                return OrganCode(_snomed(category), (table[known], "SCT", known.capitalize()), modifier, False)
    return OrganCode(_snomed(TISSUE), (private_code(name), PRIVATE_SCHEME, name[:64] or "label"), None, True)


def private_code(name: str) -> str:
    """A code value of our scheme for a label's name: the same name has the same; at most 16 characters."""
    return f"L{hashlib.sha256(name.lower().encode()).hexdigest()[:10]}"


def _without_side(words: list[str]) -> tuple[str, str | None]:
    letters = {"l": "left", "r": "right"}
    sides = [letters.get(word, word) for word in words if letters.get(word, word) in SIDES]
    rest = [word for word in words if letters.get(word, word) not in SIDES]
    return " ".join(rest), sides[0] if len(sides) == 1 else None


def _snomed(code: tuple[str, str]) -> tuple[str, str, str]:
    return code[0], "SCT", code[1]
