"""What an editable installation imports: it turns itself into the package ``hpv`` of this checkout (see setup.py)."""

from pathlib import Path


def _become(package: Path) -> None:
    """In this very module, not in another in its place: threads that import ``hpv`` meanwhile wait for this one."""
    import sys
    from importlib.machinery import SourceFileLoader

    module, file = sys.modules[__name__], str(package / "__init__.py")
    loader = SourceFileLoader(__name__, file)
    module.__file__, module.__path__, module.__loader__ = file, [str(package)], loader
    spec = module.__spec__
    spec.loader, spec.origin, spec.submodule_search_locations = loader, file, module.__path__
    del module._become
    loader.exec_module(module)


_become(Path(__file__).resolve().parents[2] / "hpv")
