"""JPEG files: which kinds can be read, and whether all data of the picture are there.

libjpeg fills missing data with grey and skips surplus data without an error, so a photo that lost three quarters of its bytes looks
sound to every program that is built on it. `opened` finds out in the one pass that decodes: it withholds the end marker, so that
the decoder asks for more data until the last row of pixels is out, and compares that place with the end of the data. A progressive
JPEG yields no row before its end, and a restart marker hides what is missing before it. Such a picture is decoded a second time,
with surplus data in front of every marker: only a picture that lacks data changes. Arithmetic JPEGs are not checked.
"""

import io
import re
from dataclasses import dataclass, field

from PIL import JpegImagePlugin

from pawpularity.errors import BadPhoto

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_SOS, _DHT, _DRI, _PROGRESSIVE = 0xDA, 0xC4, 0xDD, 0xC2
_SEQUENTIAL = (0xC0, 0xC1)
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0-15, JPEG-LS
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF, 0xF7}
_STOP = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # a marker that ends a scan; FF00 is data, FFD0-D7 are restarts
_RESTART = re.compile(rb"\xff+([\xd0-\xd7])")
_PADDING = bytes(16)  # the decoder reads ahead up to 8 bytes; it takes missing bits for zeros
_SURPLUS = b"\x35" * 16  # data behind the end of a scan, which whole pictures do not need
_ZEROS = bytes(64)
_NO_BITS = 16  # of a coefficient that no scan has held so far


