"""Trains the bundled LSTM and two-layer GRU on the bundled trials of `kpref.tasks.memory_pro`, with PyTorch.

    python scripts/train_examples.py [--out FOLDER] [--iterations NUMBER]

writes to the folder (the package's own, kpref/data, unless told otherwise), for each of the two networks, checkpoints
under PyTorch's names along training, as float32 safetensors, beside the trials and the loss. The same seed gives the
same numbers on the same machine and version of PyTorch.

The angle has to be held for some 30 steps. Recurrent weights start orthogonal, and the biases of the gates that keep
(forget, update) as logarithms of random times up to the length of a trial, Tallec and Ollivier, Can recurrent neural
networks warp time? (2018): with PyTorch's own initial biases both networks stay where they report the mean angle.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from tqdm import trange

from kpref import Trials
from kpref.data import example_folder

UNITS, SEED = 32, 0
LEARNING_RATE, LARGEST_GRADIENT = 5e-3, 1.0
ITERATIONS = 1000
EVERY = 20  # iterations between losses that are recorded
SAVED = (0.0, 0.1, 1.0)
"""Shares of the iterations after which a checkpoint is written."""

NETWORKS = {
    "memory_pro_lstm_h32": ("lstm", lambda inputs: torch.nn.LSTM(inputs, UNITS, batch_first=True)),
    "memory_pro_gru_2x32": ("gru", lambda inputs: torch.nn.GRU(inputs, UNITS, num_layers=2, batch_first=True)),
}


@torch.no_grad()
def initialise(recurrent: torch.nn.RNNBase, longest: int) -> None:
    """Orthogonal recurrent weights, and gates that keep for random times between one step and `longest`."""
    units = recurrent.hidden_size
    for name, parameter in recurrent.named_parameters():
        blocks = parameter.split(units)
        if name.startswith("weight_hh"):
            for block in blocks:
                torch.nn.init.orthogonal_(block)
        if name.startswith("bias_ih"):
            keep = torch.log(torch.empty(units).uniform_(1, longest - 1))
            blocks[1].copy_(keep)  # of a GRU r, z, n; of an LSTM i, f, g, o
            if recurrent.mode == "LSTM":
                blocks[0].copy_(-keep)


def train(folder: Path, iterations: int) -> list[float]:
    """Train the network that the folder is called after, write its files, and return the recorded losses."""
    trials = Trials.load(example_folder() / "trials.npz")
    inputs = torch.tensor(trials.inputs, dtype=torch.float32)
    targets = torch.tensor(trials.targets, dtype=torch.float32)
    torch.manual_seed(SEED)
    kind, make = NETWORKS[folder.name]
    module = torch.nn.ModuleDict(
        {"rnn": make(inputs.shape[2]), "Wout": torch.nn.Linear(UNITS, targets.shape[2])},
    )
    initialise(module["rnn"], longest=trials.n_steps)
    optimizer = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations, eta_min=LEARNING_RATE / 50)
    folder.mkdir(parents=True, exist_ok=True)
    saved = {round(share * iterations) for share in SAVED}
    losses: list[float] = []
    for iteration in trange(iterations + 1, desc=folder.name):
        loss = torch.nn.functional.mse_loss(module["Wout"](module["rnn"](inputs)[0]), targets)
        if iteration in saved:
            content = safetensors.torch.save(module.state_dict())
            (folder / f"checkpoint_{iteration:05d}.safetensors").write_bytes(content)
        if iteration % EVERY == 0:
            losses.append(loss.item())
        if iteration == iterations:
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
    shutil.copyfile(example_folder() / "trials.npz", folder / "trials.npz")
    about = {"kind": kind, "task": "memory_pro", "hidden": UNITS, "iters": iterations, "every": EVERY, "loss": losses}
    (folder / "training.json").write_text(json.dumps(about) + "\n")
    return losses


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=example_folder().parent, help="folder for the networks' folders")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="steps of Adam (default %(default)s)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in NETWORKS:
        losses = train(chosen.out / name, chosen.iterations)
        print(f"{name}: loss {losses[0]:.4f} before training, {losses[-1]:.5f} after {chosen.iterations} iterations")


if __name__ == "__main__":
    main()
