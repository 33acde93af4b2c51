"""Any image file becomes an 8-bit RGB picture, or one sentence that says why it cannot."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

MAX_ASPECT_RATIO = 8
# Everything that Pillow's decoders are known to raise on damaged bytes.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)


class DatasetError(ValueError):
    """A dataset cannot be read as asked; its message is one sentence with the culprit and the remedy."""


def encoded_size(encoded: bytes, name: str | Path) -> tuple[int, int]:
    """Width and height of an image file's bytes, from its header alone; errors as for `decode_image`."""
    return _open(encoded, name).size


def read_image(path: Path) -> Image.Image:
    """Read one image file as 8-bit RGB, upright; DatasetError as for `decode_image`."""
    return decode_image(read_bytes(path), path)


def decode_image(encoded: bytes, name: str | Path) -> Image.Image:
    """Turn an image file's bytes, of whatever format, into 8-bit RGB, upright.

    Grey, palette and CMYK are converted, 16-bit is scaled to 8, transparency is laid on white, an EXIF
    rotation is applied, and the first frame stands for an animation. DatasetError, which calls the image
    `name`, if it is empty, damaged or not an image.
    """
    image = _open(encoded, name)
    try:
        return _to_rgb(ImageOps.exif_transpose(image), name)
    except DatasetError:
        raise
    except _DAMAGE as error:
        raise _damaged(name) from error


def to_square(image: Image.Image, resolution: int, name: str | Path) -> UInt8[np.ndarray, "side side 3"]:
    """Resize the shorter side to `resolution` (bicubic) and crop the centre.

    DatasetError if one side is more than 8 times the other: the crop would throw nearly everything away.
    """
    width, height = image.size
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        shape = f"{width} x {height} px, too elongated for a square crop"
        raise DatasetError(f"{name} is {shape}: crop it by hand, or take it out.")
    return np.asarray(ImageOps.fit(image, (resolution, resolution), method=Image.Resampling.BICUBIC))


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
        raise DatasetError(f"{path} cannot be read: check that it is there and yours to read.") from error


def _open(encoded: bytes, name: str | Path) -> Image.Image:
    if not encoded:
        raise DatasetError(f"{name} is empty (0 bytes): replace it, or take it out.")
    try:
        return Image.open(io.BytesIO(encoded))
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{name} has too many pixels to be read safely: make it smaller.") from error
    except _DAMAGE as error:
        raise _damaged(name) from error


def _damaged(name: str | Path) -> DatasetError:
    return DatasetError(f"{name} is damaged or not an image: replace it, or take it out.")


def _to_rgb(image: Image.Image, name: str | Path) -> Image.Image:
    if image.mode == "F":
        raise DatasetError(f"{name} holds floating-point values: save it with 8 or 16 bits a channel.")
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image), name)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(values: np.ndarray, name: str | Path) -> Image.Image:
    # Pillow clips these modes at 255 instead of scaling them, which would leave nearly all pixels white.
    if values.min() < 0 or values.max() > 65535:
        raise DatasetError(f"{name} holds 32-bit values: save it with 8 or 16 bits a channel.")
    return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
