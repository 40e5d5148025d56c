"""Phrases: what is said of a class to a tower of texts, kept in files under version control.

The files in `phrases/` were written for this project, by hand and without looking at any labels: names of a finding,
templates around them, denials, and descriptions of what it looks like and where. A file of one's own has the same
form. The digest of the file travels with every vector and score made from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

from pydantic import Field

from medtail.config import CLOSED, build_config, read_yaml
from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.runs import digest_file
from medtail.sources.cxr_lt import plain_name
from medtail.tables.vectors import Phrase

BUILT_IN = ("chest_xray", "thyroid_us", "breast_us")
"""Files that come with medtail."""
FEWEST_PROMPTS = 12
"""Prompts a class has at least: fewer, and one odd wording decides."""
Words = Annotated[tuple[str, ...], Field(min_length=1)]


@final
@dataclass(frozen=True, kw_only=True)
class ClassPhrases:
    """What is said of one class.

    Attributes:
        names: Short names of the finding; each is put into every template.
        descriptions: Whole sentences: appearance and place.
        aliases: Other spellings of the class in label files; not read by any tower.
        negatives: Whole sentences that deny it, in the place of the file's templates; for a class such as `Normal`,
            which nobody denies by "no".
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    names: Words
    descriptions: Words
    aliases: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()


@final
@dataclass(frozen=True, kw_only=True)
class PhraseFile:
    """The content of a phrase file.

    Attributes:
        title: What it is for.
        templates: Sentences with one `{}` for the name.
        negatives: The same for denials.
        classes: Class → its words.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    title: str
    templates: Words
    negatives: Words
    classes: Annotated[Mapping[str, ClassPhrases], Field(min_length=1)]


@final
@dataclass(frozen=True)
class PhraseBook:
    """A checked phrase file.

    Attributes:
        file: Its content.
        name: Of the file, without folder.
        digest: SHA-256 of the file.
    """

    file: PhraseFile
    name: str
    digest: str
    _spellings: dict[str, str] = field(repr=False, compare=False, default_factory=dict)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the file's order."""
        return tuple(self.file.classes)

    def find(self, class_name: str) -> str | None:
        """Return the file's class that a name means, or None; capitals, `_` and `-` do not matter.

        Example:
            >>> load_phrases("chest_xray").find("pleural_thickening"), load_phrases("chest_xray").find("Effusion")
            ('Pleural Thickening', 'Pleural Effusion')
        """
        return self._spellings.get(plain_name(class_name))

    def phrases(self, class_names: Sequence[str]) -> tuple[Phrase, ...]:
        """Return every phrase of some classes: prompts, negatives and descriptions.

        Args:
            class_names: As the user spells them; the phrases carry these names.

        Raises:
            MedtailError: Classes the file does not speak of, or one named twice; all at once.

        Example:
            >>> [p.text for p in load_phrases("chest_xray").phrases(["Bulla"]) if p.kind == "prompt"][:2]
            ['pulmonary bulla', 'a chest X-ray with pulmonary bulla']
        """
        problems = Problems(self.name)
        meant: dict[str, str] = {}
        for name in class_names:
            found = self.find(name)
            if found is None:
                hint = did_you_mean(name, self.class_names) or f"; it has {listing(self.class_names, limit=8)}."
                problems.add(
                    f"class {name!r}: there are no phrases for it, so no text can ask for it{hint} Add it to a phrase"
                    " file of your own, or leave it out."
                )
            elif found in meant:
                problems.add(f"class {name!r}: is {found!r}, like {meant[found]!r}; expected each finding once.")
            else:
                meant[found] = name
        problems.raise_if_any()
        return tuple(phrase for found, name in meant.items() for phrase in self._phrases_of(found, name))

    def _phrases_of(self, found: str, name: str) -> list[Phrase]:
        words = self.file.classes[found]
        denied = words.negatives or [_fill(template, n) for template in self.file.negatives for n in words.names]
        return [
            *(Phrase(name, "prompt", n, _fill(t, n)) for n in words.names for t in self.file.templates),
            *(Phrase(name, "negative", "", text) for text in denied),
            *(Phrase(name, "description", "", text) for text in words.descriptions),
        ]


def load_phrases(source: Path | str) -> PhraseBook:
    """Read and check a phrase file.

    Args:
        source: `chest_xray`, `thyroid_us` or `breast_us`, or the path of a YAML file of the same form.

    Raises:
        MedtailError: No such file, or mistakes in it; all are named.

    Example:
        >>> book = load_phrases("thyroid_us")
        >>> book.find("comp_spongiform"), len(book.digest)
        ('comp_spongiform', 64)
    """
    path = Path(source)
    if str(source) in BUILT_IN:
        path = Path(str(files("medtail") / "zeroshot" / "phrases" / f"{source}.yaml"))
    elif path.suffix not in (".yaml", ".yml"):
        hint = did_you_mean(str(source), BUILT_IN) or f"; expected {', '.join(BUILT_IN)}, or a .yaml file."
        raise MedtailError(f"--phrases {str(source)!r}: no such phrases{hint}")
    file = build_config(PhraseFile, read_yaml(path), where=path.name)
    problems = Problems(path.name)
    for key in ("templates", "negatives"):
        for template in getattr(file, key):
            if template.count("{}") != 1 or template.replace("{}", "").count("{"):
                problems.add(f"{key}: found {template!r}; expected one '{{}}' for the name and no other braces.")
    spellings: dict[str, str] = {}
    for name, words in file.classes.items():
        for spelling in (name, *words.aliases):
            other = spellings.setdefault(plain_name(spelling), name)
            if other != name:
                problems.add(f"classes.{name}: {spelling!r} already means {other!r}; expected one class a spelling.")
        repeated = len(words.names) - len(set(words.names))
        if repeated:
            problems.add(f"classes.{name}.names: {repeated} repeated; expected each once.")
        count = len(set(words.names)) * len(set(file.templates))
        if count < FEWEST_PROMPTS:
            problems.add(
                f"classes.{name}.names: {len(words.names)} names in {len(file.templates)} templates make {count}"
                f" prompts; expected {FEWEST_PROMPTS} at least. Add names or templates."
            )
    problems.raise_if_any()
    return PhraseBook(file, path.name, digest_file(path), spellings)


def _fill(template: str, name: str) -> str:
    return template.replace("{}", name)
