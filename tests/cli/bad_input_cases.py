"""What is wrong with a call, and what the answer says of it."""

from __future__ import annotations

import pickle

import numpy as np
from bad_input_helpers import (
    Case,
    changed_model,
    complex_numbers,
    cut,
    empty_zarr,
    five_dimensions,
    foreign_model,
    many_objects,
    no_bfloat16,
    no_gpu,
    same_stem,
    small,
    two_channels,
    volume,
)

SEGMENT = {
    "no file": Case(
        lambda w: w.segment(image=w.folder / "none.tif"),
        ("an image was expected at", "none.tif", "check the path"),
    ),
    "empty file": Case(
        lambda w: w.segment(image=w.file("empty.tif", b"")),
        ("empty.tif is empty (0 bytes)", "expected an image", "copy it again"),
    ),
    "folder": Case(
        lambda w: w.segment(image=w.folder),
        ("is a folder but neither an OME-Zarr nor a DICOM series", "give an image file"),
    ),
    "text named tif": Case(
        lambda w: w.segment(image=w.file("notes.tif", b"dear diary\n")),
        ("expected to be TIFF", "starts with text", "has the wrong name"),
    ),
    "cut tiff": Case(
        lambda w: w.segment(image=cut(w)),
        ("cut.tif was expected to be a complete TIFF", "cut off", "copy or export it again"),
    ),
    "cut png": Case(
        lambda w: w.segment(image=w.file("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")),
        ("expected to be a complete picture", "copy or export it again"),
    ),
    "unknown format": Case(
        lambda w: w.segment(image=w.file("image.xyz", b"\1\2\3\4")),
        ("has a format that cannot be read (.xyz)", "convert it to TIFF"),
    ),
    "complex numbers": Case(
        lambda w: w.segment(image=complex_numbers(w)),
        ("must hold real numbers", "got complex64", "save its magnitude"),
    ),
    "no pixels": Case(
        lambda w: w.segment(image=empty_zarr(w)),
        ("must hold at least one pixel", "got 0x8", "empty"),
    ),
    "five dimensions": Case(
        lambda w: w.segment(image=five_dimensions(w), model=w.models["ct"]),
        ("must be a NIfTI of 2 to 4 dimensions", "4x5x6x2x2", "split it into volumes"),
    ),
    "axes letters": Case(
        lambda w: w.segment("--axes", "QX"),
        ("axes must be letters of PTCZYXS", "'QX' with Q", "for example ZYX"),
    ),
    "axes count": Case(
        lambda w: w.segment("--axes", "ZYX"),
        ("has 2 axes (64x80) but 3 are named", "give one letter"),
    ),
    "axes twice": Case(
        lambda w: w.segment("--axes", "XX"),
        ("each axis letter may come once", "'XX'", "remove the repeated one"),
    ),
    "axes without y": Case(
        lambda w: w.segment("--axes", "ZX"), ("must contain Y and X", "'ZX'", "name the two image")
    ),
    "channel missing": Case(
        lambda w: w.segment(image=two_channels(w)),
        ("takes one channel and the image has 2", "--channel 0 to 1"),
    ),
    "channel out of range": Case(
        lambda w: w.segment("--channel", 2, image=two_channels(w)),
        ("the image has channels 0 to 1", "got channel 2", "give one of them"),
    ),
    "channel negative": Case(
        lambda w: w.segment("--channel", -1),
        ("--channel: expected a whole number from 0", "got '-1'", "give for example 1"),
    ),
    "channels of the model": Case(
        lambda w: w.segment(model=w.models["colours"]),
        ("takes 3 channels (red, green, blue)", "got an image with 1", "name its axes"),
    ),
    "spacing count": Case(
        lambda w: w.segment("--spacing", "1,1,1"),
        ("spacing needs 2 numbers (Y, X)", "got 3", "give one for each"),
    ),
    "spacing zero": Case(
        lambda w: w.segment("--spacing", "0,1"),
        ("--spacing: expected positive numbers", "got '0,1'", "give for example 2.5,1,1"),
    ),
    "spacing negative": Case(
        lambda w: w.segment("--spacing=-1,1"), ("expected positive numbers", "got '-1,1'", "give")
    ),
    "spacing text": Case(
        lambda w: w.segment("--spacing", "a,b"), ("expected positive numbers", "'a,b'", "give")
    ),
    "spacing infinite": Case(
        lambda w: w.segment("--spacing", "inf,1"), ("expected positive numbers", "'inf,1'", "give")
    ),
    "spacing missing": Case(
        lambda w: w.segment(image=volume(w), model=w.models["ct"]),
        ("works at a spacing of 3, 2.5, 2.5 mm", "does not state its own", "give --spacing"),
    ),
    "plane for a 3D model": Case(
        lambda w: w.segment(model=w.models["ct"]),
        ("is 3D and needs axes ZYX", "got an image with YX", "take a 2D model"),
    ),
    "model unknown": Case(
        lambda w: w.segment(model="nuclie-nonsense"),
        ("there is no model named 'nuclie-nonsense'", "bundled are", "or a file"),
    ),
    "model missing": Case(
        lambda w: w.segment(model=w.folder / "none.safetensors"),
        ("there is no model file", "none.safetensors", "check the path"),
    ),
    "model folder": Case(
        lambda w: w.segment(model=w.folder),
        ("expected a model file", "got the folder", "name a file in it"),
    ),
    "model cut": Case(
        lambda w: w.segment(model=w.file("c.safetensors", w.models["nuclei"].read_bytes()[:-64])),
        ("is cut short", "expected", "bytes of weights", "get it again"),
    ),
    "model changed": Case(
        lambda w: w.segment(model=changed_model(w)),
        ("was changed or damaged after it was saved", "get the file again"),
    ),
    "model pickle": Case(
        lambda w: w.segment(model=w.file("net.pt", pickle.dumps({"weight": [1.0] * 40}))),
        ("is not a model file", "expected .safetensors"),
    ),
    "model foreign": Case(
        lambda w: w.segment(model=foreign_model(w)),
        ("a safetensors file of another program", "expected one with a model card", "train or"),
    ),
    "level 5": Case(
        lambda w: w.segment("--level", 5),
        ("was trained at level 1, 2, 3, 4", "got 5", "choose one of these, auto or ensemble"),
    ),
    "level 0": Case(
        lambda w: w.segment("--level", 0),
        ("--level: expected 1, 2, 3, 4, ensemble or auto", "got '0'", "choose one of them"),
    ),
    "level x": Case(
        lambda w: w.segment("--level", "x"),
        ("expected 1, 2, 3, 4, ensemble or auto", "got 'x'", "choose one of them"),
    ),
    "level untrained": Case(
        lambda w: w.segment("--level", 4, model=w.models["shallow"]),
        ("'tiny-shallow' was trained at level 1, 2", "got 4", "choose one of these"),
    ),
    "kind": Case(
        lambda w: w.segment("--kind", "masks"),
        ("--kind: invalid choice: 'masks'", "probabilities", "segment --help"),
    ),
    "threshold 0": Case(
        lambda w: w.segment("--threshold", 0),
        ("--threshold: expected a number between 0 and 1", "got '0'", "0.5 is usual"),
    ),
    "threshold 1": Case(
        lambda w: w.segment("--threshold", 1), ("between 0 and 1", "got '1'", "0.5 is usual")
    ),
    "threshold nan": Case(
        lambda w: w.segment("--threshold", "nan"), ("between 0 and 1", "got 'nan'", "0.5 is usual")
    ),
    "threshold text": Case(
        lambda w: w.segment("--threshold", "half"), ("between 0 and 1", "'half'", "0.5 is usual")
    ),
    "tile too small": Case(
        lambda w: w.segment("--tile", 8),
        ("a tile must be at least 16 pixels wide at level 4", "got 8", "give a larger one"),
    ),
    "tile negative": Case(
        lambda w: w.segment("--tile", -5),
        ("--tile: expected a whole number from 1", "got '-5'", "give for example 512"),
    ),
    "tile text": Case(
        lambda w: w.segment("--tile", "big"), ("expected a whole number from 1", "'big'", "512")
    ),
    "device": Case(
        lambda w: w.segment("--device", "tpu"),
        ("--device: invalid choice: 'tpu'", "cuda", "segment --help"),
    ),
    "no gpu": Case(no_gpu, ("cuda was asked for", "is a CPU build", "Choose --device auto or cpu")),
    "float16 on the cpu": Case(
        lambda w: w.segment("--precision", "float16"),
        ("float16 is emulated on processors", "choose --precision bfloat16 or float32"),
    ),
    "bfloat16 emulated": Case(
        no_bfloat16, ("no bfloat16 arithmetic", "many times slower", "choose --precision float32")
    ),
    "out missing": Case(
        lambda w: ["segment", w.image],
        ("the following arguments are required: --out", "segment --help"),
    ),
    "out extension": Case(
        lambda w: w.segment(out=w.folder / "a.jpg"),
        ("cannot be written as .jpg (a.jpg)", "choose one of .tif"),
    ),
    "out is the input": Case(
        lambda w: w.segment(out=w.image),
        ("would replace or change the input", "cells.tif", "choose another --out"),
    ),
    "out in a missing folder": Case(
        lambda w: w.segment(out=w.folder / "none" / "a.tif"),
        ("needs the folder", "which does not exist", "make it first"),
    ),
    "out below a file": Case(
        lambda w: w.segment(out=f"{w.image}/deeper/"),
        ("would replace or change the input", "choose another --out"),
    ),
    "out folder below a file": Case(
        lambda w: w.segment(out=f"{w.target}/deeper/"),
        ("for the results cannot be made", "Not a directory", "choose another --out"),
    ),
    "out empty": Case(
        lambda w: [*w.segment(), "--out", ""],
        ("a result needs a place (--out)", "got an empty name", "name a file"),
    ),
    "model name too long": Case(
        lambda w: w.segment(model="n" * 300 + ".safetensors"),
        ("the model file nnn", "cannot be read", "check it"),
    ),
    "out name too long": Case(
        lambda w: w.segment(out=w.folder / ("n" * 300 + ".tif")),
        ("cannot be written", "name too long", "check that the folder exists"),
    ),
    "one file for several images": Case(
        lambda w: w.segment(image=[w.image, w.tif("b.tif", small(16, 16))]),
        ("2 images need a folder for --out", "got the file name", "give a folder"),
    ),
    "two results of one name": Case(
        same_stem,
        ("each image needs a result of its own", "cells_labels.tif", "different folders"),
    ),
    "second image is bad": Case(
        lambda w: w.segment(
            image=[w.image, w.file("notes.tif", b"text")], out=w.folder / "results"
        ),
        ("notes.tif was expected to be TIFF", "starts with text", "wrong name"),
    ),
    "probabilities as png": Case(
        lambda w: w.segment("--kind", "probabilities", out=w.folder / "p.png"),
        ("a PNG holds labels only", "got probabilities", "choose a TIFF"),
    ),
    "stack as png": Case(
        lambda w: w.segment(image=w.tif("stack.tif", small(5, 16, 16)), out=w.folder / "s.png"),
        ("a PNG holds one plane", "ZYX of 5x16x16", "choose a TIFF"),
    ),
    "too many objects for png": Case(
        many_objects, ("a PNG holds labels from 0 to 65535", "got 0 to 67599", "choose a TIFF")
    ),
    "unknown option": Case(
        lambda w: w.segment("--lvl", 4), ("unrecognized arguments: --lvl 4", "--help")
    ),
}

