"""Images of numbers, composed of the smoke images."""

import cv2
import numpy as np
from PIL import Image

from handler.decoding import GrayImage
from handler.preprocessing import load_gray
from tests.images import SMOKE, encode

GAP = 6  # pixels between the digits of a number; the digits are 20 pixels high


def crop_digit(digit: int) -> GrayImage:
    gray = load_gray(SMOKE[digit])[0]
    left, top, width, height = cv2.boundingRect((gray > 50).astype(np.uint8))
    return np.asarray(gray[top : top + height, left : left + width])


def draw_number(number: str, gap: int = GAP, margin: int = 8) -> GrayImage:
    """Draw a number light on dark; the digits overlap by a negative gap."""
    digits = [crop_digit(int(digit)) for digit in number]
    width = sum(digit.shape[1] for digit in digits) + gap * (len(digits) - 1) + 2 * margin
    height = max(len(digit) for digit in digits)
    image, left = np.zeros((height + 2 * margin, width), np.uint8), margin
    for digit in digits:
        top = margin + (height - len(digit)) // 2
        part = image[top : top + len(digit), left : left + digit.shape[1]]
        np.maximum(part, digit, out=part)
        left += digit.shape[1] + gap
    return image


def encode_number(number: str, gap: int = GAP) -> bytes:
    return encode(Image.fromarray(draw_number(number, gap)))
