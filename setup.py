"""The package and its extras. Lower bounds are what is tested (requirements/), upper bounds stay open."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "rlhf_jax" / "__init__.py").read_text(), re.M)
README = HERE / "README.md"

JAX = ">=0.10.2,<0.13"

setup(
    name="rlhf_jax",
    version=VERSION.group(1),
    description="RLHF in JAX, with reward models trained from rankings under a prompt-aware utility.",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["rlhf_jax", "rlhf_jax.*"]),
    package_data={"rlhf_jax.reports": ["*.j2"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.5.1",
        "array-record>=0.8.6",
        "flax>=0.12.8",
        "grain>=0.2.18",
        # tensorflow-datasets and transformers use these two without asking for them.
        "importlib_resources>=7.1.0",
        "jinja2>=3.1.6",
        f"jax{JAX}",
        "jaxtyping>=0.3.11",
        "markupsafe>=3.0.3",
        "matplotlib>=3.11.2",
        "ml-collections>=1.1.0",
        "numpy>=2.4.6",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "plotly>=7.1.0",  # its script, which reports carry with them
        "pyarrow>=26.0.1",
        "rich>=15.0.0",
        "safetensors>=0.8.0",
        "scipy>=1.17.1",
        "tensorboardX>=2.6.5",
        "tensorflow-datasets>=4.9.10",
        "tokenizers>=0.23.3",
        "transformers>=5.23.0",
    ],
    extras_require={
        "cuda": [f"jax[cuda12]{JAX}"],
        "tpu": [f"jax[tpu]{JAX}"],
        "hub": ["datasets>=4.0"],  # from 4.0 on it runs no code of a data set
        "wandb": ["wandb>=0.31.0"],
        "trackio": ["trackio>=0.43.0"],
        "chat": ["gradio>=6.31.0"],  # rlhf-jax chat
        "quant": ["qwix>=0.1.8"],  # config.lora.base=int8 and nf4
        "sweep": ["optuna>=5.0.0", "scikit-learn>=1.9.1"],
        "docs": ["furo>=2025.12.19", "myst-nb>=1.4.0", "sphinx>=8.2"],
        "parity": ["peft>=0.21.2", "torch==2.13.0"],
        # What benchmarks/ measures against; TRL's last release with PPO is in requirements/bench_ppo.txt.
        "bench": ["accelerate>=1.15.0", "datasets>=4.0", "torch==2.13.0", "trl>=1.16.0"],
        "test": [
            "beartype>=0.23.1",
            "chex>=0.1.92",
            "hypothesis>=6.170",
            "optuna>=5.0.0",
            "pytest>=9.2.0",
            "pytest-xdist>=3.8.0",
            "qwix>=0.1.8",
            "scikit-learn>=1.9.1",
            "selenium>=4.51.0",
        ],
        "check": [
            "import-linter>=2.16",
            "mypy>=2.4.1",
            "ruff>=0.17.6",
        ],
    },
    entry_points={"console_scripts": ["rlhf-jax = rlhf_jax.main:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
