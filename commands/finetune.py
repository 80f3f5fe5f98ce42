"""The command line of train_classification.py, which `torchrun` and `accelerate launch` start by its path."""

from videomae.training.options import FINETUNE, read_arguments


def main(argv: list[str] | None = None) -> int:
    read_arguments(FINETUNE, argv)  # help and mistakes are answered before torch is imported
    from videomae.train_classification import main as train

    return train(argv)
