"""Pictures as another hand might have written them: small affine changes, drawn anew for every picture of a batch."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor

from handler.preprocessing import SIZE

ROTATION = math.radians(15)
SCALE = 0.15  # of each axis on its own, so aspect changes as well
SHEAR = 0.15
SHIFT = 3 / SIZE  # of the frame's side, here 3 pixels


def augment(grey: Tensor) -> Tensor:
    """Grey float32 [n,1,64,64], each rotated, scaled, sheared and shifted by uniform amounts up to the constants.

    Draws from torch's own random numbers, on the pictures' device, so a run's seed fixes it.
    """
    angle, across, down, shear, right, below = (2 * torch.rand(6, len(grey), 1, 1, device=grey.device) - 1).unbind()
    cos, sin = torch.cos(ROTATION * angle), torch.sin(ROTATION * angle)
    across, down = 1 + SCALE * across, 1 + SCALE * down
    x = (torch.arange(SIZE, device=grey.device) + 0.5) * 2 / SIZE - 1  # [64], -1..1 over the frame's width
    y = x[:, None]  # [64,1]
    columns = across * cos * x + (SHEAR * shear - down * sin) * y + 2 * SHIFT * right  # [n,64,64]
    rows = across * sin * x + down * cos * y + 2 * SHIFT * below
    return F.grid_sample(grey.contiguous(), torch.stack((columns, rows), 3), align_corners=False)
