"""``python -m rlhf_jax``."""

from rlhf_jax.main import main

if __name__ == "__main__":
    main()