EVALUATE = {
    "no folder": Case(
        lambda w: w.evaluate("--images", w.folder / "none", "--labels", w.folder),
        ("a folder of images was expected at", "there is none"),
    ),
    "folder name too long": Case(
        lambda w: w.evaluate("--images", "n" * 300, "--labels", w.folder),
        ("a folder of images was expected at nnn", "there is none"),
    ),
    "no pairs": Case(
        lambda w: w.evaluate("--images", w.folder, "--labels", w.folder),
        ("holds no images that can be read", "give a folder with files such as .tif"),
    ),
    "unmatched": Case(
        lambda w: w.evaluate(*w.pairs(small(16, 16), small(16, 16), ("a", "b"))),
        ("needs labels of the same name", "1 image (a) and 1 label file (b)", "rename, add"),
    ),
    "shapes differ": Case(
        lambda w: w.evaluate(*w.pairs(small(16, 16), small(16, 18))),
        ("is 16x16 (YX) but its labels are 16x18", "give labels of the same grid"),
    ),
    "label beyond the classes": Case(
        lambda w: w.evaluate(*w.pairs(small(8, 8, 8), np.full((8, 8, 8), 9, np.uint8)), model="ct"),
        ("hold 9", "knows only 1 brainstem", "renumber the labels"),
    ),
    "label fractions": Case(
        lambda w: w.evaluate(*w.pairs(small(16, 16), np.full((16, 16), 0.5, np.float32))),
        ("must hold labels (whole numbers)", "float32 with fractions", "is it an image?"),
    ),
    "label negative": Case(
        lambda w: w.evaluate(*w.pairs(small(16, 16), np.full((16, 16), -1, np.int16))),
        ("labels must lie in 0 to", "got -1", "renumber them"),
    ),
    "level untrained": Case(
        lambda w: w.evaluate(
            "--levels", "1,3", *w.pairs(small(16, 16), small(16, 16)), model="shallow"
        ),
        ("was trained at level 1, 2", "got 3", "choose one of these"),
    ),
    "levels": Case(
        lambda w: w.evaluate("--levels", "1,,2", "--images", w.folder, "--labels", w.folder),
        ("--levels: expected 1, 2, 3, 4, ensemble or auto", "got ''", "choose one of them"),
    ),
}

