"""Options that several verbs share, and what they stand for."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from diffinv.lessons.profiles import Profile
    from diffinv.models.diffusion import FrozenDiffusion

PROFILES = "smoke, tiny, colab or paper"
REAL_IMAGES = "class folders, icons10, novel10, emoji6 or mnist5k; ./icons10 is your own folder"

Settings = TypeVar("Settings")


def add_model(verb: argparse.ArgumentParser) -> None:
    """Add the profile, the model, the device and the seed."""
    add, default = verb.add_argument, "default: %(default)s"
    add("--profile", default="tiny", help=f"where unset options come from: {PROFILES} ({default})")
    add("--model", help="tinysd, a folder in diffusers' layout, or a hub id (default: the profile's)")
    add("--device", help="cpu, cuda or mps (default: the profile's)")
    add("--seed", type=int, default=0, help=default)


def add_reading(verb: argparse.ArgumentParser) -> None:
    """Add how a folder of images is read."""
    add = verb.add_argument_group("how a folder is read").add_argument
    add("--fit", default="crop", choices=("crop", "pad", "squash"), help="images that are not square")
    add("--class-level", choices=("top", "leaf"), help="which of nested folders are the classes")
    add("--skip-damaged", action="store_true", help="leave out image files that cannot be read")


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """Those options as arguments of `load_dataset`."""
    return {name: getattr(options, name) for name in ("fit", "class_level", "skip_damaged")}


def load_model(
    options: argparse.Namespace, profile: "Profile", default: str | None = None
) -> "FrozenDiffusion":
    """The model asked for, else `default`, else the profile's."""
    from diffinv.models.diffusion import load_diffusion

    return load_diffusion(
        options.model or default or profile.model,
        device=options.device or profile.device,
        dtype=profile.torch_dtype,
        memory=profile.memory_request,
    )


def override(settings: Settings, options: argparse.Namespace, *names: str) -> Settings:
    """The settings with those of the named options that were given."""
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(settings, **given)  # type: ignore[type-var]


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """The options as they were given, for a record."""
    return {key: value for key, value in vars(options).items() if key != "verb"}
