"""Where things are."""
import os
from pathlib import Path

VM = Path(__file__).resolve().parent.parent
REPOSITORY = VM.parent.parent
GUEST = VM / "guest"
RECIPES = VM / "recipes"
SCENARIOS = VM / "scenarios"


def cache():
    """Everything that is made once, and what failed scenarios leave: SPINDLE_VM_CACHE, or .cache/vm in the checkout."""
    folder = Path(os.environ.get("SPINDLE_VM_CACHE") or REPOSITORY / ".cache" / "vm")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()
