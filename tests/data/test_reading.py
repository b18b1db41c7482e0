"""Files that hold an image each, of every kind that is read."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec import data
from densespec.data import Batches, DataError
from densespec.data.reading import READERS
from densespec.errors import PackageMissing


def folder(root: Path, files: Mapping[str, bytes]) -> Path:
    """Five files a class, the given ones in the first places."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def image_of(root: Path, content: bytes, suffix: str, **options: Any) -> np.ndarray:
    """The image of a file that is a whole data set, five times over."""
    folder(root, {f"a/{number}{suffix}": content for number in range(5)})
    return data.load(f"folder:{root}", **options).train.image(0)


def every_image(root: Path) -> list[np.ndarray]:
    found = data.load(f"folder:{root}", channels=1)
    return [part.image(i) for part in (found.train, found.test) for i in range(len(part))]


# Arrays


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((4, 5, 6), 1, (1, 4, 5, 6)),
        ((1, 4, 5, 6), 1, (1, 4, 5, 6)),
        ((4, 5, 6, 1), 1, (1, 4, 5, 6)),
        ((4, 5), 1, (1, 4, 5)),
        ((7,), 1, (1, 7)),
        ((2, 4, 5, 6), 2, (2, 4, 5, 6)),
        ((4, 5, 2), 2, (2, 4, 5)),
        ((4, 5, 6), 3, (3, 4, 5, 6)),
    ],
)
def test_channels_of_arrays_are_found(
    tmp_path: Path, shape: Any, channels: int, expected: Any
) -> None:
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    found = image_of(tmp_path, npy(array), ".npy", channels=channels)
    assert (found.shape, found.dtype) == (expected, np.float32)
    assert sorted(set(found.ravel())) == list(range(array.size))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.zeros((4, 4, 4), np.int64)), "it is of type int64, but should be floats, or whole"),
        (npy(np.zeros((4, 4, 4), complex)), "it is of type complex128"),
        (npy(np.array([{}], object)), "it is of type object"),
        (npy(np.zeros((2, 4, 4, 4, 4))), r"it has shape \(2, 4, 4, 4, 4\), but neither its first"),
        (npy(np.full((4, 4), np.nan)), r"it has a value that is not finite"),
        (npy(np.zeros((4, 4)))[:-1], r"its array \(4, 4\) has 128 bytes, but there are 127"),
        (npy(np.zeros((4, 4))).replace(b"(4, 4), }", b"(9**9,)}"), "not a readable array of numpy"),
        (npy(np.zeros(4)).replace(b"(4,), }  ", b"(1<<40,)}"), "not a readable array of numpy"),
        (b"\x93NUMPY", "not a readable array of numpy"),
        (b"\x93NUMPY\x07\x00" + bytes(99), r"version \(7, 0\)|is of version"),
    ],
)
def test_arrays_that_are_no_images_are_refused_by_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=rf"0\.npy: .*{message}|{message}"):
        image_of(tmp_path, content, ".npy", channels=1)


def test_a_header_that_announces_more_than_there_is_is_refused_at_once(tmp_path: Path) -> None:
    content = npy(np.zeros((4, 4))).replace(b"(4, 4), }          ", b"(400000, 4000000)} ")
    assert b"400000" in content
    with pytest.raises(DataError, match="has 12800000000000 bytes, but there are 128"):
        image_of(tmp_path, content, ".npy", channels=1)


# NIfTI


def nifti(array: np.ndarray, affine: Any = None, *, version: int = 1, **header: Any) -> bytes:
    nibabel = pytest.importorskip("nibabel")
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = kind(array, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    return bytes(image.to_bytes())


NOISE = np.random.default_rng(5).random((6, 5, 4))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_volumes_of_scanners(tmp_path: Path, version: int, packed: bool) -> None:
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4) - 1000
    content = nifti(values, version=version)
    suffix = ".nii.gz" if packed else ".nii"
    content = gzip.compress(content) if packed else content
    found = image_of(tmp_path, content, suffix, channels=1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], values)


