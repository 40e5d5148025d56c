"""What a pool asks of its generator: which table it fills, how many images of each class, and the seed of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from medtail.errors import MedtailError, Problems, UsageError, did_you_mean, listing
from medtail.seeding import stream_seed
from medtail.synthesis.folder import Generator
from medtail.synthesis.material import class_counts, train_part
from medtail.tables.generators import GeneratorRecord, check_generator_leaks
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.pools import fill_counts
from medtail.tables.selection import select_classes

PerClass = Literal["fill"] | int | Mapping[str, int]


@final
@dataclass(frozen=True)
class Item:
    """One image to draw.

    Attributes:
        class_name: The class it is made to fill.
        number: Its place among them, from 0.
        index: Its place in the pool, from 0.
        name: Of its files, and its id.
        noise_seed: Of the noise it starts from.
    """

    class_name: str
    number: int
    index: int
    name: str
    noise_seed: int


def real_table(generator: Generator, manifest: Path | None) -> Manifest:
    """Read the real table of a pool and check that it belongs to the generator.

    Raises:
        MedtailError: It has other classes, or patients in reward, tune or test that the generator has seen.
    """
    config = generator.config
    path = Path(config.manifest) if manifest is None else manifest
    table = select_classes(read_manifest(path, groups=config.groups), config.classes)
    table = table.take(table.is_real)
    ours, theirs = generator.labels.class_names, table.labels.class_names
    if table.labels != generator.labels:
        apart = sorted(set(ours) ^ set(theirs))
        what = f"{listing([repr(name) for name in apart], limit=6)} only in one" if apart else "other order or groups"
        raise MedtailError(
            f"{table.name}: its classes are not those the generator was trained on ({what}); expected"
            f" {listing([repr(name) for name in ours], limit=8)}. Use that table, or train a generator on this one."
        )
    check_generator_leaks(table, records=[GeneratorRecord.from_json(generator.record, name=generator.folder.name)])
    return table


def asked_counts(generator: Generator, table: Manifest, per_class: PerClass) -> dict[str, int]:
    """Return how many images of each class to draw, in the classes' order.

    Raises:
        MedtailError: A class has no train image, or does not exist; all are named.
        UsageError: A number is negative, or nothing is asked for.
    """
    names = generator.labels.class_names
    problems = Problems("--per-class")
    if per_class == "fill":
        asked = fill_counts(table, cap=generator.config.shape.pool_cap)
        # a size's cap allows none of a class without images, which must not pass in silence
        asked |= {name: 1 for name, n in zip(names, class_counts(train_part(table).targets), strict=True) if n == 0}
    elif isinstance(per_class, int):
        asked = dict.fromkeys(names, per_class)
    else:
        asked = dict(per_class)
    for name, count in asked.items():
        if name not in names:
            hint = did_you_mean(name, names) or f"; classes: {listing(names, limit=12)}"
            problems.add(f"class {name!r}: unknown{hint}")
        if count < 0:
            problems.add(f"class {name!r}: found {count}; expected 0 or more images.")
    problems.raise_if_any(kind=UsageError)
    available = dict(zip(names, class_counts(train_part(table).targets), strict=True))
    known = generator.record["train_counts"]
    for name, count in asked.items():
        if count and not (available[name] and known[name]):
            problems.add(
                f"class {name!r}: no train image shows it, so the generator has never seen it; expected at least one."
                f" Ask for the others by name, such as --per-class {_example(names, known)}."
            )
    problems.raise_if_any()
    if not any(asked.values()):
        raise UsageError("--per-class: asks for no image at all; expected at least one.")
    return {name: int(asked.get(name, 0)) for name in names}


def _example(names: Sequence[str], known: Mapping[str, int]) -> str:
    return next((f"{name!r}=20" for name in names if known[name]), "NAME=20")


def pool_items(generator: Generator, counts: Mapping[str, int], *, seed: int) -> list[Item]:
    """List the images of a pool, class by class; an image's seed depends on pool seed, class and number alone."""
    items: list[Item] = []
    for position, (class_name, count) in enumerate(counts.items()):
        for number in range(count):
            name = f"syn_{generator.digest[:8]}_{seed}_{position}_{number:05d}"
            noise = stream_seed(seed, "synthesis", "pool", "noise", class_name, number)
            items.append(Item(class_name, number, len(items), name, noise))
    return items
