"""Packaging of slim_distill. Why each dependency is there: docs/dependencies.md."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="slim_distill",
    version="0.1.0",
    description="Knowledge distillation for PaddlePaddle's static graph, by rewriting programs",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["slim_distill", "slim_distill.*"]),
    package_data={"slim_distill": ["py.typed", "assets/digits/*", "graph/kernels/*.cc", "graph/kernels/*.h"]},
    install_requires=[
        "paddlepaddle>=3.3",
        "numpy>=1.26",
        "pyyaml>=6",
        "pycocotools>=2.0.7",
        "opencv-python-headless>=4.11",
        "safetensors>=0.4",
        "tqdm>=4.66.3",
        "matplotlib>=3.8",
        "visualdl>=2.5",
        "setuptools>=78.1.1",
    ],
    extras_require={
        "demo": ["scikit-learn>=1.5"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "mypy>=1.10",
            "types-PyYAML",
            "types-tqdm",
            "bandit>=1.9",
        ],
        "fuzz": ["atheris>=2.3"],
        "paddleslim": ["paddleslim==2.6.0", "six", "requests", "decorator", "numpy<2"],
    },
    entry_points={"console_scripts": ["slim-distill = slim_distill.cli:main"]},
)