def test_values_are_scaled_as_the_file_says(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(values, np.eye(4))
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([0.5, -3], "<f4").tobytes()  # scl_slope, scl_inter
    found = image_of(tmp_path, bytes(content), ".nii", channels=1)
    np.testing.assert_array_equal(found[0], values * 0.5 - 3)


def test_axes_run_the_same_way_in_every_file(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    turned = values[::-1].transpose(2, 0, 1)  # stored as (z, -x, y)
    affine = np.array([[0, -1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    found = image_of(tmp_path, nifti(turned, affine), ".nii", channels=1)
    np.testing.assert_array_equal(found[0], values)


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((2, 3, 4), 3, (3, 2, 3, 4)),
        ((2, 3, 4, 5), 5, (5, 2, 3, 4)),
        ((2, 3, 4, 1), 1, (1, 2, 3, 4)),
        ((2, 3, 4, 1, 2), 2, (2, 2, 3, 4)),
        ((4, 5, 1), 1, (1, 4, 5)),
        ((4, 5), 1, (1, 4, 5)),
    ],
)
def test_axes_behind_the_third_are_channels(
    tmp_path: Path, shape: Any, channels: int, expected: Any
) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert image_of(tmp_path, nifti(values), ".nii", channels=channels).shape == expected


@pytest.mark.parametrize(
    ("content", "channels", "message"),
    [
        (lambda: nifti(np.zeros((9, 9, 9)))[:400], 1, "too short to hold that"),
        (lambda: gzip.compress(nifti(NOISE))[:-40], 1, "ended before the end-of-stream"),
        (lambda: nifti(np.zeros((2, 3, 4), complex)), 1, "of type complex128, but should be"),
        (lambda: nifti(np.zeros((2, 3, 4, 2))), 1, "it has 2 channels, .* use --in-channels 2"),
        (lambda: nifti(np.full((2, 3, 4), np.nan)), 1, "a value that is not finite"),
    ],
)
def test_volumes_that_can_t_be_meant_are_refused_by_name(
    tmp_path: Path, content: Any, channels: int, message: str
) -> None:
    with pytest.raises(DataError, match=rf"0\.nii.*: not a readable NIfTI volume: .*{message}"):
        image_of(tmp_path, content(), ".nii.gz", channels=channels)


def test_a_header_of_huge_sizes_is_refused_at_once(tmp_path: Path) -> None:
    content = bytearray(nifti(np.zeros((2, 3, 4), np.uint8)))
    for sizes, message in (([32767] * 3, "below 2\\*\\*31"), ([1200] * 3, "too short to hold")):
        content[42:48] = np.array(sizes, "<i2").tobytes()
        with pytest.raises(DataError, match=message):
            image_of(tmp_path, gzip.compress(bytes(content)), ".nii.gz", channels=1)


# DICOM


def dicom(pixels: np.ndarray, **attributes: Any) -> bytes:
    """A file of unsigned or signed whole numbers, (rows, columns), with frames or colours."""
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    colours = pixels.shape[-1] == 3 and pixels.ndim > 2
    found.Rows, found.Columns = pixels.shape[-3:-1] if colours else pixels.shape[-2:]
    found.SamplesPerPixel = 3 if colours else 1
    if colours:
        found.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        found.NumberOfFrames = len(pixels)
    found.PhotometricInterpretation = "RGB" if colours else "MONOCHROME2"
    found.BitsAllocated = found.BitsStored = 8 * pixels.dtype.itemsize
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    found.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(found, name, value)
    buffer = io.BytesIO()
    found.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


STORED = np.array([[0, 1, 5], [100, 2000, 4095]], np.uint16)


def test_values_have_the_unit_that_the_file_states(tmp_path: Path) -> None:
    content = dicom(STORED, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=80)
    found = image_of(tmp_path, content, ".dcm", channels=1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], STORED * 2.0 - 1024)


def test_one_channel_is_repeated_for_networks_of_three(tmp_path: Path) -> None:
    found = image_of(tmp_path, dicom(STORED), ".dcm")
    np.testing.assert_array_equal(found, [STORED] * 3)


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_high_is_bright_in_every_image(tmp_path: Path, dtype: str) -> None:
    stored = (STORED.astype(int) - (2048 if dtype == "int16" else 0)).astype(dtype)
    content = dicom(
        stored, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11, RescaleSlope=0.5
    )
    found = image_of(tmp_path, content, ".dcm", channels=1)
    ends = (-2048 + 2047) if dtype == "int16" else 4095
    np.testing.assert_array_equal(found[0], (ends - stored.astype(float)) / 2)


@pytest.mark.parametrize("kind", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_the_window_is_looked_through_where_it_is_asked_for(
    tmp_path: Path, kind: str, photometric: str
) -> None:
    """As pydicom does it, on its scale."""
    content = dicom(
        STORED,
        WindowCenter=[900, 1],
        WindowWidth=[1700, 2],
        VOILUTFunction=kind,
        PhotometricInterpretation=photometric,
        BitsStored=12,
        HighBit=11,
    )
    found = image_of(tmp_path, content, ".dcm", channels=1, window=True)
    from pydicom import dcmread
    from pydicom.pixels import apply_windowing

    shown = apply_windowing(STORED.astype(float), dcmread(tmp_path / "a" / "0.dcm")) * 255 / 4095
    expected = shown if photometric == "MONOCHROME2" else 255 - shown
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_frames_make_a_volume(tmp_path: Path) -> None:
    frames = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(image_of(tmp_path, dicom(frames), ".dcm", channels=1)[0], frames)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colours_are_those_of_pictures(tmp_path: Path, channels: int) -> None:
    image = pytest.importorskip("PIL.Image")
    colours = np.random.default_rng(1).integers(0, 256, (4, 5, 3), np.uint8)
    found = image_of(tmp_path, dicom(colours), ".dcm", channels=channels)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    expected = np.array(image.fromarray(colours).convert(mode)).reshape(4, 5, channels)
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (lambda: dicom(STORED)[:-3], {}, "pixel data is less than expected"),
        (lambda: dicom(STORED)[:200], {}, "its pixels are None, but should"),
        (lambda: dicom(STORED, PhotometricInterpretation="PALETTE COLOR"), {}, "its pixels are "),
        (lambda: dicom(STORED, Rows=65535, Columns=65535), {}, "it has 4294836225 values, but"),
        (lambda: dicom(STORED, PerFrameFunctionalGroupsSequence=[]), {}, "groups of frames, each"),
        (lambda: dicom(STORED), {"window": True}, "it states no window: leave out --window"),
        (lambda: dicom(np.zeros((2, 4, 5, 3), np.uint8), NumberOfFrames=2), {}, "one frame of"),
        (lambda: dicom(STORED), {"channels": 2}, "it has 1 channels, .* use --in-channels 1"),
    ],
)
def test_images_of_hospitals_that_can_t_be_meant_are_refused_by_name(
    tmp_path: Path, content: Any, options: Any, message: str
) -> None:
    with pytest.raises(DataError, match=rf"0\.dcm: not a readable DICOM image: .*{message}"):
        image_of(tmp_path, content(), ".dcm", **{"channels": 1} | options)


def test_a_file_that_is_packed_as_a_whole_is_not_unpacked(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from pydicom import dcmread
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    path = folder(tmp_path, {"whole.dcm": dicom(STORED)}) / "whole.dcm"
    whole = dcmread(path)
    whole.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole.save_as(path)
    with pytest.raises(DataError, match="it is deflated as a whole"):
        image_of(tmp_path / "set", path.read_bytes(), ".dcm", channels=1)


# Pictures


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_fourth_channel_says_how_opaque_a_pixel_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 5, 4), np.uint8)
    found = image_of(tmp_path / "own", png(pixels), ".png", channels=4)
    np.testing.assert_array_equal(found, pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(
        image_of(tmp_path / "left", png(pixels), ".png"), pixels[..., :3].transpose(2, 0, 1)
    )
    grey = np.array([[0, 257], [25700, 65535]], np.uint16)
    found = image_of(tmp_path / "grey", png(grey), ".png", channels=4)
    np.testing.assert_array_equal(found, [grey / 257] * 3 + [np.full((2, 2), 255)])


def test_pictures_of_four_channels_are_measured(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 5, 4), np.uint8)
    folder(tmp_path, {f"a/{number}.png": png(pixels) for number in range(5)})
    found = data.load(f"folder:{tmp_path}", channels=4)
    np.testing.assert_allclose(found.normalisation.mean, pixels.mean((0, 1)) / 255)
    np.testing.assert_allclose(found.normalisation.std, pixels.std((0, 1)) / 255)
    assert found.normalisation.is_share


