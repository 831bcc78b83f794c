"""What can stand on the other side: one adapter for each kind of target."""
from laboratory.targets.spindle import Spindle
from laboratory.targets.tgt import Tgt

TARGETS = {target.name: target for target in (Spindle, Tgt)}
