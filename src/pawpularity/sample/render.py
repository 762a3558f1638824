"""Draws one photo and its label map from its description.

A drawing depends only on the `Photo` and the size. Each layer has its own random numbers, so a photo without a part is the same
everywhere else. That makes counterfactual pairs possible.
"""

import math
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from pawpularity.sample import indoors, outdoors, props
from pawpularity.sample.brush import Brush, grid
from pawpularity.sample.canvas import LUMA, SUPERSAMPLE, Canvas, Draws, Mask, Pen, texture
from pawpularity.sample.coats import look
from pawpularity.sample.labels import BACKGROUND, BODY, CLUTTER, SECOND_PET
from pawpularity.sample.pet import draw_pet
from pawpularity.sample.shapes import Frame
from pawpularity.sample.spec import CONTRAST_SPAN, DULLEST, FAINTEST, VIVID, Photo

Picture = npt.NDArray[np.uint8]

# Layouts differ strongly (horizons, windows, patterns, lamps), so that perceptual hashes confuse no two photos.
SCENES = {
    "room": indoors.room,
    "garden": outdoors.garden,
    "blanket": indoors.blanket,
    "kennel": indoors.kennel,
    "sofa": indoors.sofa,
    "backdrop": indoors.backdrop,
    "beach": outdoors.beach,
    "wood": outdoors.wood,
}


def photo_size(aspect: float, size: int) -> tuple[int, int]:
    """Width and height in pixels of a photo whose longer side is `size`."""
    return (size, max(1, round(size / aspect))) if aspect >= 1 else (max(1, round(size * aspect)), size)


def render(photo: Photo, size: int) -> tuple[Picture, Picture]:
    """The photo, (height, width, 3) RGB uint8, and its label map, (height, width) uint8, its longer side `size` pixels."""
    width, height = photo_size(photo.aspect, size)
    canvas = Canvas(width * SUPERSAMPLE, height * SUPERSAMPLE)
    shape, scenery, pet_draws, second_draws, things, light = np.random.default_rng(photo.art).random((6, 96))
    coat = look(photo.species, photo.coat, 24.0 * (shape[0] - 0.5))
    strip = 0.24 * canvas.width if photo.collage else 0.0
    left = strip if shape[1] < 0.5 else 0.0
    columns = left, left + canvas.width - strip  # all but a collage's strip
    head = _head(canvas, photo, columns, shape[2] < 0.5)
    face = (head.x, head.y + 0.2 * head.scale, 1.42 * head.scale)
    roomier = 1.0 if head.x < canvas.width / 2 else -1.0

    # The background differs from the pet's luminance as contrast c says, towards the side with more room.
    step = FAINTEST + CONTRAST_SPAN * photo.contrast
    target = coat.luma + step if coat.luma < 128.0 else coat.luma - step
    _background(canvas, photo, target, _around_pet(canvas, head), scenery)
    if photo.second:
        second = replace(photo, pose="sitting", tilt=20.0 * (shape[7] - 0.5), eyes="open", tongue=False, accessory="")
        pen = Pen(canvas, _second_head(canvas, photo, head, roomier, shape), SECOND_PET, fixed=True)
        draw_pet(pen, look(photo.second_species, photo.second_coat, 24.0 * (shape[6] - 0.5)), second, second_draws)
    draw_pet(Pen(canvas, head, BODY), coat, photo, pet_draws)
    if photo.occlusion:
        props.draw_occlusion(canvas, photo.occlusion, face, things[48:])
    banner_at_top = head.y - 0.85 * head.scale > props.BANNER * canvas.height
    foot = canvas.height if banner_at_top or not photo.info else round(canvas.height * (1 - props.BANNER))
    half = 0.112 * math.sqrt(canvas.width * canvas.height)
    places = props.clutter_places(columns, foot, half, photo.clutter, face, things)
    props.draw_clutter(canvas, places, half, CLUTTER, things)
    if photo.human:  # from the roomier side, or from the one the second pet leaves free
        props.draw_human(canvas, face, -roomier if photo.second else roomier, photo.odd, light[8:])
    if photo.collage:
        edge = round(strip)
        props.draw_strip(canvas, *((0, edge) if left else (canvas.width - edge, canvas.width)), light[16:])
    if photo.info:
        props.draw_banner(canvas, light[24:], banner_at_top)
    return _develop(canvas, photo, face, light)


