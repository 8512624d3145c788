import base64
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from codeact.contracts import Image
from codeact.raster import decode, size


def picture(kind: str, width: int = 64, height: int = 48, **options: object) -> Image:
    file = io.BytesIO()
    Pillow.new("RGB", (width, height), "red").save(file, kind, **options)
    return Image(mime=f"image/{kind}", data=base64.b64encode(file.getvalue()).decode())


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
def test_size_is_what_a_decoder_says(kind: str) -> None:
    image = picture(kind, 321, 45)
    assert size(image) == (321, 45)
    assert decode(image) == base64.b64decode(image.data)
    other = "image/png" if kind != "png" else "image/gif"
    assert size(Image(mime=other, data=image.data)) is None and decode(Image(mime=other, data=image.data)) is None


def test_further_kinds() -> None:
    assert size(picture("webp", 30, 20, lossless=True)) == (30, 20)
    assert size(picture("jpeg", 30, 20, progressive=True, exif=b"Exif\0\0" + b"x" * 5000)) == (30, 20)
    wrapped = picture("png")
    assert size(Image(mime="image/png", data="\n".join(wrapped.data[i : i + 76] for i in range(0, 99, 76)))) == (64, 48)


@pytest.mark.parametrize("data", ["", "%%%", "aGVsbG8=", base64.b64encode(b"\xff\xd8" + b"\xff" * 100).decode()])
def test_what_is_no_picture(data: str) -> None:
    for mime in ("image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml"):
        assert size(Image(mime=mime, data=data)) is None
        assert decode(Image(mime=mime, data=data)) is None


def test_a_picture_of_no_size_is_refused() -> None:
    empty = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 0, 5)
    assert size(Image(mime="image/png", data=base64.b64encode(empty).decode())) is None


@given(st.sampled_from(["png", "jpeg", "gif", "webp"]), st.integers(0, 60), st.binary(max_size=40))
def test_damaged_headers_never_raise(kind: str, keep: int, junk: bytes) -> None:
    data = base64.b64decode(picture(kind).data)[:keep] + junk
    found = size(Image(mime=f"image/{kind}", data=base64.b64encode(data).decode()))
    assert found is None or (found[0] > 0 and found[1] > 0)
