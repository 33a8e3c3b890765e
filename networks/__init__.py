"""Networks mapping (B, C, *spatial) images to (B, K, *spatial) logits."""

from .unet import UNet

__all__ = ["UNet"]
