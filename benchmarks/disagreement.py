"""How well maps of doubt rank true errors: disagreement of the heads against entropies.

The figure is the area under the ROC curve over blocks of 16 x 16 pixels, wrong or not by
whether more than a tenth of a block is; 0.5 is chance. Images lie in a folder beside the
checkout, see ``sample_data/README.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import markdown
from numpy.typing import NDArray

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.core.model.modelfile import load_model
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.spaces import space_for
from napari_unetpp.core.run.tiling import Tile
from napari_unetpp.core.tune.disagreement import disagreement, uncertainty
from napari_unetpp.core.tune.scoring import decide, head_probabilities

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("nuclei", "em")


def normalised(image: Image, model_card: Any) -> NDArray[np.float32]:
    """Return an image as the network sees it, (C, Y, X)."""
    source = Source(image, model_card)
    normalisers, _ = source.fit()
    whole = tuple(slice(0, n) for n in source.shape)
    space = space_for(source)
    return space.load(source.parts[0], Tile(whole, whole), normalisers)[0]


def ranking(name: str, base_name: str, limit: int) -> list[list[str]]:
    """Rank the blocks of some images that the base has not seen."""
    from sklearn.metrics import roc_auc_score

    base = load_model(base_name)
    folder = DATA / name
    if name == "nuclei":
        held_out = base.card.split.rpartition("held out: ")[2].rstrip(".").split(", ")
        files = [f"{stem}.tif" for stem in held_out[:limit]]
    else:
        files = sorted(p.name for p in (folder / "images").iterdir())[:: 27 // limit][:limit]
    wrong = []
    names = ("disagreement", "entropy of L4", "entropy of the heads' mean")
    scores: dict[str, list[NDArray[np.float32]]] = {n: [] for n in names}
    for file in files:
        x = normalised(read_image(folder / "images" / file), base.card)
        truth = np.asarray(read_labels(folder / "masks" / file).data) > 0
        heads = head_probabilities(base.network, x)
        classes = {k: h[base.card.class_channels] for k, h in heads.items()}
        error = (decide(heads[4], base.card) > 0) != truth
        wrong.append(_blocks(error.astype(np.float32)) > 0.1)
        scores["disagreement"].append(_blocks(disagreement(list(classes.values()))))
        scores["entropy of L4"].append(_blocks(_entropy(classes[4])))
        scores["entropy of the heads' mean"].append(_blocks(uncertainty(list(classes.values()))))
    y = np.concatenate(wrong)
    return [
        [name, f"{len(files)} images", method, f"{roc_auc_score(y, np.concatenate(rows)):.3f}",
         f"{y.mean():.2f}"] for method, rows in scores.items()
    ]  # fmt: skip


def _entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    p = probabilities.clip(1e-6, 1 - 1e-6)
    return np.asarray(-(p * np.log(p) + (1 - p) * np.log1p(-p)).sum(axis=0))


def _blocks(values: NDArray[np.float32], side: int = 16) -> NDArray[np.float32]:
    height, width = (n // side * side for n in values.shape)
    blocks = values[:height, :width].reshape(height // side, side, width // side, side)
    return np.asarray(blocks.mean(axis=(1, 3)).ravel())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sets", nargs="+", default=[*SETS], choices=SETS)
    parser.add_argument("--base", default="nuclei", help="bundled model or file")
    parser.add_argument("--images", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    if not DATA.is_dir():
        parser.error("the images are missing: expected the folder shared/data beside the checkout.")
    torch.set_num_threads(args.threads)
    cells = [row for name in args.sets for row in ranking(name, args.base, args.images)]
    print(markdown(["set", "images", "map", "ROC area", "share of wrong blocks"], cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
