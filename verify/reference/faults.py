"""The reference with one mistake each: what a port with that mistake would compute.

After a divergence the first layer that differs is computed with each of these; the one that gives the port's
values names the cause.
"""

from __future__ import annotations

from typing import Any, TypeVar

from verify.reference.ops import CONVOLUTION, Ops, Tensor

Self = TypeVar("Self", bound="FaultyOps")


class FaultyOps(Ops):
    """Ops with a mistake.

    Attributes:
        summary: what a port with this mistake does, for a headline.
        advice: what to do about it.
        place: at which use of the mistaken operation in a layer, from 0; None: at every use.
    """

    summary = ""
    advice = ""

    @classmethod
    def on(cls: type[Self], sound: Ops, place: int | None = None) -> Self:
        """These ops with the precision and variables of sound ones."""
        faulty = cls.__new__(cls)
        faulty.__dict__.update(sound.__dict__)
        faulty.place, faulty.uses = place, 0
        return faulty

    place: int | None = None
    uses = 0


FAULTS: dict[str, type[FaultyOps]] = {}

PLACES = 3
"""How often a layer uses an operation, at most."""


def faulty_ops(name: str, sound: Ops) -> FaultyOps:
    """The ops of "FAULT" or, where only one use in the layer is mistaken, "FAULT@PLACE"."""
    fault, _, place = name.partition("@")
    return FAULTS[fault].on(sound, int(place) if place else None)


def describe_fault(name: str) -> tuple[str, str]:
    """(summary, advice) of "FAULT" or "FAULT@PLACE"."""
    fault, _, place = name.partition("@")
    where = f", at use {int(place) + 1} of that operation in the layer" if place else ""
    return FAULTS[fault].summary + where, FAULTS[fault].advice


def _fault(name: str, summary: str, advice: str, methods: dict[str, Any]) -> None:
    """Register a fault; a second one of the same name is a mistake."""
    if name in FAULTS:
        raise ValueError(f"fault {name!r} is registered twice")
    placed = {operation: _placed(operation, mistaken) for operation, mistaken in methods.items()}
    FAULTS[name] = type(name, (FaultyOps,), {"summary": summary, "advice": advice, **placed})


def _placed(operation: str, mistaken: Any) -> Any:
    def call(self: FaultyOps, *args: Any, **kwargs: Any) -> Any:
        use, self.uses = self.uses, self.uses + 1
        here = self.place is None or self.place == use
        return mistaken(self, *args, **kwargs) if here else getattr(Ops, operation)(self, *args, **kwargs)

    return call


def _pad(self: Ops, x: Tensor, before: list[int], after: list[int], value: float = 0.0) -> Tensor:
    sides = [[0, 0], [before[0], after[0]], [before[1], after[1]], [0, 0]]
    return self.tf.pad(x, sides, constant_values=self.tf.constant(value, x.dtype))


