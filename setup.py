from setuptools import find_namespace_packages, setup

ROOMS = ("kernels", "models", "datasets", "pipeline", "workflows")
packages = [
    f"everview.{room}{'.' + name if name else ''}"
    for room in ROOMS
    for name in ("", *find_namespace_packages(room, exclude=["*__pycache__*"]))
]
setup(packages=packages, package_dir={f"everview.{room}": room for room in ROOMS})
