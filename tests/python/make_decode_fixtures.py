"""Makes tests/fixtures/decode: small drawn images in every coding that imaging decodes, and what
independent decoders make of them.

    make_decode_fixtures.py [OUT]

Needs Debian's dcmtk (dcmconv, dcmcjpeg, dcmdjpeg, dcmcjpls), tests/python/requirements.txt and, for
HTJ2K, imagecodecs. Nothing
here is a patient: a drawn disc on a ramp. Expectations are the source pixels for lossless codings,
dcmtk's own decoder for JPEG, CharLS (by pydicom) for JPEG-LS, OpenJPEG (by pydicom) for JPEG 2000,
Pillow for JPEG and PNG files. Each raw file is f32 or u8, little endian, row by row.
"""

import json
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import openjpeg
import pydicom
from PIL import Image, ImageOps
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import UID, ExplicitVRLittleEndian

W, H = 41, 35
rng = np.random.default_rng(7)
y, x = np.mgrid[0:H, 0:W]
disc = (x - 20) ** 2 + (y - 15) ** 2 < 120
HU = (x * 9 - y * 5 + disc * 700 - 600 + rng.integers(-20, 20, (H, W))).astype(np.int16)
GREY12 = (HU.astype(int) - HU.min()).astype(np.uint16)
GREY8 = np.clip(GREY12 / GREY12.max() * 255, 0, 255).astype(np.uint8)
RGB = np.stack([GREY8, 255 - GREY8, np.where(disc, 200, x * 5).astype(np.uint8)], -1).astype(np.uint8)
WORDS = (GREY12.astype(np.uint32) * 19 % 65536).astype(np.uint16)

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "fixtures" / "decode")
OUT.mkdir(parents=True, exist_ok=True)
cases, raws = [], {}


def raw(array):
    """Stores an expectation once."""
    array = np.ascontiguousarray(array)
    data = array.astype("<f4" if array.dtype != np.uint8 else np.uint8).tobytes()
    name = raws.setdefault(data, f"expected-{len(raws):02}.raw")
    (OUT / name).write_bytes(data)
    return name


def case(name, expected, kind, frame=None):
    height, width = expected.shape[:2]
    entry = {"file": name, "frame": frame, "kind": kind, "width": width, "height": height, "expected": raw(expected)}
    if name.endswith(".dcm"):
        data = pydicom.dcmread(OUT / name, stop_before_pixels=True)
        sign = " signed" if data.PixelRepresentation else ""
        entry["syntax"] = str(data.file_meta.TransferSyntaxUID)
        entry["class"] = f"{data.PhotometricInterpretation}, {data.BitsStored} bits{sign}"
    cases.append(entry)


def dicom(pixels, stored, signed=False, photometric="MONOCHROME2"):
    data = Dataset()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.SOPInstanceUID = "1.2.826.0.1.3680043.10.1.1"
    data.StudyInstanceUID = data.SeriesInstanceUID = "1.2.826.0.1.3680043.10.1.2"
    data.Modality = "OT"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored, data.HighBit = stored, stored - 1
    data.PixelRepresentation = int(signed)
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    data["PixelData"].VR = "OW" if data.BitsAllocated == 16 else "OB"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return data


def save(data, name):
    data.save_as(OUT / name, enforce_file_format=True)
    return OUT / name


def run(*command):
    subprocess.run([str(part) for part in command], check=True)


def decoded(path):
    """By dcmtk, then read plainly."""
    run("dcmdjpeg", path, "/tmp/decoded.dcm")
    return pydicom.dcmread("/tmp/decoded.dcm").pixel_array


signed = save(dicom(HU, 12, True), "grey-signed12.dcm")
unsigned = save(dicom(GREY12, 12), "grey-unsigned12.dcm")
words = save(dicom(WORDS, 16), "grey-unsigned16.dcm")
bytes8 = save(dicom(GREY8, 8), "grey8.dcm")
colour = save(dicom(RGB, 8, photometric="RGB"), "rgb8.dcm")
for path, pixels in ((signed, HU), (unsigned, GREY12), (words, WORDS), (bytes8, GREY8.astype(np.float32))):
    case(path.name, pixels.astype(np.float32), "modality")
case(colour.name, RGB, "rgb8")

# How a data set may be written.
for option, name in (("+ti", "implicit"), ("+tb", "big-endian"), ("+td", "deflated")):
    for source, pixels, kind in ((signed, HU.astype(np.float32), "modality"), (colour, RGB, "rgb8")):
        run("dcmconv", option, source, OUT / f"{name}-{source.name}")
        case(f"{name}-{source.name}", pixels, kind)

