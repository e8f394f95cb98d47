"""Random augmentation: affine and elastic distortion, stroke width, edges, blur, resolution, noise, gaps and lines."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Generator, Tensor

from handler.geometry import FRAME_SIZE

MAX_ROTATION = math.radians(15)  # radians, in both directions
MAX_ASPECT = 0.2  # largest natural logarithm of width / height
MAX_SHEAR = 0.2  # largest horizontal shift in pixels per row
MAX_SHIFT = 2  # pixels, in all directions
MILD_STRENGTH = 0.4  # largest strength of the distortion of mildly augmented images; of others, 1
MARGIN = 1.2  # factor by which images shrink, so that rotation clips nothing; framing undoes it
ELASTIC = 1.8  # pixels, standard deviation of the displacement
KNOTS = 7  # knots a side; the displacement is smooth over about 10 pixels (Simard, Steinkraus, Platt, ICDAR 2003)
STROKE_RATIO = 0.6  # share of images whose strokes are thickened or thinned
MAX_THICKENING, MAX_THINNING = 2.0, 1.5  # pixels on both sides of the stroke
SHARPEN_RATIO = 0.2  # share of images whose edges are hardened, like a pen's in a large image; MNIST's are soft
EDGE_LEVELS, EDGE_WIDTHS = (0.35, 0.6), (0.1, 0.5)  # position and width of an edge, as shares of full intensity
BLUR_RATIO, MAX_BLUR = 0.1, 2.8  # share of images, largest standard deviation in pixels
MIN_BLUR_WEIGHT = 1e-30  # smaller weights become 0: multiplying denormal float32 is 30 times slower
LOW_RESOLUTION_RATIO, LOW_RESOLUTION_SIDES = 0.1, (10, 28)  # share of images, pixels a side
# Share of images, largest standard deviation, pixels a side of the noise
NOISE_RATIO, MAX_NOISE, NOISE_SIDE = 0.07, 0.25, 28
GAPS_RATIO, GAPS_SIDE, GAPS_LEVELS = 0.03, 16, (0.6, 1.5)  # share of images, noise a side, level below the mean
LINE_RATIO, LINE_SHIFT, MAX_SLOPE = 0.04, 28, 0.07  # share of images, pixels from the middle, pixels per pixel
LINE_WIDTHS, LINE_LEVELS = (1.0, 3.0), (0.4, 1.0)  # pixels, share of full intensity
STEPS_RATIO, STEPS_SIDES, STEPS_LEVELS = 0.03, (16, 32), (0.25, 0.5)  # share of images, pixels a side, threshold

Transform = Callable[[Tensor, Generator], Tensor]


def augment_images(gray: Tensor, generator: Generator, mild_ratio: float = 0.0) -> Tensor:
    """Return randomly augmented copies of images float32 [n,1,64,64] in 0..1; this share is only distorted, mildly."""
    strength = _draw_uniform(gray, generator)  # of the distortion, 0..1: most images stay near the original
    augmented = _warp_images(gray, strength, generator)
    _apply_to_some(augmented, STROKE_RATIO, _change_stroke_width, generator)
    _apply_to_some(augmented, SHARPEN_RATIO, _sharpen_edges, generator)
    _apply_to_some(augmented, BLUR_RATIO, _blur_images, generator)
    _apply_to_some(augmented, LOW_RESOLUTION_RATIO, _reduce_resolution, generator)
    _apply_to_some(augmented, NOISE_RATIO, _add_noise, generator)
    _apply_to_some(augmented, GAPS_RATIO, _break_strokes, generator)
    _apply_to_some(augmented, LINE_RATIO, _draw_line, generator)
    _apply_to_some(augmented, STEPS_RATIO, _make_steps, generator)
    is_mild = _draw_uniform(gray, generator).flatten() < mild_ratio
    mild = gray[is_mild]
    augmented[is_mild] = _warp_images(mild, _draw_uniform(mild, generator, high=MILD_STRENGTH), generator)
    return augmented.clamp_(0, 1)


def _draw_uniform(gray: Tensor, generator: Generator, low: float = 0, high: float = 1) -> Tensor:
    """Draw one number per image [n,1,1]."""
    return torch.rand(len(gray), 1, 1, generator=generator, device=gray.device) * (high - low) + low


def _draw_normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, device=generator.device)


def _warp_images(gray: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Apply affine and elastic distortion in one resampling; grid coordinates are -1..1 over the frame."""
    angle, aspect, shear, right, down = (_draw_uniform(gray, generator, -1, 1) * strength for _ in range(5))
    cos, sin = torch.cos(MAX_ROTATION * angle), torch.sin(MAX_ROTATION * angle)
    stretch = torch.exp(MAX_ASPECT / 2 * aspect)
    x = (torch.arange(FRAME_SIZE, device=gray.device) + 0.5) * 2 / FRAME_SIZE - 1  # [64]
    y = x[:, None]  # [64,1]
    shift = 2 / FRAME_SIZE * MAX_SHIFT
    columns = MARGIN * stretch * (cos * x + (sin + MAX_SHEAR * shear) * y) + shift * right  # [n,64,64]
    rows = MARGIN / stretch * (cos * y - sin * x) + shift * down
    unit = torch.eye(KNOTS, device=gray.device)[None, None]
    smooth = F.interpolate(unit, (FRAME_SIZE, KNOTS), mode="bicubic", align_corners=True)[0, 0]  # [64,knots]
    knots = _draw_normal(generator, len(gray), 2, KNOTS, KNOTS) * (strength * 2 / FRAME_SIZE * ELASTIC)[:, None] / 2
    displacement = smooth @ knots @ smooth.T  # [n,2,64,64]
    grid = gray.new_empty(len(gray), FRAME_SIZE, FRAME_SIZE, 2)
    torch.add(columns, displacement[:, 0], out=grid[..., 0])
    torch.add(rows, displacement[:, 1], out=grid[..., 1])
    return F.grid_sample(gray.contiguous(), grid, align_corners=False)


