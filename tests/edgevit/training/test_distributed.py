"""Several processes train what one process trains."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from edgevit.checkpoints.checkpoint import read_checkpoint
from edgevit.errors import UsageError
from edgevit.log import is_first_process
from edgevit.training.augment import Share
from edgevit.training.distributed import Shuffled, own_batch, placement
from tests.edgevit.training.two_processes import run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What one process left behind, and what two did."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    started = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "tests.edgevit.training.two_processes", str(together)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    run(alone)
    output, _ = started.communicate(timeout=120)
    assert started.returncode == 0, output
    return alone, together


def test_two_processes_end_with_the_weights_of_one(folders):
    alone, together = (read_checkpoint(folder / "toy.pt") for folder in folders)
    assert alone.state_dict.keys() == together.state_dict.keys()
    for name, tensor in alone.state_dict.items():
        torch.testing.assert_close(together.state_dict[name], tensor, rtol=0, atol=1e-5)
    assert together.metadata.training["score"] == alone.metadata.training["score"]
    losses = ([epoch["loss"] for epoch in one.metadata.training["curve"]] for one in (alone, together))
    assert next(losses) == pytest.approx(next(losses), abs=1e-5)


def test_norms_that_move_are_those_of_all_processes(folders):
    alone, together = (read_checkpoint(folder / "moving.pt").state_dict for folder in folders)
    # Means over halves of a batch have the mean of the batch; variances do not.
    torch.testing.assert_close(together["1.running_mean"], alone["1.running_mean"], rtol=0.05, atol=0.02)


def test_only_the_first_process_writes(folders):
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == ["logs", "moving.pt", "toy.pt"]
        lines = (folder / "logs" / "metrics.csv").read_text().splitlines()
        assert len(lines) == 3
        assert len(list((folder / "logs").glob("events.out.tfevents.*"))) == 1


def test_shares_of_a_shuffle_make_up_the_batches_of_one_process():
    def order(rank: int, world: int) -> list[int]:
        return list(Shuffled(27, 8, torch.Generator().manual_seed(1), Share(rank, world)))

    whole, halves = order(0, 1), [order(rank, 2) for rank in (0, 1)]
    assert len(whole) == len(set(whole)) == 24
    for batch in range(3):
        shared = {index for half in halves for index in half[4 * batch : 4 * batch + 4]}
        assert shared == set(whole[8 * batch : 8 * batch + 8])


def test_shuffle_leaves_out_other_images_in_the_next_epoch():
    shuffled = Shuffled(9, 8, torch.Generator().manual_seed(1), Share())
    assert len({frozenset(shuffled) for _ in range(6)}) > 1


@pytest.mark.parametrize(("batch", "world"), [(9, 2), (2, 2), (8, 3)])
def test_batch_that_processes_cannot_share_is_refused(batch, world):
    with pytest.raises(UsageError, match=f"{batch} images for {world} processes"):
        own_batch(batch, Share(0, world))


def test_processes_of_torchrun_are_taken_as_they_are(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "6")
    found = placement(devices=1)
    assert (found["devices"], found["num_nodes"]) == (2, 3)
    monkeypatch.setenv("RANK", "3")
    assert not is_first_process()
