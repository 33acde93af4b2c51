"""The paper's datasets by name: where each lies, its classes in words, its splits and licence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffinv.datasets.decoding import DatasetError


@dataclass(frozen=True)
class Part:
    """The images that make up one split: of every class in `files`, the share from `start` to `end`.

    Shares are cut from an order that hashes of the image ids decide: parts that do not overlap share no
    image.
    """

    files: Sequence[str | Path]
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class HubSource:
    """Parquet files of one revision of a dataset repository on the Hugging Face hub."""

    repository: str
    revision: str | None
    parts: Mapping[str, Part]
    image_column: str = "image"
    label_column: str = "label"


@dataclass(frozen=True)
class NpzSource:
    """A file in MedMNIST's format and its published MD5 checksum; it brings all three splits."""

    url: str
    md5: str


@dataclass(frozen=True)
class Depiction:
    """How the images of any dataset show their classes: what a prompt says, and what a mirror leaves true."""

    prompt_template: str = "a {}"
    flips_keep_label: bool = True
    spoken: Mapping[str, str] = field(default_factory=dict)  # class names that a prompt says otherwise

    def prompt(self, class_name: str) -> str:
        """The sentence that names a class."""
        return self.prompt_template.replace("{}", self.spoken.get(class_name, class_name.replace("_", " ")))


@dataclass(frozen=True, kw_only=True)
class DatasetCard(Depiction):
    """What is known of a dataset before it is loaded.

    `class_names` are words for prompts, in the order of the labels. `resolution` is that of the images, or
    where they differ in size the paper's.
    """

    class_names: tuple[str, ...]
    resolution: int
    licence: str
    source: HubSource | NpzSource


def dataset_card(name: str) -> DatasetCard:
    """The card of a dataset that is loaded by name; DatasetError lists the names if there is none."""
    if name not in CATALOGUE:
        raise DatasetError(f'the catalogue has no dataset "{name}": choose one of {", ".join(CATALOGUE)}.')
    return CATALOGUE[name]


def depiction(name: str) -> Depiction:
    """What is known of a dataset of the catalogue or an embedded one; of a folder, nothing out of the way."""
    return CATALOGUE.get(name) or _EMBEDDED.get(name, Depiction())


_EMBEDDED = {
    "icons10": Depiction("a {} icon"),
    "novel10": Depiction("a {} icon"),
    # Without an article, which would not fit all six.
    "emoji6": Depiction(
        "{} emoji", spoken={"animals": "animal", "faces": "face", "flags": "flag", "objects": "object"}
    ),
    # A mirrored digit is another one, or none.
    "mnist5k": Depiction("the handwritten digit {}", flips_keep_label=False),
}


def with_validation(train: Sequence[str | Path]) -> dict[str, Part]:
    """The splits of a dataset without validation files: a tenth of every class of train takes their place."""
    return {"train": Part(train, 0.1, 1.0), "validation": Part(train, 0.0, 0.1)}


def _parts(train: str, test: str) -> dict[str, Part]:
    return {**with_validation((train,)), "test": Part((test,))}


def _standard(repository: str, revision: str, folder: str, **columns: str) -> HubSource:
    files = (f"{folder}/{split}-00000-of-00001.parquet" for split in ("train", "test"))
    return HubSource(repository, revision, _parts(*files), **columns)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.replace("\n", " ").split(", "))


def _medmnist(
    name: str, md5: str, class_names: str, prompt_template: str, licence: str = "CC-BY-4.0"
) -> DatasetCard:
    """Addresses, checksums, classes and licences are those of MedMNIST 3.0.2 (Yang et al. 2023)."""
    return DatasetCard(
        class_names=_names(class_names),
        resolution=28,
        licence=licence,
        prompt_template=prompt_template,
        source=NpzSource(f"https://zenodo.org/records/10519652/files/{name}.npz?download=1", md5),
    )


_EUROSAT = tuple(f"data/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test"))

_CIFAR100_CLASSES = _names("""\
apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus,
butterfly, camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch, crab,
crocodile, cup, dinosaur, dolphin, elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard,
lamp, lawn mower, leopard, lion, lizard, lobster, man, maple tree, motorcycle, mountain, mouse, mushroom, oak
tree, orange, orchid, otter, palm tree, pear, pickup truck, pine tree, plain, plate, poppy, porcupine, possum,
rabbit, raccoon, ray, road, rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider,
squirrel, streetcar, sunflower, sweet pepper, table, tank, telephone, television, tiger, tractor, train,
trout, tulip, turtle, wardrobe, whale, willow tree, wolf, woman, worm""")

