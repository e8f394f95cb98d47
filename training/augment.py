"""Pictures as another hand, pen or camera might have made them: changed anew for every picture of a batch.

Every picture gets a strength of its own, uniform in 0..1, that all its changes are scaled by: most pictures stay near
the original, a few go far. Everything is drawn from the generator, on the pictures' device.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Generator, Tensor

from handler.geometry import FRAME_SIZE

ROTATION = math.radians(15)
ASPECT = 0.2  # natural logarithm of width over height
SHEAR = 0.2
SHIFT = 2  # pixels
MARGIN = 1.2  # pictures are drawn smaller by this, so that nothing is turned out of the frame; framing undoes it
ELASTIC = 1.8  # pixels, standard deviation of the displacement
KNOTS = 7  # of the displacement a side: smooth over about 10 pixels (Simard, Steinkraus, Platt, ICDAR 2003)
STROKE_SHARE = 0.6  # of the pictures get a thicker or thinner stroke
THICKER, THINNER = 1.5, 1.0  # pixels on each side of the stroke, at most
CRISP_SHARE = 0.2  # of the pictures get the hard edges of a pen on a large picture; MNIST's are soft
CRISP_LEVELS, CRISP_BANDS = (0.35, 0.6), (0.1, 0.5)  # of full ink: where the stroke ends, how wide its edge is
BLUR_SHARE, BLUR = 0.1, 2.8  # share of the pictures, largest standard deviation in pixels
NOTHING = 1e-30  # a blur's weights below are 0: numbers near float32's smallest are 30 times slower to multiply
LOW_SHARE, LOW_SIDES = 0.1, (10, 28)  # share of the pictures, pixels a side that they are reduced to and back
NOISE_SHARE, NOISE, NOISE_SIDE = 0.07, 0.25, 28  # share, largest standard deviation, pixels a side of its grain


def augment(grey: Tensor, generator: Generator) -> Tensor:
    """Grey float32 [n,1,64,64] in 0..1, each turned, stretched, sheared, shifted, bent, thickened, blurred or noisy."""
    strength = _uniform(grey, generator)
    changed = _bent(grey, strength, generator)
    _change_some(changed, STROKE_SHARE, _stroked, generator)
    _change_some(changed, CRISP_SHARE, _crisp, generator)
    _change_some(changed, BLUR_SHARE, _blurred, generator)
    _change_some(changed, LOW_SHARE, _coarse, generator)
    _change_some(changed, NOISE_SHARE, _noisy, generator)
    return changed.clamp_(0, 1)


def _uniform(grey: Tensor, generator: Generator, low: float = 0, high: float = 1) -> Tensor:
    """One number a picture [n,1,1]."""
    return torch.rand(len(grey), 1, 1, generator=generator, device=grey.device) * (high - low) + low


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, device=generator.device)


def _bent(grey: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Affine and elastic changes together, sampled once; the grid is in -1..1 over the frame."""
    turn, aspect, shear, right, below = (_uniform(grey, generator, -1, 1) * strength for _ in range(5))
    cos, sin = torch.cos(ROTATION * turn), torch.sin(ROTATION * turn)
    wide = torch.exp(ASPECT / 2 * aspect)
    x = (torch.arange(FRAME_SIZE, device=grey.device) + 0.5) * 2 / FRAME_SIZE - 1  # [64]
    y = x[:, None]  # [64,1]
    columns = MARGIN * wide * (cos * x + (sin + SHEAR * shear) * y) + 2 / FRAME_SIZE * SHIFT * right  # [n,64,64]
    rows = MARGIN / wide * (cos * y - sin * x) + 2 / FRAME_SIZE * SHIFT * below
    smooth = _interpolation(FRAME_SIZE, KNOTS, grey.device)  # [64,knots]
    knots = _normal(generator, len(grey), 2, KNOTS, KNOTS) * (strength * 2 / FRAME_SIZE * ELASTIC)[:, None] / 2
    bend = smooth @ knots @ smooth.T  # [n,2,64,64]
    grid = grey.new_empty(len(grey), FRAME_SIZE, FRAME_SIZE, 2)
    torch.add(columns, bend[:, 0], out=grid[..., 0])
    torch.add(rows, bend[:, 1], out=grid[..., 1])
    return F.grid_sample(grey.contiguous(), grid, align_corners=False)