def _apply_to_some(gray: Tensor, ratio: float, transform: Transform, generator: Generator) -> None:
    """Apply the transform to a random subset of the images, in place."""
    rows = torch.nonzero(_draw_uniform(gray, generator).flatten() < ratio).flatten()
    if len(rows):
        gray[rows] = transform(gray[rows], generator)


def _change_stroke_width(gray: Tensor, generator: Generator) -> Tensor:
    """Thicken or thin strokes by up to MAX_THICKENING or MAX_THINNING pixels on both sides."""
    amount = _draw_uniform(gray, generator, -MAX_THINNING, MAX_THICKENING)[..., None]
    is_thinner = amount.flatten() < 0
    changed = torch.empty_like(gray)
    changed[is_thinner] = -_thicken_strokes(-gray[is_thinner], -amount[is_thinner])
    changed[~is_thinner] = _thicken_strokes(gray[~is_thinner], amount[~is_thinner])
    return changed


def _thicken_strokes(gray: Tensor, amount: Tensor) -> Tensor:
    """Thicken strokes by `amount`, 0 to 2 pixels, on both sides."""
    dilated = _dilate_strokes(gray)
    return torch.where(amount > 1, dilated.lerp(_dilate_strokes(dilated), amount - 1), gray.lerp(dilated, amount))


def _dilate_strokes(gray: Tensor) -> Tensor:
    return F.max_pool2d(gray, 3, 1, 1)  # by a pixel on both sides


def _sharpen_edges(gray: Tensor, generator: Generator) -> Tensor:
    level, width = (_draw_uniform(gray, generator, *limits)[..., None] for limits in (EDGE_LEVELS, EDGE_WIDTHS))
    return ((gray - level) / width + 0.5).clamp(0, 1)


def _blur_images(gray: Tensor, generator: Generator) -> Tensor:
    sigma = _draw_uniform(gray, generator, 0.4, MAX_BLUR)
    offset = torch.arange(FRAME_SIZE, device=gray.device)
    kernel = torch.exp(-((offset - offset[:, None]) ** 2) / (2 * sigma**2))  # [n,64,64], as a matrix
    kernel = F.threshold(kernel, MIN_BLUR_WEIGHT, 0)
    kernel = (kernel / kernel.sum(2, keepdim=True))[:, None]
    return kernel @ gray @ kernel.mT


def _reduce_resolution(gray: Tensor, generator: Generator) -> Tensor:
    """Reduce all images to one random size of LOW_RESOLUTION_SIDES and enlarge them again."""
    side = int(torch.randint(*LOW_RESOLUTION_SIDES, (), generator=generator, device=gray.device))
    small = F.interpolate(gray, (side, side), mode="area")
    return F.interpolate(small, (FRAME_SIZE, FRAME_SIZE), mode="bicubic").clamp(0, 1)


def _add_noise(gray: Tensor, generator: Generator) -> Tensor:
    """Add Gaussian noise of up to MAX_NOISE, with the grain of a small image."""
    grain = _draw_normal(generator, len(gray), 1, NOISE_SIDE, NOISE_SIDE)
    smooth = F.interpolate(grain, (FRAME_SIZE, FRAME_SIZE), mode="bilinear") * 1.5  # undoes its smoothing
    return gray + smooth * _draw_uniform(gray, generator, 0, MAX_NOISE)[..., None]


def _break_strokes(gray: Tensor, generator: Generator) -> Tensor:
    """Break strokes: erase the image where smooth noise is low."""
    noise = F.interpolate(_draw_normal(generator, len(gray), 1, GAPS_SIDE, GAPS_SIDE), gray.shape[2:], mode="bicubic")
    return gray * ((noise + _draw_uniform(gray, generator, *GAPS_LEVELS)[..., None]) * 3).clamp(0, 1)


def _draw_line(gray: Tensor, generator: Generator) -> Tensor:
    """Draw a nearly horizontal or vertical line across the image; framing leaves remains of it."""
    x = torch.arange(FRAME_SIZE, device=gray.device) - (FRAME_SIZE - 1) / 2
    slope, shift = (_draw_uniform(gray, generator, -limit, limit) for limit in (MAX_SLOPE, LINE_SHIFT))
    distance = (x[:, None] + slope * x - shift).abs()  # [n,64,64]
    distance = torch.where(_draw_uniform(gray, generator) < 0.5, distance.mT, distance)
    line = (_draw_uniform(gray, generator, *LINE_WIDTHS) / 2 - distance + 0.5).clamp(0, 1)
    return torch.maximum(gray, (line * _draw_uniform(gray, generator, *LINE_LEVELS))[:, None])


def _make_steps(gray: Tensor, generator: Generator) -> Tensor:
    """Reduce all images to black and white of one random size of STEPS_SIDES and enlarge the pixels."""
    side = int(torch.randint(*STEPS_SIDES, (), generator=generator, device=gray.device))
    small = F.interpolate(gray, (side, side), mode="area") > _draw_uniform(gray, generator, *STEPS_LEVELS)[..., None]
    return F.interpolate(small.float(), gray.shape[2:], mode="nearest")
