"""Any image file becomes an 8-bit RGB picture, or one sentence that says why it cannot."""

import hashlib
import io
import struct
import warnings
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps

Fit = Literal["crop", "pad", "squash"]
MAX_ASPECT_RATIO = 8
# Everything that Pillow's decoders are known to raise on damaged bytes, divisions by zero in EXIF included.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError),
    *(struct.error, zlib.error),
)
WHITE_OF_16_BITS = 65535
_LEVELS = (255, 1023, 4095, 16383, WHITE_OF_16_BITS)  # the white of 8, 10, 12, 14 and 16 bits
_ORIENTATION, _WHITE_IS_ZERO = 0x0112, (262, 0)  # an EXIF tag; a TIFF tag and its value
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_BYTES_OF_A_PROFILE = 1 << 20
# What stands under an image's name although it is none: its first bytes, what it is, and the remedy.
_STRANGERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with git lfs pull"),
    (b"<!doctype html", "a web page", "download the image itself"),
    (b"<html", "a web page", "download the image itself"),
    (b"<svg", "an SVG drawing", "export it as PNG"),
    (b"<?xml", "an XML file", "put the image in its place"),
    (b"http://", "the address of an image", "download the image itself"),
    (b"https://", "the address of an image", "download the image itself"),
    (b"pk\x03\x04", "a zip archive", "unpack it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"rar!", "a RAR archive", "unpack it"),
    (b"%pdf", "a PDF document", "export it as PNG"),
)


class DatasetError(ValueError):
    """A dataset cannot be read as asked; its message is one sentence with the culprit and the remedy."""


class MissingSplit(DatasetError):
    """A dataset has no such split, or too few images for one."""


class UnreadableImage(DatasetError):
    """One image cannot be read; its message is `culprit` and `remedy`."""

    def __init__(self, culprit: str, remedy: str = "replace it, or take it out") -> None:
        super().__init__(f"{culprit}: {remedy}.")
        self.culprit, self.remedy = culprit, remedy


class Header(NamedTuple):
    """What an image file says of itself: width and height, its kind, and the greatest of grey values.

    `kind` is such as "PNG RGB", and `greatest` 0 unless the image is grey of more than 8 bits.
    """

    size: tuple[int, int] = (0, 0)
    kind: str = ""
    greatest: int = 0

    @property
    def loss(self) -> float:
        """Share of the image that a square crop cuts off."""
        return 1 - min(self.size) / max(self.size)


