"""Import of COCO, nnU-Net and MSD, folders and visual instructions as data sets.

Every source has a ``plan_...`` function, which checks the source and plans its import; :func:`write_set` writes the plan.
"""

from .coco import plan_coco
from .folders import plan_folders
from .instruct import plan_instruct
from .nnunet import plan_nnunet
from .writer import Item, Plan, Target, write_set

__all__ = ["Item", "Plan", "Target", "plan_coco", "plan_folders", "plan_instruct", "plan_nnunet", "write_set"]
