"""Looking through a capture before anything is computed from it: numbers and two pictures."""

from everview.workflows.inspection.pictures import contact_sheet, frustum_plot
from everview.workflows.inspection.summary import Inspection, inspect_frames

__all__ = ["Inspection", "contact_sheet", "frustum_plot", "inspect_frames"]