def _symmetric_conv(self: Ops, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    side = [int(kernel.shape[0]) // 2, int(kernel.shape[1]) // 2]
    return self.tf.nn.conv2d(_pad(self, x, side, side), kernel, stride, "VALID")


def _symmetric_depthwise(self: Ops, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    side = [int(kernel.shape[0]) // 2, int(kernel.shape[1]) // 2]
    return self.tf.nn.depthwise_conv2d(_pad(self, x, side, side), kernel, [1, stride, stride, 1], "VALID")


def _symmetric_pool(self: Ops, x: Tensor, window: list[int], strides: list[int]) -> Tensor:
    side = [size // 2 for size in window]
    return self.tf.nn.max_pool2d(_pad(self, x, side, side, float("-inf")), window, strides, "VALID")


def _same_sides(size: int, window: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def _zero_padded_pool(self: Ops, x: Tensor, window: list[int], strides: list[int]) -> Tensor:
    sides = [_same_sides(int(x.shape[1 + i]), window[i], strides[i]) for i in (0, 1)]
    padded = _pad(self, x, [low for low, _ in sides], [high for _, high in sides])
    return self.tf.nn.max_pool2d(padded, window, strides, "VALID")


def _top_left(self: Ops, x: Tensor, window: list[int], stride: int) -> Tensor:
    """SAME's padding with the odd pixel at the top and left instead of the bottom and right."""
    sides = [_same_sides(int(x.shape[1 + i]), window[i], stride) for i in (0, 1)]
    return _pad(self, x, [high for _, high in sides], [low for low, _ in sides])


def _top_left_conv(self: Ops, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    window = [int(kernel.shape[0]), int(kernel.shape[1])]
    return self.tf.nn.conv2d(_top_left(self, x, window, stride), kernel, stride, "VALID")


def _top_left_depthwise(self: Ops, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    window = [int(kernel.shape[0]), int(kernel.shape[1])]
    x = _top_left(self, x, window, stride)
    return self.tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "VALID")


_PADDING_ADVICE = (
    "TensorFlow's SAME puts an odd pixel of padding at the bottom and right; pad by the input's size, not by the "
    "kernel's (config pad_type \"same\")."
)
_fault(
    "symmetric_padding", "convolutions are padded symmetrically instead of as TensorFlow's SAME", _PADDING_ADVICE,
    {"conv2d": _symmetric_conv, "depthwise_conv2d": _symmetric_depthwise},
)
_fault(
    "symmetric_pool_padding", "max pooling is padded symmetrically instead of as TensorFlow's SAME",
    _PADDING_ADVICE, {"max_pool": _symmetric_pool},
)
_fault(
    "symmetric_padding_everywhere",
    "convolutions and max pooling are padded symmetrically instead of as TensorFlow's SAME", _PADDING_ADVICE,
    {"conv2d": _symmetric_conv, "depthwise_conv2d": _symmetric_depthwise, "max_pool": _symmetric_pool},
)
_fault(
    "padding_top_left", "the odd pixel of SAME padding is at the top and left instead of the bottom and right",
    _PADDING_ADVICE, {"conv2d": _top_left_conv, "depthwise_conv2d": _top_left_depthwise},
)
_fault(
    "zero_padded_pool", "max pooling is padded with zeros instead of minus infinity",
    "Padding must never win the maximum; pad with minus infinity.", {"max_pool": _zero_padded_pool},
)


def _with_epsilon(epsilon: float) -> Any:
    def batch_norm(self: Ops, x: Tensor, scope: str) -> Tensor:
        self.epsilon = epsilon
        try:
            return Ops.batch_norm(self, x, scope)
        finally:
            del self.epsilon

    return batch_norm


for _epsilon in (1e-5, 1e-4, 1e-6, 1e-2, 0.0):
    _fault(
        f"batch_norm_epsilon_{_epsilon:g}", f"batch norm uses epsilon {_epsilon:g} instead of 0.001",
        "Set eps=0.001 in every batch norm of this layer (timm's tf_* backbones and norm_kwargs have it).",
        {"batch_norm": _with_epsilon(_epsilon)},
    )


def _shifted(down: int, right: int) -> Any:
    def enlarge(self: Ops, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = Ops.enlarge(self, x, size)
        rows = [min(max(i - down, 0), size[0] - 1) for i in range(size[0])]
        columns = [min(max(i - right, 0), size[1] - 1) for i in range(size[1])]
        return self.tf.gather(self.tf.gather(x, rows, axis=1), columns, axis=2)

    return enlarge


def _rolled(down: int, right: int) -> Any:
    def enlarge(self: Ops, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.tf.roll(Ops.enlarge(self, x, size), [down, right], [1, 2])

    return enlarge


def _resized(method: str, **options: Any) -> Any:
    def enlarge(self: Ops, x: Tensor, size: tuple[int, int]) -> Tensor:
        out = getattr(self.tf.compat.v1.image, f"resize_{method}")(x, list(size), **options)
        return self.tf.cast(out, x.dtype)

    return enlarge


_RESIZE_ADVICE = "TensorFlow takes input pixel floor(i * input size / output size); look at the resize of this node."
for _down, _right in ((1, 0), (0, 1), (1, 1), (-1, 0), (0, -1), (-1, -1)):
    _where = " and ".join(
        f"{'down' if axis == 0 else 'right'} by {step}" for axis, step in enumerate((_down, _right)) if step
    )
    _fault(
        f"resize_shift_{_down}_{_right}", f"the resize is shifted {_where} pixel", _RESIZE_ADVICE,
        {"enlarge": _shifted(_down, _right)},
    )
    _fault(
        f"resize_roll_{_down}_{_right}", f"the resize is shifted {_where} pixel, wrapping around", _RESIZE_ADVICE,
        {"enlarge": _rolled(_down, _right)},
    )
_fault("resize_bilinear", "the resize is bilinear instead of nearest", _RESIZE_ADVICE,
       {"enlarge": _resized("bilinear", half_pixel_centers=True)})
_fault("resize_bilinear_legacy", "the resize is bilinear (legacy centres) instead of nearest", _RESIZE_ADVICE,
       {"enlarge": _resized("bilinear")})
_fault("resize_half_pixel", "the resize takes nearest pixels by half-pixel centres", _RESIZE_ADVICE,
       {"enlarge": _resized("nearest_neighbor", half_pixel_centers=True)})
_fault("resize_align_corners", "the resize aligns corners", _RESIZE_ADVICE,
       {"enlarge": _resized("nearest_neighbor", align_corners=True)})

_KERNEL_ADVICE = "TensorFlow kernels are [h, w, in, out] (depthwise: [h, w, channels, 1]); look at the layout."


def _turned_conv(self: Ops, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return Ops.conv2d(self, x, self.tf.transpose(kernel, [1, 0, 2, 3]), stride)


def _turned_depthwise(self: Ops, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return Ops.depthwise_conv2d(self, x, self.tf.transpose(kernel, [1, 0, 2, 3]), stride)


def _flipped_conv(self: Ops, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return Ops.conv2d(self, x, self.tf.reverse(kernel, [0, 1]), stride)


def _flipped_depthwise(self: Ops, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return Ops.depthwise_conv2d(self, x, self.tf.reverse(kernel, [0, 1]), stride)


_fault("kernels_transposed", "kernels are used with height and width swapped", _KERNEL_ADVICE,
       {"conv2d": _turned_conv, "depthwise_conv2d": _turned_depthwise})
_fault("kernels_flipped", "kernels are used upside down (convolution instead of correlation)", _KERNEL_ADVICE,
       {"conv2d": _flipped_conv, "depthwise_conv2d": _flipped_depthwise})


def _pointwise_first(self: Ops, x: Tensor, scope: str, bias: bool) -> Tensor:
    x = self.depthwise(self.conv2d(x, self.variable(f"{scope}/pointwise_kernel", CONVOLUTION, "weight"), 1), scope)
    return self.bias_add(x, scope) if bias else x


_fault("pointwise_first", "the pointwise convolution runs before the depthwise one",
       "A separable convolution is depthwise first.", {"separable_conv": _pointwise_first})
_fault("bias_missing", "the convolution's bias is left out", "Keep the bias before the batch norm.",
       {"bias_add": lambda self, x, scope: x})
_fault("skip_missing", "the skip connection is left out", "Add the layer's input to its output.",
       {"add": lambda self, x, before: x})
_fault("squeeze_excite_missing", "squeeze-and-excitation is left out", "Scale the channels by their gate.",
       {"squeeze_excite": lambda self, x, scope: x})
_fault("activation_missing", "the activation is left out", "Apply the config's act_type.",
       {"activate": lambda self, x: x})


def _other_activation(kind: str) -> Any:
    def activate(self: Ops, x: Tensor) -> Tensor:
        own, self.activation = self.activation, kind
        try:
            return Ops.activate(self, x)
        finally:
            self.activation = own

    return activate


for _kind in ("swish", "hswish", "relu", "relu6", "mish"):
    _fault(f"activation_{_kind}", f"the activation is {_kind} instead of the config's act_type",
           "Check act_type in --hparams and in the model.", {"activate": _other_activation(_kind)})

_FUSION_ADVICE = "Check fpn_weight_method and the order of this node's edge weights."
_fault("edge_weights_reversed", "the edge weights are used in reverse order", _FUSION_ADVICE,
       {"edge_weights": lambda self, scope, count: Ops.edge_weights(self, scope, count)[::-1]})
_fault("edge_weights_unused", "the inputs are added without their edge weights", _FUSION_ADVICE,
       {"fuse": lambda self, inputs, scope, method: self.tf.add_n(inputs)})
for _method in ("attn", "fastattn"):

    def _fuse(self: Ops, inputs: list[Tensor], scope: str, method: str, other: str = _method) -> Tensor:
        if method == "sum":
            raise ValueError("no edge weights")
        return Ops.fuse(self, inputs, scope, other)

    _fault(f"fused_by_{_method}", f"the inputs are fused by {_method}", _FUSION_ADVICE, {"fuse": _fuse})
