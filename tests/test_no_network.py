"""The pipeline, from checkpoint and images to a trained classifier, opens no socket."""

import subprocess
import sys

import pytest
from conftest import ASSETS

# An audit hook cannot be removed, so each run has a process of its own.
BLOCKED = """
import sys

def refuse(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(f"blocked: {event} {arguments}")

sys.addaudithook(refuse)
"""

PIPELINE = """
from diffinv import DiffusionInversion, Inversion, Prompts, Sampling, Training
from diffinv import load_dataset, load_diffusion, train_classifier

checkpoint, dataset = sys.argv[1:]
diffusion = load_diffusion(checkpoint, device="cpu")
real = load_dataset(dataset, split="train").per_class(2, seed=0)
sampling = Sampling(num_inference_steps=2, resolution=real.resolution)
synthesizer = DiffusionInversion(diffusion, inversion=Inversion(steps_per_image=2), sampling=sampling)
training = Training(architecture="resnet8_narrow", optimiser_steps=2, warmup_steps=1, batch_size=8)
for each in (synthesizer, Prompts(diffusion, sampling=sampling)):
    synthetic = each(real, images_per_real=1, seed=0)
    classifier = train_classifier(synthetic, training, seed=0, device="cpu")
    print("accuracy", classifier.accuracy(real))
"""


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_block_blocks():
    for attempt in (
        "socket.socket()",
        "socket.getaddrinfo('localhost', 80)",
        "socket.gethostbyname('localhost')",
    ):
        outcome = run(BLOCKED + "import socket\n" + attempt)
        assert outcome.returncode != 0 and "blocked: socket." in outcome.stderr


def test_a_checkpoint_folder_and_an_image_folder_need_no_network(tiny_checkpoint, toy_images, tmp_path):
    toy_images.save(tmp_path / "images")
    outcome = run(BLOCKED + PIPELINE, tiny_checkpoint, tmp_path / "images")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("accuracy") == 2


@pytest.mark.skipif(
    not (ASSETS / "tinysd" / "model_index.json").is_file() or not (ASSETS / "datasets" / "icons10").is_dir(),
    reason="the embedded checkpoint and datasets are not there",
)
def test_the_embedded_checkpoint_and_images_need_no_network():
    outcome = run(BLOCKED + PIPELINE, "tinysd", "icons10")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("accuracy") == 2