# JPEG, lossless: every predictor, two depths, colour.
for sv in range(1, 8):
    run("dcmcjpeg", "+el", "+sv", sv, "+un", unsigned, OUT / f"jpeg-lossless-sv{sv}.dcm")
    case(f"jpeg-lossless-sv{sv}.dcm", GREY12.astype(np.float32), "modality")
for source, pixels, kind in ((signed, HU.astype(np.float32), "modality"), (words, WORDS.astype(np.float32), "modality"), (colour, RGB, "rgb8")):
    run("dcmcjpeg", "+e1", "+un", source, OUT / f"jpeg-lossless-{source.name}")
    case(f"jpeg-lossless-{source.name}", pixels, kind)

# JPEG, lossy: dcmtk's own decoder says what it is.
for option, name, source in (
    ("+eb", "baseline", bytes8), ("+ee", "extended12", unsigned), ("+es", "spectral12", unsigned), ("+ep", "progressive12", unsigned),
):
    path = OUT / f"jpeg-{name}.dcm"
    run("dcmcjpeg", option, "+un", *(["+bt"] if source is unsigned else []), source, path)
    data = pydicom.dcmread(path)
    values = decoded(path) * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
    case(path.name, values.astype(np.float32), "modality")
for option in ("+s4", "+s2", "+n1", "+cr"):
    path = OUT / f"jpeg-colour{option.replace('+', '-')}.dcm"
    run("dcmcjpeg", "+eb", option, "+un", colour, path)
    frame = next(pydicom.encaps.generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))
    image = Image.open(BytesIO(frame))
    if option == "+cr" and image.info.get("adobe_transform") is None:
        image.draft("YCbCr", image.size)
    case(path.name, np.frombuffer(image.tobytes(), np.uint8).reshape(H, W, 3), "rgb8")

# JPEG-LS.
for options, name, source in (
    (["+el"], "lossless", signed), (["+el"], "lossless", words), (["+el"], "lossless", bytes8),
    (["+en", "+md", "3"], "near3", unsigned), (["+en", "+md", "2"], "near2", bytes8),
    (["+el", "+il"], "line", colour), (["+el", "+is"], "sample", colour), (["+el", "+in"], "plane", colour),
    (["+en", "+is", "+md", "3"], "near3-sample", colour), (["+el", "+pc", "+t1", "5", "+t2", "9", "+t3", "30", "+rs", "31"], "preset", bytes8),
):
    path = OUT / f"jpegls-{name}-{source.name}"
    run("dcmcjpls", *options, "+un", source, path)
    values = pydicom.dcmread(path).pixel_array
    case(path.name, values if values.ndim == 3 else values.astype(np.float32), "rgb8" if values.ndim == 3 else "modality")

# RLE and JPEG 2000 by pydicom's encoders.
for source, pixels in ((signed, HU), (words, WORDS), (bytes8, GREY8), (colour, RGB)):
    for uid, name, options in (
        ("1.2.840.10008.1.2.5", "rle", {"encoding_plugin": "pydicom"}),
        ("1.2.840.10008.1.2.4.90", "j2k-lossless", {}),
        ("1.2.840.10008.1.2.4.91", "j2k", {"j2k_cr": [4]}),
    ):
        data = pydicom.dcmread(source)
        if name.startswith("j2k") and source is colour:
            data.PhotometricInterpretation = "YBR_RCT" if name == "j2k-lossless" else "YBR_ICT"
        data.compress(uid, generate_instance_uid=False, **options)
        path = save(data, f"{name}-{source.name}")
        values = pydicom.dcmread(path).pixel_array
        kind = "rgb8" if values.ndim == 3 else "modality"
        if name != "j2k":
            assert (values == pixels).all(), path
        case(path.name, values if kind == "rgb8" else values.astype(np.float32), kind)

# HTJ2K by OpenJPH.
for source, pixels in ((signed, HU), (words, WORDS), (bytes8, GREY8), (colour, RGB)):
    data = pydicom.dcmread(source)
    frame = imagecodecs.htj2k_encode(pixels, reversible=True)
    data.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2)])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.201")
    if source is colour:
        data.PhotometricInterpretation = "YBR_RCT"
    path = save(data, f"htj2k-{source.name}")
    assert (pydicom.dcmread(path).pixel_array == pixels).all(), path
    case(path.name, pixels if pixels.ndim == 3 else pixels.astype(np.float32), "rgb8" if pixels.ndim == 3 else "modality")

