"""Messages survive the wire unchanged, and nothing that is not a message gets through or takes memory."""

import contextlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protocol import framing
from protocol.directions import BackendMessage, ClientMessage
from protocol.framing import FieldError, ProtocolError, decode, encode
from protocol.messages import ArraySpec, Event, Hello, Ping, Report, Settings, Submit

DTYPES = st.sampled_from([np.uint8, np.int32, np.int64, np.float32, np.float64, np.bool_, np.dtype(">f4")])
ARRAYS = st.dictionaries(
    st.from_regex(r"\A[A-Za-z0-9_.:/-]{1,20}\Z"),
    DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5))),
    max_size=5,
)


@given(ARRAYS, st.integers(1, 64))
def test_round_trip_is_exact_whatever_the_chunks(arrays, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "CHUNK", chunk)
        frames = [bytes(frame) for frame in encode(Event(job="a", number=3, stage="Drawing Views"), arrays)]
        message, back = decode(frames, BackendMessage)
    assert message.stage == "Drawing Views"
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_garbage_is_a_protocol_error(frames):
    with pytest.raises(ProtocolError):
        decode(frames, ClientMessage)


@given(st.data())
def test_a_damaged_message_raises_only_typed_errors(data):
    frames = [bytes(f) for f in encode(Submit(request="r", pipeline="p", settings=Settings()), {"picture": PICTURE})]
    which = data.draw(st.integers(0, len(frames) - 1))
    at = data.draw(st.integers(0, len(frames[which]) - 1))
    frames[which] = frames[which][:at] + data.draw(st.binary(max_size=3)) + frames[which][at + 1 :]
    with contextlib.suppress(ProtocolError, FieldError):
        decode(frames, ClientMessage)


PICTURE = np.zeros((2, 3, 4), np.uint8)


def test_announced_sizes_are_refused_before_memory_is_taken():
    huge = Ping(arrays=(ArraySpec(name="a", dtype="|u1", shape=(2**31, 2**31, 2**31)),))
    with pytest.raises(ProtocolError) as caught:
        decode([msgspec.msgpack.encode(huge)], ClientMessage)
    assert "are allowed" in caught.value.details
    within = Ping(arrays=(ArraySpec(name="a", dtype="|u1", shape=(framing.MAX_ARRAYS,)),))
    with pytest.raises(ProtocolError) as caught:
        decode([msgspec.msgpack.encode(within), b"short"], ClientMessage)
    assert "announced" in caught.value.details
    with pytest.raises(ProtocolError):
        decode(encode(Ping(), {"a": np.zeros(100, np.uint8)}), ClientMessage, max_bytes=99)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3), (3, 2, 4, 2)])
def test_frames_that_do_not_fit_their_description_are_refused(shape):
    spec = ArraySpec(name="picture", dtype="|u1", shape=shape)
    with pytest.raises(ProtocolError):
        decode([msgspec.msgpack.encode(Ping(arrays=(spec,))), PICTURE.tobytes()], ClientMessage)


def test_objects_and_extra_frames_are_refused():
    raw = {"type": "ping", "arrays": [{"name": "a", "dtype": "|O", "shape": [1]}]}
    with pytest.raises(ProtocolError):
        decode([msgspec.msgpack.encode(raw), b"12345678"], ClientMessage)
    with pytest.raises(ProtocolError):
        decode([*encode(Hello(protocol=1)), b"more"], ClientMessage)
    with pytest.raises(ValueError, match="cannot be sent"):
        encode(Ping(), {"a": np.array([object()])})
    truth = Ping(arrays=(ArraySpec(name="a", dtype="|b1", shape=(1,)),))
    with pytest.raises(ProtocolError) as caught:
        decode([msgspec.msgpack.encode(truth), b"\x02"], ClientMessage)
    assert "truth" in caught.value.details


@pytest.mark.parametrize(
    ("settings", "field", "word"),
    [
        ({"elevation_deg": 95.0}, "elevation_deg", "-90 to 90"),
        ({"variants": 0}, "variants", "1 to 16"),
        ({"resolution": 5000}, "resolution", "16 to 512"),
        ({"quality": "best"}, "quality", "draft"),
        ({"elevation_deg": float("nan")}, "elevation_deg", "-90 to 90"),
        ({"options": {"a": "x" * 2000}}, "options[...]", ""),
    ],
)
def test_a_field_out_of_bounds_is_named(settings, field, word):
    raw = {"type": "submit", "request": "r-1", "pipeline": "p", "settings": settings}
    with pytest.raises(FieldError) as caught:
        decode([msgspec.msgpack.encode(raw)], ClientMessage)
    assert caught.value.field == field
    assert caught.value.request == "r-1"
    assert word in caught.value.hint
    assert "Expected" not in caught.value.sentence


def test_peers_of_before_and_after_a_field_of_the_report_understand_each_other():
    """Fields with defaults come without a new version of the protocol."""
    raw = {
        "pipeline": "p",
        "seed": 0,
        "settings": {},
        "elevation_deg": 20.0,
        "elevation_source": "estimated",
        "elevation_spread_deg": 3.0,
        "camera": {"elevation_deg": 20.0, "azimuth_deg": 0.0, "distance": 1.6, "fov_deg": 40.0},
        "framing": {"center_x": 1.0, "center_y": 1.0, "side": 2.0},
        "seconds": {},
    }
    assert msgspec.convert(raw, Report).elevation_confidence is None
    later = {**raw, "elevation_confidence": 0.5, "something_newer": [1]}
    report = msgspec.convert(later, Report)
    assert report.elevation_confidence == 0.5
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report) == report
    with pytest.raises(msgspec.ValidationError, match="elevation_confidence"):
        msgspec.convert({**raw, "elevation_confidence": 1.5}, Report)
