"""Import of what people have into our data set format: COCO, nnU-Net and MSD, folders, visual instructions.

Every source has a ``plan_...`` function that checks the source and says what will come; :func:`write_set` does it.
"""

from .coco import plan_coco
from .folders import plan_folders
from .instruct import plan_instruct
from .nnunet import plan_nnunet
from .writer import Item, Plan, Target, write_set

__all__ = ["Item", "Plan", "Target", "plan_coco", "plan_folders", "plan_instruct", "plan_nnunet", "write_set"]
