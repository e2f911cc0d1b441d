"""`python -m bdam_kernels`: which backends run on this machine, and why the others do not."""

import platform

import torch

from bdam_kernels import dispatch


def main() -> None:
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, reason in dispatch.backends().items():
        detail = f" ({dispatch.cpu_isa()})" if name == "cpu" and not reason else ""
        print(f"{name:10} {'runs' + detail if not reason else 'does not run: ' + reason}")
    if forced := dispatch.asked(None):
        print(f"BDAM_BACKEND forces {forced}")


if __name__ == "__main__":
    main()
