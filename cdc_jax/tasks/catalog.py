"""The field's fifteen datasets: their folders, templates, class names and publishers.

Folders, templates and class names follow CoOp's protocol. Nothing is downloaded.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

_IMAGENET = "the ImageNet project, image-net.org, after registration"
_VGG = "Oxford's Visual Geometry Group, robots.ox.ac.uk/~vgg/data/"


def _same(name: str) -> str:
    return name


def _table(changes: dict[str, str]) -> Callable[[str], str]:
    return lambda name: changes.get(name, name)


@dataclasses.dataclass(frozen=True)
class Tfds:
    """A dataset in TensorFlow Datasets.

    Attributes:
      name: of the builder, with its configuration.
      splits: TFDS's splits for training, validation and test; "" is none. Without a test split the
        images are partitioned.
      file: feature that holds the file's name; "" if TFDS does not keep the name.
      path: pattern of CoOp's path of an image, from `file`, the class's `label` in TFDS and the
        `split`.
      rename: class name in TFDS -> class name of the protocol.
      drop: classes that the protocol leaves out.
      order: sort key of TFDS's class names for the protocol's order; None keeps TFDS's order.
    """

    name: str
    splits: tuple[str, str, str]
    file: str = "file_name"
    path: str = "{file}"
    rename: Callable[[str], str] = _same
    drop: frozenset[str] = frozenset()
    order: Callable[[str], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Published:
    """A published dataset.

    Attributes:
      folder: under the data root.
      images: image root under the folder.
      template: the hand-crafted template.
      classes: number of classes.
      publisher: of the images.
      size: approximate size of the download.
      layout: of its images, a key of `coop_splits.LAYOUTS`.
      split: name of CoOp's split file in the folder; "" for a layout without one.
      tfds: the same dataset in TensorFlow Datasets; None if TFDS does not have it.
      label_properties: image properties that its labels depend on, see `views.PROPERTIES`.
      domain_of: dataset that has the same classes in another domain; "" for none.
    """

    folder: str
    images: str
    template: str
    classes: int
    publisher: str
    size: str
    layout: str = "split"
    split: str = ""
    tfds: Tfds | None = None
    label_properties: tuple[str, ...] = ("category",)
    domain_of: str = ""


_CALTECH = {
    "airplanes": "airplane", "faces": "face", "leopards": "leopard", "motorbikes": "motorbike",
}  # fmt: skip
_EUROSAT = {
    "AnnualCrop": "Annual Crop Land", "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road", "Industrial": "Industrial Buildings", "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land", "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}  # fmt: skip

PUBLISHED: dict[str, Published] = {
    "ImageNet": Published(
        "imagenet", "images", "a photo of a {}.", 1000, _IMAGENET, "150 GB", "imagenet",
        tfds=Tfds("imagenet2012", ("train", "", "validation")),
    ),
    "Caltech101": Published(
        "caltech-101", "101_ObjectCategories", "a photo of a {}.", 100,
        "Caltech, data.caltech.edu/records/mzrjq-6wc02", "130 MB",
        split="split_zhou_Caltech101.json",
        tfds=Tfds(
            "caltech101", ("train", "", "test"), "image/file_name", "{label}/{file}",
            _table(_CALTECH), frozenset({"background_google", "faces_easy"}),
            # Of the folders, Faces, Leopards and Motorbikes start with capitals: these come first.
            order=lambda name: (name not in {"faces", "leopards", "motorbikes"}, name),
        ),
    ),
    "OxfordPets": Published(
        "oxford_pets", "images", "a photo of a {}, a type of pet.", 37, _VGG + "pets", "0.8 GB",
        split="split_zhou_OxfordPets.json",
        tfds=Tfds("oxford_iiit_pet", ("train", "", "test"), rename=str.lower),
    ),
    "StanfordCars": Published(
        "stanford_cars", "", "a photo of a {}.", 196,
        "Stanford, ai.stanford.edu/~jkrause/cars/car_dataset.html", "2 GB",
        split="split_zhou_StanfordCars.json",
        tfds=Tfds(
            "cars196", ("train", "", "test"), "id", "cars_{split}/{file}.jpg",
            rename=lambda name: " ".join([name.split()[-1], *name.split()[:-1]]),  # year first
        ),
    ),
    "OxfordFlowers": Published(
        "oxford_flowers", "jpg", "a photo of a {}, a type of flower.", 102, _VGG + "flowers/102",
        "0.35 GB", split="split_zhou_OxfordFlowers.json",
        tfds=Tfds(
            "oxford_flowers102", ("train", "validation", "test"),
            rename=_table({"pink-yellow dahlia?": "pink-yellow dahlia"}),
        ),
    ),
    "Food101": Published(
        "food-101", "images", "a photo of {}, a type of food.", 101,
        "ETH Zurich, data.vision.ee.ethz.ch/cvl/datasets_extra/food-101", "5 GB",
        split="split_zhou_Food101.json",
        tfds=Tfds("food101", ("train", "", "validation"), file="", order=_same),
    ),
    "FGVCAircraft": Published(
        "fgvc_aircraft", "images", "a photo of a {}, a type of aircraft.", 100,
        _VGG + "fgvc-aircraft", "2.6 GB", "fgvc",
    ),
    "SUN397": Published(
        "sun397", "SUN397", "a photo of a {}.", 397,
        "Princeton, vision.princeton.edu/projects/2010/SUN", "37 GB",
        split="split_zhou_SUN397.json",
        tfds=Tfds(
            "sun397/tfds", ("train", "validation", "test"),
            # "/a/apse/indoor" is "indoor apse".
            rename=lambda name: " ".join(reversed(name.strip("/").split("/")[1:])),
        ),
    ),
    "DescribableTextures": Published(
        "dtd", "images", "{} texture.", 47, _VGG + "dtd", "0.6 GB",
        split="split_zhou_DescribableTextures.json",
        tfds=Tfds("dtd", ("train", "validation", "test")), label_properties=("texture", "pattern"),
    ),
    "EuroSAT": Published(
        "eurosat", "2750", "a centered satellite photo of {}.", 10,
        "DFKI, github.com/phelber/EuroSAT", "90 MB", split="split_zhou_EuroSAT.json",
        tfds=Tfds(
            "eurosat/rgb", ("train", "", ""), "filename", "{label}/{file}", _table(_EUROSAT),
        ),
    ),
    "UCF101": Published(
        "ucf101", "UCF-101-midframes", "a photo of a person doing {}.", 101,
        "UCF, crcv.ucf.edu/data/UCF101.php; the videos' middle frames by CoOp's authors, "
        "github.com/KaiyangZhou/CoOp", "0.3 GB", split="split_zhou_UCF101.json",
    ),
    "ImageNetV2": Published(
        "imagenetv2", "imagenetv2-matched-frequency-format-val", "a photo of a {}.", 1000,
        "github.com/modestyachts/ImageNetV2", "1.3 GB", "numbered",
        tfds=Tfds("imagenet_v2/matched-frequency", ("", "", "test")), domain_of="ImageNet",
    ),
    "ImageNet-Sketch": Published(
        "imagenet-sketch", "images", "a photo of a {}.", 1000,
        "github.com/HaohanWang/ImageNet-Sketch", "8 GB", "wordnet",
        tfds=Tfds("imagenet_sketch", ("", "", "test")), domain_of="ImageNet",
    ),
    "ImageNet-A": Published(
        "imagenet-adversarial", "imagenet-a", "a photo of a {}.", 200,
        "github.com/hendrycks/natural-adv-examples", "0.7 GB", "wordnet",
        tfds=Tfds("imagenet_a", ("", "", "test")), domain_of="ImageNet",
    ),
    "ImageNet-R": Published(
        "imagenet-rendition", "imagenet-r", "a photo of a {}.", 200,
        "github.com/hendrycks/imagenet-r", "2.2 GB", "wordnet",
        tfds=Tfds("imagenet_r", ("", "", "test")), domain_of="ImageNet",
    ),
}  # fmt: skip
"""Name -> dataset."""

SPLIT_PUBLISHER = "CoOp's authors, github.com/KaiyangZhou/CoOp (DATASETS.md)"
"""The publisher of the split files and of ImageNet's classnames.txt."""
