"""What pyproject.toml cannot say: configs/ lies beside relpos/ in a checkout, and inside it in a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["relpos", "relpos.*"]), "relpos.configs"],
    package_dir={"relpos.configs": "configs"},
)
