"""Image inpainting with partial convolutions, trained in mixed precision."""

from pathlib import Path

import lazy_loader

__version__ = "0.1.0"

# torchvision alone takes two seconds and 200 MB, which filling a photo can do without.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_modules = {path.stem for path in Path(__file__).parent.iterdir()}
__all__ = [name for name in __all__ if name not in _modules]