OTHERS = {
    "no command": Case(lambda w: [], ("a command was expected", "got none", "demo")),
    "command": Case(lambda w: ["segmnt"], ("got 'segmnt'", "did you mean segment?")),
    "option first": Case(lambda w: ["--json", "models"], ("--json", "see napari-unetpp --help")),
    "models of nothing": Case(
        lambda w: ["models", w.image], ("is not a model file", "expected .safetensors")
    ),
    "models on a changed file": Case(
        lambda w: ["models", changed_model(w)],
        ("was changed or damaged after it was saved", "get the file again"),
    ),
    "demo without its CT": Case(
        lambda w: [
            "demo", "--ct", w.folder / "none.nii.gz", "--out", w.folder / "demo",
            "--ct-model", w.models["ct"], "--nuclei-model", w.models["nuclei"],
        ],
        ("an image was expected at", "none.nii.gz", "check the path"),
    ),
    "demo on a plane": Case(
        lambda w: [
            "demo", "--ct", w.image, "--out", w.folder / "demo",
            "--ct-model", w.models["ct"], "--nuclei-model", w.models["nuclei"],
        ],
        ("--ct must be one volume with axes ZYX", "got YX", "give a single volume"),
    ),
    "demo into a file": Case(
        lambda w: [
            "demo", "--out", w.target, "--ct", volume(w),
            "--ct-model", w.models["ct"], "--nuclei-model", w.models["nuclei"],
        ],
        ("--out must be a folder", "result.tif", "choose another"),
    ),
}  # fmt: skip

CASES = (
    {f"segment: {name}": case for name, case in SEGMENT.items()}
    | {f"evaluate: {name}": case for name, case in EVALUATE.items()}
    | OTHERS
)
