"""Images that nearly equal one another: a perceptual hash proposes pairs, their colours confirm them."""

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt64
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

MOST_BITS = 4  # of 64 that differ between the hashes of two near-duplicates
MOST_COLOUR = 0.04  # mean absolute difference of their thumbnails, of the whole range
_HASHED, _KEPT, _THUMBNAIL = 32, 8, 12  # sides in pixels, or in frequencies

Images = UInt8[np.ndarray, "image side side 3"]


def near_duplicates(images: Images) -> Int[np.ndarray, "pair 2"]:
    """Pairs of images, the lower index first, that show the same: rescaled, recoded or slightly retouched.

    The hash has a bit for each of the 64 lowest frequencies of the grey image: whether it is above their
    median (pHash, Zauner 2010). It knows no colours and little of flat drawings, so that a pair counts only
    where the thumbnails agree as well. A crop, a turn or a mirror image is not found.
    """
    hashes, thumbnails = _hashes(images), _shrunk(images, _THUMBNAIL)
    found = [np.empty((0, 2), np.int64)]
    for first in range(len(images) - 1):
        close = np.flatnonzero(np.bitwise_count(hashes[first + 1 :] ^ hashes[first]) <= MOST_BITS) + first + 1
        away = np.abs(thumbnails[close] - thumbnails[first]).mean(axis=(1, 2, 3))
        close = close[away <= MOST_COLOUR]
        found.append(np.stack([np.full(len(close), first), close], axis=1))
    return np.concatenate(found)


def duplicate_groups(pairs: Int[np.ndarray, "pair 2"], count: int) -> Int[np.ndarray, " image"]:
    """A number for each of `count` images, the same for those that pairs join, directly or over others."""
    joined = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (count, count))
    return connected_components(joined, directed=False)[1].astype(np.int64)


def _hashes(images: Images) -> UInt64[np.ndarray, " image"]:
    grey = _shrunk(images, _HASHED) @ np.array([0.299, 0.587, 0.114])
    lowest = dctn(grey, axes=(1, 2))[:, :_KEPT, :_KEPT].reshape(len(images), -1)
    bits = lowest > np.median(lowest, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _shrunk(images: Images, side: int) -> Float[np.ndarray, "image small small 3"]:
    size = (side, side)
    small = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)) for image in images]
    return np.array(small).reshape(len(images), side, side, 3) / 255
