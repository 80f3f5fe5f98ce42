"""The command line of train_pretrain.py, which `torchrun` and `accelerate launch` start by its path."""

from videomae.training.options import PRETRAIN, read_arguments


def main(argv: list[str] | None = None) -> int:
    read_arguments(PRETRAIN, argv)  # help and mistakes are answered before torch is imported
    from videomae.train_pretrain import main as train

    return train(argv)
