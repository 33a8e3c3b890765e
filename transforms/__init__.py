"""Augmentation as MONAI transforms: elastic deformation and intensity, for single images, dictionaries and batches."""

from .batched import Batched
from .bias_field import BiasField, RandBiasField, RandBiasFieldd
from .blur import Blur, RandBlur, RandBlurd
from .brightness_contrast import BrightnessContrast, RandBrightnessContrast, RandBrightnessContrastd
from .deformation import Deformation
from .elastic import RandElasticDeformation, RandElasticDeformationd
from .gamma import Gamma, RandGamma, RandGammad
from .histogram_shift import HistogramShift, RandHistogramShift, RandHistogramShiftd
from .intensity import Change, PointwiseChange, SpatialChange, change_intensity
from .low_resolution import LowResolution, RandSimulateLowResolution, RandSimulateLowResolutiond
from .noise import Noise, RandNoise, RandNoised
from .rand_intensity import RandIntensity, RandIntensityd
from .spatial import RandSpatialDeformation, RandSpatialDeformationd, deform

__all__ = [
    "Batched",
    "BiasField",
    "Blur",
    "BrightnessContrast",
    "Change",
    "Deformation",
    "Gamma",
    "HistogramShift",
    "LowResolution",
    "Noise",
    "PointwiseChange",
    "RandBiasField",
    "RandBiasFieldd",
    "RandBlur",
    "RandBlurd",
    "RandBrightnessContrast",
    "RandBrightnessContrastd",
    "RandElasticDeformation",
    "RandElasticDeformationd",
    "RandGamma",
    "RandGammad",
    "RandHistogramShift",
    "RandHistogramShiftd",
    "RandIntensity",
    "RandIntensityd",
    "RandNoise",
    "RandNoised",
    "RandSimulateLowResolution",
    "RandSimulateLowResolutiond",
    "RandSpatialDeformation",
    "RandSpatialDeformationd",
    "SpatialChange",
    "change_intensity",
    "deform",
]