# Encapsulated: plain and deflated frames; how frames are found.
FRAMES = [HU, (HU // 2).astype(np.int16), (HU + 100).astype(np.int16)]


PLAIN, DEFLATED = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"


def encapsulated(uid, frames, name, has_bot=True, extended=False, fragments=1):
    data = dicom(HU, 12, True)
    data.NumberOfFrames = len(frames)
    if extended:
        body, table, lengths = encapsulate_extended(frames)
        data.PixelData, data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = body, table, lengths
    else:
        data.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=has_bot)
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = UID(PLAIN)
    path = save(data, name)
    # pydicom does not know deflated frames: the UIDs have equal length, padding included.
    path.write_bytes(path.read_bytes().replace(PLAIN.encode(), uid.encode().ljust(len(PLAIN), b"\0"), 1))
    for frame, pixels in enumerate(FRAMES[: len(frames)]):
        case(name, pixels.astype(np.float32), "modality", frame=frame)


def deflate(frame):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(frame.tobytes()) + packer.flush()
    return body + b"\0" * (len(body) % 2)


plain = [f.tobytes() + b"\0" * (f.nbytes % 2) for f in FRAMES]
encapsulated(PLAIN, plain, "frames-plain.dcm")
encapsulated(PLAIN, plain, "frames-no-table.dcm", has_bot=False)
encapsulated(PLAIN, plain, "frames-extended-table.dcm", extended=True)
encapsulated(PLAIN, plain, "frames-fragmented.dcm", fragments=2)
encapsulated(DEFLATED, [deflate(f) for f in FRAMES], "frames-deflated.dcm")

# Pictures.
picture = Image.fromarray(RGB)


def jpeg(name, image, **options):
    image.save(OUT / name, quality=85, **options)
    shown = ImageOps.exif_transpose(Image.open(OUT / name))
    grey = shown.mode == "L"
    case(name, np.asarray(shown if grey else shown.convert("RGB")), "grey8" if grey else "rgb8")


for sampling in (0, 1, 2):
    jpeg(f"sampling-{sampling}.jpg", picture, subsampling=sampling)
for name, factor in (("tall-chroma.jpg", "440"), ("narrow-chroma.jpg", "411")):
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{factor}")
    cv2.imwrite(str(OUT / name), RGB[..., ::-1], [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])
    case(name, np.asarray(Image.open(OUT / name)), "rgb8")
jpeg("progressive.jpg", picture, progressive=True)
jpeg("restarts.jpg", picture, restart_marker_blocks=2)
jpeg("grey.jpg", Image.fromarray(GREY8), progressive=True)
jpeg("cmyk.jpg", picture.convert("CMYK"))
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg(f"orientation-{orientation}.jpg", Image.fromarray(RGB[:20, :29]), exif=exif)


def chunk(kind, body):
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png(name, values, depth, colour, palette=None, transparency=None, interlaced=True):
    """Any depth and colour type; Adam7 where asked. values: [H, W] or [H, W, channels]."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    lines = bytearray()
    for x0, y0, dx, dy in passes if interlaced else [(0, 0, 1, 1)]:
        part = values[y0::dy, x0::dx]
        if part.size:
            for line in part.reshape(part.shape[0], -1):
                bits = "".join(f"{int(v):0{depth}b}" for v in line)
                bits += "0" * (-len(bits) % 8)
                lines += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    height, width = values.shape[:2]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, colour, 0, 0, int(interlaced)])
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    # Ignored on purpose: it must change nothing.
    body += chunk(b"gAMA", (100000).to_bytes(4, "big"))
    if palette is not None:
        body += chunk(b"PLTE", palette.tobytes())
    if transparency is not None:
        body += chunk(b"tRNS", transparency)
    body += chunk(b"IDAT", zlib.compress(bytes(lines), 9)) + chunk(b"IEND", b"")
    (OUT / name).write_bytes(body)


small = GREY12[:13, :17]
for depth in (1, 2, 4, 8):
    levels = small * (2**depth - 1) // GREY12.max()
    scale = 255 // (2**depth - 1)
    png(f"grey{depth}.png", levels, depth, 0)
    case(f"grey{depth}.png", (levels * scale).astype(np.uint8), "grey8")
    palette = rng.integers(0, 256, (2**depth, 3)).astype(np.uint8)
    png(f"palette{depth}.png", levels, depth, 3, palette)
    case(f"palette{depth}.png", palette[levels], "rgb8")
png("grey16.png", small * 11, 16, 0)
case("grey16.png", (small * 11).astype(np.float32), "modality")
png("rgb16.png", np.stack([small * 11, small, small * 7], -1), 16, 2)
case("rgb16.png", (np.stack([small * 11, small, small * 7], -1) >> 8).astype(np.uint8), "rgb8")
alpha = (x[:13, :17] * 15).astype(np.uint16)
levels = GREY8[:13, :17].astype(np.uint16)
flat = ((levels * alpha + 127) // 255).astype(np.uint8)
png("grey-alpha8.png", np.stack([levels, alpha], -1), 8, 4)
case("grey-alpha8.png", flat, "grey8")
png("rgba8.png", np.stack([levels, 255 - levels, levels, alpha], -1), 8, 6, interlaced=False)
case("rgba8.png", np.stack([flat, ((255 - levels) * alpha + 127) // 255, flat], -1).astype(np.uint8), "rgb8")
png("transparent-grey4.png", levels >> 4, 4, 0, transparency=b"\0\x05")
case("transparent-grey4.png", np.where(levels >> 4 == 5, 0, (levels >> 4) * 17).astype(np.uint8), "grey8")

# Rarely seen, each once: a JPEG-LS preset that halves the counts of run contexts, too.
blocks = np.where((x // 3 + y // 2) % 3 == 0, GREY8 & 0xC0, GREY8 & 0x80).astype(np.uint8)
runs = save(dicom(blocks, 8), "runs8.dcm")
run("dcmcjpls", "+el", "+pc", "+t1", "3", "+t2", "7", "+t3", "21", "+rs", "5", "+un", runs, OUT / "jpegls-reset-runs8.dcm")
runs.unlink()
case("jpegls-reset-runs8.dcm", blocks.astype(np.float32), "modality")


def lossless_jpeg(pixels, bits, predictor, restart_lines):
    """A codestream as ISO 10918-1 annex H has it, with restarts after whole lines (dcmtk writes none)."""
    height, width = pixels.shape

    def segment(marker, body):
        return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + bytes(body)

    # Seventeen codes of five bits: code n is a difference of n bits.
    out = b"\xff\xd8" + segment(0xC4, bytes([0, 0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17)))
    out += segment(0xC3, bytes([bits, *height.to_bytes(2, "big"), *width.to_bytes(2, "big"), 1, 1, 0x11, 0]))
    out += segment(0xDD, (restart_lines * width).to_bytes(2, "big"))
    out += segment(0xDA, [1, 1, 0, predictor, 0, 0])
    for part in range(0, height, restart_lines):
        lines, code = pixels[part : part + restart_lines].astype(int), ""
        for (row, column), value in np.ndenumerate(lines):
            a, b, c = lines[row, column - 1], lines[row - 1, column], lines[row - 1, column - 1]
            if row == 0:
                prediction = a if column else 1 << (bits - 1)
            elif column == 0:
                prediction = b
            else:
                prediction = [a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) >> 1][predictor - 1]
            difference = (value - prediction + 32767) % 65536 - 32767
            size = int(abs(difference)).bit_length()
            code += f"{size:05b}"
            if 0 < size < 16:
                code += f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}"
        code += "1" * (-len(code) % 8)
        marker = bytes([0xFF, 0xD0 + part // restart_lines % 8]) if part + restart_lines < height else b""
        out += int(code, 2).to_bytes(len(code) // 8, "big").replace(b"\xff", b"\xff\0") + marker
    return out + b"\xff\xd9"


# Restarts by line and by three, and differences of 32,768 (which take no bits but their code).
jumps = WORDS % 2 * np.uint16(32768) + WORDS % 3
for pixels, bits, predictor, lines in ((GREY12, 12, 4, 1), (GREY12, 12, 7, 3), (jumps, 16, 1, 40)):
    path = OUT / f"jpeg-lossless-restarts-{bits}-{lines}.dcm"
    data = dicom(pixels, bits)
    frame = lossless_jpeg(pixels, bits, predictor, lines)
    data.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2)])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.57")
    save(data, path.name)
    assert (decoded(path) == pixels).all(), path
    case(path.name, pixels.astype(np.float32), "modality")

# Signed in the data set, unsigned in the codestream, and the other way round: the data set counts.
for signed_code, signed_set, bits in ((False, True, 8), (True, False, 8), (False, True, 12), (True, False, 12)):
    pixels = GREY8 if bits == 8 else GREY12
    frame = bytearray(openjpeg.encode(pixels, codec_format=0, bits_stored=bits))
    # SIZ's depth, with its sign: the same code is then of values half the range lower.
    frame[42] |= 0x80 if signed_code else 0
    data = dicom(pixels, bits, signed_set)
    data.PixelData = encapsulate([bytes(frame) + b"\0" * (len(frame) % 2)])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.90")
    path = save(data, f"j2k-{'signed' if signed_code else 'unsigned'}-code-{'signed' if signed_set else 'unsigned'}{bits}.dcm")
    case(path.name, pydicom.dcmread(path).pixel_array.astype(np.float32), "modality")

(OUT / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
print(len(cases), "cases,", sum(f.stat().st_size for f in OUT.iterdir()) // 1024, "KiB")