def test_pictures_have_no_other_number_of_channels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="converted to 1, 3, 4 channels, but the network takes 2"):
        image_of(tmp_path, png(np.zeros((4, 5, 3), np.uint8)), ".png", channels=2)


# All kinds


def test_normalisation_is_measured_on_images_that_tell_no_full_intensity(tmp_path: Path) -> None:
    volumes = np.random.default_rng(2).normal([[[[40]]], [[[-3]]]] * 5, 7, (10, 4, 5, 6))
    folder(tmp_path, {f"a/{n}.npy": npy(v.astype("float32")) for n, v in enumerate(volumes)})
    found = data.load(f"folder:{tmp_path}", channels=1)
    x, _ = Batches(found.train, found.normalisation, size=(4, 5, 6), batch_size=8)[0]
    assert x.shape == (8, 1, 4, 5, 6)
    assert (x.mean(), x.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert not found.normalisation.is_share


def test_another_kind_of_file_than_the_first_is_named(tmp_path: Path) -> None:
    contents = {f"a/{number}.npy": npy(np.zeros((4, 5))) for number in range(4)}
    folder(tmp_path, contents | {"a/4.npy": png(np.zeros((4, 5), np.uint8))})
    with pytest.raises(DataError, match=r"4\.npy: .* another kind of file than the first one"):
        every_image(tmp_path)


def test_an_image_of_other_dimensions_than_the_first_is_named(tmp_path: Path) -> None:
    contents = {f"a/{number}.npy": npy(np.zeros((4, 5))) for number in range(9)}
    folder(tmp_path, contents | {"a/9.npy": npy(np.zeros((4, 5, 6)))})
    with pytest.raises(DataError, match=r"9\.npy: an image of size \(4, 5, 6\), but should have 2"):
        every_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX's")
@pytest.mark.parametrize("suffix", [s for reader in READERS for s in reader.suffixes])
def test_pipes_are_refused_and_not_waited_for(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a").mkdir()
    for number in range(5):
        os.mkfifo(tmp_path / "a" / f"{number}{suffix}")
    with pytest.raises(DataError, match=rf"{suffix}: a pipe, a device or a socket"):
        data.load(f"folder:{tmp_path}", channels=1)


@pytest.mark.parametrize(
    ("content", "package"),
    [(b"\0" * 344 + b"n+1\0", "nibabel"), (b"\0" * 128 + b"DICM", "pydicom")],
)
def test_the_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, package: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(PackageMissing, match=rf"{package}.*pip install 'densespec\["):
        image_of(tmp_path, content, ".nii")


def test_what_is_damaged_anywhere_is_refused_or_read(tmp_path: Path) -> None:
    """No other error, whatever byte is another."""
    draw = np.random.default_rng(3)
    samples = {".npy": npy(np.zeros((4, 5, 6), np.float32))}
    if importlib.util.find_spec("nibabel"):
        samples[".nii"] = nifti(np.zeros((4, 5, 6), np.float32))
        samples[".nii.gz"] = gzip.compress(samples[".nii"])
    if importlib.util.find_spec("pydicom"):
        samples[".dcm"] = dicom(STORED, RescaleSlope=2, WindowCenter=3, WindowWidth=9)
    for suffix, content in samples.items():
        root = tmp_path / suffix[1:]
        folder(root, {f"a/{number}{suffix}": content for number in range(5)})
        whole = data.load(f"folder:{root}", channels=1).train
        path = root / whole.x.paths[0]  # type: ignore[union-attr]
        for _ in range(60):
            damaged = bytearray(content)
            for place in draw.integers(0, len(content), 3):
                damaged[place] = draw.integers(0, 256)
            path.write_bytes(damaged[: draw.integers(len(content) // 2, len(content) + 1)])
            with contextlib.suppress(DataError):
                assert whole.image(0).dtype.name in ("uint8", "float16", "float32", "float64")


def test_zlib_is_asked_for_a_header_alone() -> None:
    from densespec.data.reading.nifti import HEAD, head_of

    bomb = gzip.compress(bytes(10_000_000))[:4096]
    assert len(head_of(bomb)) == HEAD
    assert head_of(b"\x1f\x8b nothing") == b""
