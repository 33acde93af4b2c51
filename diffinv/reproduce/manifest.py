"""figures/manifest.json: what made each figure, and so whether it has to be made again."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from diffinv.artefacts.keys import content_key
from diffinv.artefacts.writing import ArtefactError, provenance, read_json, write_json
from diffinv.foundation import ASSETS, PACKAGE
from diffinv.foundation.networks import best_device
from diffinv.lessons.profile import Profile


class Manifest:
    """How each notebook of an output folder was last run with success, and which files it wrote there."""

    def __init__(self, output: Path):
        self.output, self.path = output, output / "manifest.json"
        self.read()

    def read(self) -> None:
        """Take in what is written, by this run or by another one into the same folder."""
        content = read_json(self.path) if self.path.exists() else {"notebooks": {}}
        if "notebooks" not in content:
            raise ArtefactError(f"{self.path} is not a manifest of diffinv: choose another output folder.")
        self.notebooks: dict[str, Any] = content["notebooks"]

    def figures_of(self, name: str) -> tuple[str, ...]:
        """The PNG files of a notebook, as paths inside the output folder."""
        return tuple(file for file in self.notebooks[name]["files"] if file.endswith(".png"))

    def is_up_to_date(self, name: str, key: str) -> bool:
        """Whether the notebook last ran under this key, and all that it wrote is still there."""
        record = self.notebooks.get(name, {"key": None, "files": []})
        files = [*record["files"], f"executed/{name}.ipynb"]
        return record["key"] == key and all((self.output / file).exists() for file in files)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        # Not beside the manifest: a lock stays where it was, and figures are shown and committed.
        lock = self.output / "executed" / ".manifest.lock"
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held = FileLock(lock, mode=0o666).acquire()
        except OSError as error:
            reason = f"{lock.parent} cannot be written ({error.strerror})"
            raise ArtefactError(f"{reason}: choose another output folder.") from error
        with held:
            self.read()
            yield
            self._write()

    def accept(self, name: str, staging: Path, record: dict[str, Any]) -> None:
        """Put what the notebook wrote to `staging` in place of what it wrote the last time.

        ArtefactError if another notebook has a file of the same name: one of the two would be lost.
        """
        files = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
        with self._changing():
            self._take_over(name, staging, files)
            self.notebooks[name] = {**record, "files": files}

    def _take_over(self, name: str, staging: Path, files: Sequence[str]) -> None:
        for other, theirs in self.notebooks.items():
            if other != name and (shared := sorted(set(files) & set(theirs["files"]))):
                raise ArtefactError(f"{other} writes {shared[0]} too, and one would be lost: rename it")
        for old in set(self.notebooks.get(name, {}).get("files", ())) - set(files):
            (self.output / old).unlink(missing_ok=True)
        for file in files:
            (self.output / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / file, self.output / file)

    def keep_only(self, names: set[str]) -> None:
        """Drop the records of all other notebooks: those that were renamed or removed. Their files stay."""
        with self._changing():
            self.notebooks = {name: record for name, record in self.notebooks.items() if name in names}

    def _write(self) -> None:
        self.notebooks = dict(sorted(self.notebooks.items()))
        figures = {}
        for name, record in self.notebooks.items():
            how = {field: value for field, value in record.items() if field not in ("files", "key", "cold")}
            for file in self.figures_of(name):
                figures[file] = {"notebook": f"{name}.ipynb", **beside(file, record["files"]), **how}
        write_json(self.path, {"figures": figures, "notebooks": self.notebooks})


def beside(image: str, files: Sequence[str]) -> dict[str, str]:
    """The same figure in other formats, and the numbers behind it, as far as they are among the files."""
    others = {kind: image.removesuffix("png") + kind for kind in ("svg", "csv")}
    return {kind: file for kind, file in others.items() if file in files}


def notebook_key(notebook: Path, parameters: dict[str, Any], results: Path | None = None) -> str:
    """What a notebook's figures depend on: its cells, its parameters, the package's sources, the assets.

    And the claims that others have judged, where it reads them in the folder `results`.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = [[cell["cell_type"], "".join(cell["source"])] for cell in cells]
    read = [] if results is None else [_digests(sorted(results.glob("*_claims.csv")))]
    return content_key(sources, parameters, fingerprint(PACKAGE, "*.py"), fingerprint(ASSETS), *read)


def fingerprint(folder: Path, pattern: str = "*") -> str:
    """The content key of a folder's files: their names and bytes."""
    paths = [path for path in folder.rglob(pattern) if path.is_file() and "__pycache__" not in path.parts]
    names = [path.relative_to(folder).as_posix() for path in paths]
    return content_key(dict(zip(names, _digests(paths), strict=True)))


def _digests(paths: Sequence[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def run_record(profile: Profile, notebooks: Path) -> dict[str, Any]:
    """What all notebooks of a run share: versions, device, profile, commit, hashes of data and weights."""
    return {
        **provenance(device=profile.device or best_device()),
        "profile": profile.name,
        **_commit(notebooks),
        "data": {name: _embedded(ASSETS / "datasets" / name) for name in profile.datasets},
        "weights": {profile.model: _embedded(ASSETS / profile.model)},
        "classifier_seeds": list(profile.seeds),
    }


def _embedded(folder: Path) -> str | None:
    # Only what is embedded can be told by its bytes here; a hub's model is told by its name.
    return fingerprint(folder) if folder.is_dir() else None


def _commit(folder: Path) -> dict[str, Any]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", str(PACKAGE))
        return {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "uncommitted_changes": None}