def _head(canvas: Canvas, photo: Photo, columns: tuple[float, float], mirror: bool) -> Frame:
    """The head's frame. An ear may be outside the picture; eyes and tongue may not."""
    radius = photo.radius * math.sqrt(canvas.width * canvas.height)
    left, right = columns
    low, high = left + 1.12 * radius, right - 1.12 * radius
    x = min(max(left + photo.x * (right - left), low), max(high, low))
    y = min(max(photo.y * canvas.height, 1.25 * radius), canvas.height - 1.7 * radius)
    return Frame(x, y, radius, mirror=x > canvas.width / 2 if abs(photo.x - 0.5) > 0.06 else mirror)


def _second_head(canvas: Canvas, photo: Photo, head: Frame, side: float, shape: Draws) -> Frame:
    """The second pet's head: beside a sitting pet and a little lower, or looking over the long back of another pose."""
    radius = head.scale * (0.74 + 0.14 * shape[3])
    x = head.x + side * (head.scale + radius * (0.86 + 0.2 * shape[4]))
    lower = 0.3 + 0.5 * shape[5] if photo.pose in ("sitting", "portrait") else -0.30
    y = max(head.y + head.scale * lower, 1.1 * radius)
    return Frame(min(max(x, 0.45 * radius), canvas.width - 0.45 * radius), y, radius, mirror=side < 0)


def _around_pet(canvas: Canvas, head: Frame) -> Mask:
    """A mask of the places where the background's luminance is measured: all but the place of a pet in any pose.

    So a counterfactual photo in another pose has the same background.
    """
    mask = np.full((canvas.height, canvas.width), 255, np.uint8)
    x, y, r = head.x, head.y, head.scale
    cv2.ellipse(mask, (round(x), round(y)), (round(1.05 * r), round(1.2 * r)), 0, 0, 360, 0, -1)
    cv2.rectangle(mask, (round(x - 1.2 * r), round(y)), (round(x + 1.2 * r), canvas.height), 0, -1)
    return mask


def _background(canvas: Canvas, photo: Photo, target: float, around: Mask, draws: Draws) -> None:
    """Fill the canvas with the photo's scene, with mean luminance `target` (0..255) where `around` is not 0."""
    SCENES[photo.scene](Brush(canvas, target, draws.tolist()))
    # The scenes' colours are near the target; mixing in black or white makes the mean exact.
    grey = np.tensordot(LUMA, canvas.planes, 1)
    canvas.planes -= grey
    canvas.planes *= DULLEST + (VIVID - DULLEST) * math.sqrt(photo.contrast)
    canvas.planes += grey
    mean = sum(float(share) * cv2.mean(plane, around)[0] for share, plane in zip(LUMA, canvas.planes, strict=True))
    if mean > target:
        canvas.planes *= target / mean
    else:
        share = (target - mean) / (255.0 - mean)
        canvas.planes *= 1.0 - share
        canvas.planes += 255.0 * share
    np.clip(canvas.planes, 0, 255, out=canvas.planes)
    canvas.labels[:] = BACKGROUND


def _develop(canvas: Canvas, photo: Photo, face: props.Disc, light: Draws) -> tuple[Picture, Picture]:
    """Shrink the picture, and add light, blur and grain as a camera would. None of this depends on any part."""
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
    rgb *= exposure[..., None]
    rgb *= np.array([1.0 + 0.05 * (light[2] - 0.5), 1.0, 1.0 - 0.07 * (light[2] - 0.5)], np.float32)  # warmth
    if photo.blur:
        rgb = cv2.GaussianBlur(rgb, (0, 0), 0.009 * math.sqrt(width * height))
    grain = texture("grain", int(light[3] * 500), int(light[4] * 500), height, width)
    rgb += (0.8 + 1.2 * light[5]) * grain[..., None]
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8), labels


def repost(picture: Picture, labels: Picture, draws: Draws) -> tuple[Picture, Picture]:
    """The picture and its label map as they look when posted again; `draws` are six uniform numbers.

    Cropped by up to 1.2 % a side, a little smaller, a little brighter or darker.
    """
    height, width = labels.shape
    sides = (width, width, height, height)
    left, right, top, foot = (round(0.012 * float(d) * side) for d, side in zip(draws, sides, strict=False))
    share = 0.93 + 0.06 * float(draws[4])
    size = (max(1, round(width * share)), max(1, round(height * share)))
    cut = (slice(top, height - foot), slice(left, width - right))
    again = cv2.resize(picture[cut], size, interpolation=cv2.INTER_AREA).astype(np.float32)
    again *= 0.95 + 0.10 * float(draws[5])
    again_labels: Picture = cv2.resize(labels[cut], size, interpolation=cv2.INTER_NEAREST)
    return np.clip(np.rint(again), 0, 255).astype(np.uint8), again_labels