# Every revision was seen in public records of the hub to hold these files; None would mean that it was not,
# and would take the newest.
CATALOGUE: dict[str, DatasetCard] = {
    "cifar10": DatasetCard(
        class_names=_names("airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"),
        resolution=32,
        licence="not stated by its authors (Krizhevsky 2009), who ask to be cited",
        prompt_template="a photo of a {}",
        source=_standard(
            "uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2", "plain_text", image_column="img"
        ),
    ),
    "cifar100": DatasetCard(
        class_names=_CIFAR100_CLASSES,
        resolution=32,
        licence="not stated by its authors (Krizhevsky 2009), who ask to be cited",
        prompt_template="a photo of a {}",
        source=_standard(
            "uoft-cs/cifar100",
            "aadb3af77e9048adbea6b47c21a81e47dd092ae5",
            "cifar100",
            image_column="img",
            label_column="fine_label",
        ),
    ),
    # The 500 and 800 labelled images per class; the 100,000 unlabelled ones are left out, as in the paper.
    "stl10": DatasetCard(
        class_names=_names("airplane, bird, car, cat, deer, dog, horse, monkey, ship, truck"),
        resolution=96,
        licence="not stated by its authors (Coates, Ng, Lee 2011); the images come from ImageNet",
        prompt_template="a photo of a {}",
        source=_standard("tanganke/stl10", "49ae7f94508f7feae62baf836db284306eab0b0f", "data"),
    ),
    # The hub's own conversion to Parquet, since the repository itself holds a script; its validation images
    # are everybody's test images. The shorter side is 320 px, and the paper works at 256.
    "imagenette": DatasetCard(
        class_names=_names(
            "tench, English springer, cassette player, chain saw, church, French horn, garbage truck, "
            "gas pump, golf ball, parachute"
        ),
        resolution=256,
        licence="Apache-2.0 (the selection); the images are ImageNet's, for non-commercial research",
        prompt_template="a photo of a {}",
        source=HubSource(
            repository="frgfm/imagenette",
            revision="823b9fdada70ebfa6486d411b6d9f2cb96cb9117",
            parts=_parts("320px/train/0000.parquet", "320px/validation/0000.parquet"),
        ),
    ),
    # The few-shot literature splits EuroSAT as CoOp does (Zhou et al. 2022): 50, 20 and 30 % of each class,
    # hence 13,500, 5,400 and 8,100 images, and renames its classes. CoOp's own choice of images is a file on
    # a private drive; the proportions and the names here are CoOp's, the choice is ours and follows from the
    # image ids.
    "eurosat": DatasetCard(
        class_names=_names(
            "annual crop land, forest, herbaceous vegetation land, highway or road, industrial buildings, "
            "pasture land, permanent crop land, residential buildings, river, sea or lake"
        ),
        resolution=64,
        licence="MIT; contains Copernicus Sentinel data",
        prompt_template="a centered satellite photo of {}",
        source=HubSource(
            repository="timm/eurosat-rgb",
            revision="b4e28552cd5f3932b6abc37eb20d3e84901ad728",
            parts={
                "train": Part(_EUROSAT, 0.0, 0.5),
                "validation": Part(_EUROSAT, 0.5, 0.7),
                "test": Part(_EUROSAT, 0.7, 1.0),
            },
        ),
    ),
    "pathmnist": _medmnist(
        "pathmnist",
        "a8b06965200029087d5bd730944a56c1",
        "adipose tissue, background, debris, lymphocytes, mucus, smooth muscle, normal colon mucosa, "
        "cancer-associated stroma, colorectal adenocarcinoma epithelium",
        "a histology slide of {}",
    ),
    "bloodmnist": _medmnist(
        "bloodmnist",
        "7053d0359d879ad8a5505303e11de1dc",
        "basophil, eosinophil, erythroblast, immature granulocyte, lymphocyte, monocyte, neutrophil, "
        "platelet",
        "a microscope image of a {} in a blood smear",
    ),
    "dermamnist": _medmnist(
        "dermamnist",
        "0744692d530f8e62ec473284d019b0c7",
        "actinic keratosis, basal cell carcinoma, benign keratosis, dermatofibroma, melanoma, "
        "melanocytic nevus, vascular lesion",
        "a dermatoscopic photo of a {}",
        licence="CC-BY-NC-4.0",
    ),
}
