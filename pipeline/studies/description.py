"""What of a SeriesDescription may be shown: words of imaging, nothing that could name a person.

Technicians type names, dates and numbers into free text; so a word is shown because it is known, never because it is
not known to be the patient's. What is left out shows as "…".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_WORDS = frozenset(
    """
    ax axi axial tra trans transverse transversal sag sagittal cor coronal obl oblique para left right lt rt
    bilateral scout localizer localiser loc locator survey plan surview topogram aahead aahscout aascout reference
    calibration t1 t1w t1wi t2 t2w t2wi t2star t2s pd pdw pdwi flair stir tirm dwi dw diff diffusion adc trace
    tensor dti fa colfa exp eadc swi swan phase mag magnitude real imaginary b0 b1 field map fieldmap mapping
    perfusion pwi dsc dce asl pcasl tof mra mrv mrcp mrs angio angiography venography bold fmri rest task epi ep2d
    ep se ge gre gr ir fse tse haste space cube vista mprage mpr mprag mp2rage mpgr mpgre mpflair bravo spgr fspgr
    flash fl2d fl3d fisp trufi fiesta ciss ssfp vibe lava thrive dixon ideal water fat fatsat fs spair spir opp in
    out inphase outphase radial blade propeller tfe ffe tfl me multi single shot echo inv uni images image volume
    isotropic iso hires highres res 2d 3d 4d pre post with without w wo plus gd gad gado contrast con cm ce native
    nativ plain delayed delay early late arterial art venous ven portal pv equilibrium nephrographic excretory
    hepatobiliary dynamic dyn bolus test tracker minimal thin thick slice slices slab recon reconstruction reformat
    reformatted mip minip vrt cpr sub subtraction derived ct cta ctp cbct mr mri pet pt nm us cr dx mg bone lung
    soft tissue standard std sharp smooth kernel window wd bw ac nac corrected uncorrected attenuation suv wb whole
    body helical spiral sequential axials high low dose kv mm ms inspiration inspiratory expiration expiratory insp
    breath hold bh free breathing fb gated gating trigger cine head brain skull neck chest thorax lungs heart
    cardiac aorta coronary abdomen abd pelvis liver kidney kidneys pancreas spleen prostate bladder uterus ovary
    rectum colon bowel breast spine cervical thoracic lumbar sacral cspine tspine lspine knee hip shoulder elbow
    wrist hand ankle foot femur tibia extremity orbit orbits sinus sinuses ear iac temporal hippocampus hippocampal
    pituitary sella carotid vessel vessels cerebral intracranial leg arm joint segmentation label mask copy original
    norm nd dis2d dis3d filtered enhanced thickness spacing fast turbo pat grappa sense p2 p3 p4 nex tr te ti the of
    and for to
    """.split()  # noqa: SIM905
)
_NUMBER = re.compile(
    r"\d{1,3}(mm|ms|kv|cc|min|sec|s|x|dir|phase|echo)?|\d{1,3}x\d{1,3}|[bkpv]\d{1,4}|[a-z]{1,2}\d{1,2}[fhs]?"
)
"""Slice thickness, b-value, kernel, acceleration: too short for a date or a patient's number."""


def safe_description(text: str, patient: Iterable[str]) -> str:
    """The known words of a description on one line, "…" for others; empty where none is known.

    Args:
        text: SeriesDescription (0008,103E).
        patient: names, IDs and birth dates; a description that repeats any part of them is withheld altogether.
    """
    if _repeats(_words(text), patient):
        return ""
    shown = [word if _is_known(_plain(word)) else "…" for word in _split(text[:64])]
    line = re.sub(r"…( …)+", "…", " ".join(shown))
    return "" if line == "…" else line


def _is_known(word: str) -> bool:
    return word in _WORDS or _NUMBER.fullmatch(word) is not None


def _repeats(words: list[str], patient: Iterable[str]) -> bool:
    squeezed = "".join(words)
    for value in patient:
        parts = _words(value)
        for part in {*parts, "".join(parts)}:
            if part in words or (len(part) > 2 and part in squeezed):
                return True
    return False


def _words(text: str) -> list[str]:
    """The words of a text in lower case without accents, for comparison."""
    return [_plain(word) for word in _split(text)]


def _split(text: str) -> list[str]:
    """Runs of letters and digits; a decimal point inside a number ends one."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text))


def _plain(word: str) -> str:
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()
