"""Networks mapping (B, C, *spatial) images to (B, K, *spatial) logits."""

from .ensemble import Ensemble
from .resnet_unet import ResNetUNet
from .unet import UNet

__all__ = ["Ensemble", "ResNetUNet", "UNet"]
