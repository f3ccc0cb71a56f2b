"""What clients may say about models, and what they are told."""

import msgspec
import pytest

from protocol.directions import BackendMessage, ClientMessage
from protocol.framing import FieldError, decode, encode
from protocol.messages import Failed
from protocol.models import CancelModel, ImportModel, InstallModel, ModelInfo, ModelList, ModelProgress, RemoveModel


def test_a_list_carries_failures_and_progress():
    failed = Failed(code="weights.network", sentence="It cannot be reached.", hint="Try again.", details="x" * 16_384)
    models = (
        ModelInfo(name="a-1", title="A", pipeline="one2345", state="absent", failed=failed, size_gb=2.5),
        ModelInfo(name="b", title="B", pipeline="one2345", state="working", commercial="no", needs_acceptance=True),
    )
    said = ModelList(models=models, progress=ModelProgress(name="b", stage="Downloading", done=2**40, total=2**41))
    message, arrays = decode(encode(said), BackendMessage)
    assert message == said
    assert not arrays


@pytest.mark.parametrize("order", [InstallModel, ImportModel, RemoveModel, CancelModel])
@pytest.mark.parametrize("name", ["a" * 129, "a b", "a\n"])
def test_a_name_that_cannot_be_one_is_refused(order, name):
    more = {"path": "/file"} if order is ImportModel else {}
    with pytest.raises(FieldError) as caught:
        decode(encode(order(name=name, **more)), ClientMessage)
    assert caught.value.field == "name"


@pytest.mark.parametrize("path", ["", "a" * 4097])
def test_a_path_has_bounds(path):
    with pytest.raises(FieldError) as caught:
        decode(encode(ImportModel(name="a", path=path)), ClientMessage)
    assert caught.value.field == "path"


def test_an_older_backend_can_be_understood():
    said = {"type": "model_list", "models": [{"name": "a", "title": "A", "pipeline": "p", "state": "present"}]}
    message = decode([msgspec.msgpack.encode(said)], BackendMessage).message
    assert message.models[0].commercial == "unknown"
    assert message.progress is None
