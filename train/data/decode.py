"""Any image file -> uint8 pixels of one size and channel count."""

import numpy as np
from PIL import Image, ImageOps


def to_pixels(image: Image.Image | np.ndarray, size: int, channels: int) -> np.ndarray:
    """Decode, rotate by EXIF, scale 16 bits to 8, put transparency on white, resize bicubically with antialiasing.

    Returns uint8 (size, size, channels). Images that are not square are stretched, as the published transform does.
    Raises ValueError for floating-point images, whose range nobody can know.
    """
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save as 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey: PIL's own conversion would clip it
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((np.clip(values, 0, 65535) / 257).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)  # PIL's resize antialiases
    return np.asarray(image).reshape(size, size, channels)
