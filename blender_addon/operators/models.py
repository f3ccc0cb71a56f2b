"""Install, import and remove weights on the backend's computer."""

from __future__ import annotations

import bpy

from .. import models, session
from ..mixins import OperatorBase
from ..protocol.errors import TurnaroundError
from ..protocol.models import CancelModel, ImportModel, InstallModel, ModelInfo, RemoveModel
from ..settings import preferences
from .backend import ADDON


class OfModel(OperatorBase):
    """What all of these have: the model, by its name, and a backend that can be asked."""

    model: bpy.props.StringProperty(name="Model", options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Whether there is a backend."""
        if not session.current().ready:
            cls.poll_message_set("The backend is not running")
            return False
        return True

    @classmethod
    def description(cls, context: bpy.types.Context, properties: bpy.types.OperatorProperties) -> str:
        """What it does, and a word on the model."""
        model = session.current().models.find(properties.model)
        return f"{cls.__doc__}.\n{model.note}".rstrip(".\n") if model is not None else cls.__doc__ or ""

    def info(self) -> ModelInfo | None:
        """The model; None if the backend has none of that name."""
        model = session.current().models.find(self.model)
        if model is None:
            self.report({"WARNING"}, "The backend has no such model")
        return model


class TURNAROUND_OT_show_models(bpy.types.Operator):
    """Show in the preferences which models there are, and get them"""

    bl_idname = "turnaround.show_models"
    bl_label = "Show Models"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Unfolds the list, and opens the add-on's preferences."""
        preferences().show_models = True
        bpy.ops.preferences.addon_show(module=ADDON)
        return {"FINISHED"}


class TURNAROUND_OT_install_model(OfModel, bpy.types.Operator):
    """Download this model to the backend's computer; it says first how large it is and under which licence"""

    bl_idname = "turnaround.install_model"
    bl_label = "Install"

    accept_licence: bpy.props.BoolProperty(
        name="Accept Licence", description="You have read the licence and accept it", options={"SKIP_SAVE"}
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Says what will happen before it does."""
        model = session.current().models.find(self.model)
        title = f"Install {model.title}" if model is not None else "Install"
        return context.window_manager.invoke_props_dialog(self, width=460, title=title, confirm_text="Install")

    def draw(self, context: bpy.types.Context) -> None:
        """The dialog."""
        model = session.current().models.find(self.model)
        if model is None:
            return
        column = self.layout.column()
        column.label(text=models.download(model), icon="IMPORT")
        if not session.current().link.is_local:
            column.label(text="To the other computer, where the backend runs", icon="NETWORK_DRIVE")
        if model.memory_gb:
            column.label(text=f"Needs {model.memory_gb:g} GB of the device's memory", icon="MEMORY")
        if model.note:
            column.label(text=model.note, icon="INFO")
        column.label(text=models.licence(model), icon="TEXT")
        if model.licence_page:
            text = "Read the Licence" if model.licence else "Open Its Page"
            column.operator("wm.url_open", text=text, icon="URL").url = model.licence_page
        if model.needs_acceptance:
            column.separator()
            column.prop(self, "accept_licence")

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Asks the backend for it."""
        model = self.info()
        if model is None:
            return {"CANCELLED"}
        if model.needs_acceptance and not self.accept_licence:
            self.report({"WARNING"}, "Its licence has to be accepted first")
            return {"CANCELLED"}
        session.current().models.order(InstallModel(name=model.name, accept_licence=self.accept_licence))
        return {"FINISHED"}


class TURNAROUND_OT_import_model(OfModel, bpy.types.Operator):
    """Use the published file, or the folder with the published files, that you have already; it is only read"""

    bl_idname = "turnaround.import_model"
    bl_label = "Import"

    filepath: bpy.props.StringProperty(name="File or Folder", subtype="FILE_PATH", options={"SKIP_SAVE"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Lets the artist choose."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Asks the backend for it."""
        model, path = self.info(), bpy.path.abspath(self.filepath)
        if model is None or not path:
            return {"CANCELLED"}
        session.current().models.order(ImportModel(name=model.name, path=path))
        return {"FINISHED"}


class TURNAROUND_OT_remove_model(OfModel, bpy.types.Operator):
    """Delete this model from the backend's computer"""

    bl_idname = "turnaround.remove_model"
    bl_label = "Remove"

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Asks whether it is meant."""
        model = session.current().models.find(self.model)
        title = f"Delete {model.title}?" if model is not None else "Delete It?"
        return context.window_manager.invoke_confirm(
            self, event, title=title, message="It has to be installed again to be used.", confirm_text="Delete"
        )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Asks the backend for it."""
        model = self.info()
        if model is None:
            return {"CANCELLED"}
        session.current().models.order(RemoveModel(name=model.name))
        return {"FINISHED"}


class TURNAROUND_OT_cancel_model(OfModel, bpy.types.Operator):
    """Stop this; what has been downloaded is kept for the next time"""

    bl_idname = "turnaround.cancel_model"
    bl_label = "Cancel"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Asks the backend for it."""
        session.current().models.order(CancelModel(name=self.model))
        return {"FINISHED"}


class TURNAROUND_OT_copy_model_details(OfModel, bpy.types.Operator):
    """Copy why this failed, with what a developer needs to know"""

    bl_idname = "turnaround.copy_model_details"
    bl_label = "Copy Details"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Puts it on the clipboard."""
        model = self.info()
        if model is None or model.failed is None:
            return {"CANCELLED"}
        error = TurnaroundError.from_failed(model.failed)
        context.window_manager.clipboard = session.current().details(error)
        self.report({"INFO"}, "Details copied")
        return {"FINISHED"}


CLASSES = (
    TURNAROUND_OT_show_models,
    TURNAROUND_OT_install_model,
    TURNAROUND_OT_import_model,
    TURNAROUND_OT_remove_model,
    TURNAROUND_OT_cancel_model,
    TURNAROUND_OT_copy_model_details,
)