def _interpolation(pixels: int, knots: int, device: torch.device) -> Tensor:
    """Cubic interpolation [pixels,knots] as a matrix."""
    unit = torch.eye(knots, device=device)[None, None]
    return F.interpolate(unit, (pixels, knots), mode="bicubic", align_corners=True)[0, 0]


Change = Callable[[Tensor, Generator], Tensor]


def _change_some(grey: Tensor, share: float, change: Change, generator: Generator) -> None:
    """Changes a share of the pictures, in place."""
    rows = torch.nonzero(_uniform(grey, generator).flatten() < share).flatten()
    if len(rows):
        grey[rows] = change(grey[rows], generator)


def _stroked(grey: Tensor, generator: Generator) -> Tensor:
    """Strokes thicker by up to THICKER or thinner by up to THINNER pixels on each side."""
    amount = _uniform(grey, generator, -THINNER, THICKER)[..., None]
    thin = amount.flatten() < 0
    stroked = torch.empty_like(grey)
    stroked[thin] = grey[thin].lerp(-_thicker(-grey[thin]), -amount[thin])
    stroked[~thin] = _thickened(grey[~thin], amount[~thin])
    return stroked


def _thickened(grey: Tensor, amount: Tensor) -> Tensor:
    """By 0 to 2 pixels on each side."""
    thicker = _thicker(grey)
    return torch.where(amount > 1, thicker.lerp(_thicker(thicker), amount - 1), grey.lerp(thicker, amount))


def _thicker(grey: Tensor) -> Tensor:
    """Thicken strokes by a pixel on each side."""
    return F.max_pool2d(grey, 3, 1, 1)


def _crisp(grey: Tensor, generator: Generator) -> Tensor:
    """With harder edges."""
    level, band = (_uniform(grey, generator, *limits)[..., None] for limits in (CRISP_LEVELS, CRISP_BANDS))
    return ((grey - level) / band + 0.5).clamp(0, 1)


def _blurred(grey: Tensor, generator: Generator) -> Tensor:
    """Under a Gaussian of up to BLUR pixels, each picture its own."""
    sigma = _uniform(grey, generator, 0.4, BLUR)
    offset = torch.arange(FRAME_SIZE, device=grey.device)
    kernel = torch.exp(-((offset - offset[:, None]) ** 2) / (2 * sigma**2))  # [n,64,64]: as a matrix
    kernel = F.threshold(kernel, NOTHING, 0)
    kernel = (kernel / kernel.sum(2, keepdim=True))[:, None]
    return kernel @ grey @ kernel.mT


def _coarse(grey: Tensor, generator: Generator) -> Tensor:
    """Reduced to few pixels and enlarged again; one size for all."""
    side = int(torch.randint(*LOW_SIDES, (), generator=generator, device=grey.device))
    small = F.interpolate(grey, (side, side), mode="area")
    return F.interpolate(small, (FRAME_SIZE, FRAME_SIZE), mode="bicubic").clamp(0, 1)


def _noisy(grey: Tensor, generator: Generator) -> Tensor:
    """Under Gaussian noise of up to NOISE, with the grain of a small picture."""
    grain = _normal(generator, len(grey), 1, NOISE_SIDE, NOISE_SIDE)
    smooth = (
        F.interpolate(grain, (FRAME_SIZE, FRAME_SIZE), mode="bilinear") * 1.5
    )  # interpolation takes a third of its deviation
    return grey + smooth * _uniform(grey, generator, 0, NOISE)[..., None]
