"""Draws one photo of the sample shelter, and its label map, from its description.

`pawpularity sample --photos 600 --size 160 --seed 0 --twins 5` calls `render` for every photo. A drawing depends on the
`Photo` and the size alone. Each layer takes its own random numbers, so a twin without a part is the same picture
elsewhere.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from pawpularity.sample.brush import grid
from pawpularity.sample.canvas import SUPERSAMPLE, Canvas, Frame, noise_tile
from pawpularity.sample.coats import look
from pawpularity.sample.face import Labels
from pawpularity.sample.pet import draw_pet
from pawpularity.sample.props import (
    BANNER,
    clutter_places,
    draw_banner,
    draw_clutter,
    draw_human,
    draw_occlusion,
    draw_strip,
)
from pawpularity.sample.scene import draw_scene
from pawpularity.sample.spec import CONTRAST_SPAN, DULLEST, FAINTEST, VIVID, Photo

Picture = npt.NDArray[np.uint8]

# The order matters: where one thing lies faintly over another (a shadow, a soft rim), the lower number is kept.
NOTHING, TONGUE, LEFT_EYE, RIGHT_EYE, CLUTTER, ACCESSORY, SECOND_PET, BODY, BACKGROUND = range(9)
LABELS = {
    NOTHING: "nothing that moves the score: a hand, text, a collage's strip, what stands before the pet",
    TONGUE: "tongue, with the open mouth",
    LEFT_EYE: "left eye: the one at the picture's left when the head is upright; only if it is open",
    RIGHT_EYE: "right eye, likewise",
    CLUTTER: "objects of clutter, with their shadows",
    ACCESSORY: "accessory (worth 0)",
    SECOND_PET: "the second pet, with its shadow",
    BODY: "the pet: head and body, whose pose counts, with its shadow",
    BACKGROUND: "background, whose difference from the pet is the contrast",
}
MAIN = Labels(BODY, LEFT_EYE, RIGHT_EYE, TONGUE, ACCESSORY)
SECOND = Labels(SECOND_PET, SECOND_PET, SECOND_PET, SECOND_PET, SECOND_PET)


def photo_size(aspect: float, size: int) -> tuple[int, int]:
    """Width and height in pixels of a photo whose longer side is `size`."""
    return (size, max(1, round(size / aspect))) if aspect >= 1 else (max(1, round(size * aspect)), size)


def background_luma(pet: float, contrast: float) -> float:
    """Luminance of the background: as far from the pet's as contrast `c` asks, on the side that has the room."""
    step = FAINTEST + CONTRAST_SPAN * contrast
    return pet + step if pet < 128.0 else pet - step


def render(photo: Photo, size: int) -> tuple[Picture, Picture]:
    """The photo, (height, width, 3) RGB uint8, and its label map, (height, width) uint8, its longer side `size` pixels."""
    width, height = photo_size(photo.aspect, size)
    canvas = Canvas(width * SUPERSAMPLE, height * SUPERSAMPLE)
    u = np.random.default_rng(photo.art).random((6, 96))
    shape, scenery, pet_draws, second_draws, props, light = u
    coat = look(photo.species, photo.coat, 24.0 * (shape[0] - 0.5))

    root = math.sqrt(canvas.width * canvas.height)
    radius = photo.radius * root
    strip = 0.24 if photo.collage else 0.0
    strip_left = photo.collage and shape[1] < 0.5
    x = photo.x * (1 - strip) + (strip if strip_left else 0.0)
    # An ear may leave the picture, an eye or the tongue may not.
    room = 1.12 * radius
    low = room + (strip * canvas.width if strip_left else 0.0)
    high = canvas.width - room - (strip * canvas.width if photo.collage and not strip_left else 0.0)
    face_x = min(max(x * canvas.width, low), max(high, low))
    face_y = min(max(photo.y * canvas.height, 1.25 * radius), canvas.height - 1.7 * radius)
    mirror = face_x > canvas.width / 2 if abs(photo.x - 0.5) > 0.06 else shape[2] < 0.5
    head = Frame(face_x, face_y, radius, 0.0, mirror)
    face = (face_x, face_y + 0.2 * radius, 1.42 * radius)

    # Where any pet would sit, whatever its pose, the background is not seen: its luminance is set by the rest, so that a
    # twin in another pose has the same background.
    seen = np.full((canvas.height, canvas.width), 255, np.uint8)
    cv2.ellipse(seen, (round(face_x), round(face_y)), (round(1.05 * radius), round(1.2 * radius)), 0, 0, 360, 0, -1)
    column = (round(face_x - 1.2 * radius), round(face_y)), (round(face_x + 1.2 * radius), canvas.height)
    cv2.rectangle(seen, *column, 0, -1)
    vivid = DULLEST + (VIVID - DULLEST) * math.sqrt(photo.contrast)
    draw_scene(canvas, photo.scene, background_luma(coat.luma, photo.contrast), vivid, seen, scenery)
    canvas.labels[:] = BACKGROUND

    if photo.second:
        side = 1.0 if face_x < canvas.width / 2 else -1.0
        small = radius * (0.74 + 0.14 * shape[3])
        other_x = face_x + side * (radius + small * (0.86 + 0.2 * shape[4]))
        other_x = min(max(other_x, 0.45 * small), canvas.width - 0.45 * small)
        # Beside a sitting pet it sits a little lower; behind the long back of another pose it looks over that back.
        lower = 0.3 + 0.5 * shape[5] if photo.pose in ("sitting", "portrait") else -0.30
        other_y = max(face_y + radius * lower, 1.1 * small)
        other = Frame(other_x, other_y, small, 0.0, side < 0)
        other_coat = look(photo.second_species, photo.second_coat, 24.0 * (shape[6] - 0.5))
        draw_pet(canvas, other_coat, other, "sitting", 20.0 * (shape[7] - 0.5), "open", False, "", SECOND, second_draws)
    draw_pet(canvas, coat, head, photo.pose, photo.tilt, photo.eyes, photo.tongue, photo.accessory, MAIN, pet_draws)
    if photo.occlusion:
        draw_occlusion(canvas, photo.occlusion, face, props[48:])
    banner_at_top = face_y - 0.85 * radius > BANNER * canvas.height
    thing = 0.112 * root
    foot = canvas.height if banner_at_top or not photo.info else round((1 - BANNER) * canvas.height)
    clear = (strip * canvas.width if strip_left else 0.0), (1 - strip) * canvas.width
    places = clutter_places(*clear, foot, thing, photo.clutter, face, props)
    draw_clutter(canvas, places, thing, CLUTTER, props)
    if photo.human:
        # From the roomier side, or from the one the second pet leaves free.
        roomier = 1.0 if face_x < canvas.width / 2 else -1.0
        draw_human(canvas, face, -roomier if photo.second else roomier, photo.odd, light[8:])
    if photo.collage:
        edge = round(strip * canvas.width)
        draw_strip(canvas, -edge if strip_left else canvas.width - edge, light[16:])
    if photo.info:
        draw_banner(canvas, light[24:], banner_at_top)
    return _develop(canvas, photo, face, light)