def what_it_is(encoded: bytes) -> tuple[str, str] | None:
    """What a file is that often stands in an image's place, and the remedy; None if it is none of these."""
    if encoded[4:8] == b"ftyp" and encoded[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return "a HEIC photo, which Pillow does not read", "convert it to JPEG or PNG"
    opening = encoded[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    for start, what, remedy in _STRANGERS:
        if opening.lower().startswith(start):
            return what, remedy
    return None


def read_image(path: Path, *, white: int = WHITE_OF_16_BITS) -> Image.Image:
    """Read one image file as 8-bit sRGB, upright; errors and `white` as for `decode_image`."""
    return decode_image(read_bytes(path), path, white=white)


def header_of(encoded: bytes, name: str | Path) -> Header:
    """What an image file says of itself; errors as for `decode_image`.

    Pixels are decoded of grey images of more than 8 bits only.
    """
    image = _open(encoded, name)
    kind = f"{image.format} {image.mode}"
    if not image.mode.startswith("I"):
        return Header(image.size, kind)
    try:
        return Header(image.size, kind, int(np.asarray(image).max()))
    except _DAMAGE as error:
        raise _damaged(encoded, name) from error


def white_level(greatest: int) -> int:
    """The white of the fewest bits, 8 to 16, that hold a value."""
    return next((level for level in _LEVELS if greatest <= level), WHITE_OF_16_BITS)


def decode_image(encoded: bytes, name: str | Path, *, white: int = WHITE_OF_16_BITS) -> Image.Image:
    """Turn an image file's bytes, of whatever format, into 8-bit sRGB, upright.

    Grey, palette and CMYK are converted, by the file's colour profile where it has one. Grey of more than 8
    bits is scaled such that `white` becomes 255: files do not say whether they hold 12 bits or 16.
    Transparency is laid on white, an EXIF rotation is applied, and the first frame stands for an animation.
    UnreadableImage, which calls the image `name`, if it is empty, damaged or not an image.
    """
    image = _open(encoded, name)
    try:
        return _to_rgb(_upright(image), name, white)
    except DatasetError:
        raise
    except _DAMAGE as error:
        raise _damaged(encoded, name) from error


def to_square(
    image: Image.Image, resolution: int, name: str | Path, fit: Fit = "crop"
) -> UInt8[np.ndarray, "side side 3"]:
    """Resize (bicubic) and crop the centre, or pad with white, or squash what is not square.

    UnreadableImage if a crop would throw nearly everything away, one side being more than 8 times the other.
    """
    width, height = image.size
    size = resolution, resolution
    if fit == "squash":
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    if fit == "pad":
        return np.asarray(ImageOps.pad(image, size, Image.Resampling.BICUBIC, "white"))
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        shape = f"{width} x {height} px, too elongated for a square crop"
        raise UnreadableImage(f"{name} is {shape}", 'crop it by hand, take it out, choose fit="pad"')
    return np.asarray(ImageOps.fit(image, size, Image.Resampling.BICUBIC))


def resize_images(
    images: UInt8[np.ndarray, "image side side 3"], resolution: int
) -> UInt8[np.ndarray, "image resolution resolution 3"]:
    """Square images at another side (bicubic, antialiased), or as they are where it is theirs."""
    if images.shape[1] == resolution:
        return images
    resized = np.empty((len(images), resolution, resolution, 3), np.uint8)
    for index, image in enumerate(images):
        resized[index] = to_square(Image.fromarray(image), resolution, f"image {index}")
    return resized


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, read at once: of thousands that Pillow opens lazily, many would stay open."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read", "check that it is there and yours to read") from error


def digest_of(encoded: bytes) -> bytes:
    """What tells two image files apart."""
    return hashlib.blake2b(encoded, digest_size=16).digest()


def _open(encoded: bytes, name: str | Path) -> Image.Image:
    if not encoded:
        raise UnreadableImage(f"{name} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():  # of many pixels, which are read up to twice that number
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(_without_comments(encoded)))
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{name} has too many pixels to be read safely", "make it smaller") from error
    except _DAMAGE as error:
        raise _damaged(encoded, name) from error


def _damaged(encoded: bytes, name: str | Path) -> UnreadableImage:
    if stranger := what_it_is(encoded):
        return UnreadableImage(f"{name} is {stranger[0]}", stranger[1])
    opening = encoded[:40].splitlines()[0]
    text = opening.isascii() and opening.decode().isprintable()  # such as 404: Not Found
    begins = f', but text that begins "{opening.decode()}"' if opening and text else ""
    return UnreadableImage(f"{name} is damaged or not an image{begins}")


def _without_comments(encoded: bytes) -> bytes:
    # Pillow refuses a PNG file for long or damaged comments, which every viewer skips.
    if not encoded.startswith(_PNG):
        return encoded
    kept, place = [_PNG], len(_PNG)
    while place + 12 <= len(encoded):
        (length,) = struct.unpack_from(">I", encoded, place)
        end = place + 12 + length
        kind, content = encoded[place + 4 : place + 8], encoded[place + 8 : end - 4]
        critical = kind[:1].isupper()
        if critical or (
            kind in (b"tRNS", b"eXIf", b"iCCP")
            and zlib.crc32(kind + content) == int.from_bytes(encoded[end - 4 : end], "big")
            and (kind != b"iCCP" or _is_short(content))
        ):
            kept.append(encoded[place:end])
        place = end
    # What is cut off or no chunk at all is left for Pillow to judge.
    return b"".join([*kept, encoded[place:]])


def _is_short(profile_chunk: bytes) -> bool:
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(profile_chunk[profile_chunk.find(b"\0") + 2 :], _MOST_BYTES_OF_A_PROFILE)
    except zlib.error:
        return False
    return not inflate.unconsumed_tail


def _upright(image: Image.Image) -> Image.Image:
    # Not by ImageOps, which writes all of EXIF and XMP anew and fails where any of it is odd.
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:
        return image  # as every viewer does: EXIF that cannot be read says nothing
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, name: str | Path, white: int) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode == "F":
        raise UnreadableImage(f"{name} holds floating-point values", "save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        image = _from_16_bit(image, name, white)
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in key)  # as Pillow did with the pixels
    if not image.has_transparency_data:
        return _in_srgb(image, profile)
    grey = image.mode in ("L", "LA")
    image = image.convert("RGBA")
    opaque = image.convert("RGB")
    colours = _in_srgb(opaque.convert("L") if grey else opaque, profile)
    return Image.composite(colours, Image.new("RGB", image.size, "white"), image.getchannel("A"))


def _from_16_bit(image: Image.Image, name: str | Path, white: int) -> Image.Image:
    # Pillow clips these modes at 255 instead of scaling them, which would leave nearly all pixels white.
    values = np.asarray(image).astype(np.int64)
    least, greatest = int(values.min()), int(values.max())
    if least < 0 or greatest > WHITE_OF_16_BITS:
        found = f"{name} holds values from {least} to {greatest}"
        raise UnreadableImage(found, "save it with 8 or 16 bits a channel")
    white = max(white, white_level(greatest))
    tag, value = _WHITE_IS_ZERO
    shown = white - values if getattr(image, "tag_v2", {}).get(tag) == value else values
    grey = Image.fromarray((shown * 255 / white).round().astype(np.uint8))
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    image = image if image.mode in ("L", "CMYK") else image.convert("RGB")
    transform = _transform(profile, image.mode) if profile else None
    return image.convert("RGB") if transform is None else transform.apply(image)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a colour profile to sRGB; None where it is sRGB already, or unreadable, as browsers take it."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    ramp = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(ramp, ramp, ramp), -1).reshape(16, -1, 3)
    probe = Image.fromarray(colours).convert(mode)
    change = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    return None if np.abs(change).max() <= 2 else transform
