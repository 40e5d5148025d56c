"""The MedMNIST data sets: which task each poses and what its label numbers mean.

Transcribed from `medmnist.INFO` of medmnist 3.0.2, which decides how the official evaluator scores a flag. The order
of the class names is the order of label numbers, and so of the columns of a score file. Nothing is downloaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from medtail.errors import UsageError, did_you_mean, listing
from medtail.tables.labels import LabelSpace

MedmnistTask = Literal["multi-class", "multi-label, binary-class", "binary-class", "ordinal-regression"]


@final
@dataclass(frozen=True)
class MedmnistSet:
    """One data set of the collection.

    Attributes:
        flag: Its name in the package and in file names, such as `chestmnist`.
        task: How the official evaluator scores it.
        class_names: What label number 0, 1, … means; for a multi-label set, what each label column means.
    """

    flag: str
    task: MedmnistTask
    class_names: tuple[str, ...]

    @property
    def is_multilabel(self) -> bool:
        """Whether several findings may be present at once."""
        return self.task == "multi-label, binary-class"

    @property
    def is_volume(self) -> bool:
        """Whether its images are volumes (MedMNIST 3D)."""
        return self.flag.endswith("3d")

    @property
    def labels(self) -> LabelSpace:
        """The classes as medtail names them: `class=NAME` where they exclude each other, else `NAME`.

        Example:
            >>> medmnist_set("pneumoniamnist").labels.class_names
            ('class=normal', 'class=pneumonia')
        """
        prefix = "" if self.is_multilabel else "class="
        return LabelSpace.from_columns([prefix + name for name in self.class_names])


def _set(flag: str, task: MedmnistTask, class_names: str) -> MedmnistSet:
    return MedmnistSet(flag, task, tuple(class_names.split(" | ")))


SETS: Mapping[str, MedmnistSet] = {
    found.flag: found
    for found in (
        _set(
            "pathmnist",
            "multi-class",
            "adipose | background | debris | lymphocytes | mucus | smooth muscle | normal colon mucosa | "
            "cancer-associated stroma | colorectal adenocarcinoma epithelium",
        ),
        _set(
            "chestmnist",
            "multi-label, binary-class",
            "atelectasis | cardiomegaly | effusion | infiltration | mass | nodule | pneumonia | pneumothorax"
            " | consolidation | edema | emphysema | fibrosis | pleural | hernia",
        ),
        _set(
            "dermamnist",
            "multi-class",
            "actinic keratoses and intraepithelial carcinoma | basal cell carcinoma | benign keratosis-like "
            "lesions | dermatofibroma | melanoma | melanocytic nevi | vascular lesions",
        ),
        _set(
            "octmnist",
            "multi-class",
            "choroidal neovascularization | diabetic macular edema | drusen | normal",
        ),
        _set("pneumoniamnist", "binary-class", "normal | pneumonia"),
        _set("retinamnist", "ordinal-regression", "0 | 1 | 2 | 3 | 4"),
        _set("breastmnist", "binary-class", "malignant | normal, benign"),
        _set(
            "bloodmnist",
            "multi-class",
            "basophil | eosinophil | erythroblast | immature granulocytes(myelocytes, metamyelocytes and "
            "promyelocytes) | lymphocyte | monocyte | neutrophil | platelet",
        ),
        _set(
            "tissuemnist",
            "multi-class",
            "Collecting Duct, Connecting Tubule | Distal Convoluted Tubule | Glomerular endothelial cells | "
            "Interstitial endothelial cells | Leukocytes | Podocytes | Proximal Tubule Segments | Thick "
            "Ascending Limb",
        ),
        _set(
            "organamnist",
            "multi-class",
            "bladder | femur-left | femur-right | heart | kidney-left | kidney-right | liver | lung-left | "
            "lung-right | pancreas | spleen",
        ),
        _set(
            "organcmnist",
            "multi-class",
            "bladder | femur-left | femur-right | heart | kidney-left | kidney-right | liver | lung-left | "
            "lung-right | pancreas | spleen",
        ),
        _set(
            "organsmnist",
            "multi-class",
            "bladder | femur-left | femur-right | heart | kidney-left | kidney-right | liver | lung-left | "
            "lung-right | pancreas | spleen",
        ),
        _set(
            "organmnist3d",
            "multi-class",
            "liver | kidney-right | kidney-left | femur-right | femur-left | bladder | heart | lung-right | "
            "lung-left | spleen | pancreas",
        ),
        _set("nodulemnist3d", "binary-class", "benign | malignant"),
        _set("adrenalmnist3d", "binary-class", "normal | hyperplasia"),
        _set(
            "fracturemnist3d",
            "multi-class",
            "buckle rib fracture | nondisplaced rib fracture | displaced rib fracture",
        ),
        _set("vesselmnist3d", "binary-class", "vessel | aneurysm"),
        _set("synapsemnist3d", "binary-class", "inhibitory synapse | excitatory synapse"),
    )
}
"""Flag → data set: twelve of images, six of volumes."""


def medmnist_set(flag: str) -> MedmnistSet:
    """Return a data set by its flag.

    Args:
        flag: Such as `chestmnist`; case does not matter.

    Raises:
        UsageError: There is no such set.

    Example:
        >>> medmnist_set("ChestMNIST").task
        'multi-label, binary-class'

    References:
        yang2023.
    """
    found = SETS.get(flag.strip().lower())
    if found is None:
        hint = did_you_mean(flag, SETS) or f"; known: {listing(list(SETS), limit=len(SETS))}"
        raise UsageError(f"MedMNIST flag {flag!r}: unknown{hint}.")
    return found