@dataclass
class Frame:
    """The first picture of a JPEG file."""

    marker: int = 0
    bits: int = 8
    width: int = 0
    height: int = 0
    sampling: dict[int, int] = field(default_factory=dict)
    """by component: its factors, 0x22 = 2 x 2"""
    restart: int = 0
    """blocks between restart markers; 0: none"""
    shortest: list[int] = field(default_factory=list)
    """of each table of codes for details, the value whose code is zeros; 0 ends a block"""
    scans: list[tuple[bytes, int, int]] = field(default_factory=list)
    """header, first byte, and end of the data of each scan"""
    restarts: list[int] = field(default_factory=list)
    """restart markers that each scan has at least"""

    @property
    def in_one_scan(self) -> bool:
        """Whether pixels come out while data go in."""
        return self.marker in _SEQUENTIAL and bool(self.scans) and self.scans[0][0][0] == len(self.sampling)

    def restarts_of(self, components: bytes) -> int:
        """How many restart markers a scan of `components` has."""
        across, down = 1, 1
        if len(components) == 1 and (
            own := self.sampling.get(components[0])
        ):  # its blocks are its own, not the frame's
            across, down = own >> 4, own & 15
        widest, highest = max(f >> 4 for f in self.sampling.values()), max(f & 15 for f in self.sampling.values())
        blocks = -(-self.width * across // (8 * widest)) * -(-self.height * down // (8 * highest))
        return (blocks - 1) // self.restart if self.restart else 0


def opened(data: bytes) -> JpegImagePlugin.JpegImageFile:
    """The file's first picture (a phone's file may hold several), not yet decoded.

    Raises BadPhoto for a kind of JPEG that cannot be read; `load` raises it where scans or data are missing.
    """
    frame = _frame_of(data)
    _require_readable(frame)
    # Not Image.open, which would read the index of all pictures.
    if frame.marker not in (*_SEQUENTIAL, _PROGRESSIVE):
        other = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        other.decodermaxblock = len(data)  # the arithmetic decoder needs all data at once
        return other
    image = (_OneScan if frame.in_one_scan else _Checked)(io.BytesIO(data))
    image.data, image.frame = data, frame
    return image


class _Checked(JpegImagePlugin.JpegImageFile):
    """A picture that checks, while it is decoded, that no scan and no restart interval lacks data."""

    data: bytes
    frame: Frame
    _draft: tuple[str | None, tuple[int, int] | None] = (None, None)

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Decode at a smaller scale, and remember which."""
        self._draft = mode, size
        return super().draft(mode, size)

    def load_prepare(self) -> None:
        """Raise BadPhoto for what is missing or zeroed, as far as it shows without decoding."""
        for (_, start, end), restarts in zip(self.frame.scans, self.frame.restarts, strict=True):
            found = [marker[0] & 7 for marker in _RESTART.findall(self.data[start:end])] if restarts else []
            if len(found) < restarts or found != [i % 8 for i in range(len(found))]:
                raise BadPhoto("damaged (parts of its data are missing or overwritten)")
        self._require_scans()
        super().load_prepare()

    def _require_scans(self) -> None:
        """Raise BadPhoto as the function of this name does."""
        _require_scans(self.data, self.frame)

    def load_end(self) -> None:
        """Raise BadPhoto if surplus data change the picture."""
        parts, at = list[bytes](), 0
        for _, start, end in self.frame.scans:
            parts += [self.data[at:start], _RESTART.sub(_SURPLUS + rb"\g<0>", self.data[start:end]), _SURPLUS]
            at = end
        with JpegImagePlugin.JpegImageFile(io.BytesIO(b"".join([*parts, EOI]))) as again:
            again.draft(*self._draft)
            if again.tobytes() != self.tobytes():
                raise BadPhoto("truncated")


class _OneScan(_Checked):
    """A picture that checks besides that its pixels and its data end together."""

    early = end = 0
    """Where the data begin without which the picture cannot be whole, and where they end."""
    _padded = False

    def _require_scans(self) -> None:
        """Raise BadPhoto as `_early` does."""
        self.early, self.end = _early(self.data, self.frame), self.frame.scans[0][2]

    def load_read(self, read_bytes: int) -> bytes:
        """The next bytes for the decoder, which asks for more until the last row of pixels is out."""
        assert self.fp is not None
        at = self.fp.tell()
        if at < self.end:
            return bytes(self.fp.read(min(read_bytes, (self.early if at < self.early else self.end) - at)))
        if self._padded:
            raise BadPhoto("truncated")
        self._padded = True
        return _PADDING

    def load_end(self) -> None:
        """Raise BadPhoto if the decoder needed much less than all data."""
        assert self.fp is not None
        if self.fp.tell() <= self.early:
            raise BadPhoto("damaged (its pixels end long before its data)")
        if self.frame.restart:
            super().load_end()


def _early(data: bytes, frame: Frame) -> int:
    """The first byte of the only scan without which the picture cannot be whole; 0 for very short scans.

    Raises BadPhoto where a stretch of the data is zeroed.
    """
    _, start, end = frame.scans[0]
    while end > start and data[end - 1] in (0x00, 0xFF):  # some cameras fill up their files
        end -= 1
    zeroed = data.find(_ZEROS, start, end) >= 0  # as flat areas may be, if the end of a block is coded in zeros
    if zeroed and any(frame.shortest):
        raise BadPhoto("damaged (a part of its data is zeroed)")
    surplus = len(_PADDING) if zeroed else max(64, (end - start) // 8)
    return end - surplus if end - start > 2 * surplus else 0


def _frame_of(data: bytes) -> Frame:
    """What the markers up to the end of the first picture say; as far as they can be followed."""
    frame, at = Frame(), 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == EOI[1]:
            break
        if marker in (0x00, 0x01, SOI[1]) or 0xD0 <= marker <= 0xD7:
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : end]
        if end > len(data):
            break
        if marker in _FRAMES and not frame.marker and len(body) >= 6:
            frame.marker, frame.bits = marker, body[0]
            frame.height, frame.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            frame.sampling = {body[i]: body[i + 1] for i in range(6, len(body) - 2, 3)}
        elif marker == _DHT:
            frame.shortest += _shortest(body)
        elif marker == _DRI:
            frame.restart = int.from_bytes(body[:2], "big")
        elif marker == _SOS and body:
            frame.scans.append((body, end, end))
            frame.restarts.append(frame.restarts_of(body[1:-3:2]))
            end = _end_of_scan(data, end, only=frame.in_one_scan)
            frame.scans[-1] = (*frame.scans[-1][:2], end)
        at = end
    return frame


def _shortest(tables: bytes) -> list[int]:
    """The first value of each AC table in a segment of Huffman tables."""
    found, at = [], 0
    while at + 17 < len(tables):
        if tables[at] >> 4:
            found.append(tables[at + 17])
        at += 17 + sum(tables[at + 1 : at + 17])
    return found


def _end_of_scan(data: bytes, start: int, *, only: bool) -> int:
    """Where the data of a scan end: at the next marker, or (for the `only` scan) at the end marker, which is found faster."""
    if only:
        end = data.find(EOI, start)
        return end if end >= 0 else len(data)
    stop = _STOP.search(data, start)
    return stop.start() if stop else len(data)


def _require_readable(frame: Frame) -> None:
    if frame.marker in _LOSSLESS:
        raise BadPhoto("a lossless JPEG, which cannot be read here; save it as an ordinary JPEG or PNG")
    if frame.bits != 8:
        raise BadPhoto(f"a JPEG of {frame.bits} bits, which cannot be read here; save it as a JPEG of 8 bits")
    if frame.marker and len(frame.sampling) not in (1, 3, 4):
        raise BadPhoto(f"a JPEG of {len(frame.sampling)} channels, which cannot be read here; save it in RGB")


def _require_scans(data: bytes, frame: Frame) -> None:
    """Raise BadPhoto where a picture in several scans lacks one, or has lost a stretch of one to zeros."""
    left = {component: [_NO_BITS] * 64 for component in frame.sampling}  # by coefficient, the bits still to come
    for header, start, end in frame.scans:
        first, last, high, low = (
            (*header[-3:-1], *divmod(header[-1], 16)) if frame.marker == _PROGRESSIVE else (0, 63, 0, 0)
        )
        for component in header[1:-3:2]:
            if component in left:
                if high and {high} != {*left[component][first : last + 1]}:
                    raise BadPhoto("truncated")
                left[component][first : last + 1] = [low] * (last + 1 - first)
        # Only flat areas are coded in zeros; they take no bits in scans of details, and may fill the one of the last bits.
        if _ZEROS in data[start:end].rstrip(b"\0\xff") and (first or (header[-1] < 16 and not _needs_end(data, end))):
            raise BadPhoto("damaged (a part of its data is zeroed)")
    if any(map(any, left.values())):
        raise BadPhoto("truncated")


def _needs_end(data: bytes, end: int) -> bool:
    """Whether the pixels change with the last data of the scan that ends at `end`, so that they do not end earlier."""
    pixels = []
    for last in (data[end - 16 : end], _SURPLUS):
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data[: end - 16] + last + EOI)) as image:
            image.draft(None, (1, 1))
            pixels.append(image.tobytes())
    return pixels[0] != pixels[1] or len(set(pixels[0])) == 1  # of one colour: other data may mean the same
