"""Options that several verbs share, and what they stand for."""

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from diffinv.lessons.profile import Profile
    from diffinv.models.diffusion import FrozenDiffusion

PROFILES = "smoke, tiny, colab, day or paper"
REAL_IMAGES = "class folders, icons10, novel10, emoji6 or mnist5k; ./icons10 is your own folder"

Settings = TypeVar("Settings")


def at_least(least: int) -> Callable[[str], int]:
    """A kind of option: a whole number that is not below `least`."""

    def count(text: str) -> int:
        if not text.removeprefix("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return int(text)

    return count


def option(name: str) -> str:
    """How a setting is called on the command line."""
    return f"--{name.replace('_', '-')}"


def in_terms_of(options: argparse.Namespace, text: str) -> str:
    """A sentence that speaks of arguments, fit="pad" or num_tokens, with the options of the verb for them.

    What the verb has no option for stays as it is in Python.
    """

    def as_option(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        if value is None and "_" not in name:  # an ordinary word
            return found[0]
        return option(name) if value in (None, "True") else f"{option(name)} {value}"

    names = "|".join(sorted(vars(options), key=len, reverse=True))
    value = r"""(?:=["']?(?P<value>\w[\w.-]*\w|\w)["']?)?"""
    return re.sub(rf"(?<![\w/.-])(?P<name>{names}){value}(?![\w/=])", as_option, text)


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
    return _loaded(
        options.model or default or profile.model,
        device=options.device or profile.device,
        dtype=profile.torch_dtype,
        memory=profile.memory_request,
        fast=profile.fast,
    )


@cache
def _loaded(name: str, **how: Any) -> "FrozenDiffusion":
    # Kept, for a worker that makes several parts.
    from diffinv.models.diffusion import load_diffusion

    return load_diffusion(name, **how)


def override(settings: Settings, options: argparse.Namespace, *names: str) -> Settings:
    """The settings with those of the named options that were given."""
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(settings, **given)  # type: ignore[type-var]


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """The options as they were given, for a record."""
    return {key: value for key, value in vars(options).items() if key != "verb"}