def _develop(
    canvas: Canvas, photo: Photo, face: tuple[float, float, float], light: npt.NDArray[np.float64]
) -> tuple[Picture, Picture]:
    """Shrink, light, blur and grain: what a camera would add. None of it depends on any part."""
    rgb, labels = canvas.finish()
    height, width = labels.shape
    x, y = grid(width, height)
    turn = 2 * math.pi * light[0]
    slope = 0.07 * (math.cos(turn) * (x - 0.5) + math.sin(turn) * (y - 0.5))
    corner = ((x - 0.5) ** 2 + (y - 0.5) ** 2) * (0.08 + 0.12 * light[1])
    exposure = (1.02 + slope - corner).astype(np.float32)
    if photo.focus:  # a spotlight on the pet
        fx, fy, fr = (v / SUPERSAMPLE for v in face)
        d = ((x * width - fx) ** 2 + (y * height - fy) ** 2) / (2.0 * fr) ** 2
        exposure *= 0.45 + 0.6 * np.exp(-(d**2)).astype(np.float32)
    warmth = np.array([1.0 + 0.05 * (light[2] - 0.5), 1.0, 1.0 - 0.07 * (light[2] - 0.5)], np.float32)
    rgb *= exposure[..., None]
    rgb *= warmth
    if photo.blur:
        rgb = cv2.GaussianBlur(rgb, (0, 0), 0.009 * math.sqrt(width * height))
    tile = noise_tile("grain")
    top, left = int(light[3] * 500), int(light[4] * 500)
    grain = np.resize(tile[top : top + height, left : left + width], (height, width))
    rgb += (0.8 + 1.2 * light[5]) * grain[..., None]
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8), labels


def repost(picture: Picture, labels: Picture, draws: npt.NDArray[np.float64]) -> tuple[Picture, Picture]:
    """The picture as it looks when posted again: cropped by up to 1.2 % a side, a little smaller, a little brighter or
    darker. The label map goes the same way. `draws` are six uniform numbers."""
    height, width = labels.shape
    left, right, top, foot = (
        round(0.012 * float(d) * side) for d, side in zip(draws, (width, width, height, height), strict=False)
    )
    share = 0.93 + 0.06 * float(draws[4])
    size = (max(1, round(width * share)), max(1, round(height * share)))
    cut = (slice(top, height - foot), slice(left, width - right))
    again = cv2.resize(picture[cut], size, interpolation=cv2.INTER_AREA).astype(np.float32)
    again *= 0.95 + 0.10 * float(draws[5])
    again_labels: Picture = cv2.resize(labels[cut], size, interpolation=cv2.INTER_NEAREST)
    return np.clip(np.rint(again), 0, 255).astype(np.uint8), again_labels
