"""Encoders as ONNX graphs, operation by operation of what jax traces; the batch stays free.

`jax2onnx` does more, and pins an orbax-checkpoint that jaxcl does not work with. What depends on
parameters alone is computed here and stored; scans, such as recurrences, are unrolled.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxcl.extras import import_extra

_OPSET, _IR = 18, 8
_LONGEST = 512  # steps of a scan that is unrolled
_SAME = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
    "neg": "Neg",
    "abs": "Abs",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
    "sin": "Sin",
    "cos": "Cos",
    "erf": "Erf",
    "floor": "Floor",
    "ceil": "Ceil",
    "sign": "Sign",
    "logistic": "Sigmoid",
    "and": "And",
    "or": "Or",
    "not": "Not",
    "eq": "Equal",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "lt": "Less",
    "le": "LessOrEqual",
}
"""What has one name there."""
_THROUGH = ("copy", "copy_p", "once", "stop_gradient", "optimization_barrier", "reduce_precision")
_INLINED = (
    "jit",
    "pjit",
    "closed_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "remat2",
    "checkpoint",
)
_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}


def onnx_model(
    features: Callable[[jax.Array], Any], inputs: jax.ShapeDtypeStruct, *, name: str = "encoder"
) -> bytes:
    """A function of a batch as an ONNX model, for any number of examples.

    Args:
      features: of inputs [N, ...].
      inputs: shape and type of one example.
      name: of the graph; its input is `inputs`, its output `features`.

    Returns:
      The file's bytes: opset 18, what the function has learned within.

    Raises:
      ValueError: for an operation that has no form here, named.
      ImportError: where onnx is not installed.
    """
    import_extra("onnx", "onnx")
    (count,) = export.symbolic_shape("n")
    batch = jax.ShapeDtypeStruct((count, *inputs.shape), inputs.dtype)
    try:
        traced = jax.make_jaxpr(lambda rows: jnp.asarray(features(rows)))(batch)
    except (NotImplementedError, jax.errors.InconclusiveDimensionOperation) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"what is computed hangs on the number of examples: {said}") from error
    graph = _Graph(count)
    graph.add("Shape", ["inputs"], start=0, end=1, out=graph.count_name)
    (out,) = graph.run(traced.jaxpr, traced.consts, ["inputs"])
    graph.add("Identity", [graph.named(out)], out="features")
    return graph.model(name, batch, traced.out_avals[0])


@dataclasses.dataclass
class _Graph:
    """Nodes so far. Values are names, or NumPy arrays where they hang on no input."""

    count: Any
    """The symbol of the batch's size."""
    nodes: list[Any] = dataclasses.field(default_factory=list)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    number: int = 0
    count_name: str = "batch_size"

    def add(
        self, kind: str, inputs: Sequence[Any], *, out: str | None = None, **fields: Any
    ) -> str:
        """Adds a node; returns the name of what it makes."""
        from onnx import helper

        out = out or self.fresh()
        names = [self.named(one) for one in inputs]
        self.nodes.append(helper.make_node(kind, names, [out], **fields))
        return out

    def fresh(self) -> str:
        """A name that is not taken."""
        self.number += 1
        return f"v{self.number}"

    def named(self, value: Any) -> str:
        """A value's name; an array becomes one of the model's."""
        if isinstance(value, str):
            return value
        name = self.fresh()
        self.arrays[name] = np.asarray(value, order="C")  # which leaves a scalar one
        return name

    def integers(self, values: Sequence[Any]) -> str:
        """Sizes as a tensor, of which one may be a multiple of the batch's."""
        if all(isinstance(value, int | np.integer) for value in values):
            return self.named(np.array(values, np.int64))
        parts = [
            self.named(np.array([value], np.int64))
            if isinstance(value, int | np.integer)
            else self.multiple(value)
            for value in values
        ]
        return self.add("Concat", parts, axis=0)

    def multiple(self, value: Any) -> str:
        """A size that is the batch's, or a multiple of it."""
        for factor in range(1, 1 << 14):
            if value == factor * self.count:
                if factor == 1:
                    return self.count_name
                return self.add("Mul", [self.count_name, np.array([factor], np.int64)])
        raise ValueError(
            f"a size {value} is no multiple of the batch's, so ONNX has no form for it"
        )

    def reshaped(self, value: Any, shape: Sequence[Any]) -> str:
        """A value in another shape, one size of which may hang on the batch."""
        sizes = [size if isinstance(size, int | np.integer) else -1 for size in shape]
        return self.add("Reshape", [value, np.array(sizes, np.int64)])

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Adds all operations of a trace; returns its outputs' values."""
        values: dict[Any, Any] = {}
        values |= zip(jaxpr.constvars, consts, strict=True)
        values |= zip(jaxpr.invars, inputs, strict=True)

        def value_of(variable: Any) -> Any:
            return variable.val if hasattr(variable, "val") else values[variable]

        for equation in jaxpr.eqns:
            given = [value_of(variable) for variable in equation.invars]
            is_constant = equation.primitive.name not in _INLINED and not any(
                isinstance(one, str) for one in given
            )
            sizes = [size for out in equation.outvars for size in getattr(out.aval, "shape", ())]
            if is_constant and all(isinstance(size, int) for size in sizes):
                found = equation.primitive.bind(*given, **equation.params)
                made = found if equation.primitive.multiple_results else [found]
            else:
                made = self.operation(equation, given)
            values |= zip(equation.outvars, made, strict=True)
        return [value_of(variable) for variable in jaxpr.outvars]

    def operation(self, equation: Any, given: list[Any]) -> list[Any]:
        """Adds one operation."""
        kind, params = equation.primitive.name, equation.params
        given = [one if isinstance(one, str) else np.asarray(one) for one in given]
        if kind in _INLINED:
            inner = next(
                params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in params
            )
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
        if kind in _THROUGH:
            return list(given)
        if kind in _SAME:
            return [self.add(_SAME[kind], given)]
        if kind in _REDUCTIONS:
            axes = np.array(params["axes"], np.int64)
            if not axes.size:  # which would mean all of them there
                return given
            return [self.add(_REDUCTIONS[kind], [given[0], axes], keepdims=0)]
        form = getattr(self, f"_{kind}", None)
        if form is None:
            raise ValueError(f"jax's operation {kind!r} has no form in ONNX here")
        made = form(equation, given, **params)
        return made if isinstance(made, list) else [made]

    def _square(self, equation: Any, given: list[Any], **_: Any) -> str:
        return self.add("Mul", [given[0], given[0]])

    def _integer_pow(self, equation: Any, given: list[Any], y: int, **_: Any) -> str:
        return self.add("Pow", [given[0], np.array(y, equation.outvars[0].aval.dtype)])

    def _rsqrt(self, equation: Any, given: list[Any], **_: Any) -> str:
        return self.add("Reciprocal", [self.add("Sqrt", given)])

    def _erfc(self, equation: Any, given: list[Any], **_: Any) -> str:
        return self.add("Sub", [np.float32(1), self.add("Erf", given)])

    def _log1p(self, equation: Any, given: list[Any], **_: Any) -> str:
        return self.add("Log", [self.add("Add", [given[0], np.float32(1)])])

    def _ne(self, equation: Any, given: list[Any], **_: Any) -> str:
        return self.add("Not", [self.add("Equal", given)])

    def _is_finite(self, equation: Any, given: list[Any], **_: Any) -> str:
        either = [self.add("IsInf", given), self.add("IsNaN", given)]
        return self.add("Not", [self.add("Or", either)])

    def _clamp(self, equation: Any, given: list[Any], **_: Any) -> str:
        low, value, high = given
        return self.add("Min", [self.add("Max", [value, low]), high])

    def _select_n(self, equation: Any, given: list[Any], **_: Any) -> str:
        which, *cases = given
        if equation.invars[0].aval.dtype != np.bool_ or len(cases) != 2:
            raise ValueError("a choice among more than two has no form in ONNX here")
        return self.add("Where", [which, cases[1], cases[0]])

    def _convert_element_type(
        self, equation: Any, given: list[Any], new_dtype: Any, **_: Any
    ) -> str:
        from onnx import helper

        return self.add("Cast", given, to=helper.np_dtype_to_tensor_dtype(np.dtype(new_dtype)))

    def _reduce_and(self, equation: Any, given: list[Any], axes: Any, **_: Any) -> str:
        from onnx import TensorProto

        numbers = self.add("Cast", given, to=TensorProto.INT32)
        least = self.add("ReduceMin", [numbers, np.array(axes, np.int64)], keepdims=0)
        return self.add("Cast", [least], to=TensorProto.BOOL)

    def _argmax(
        self, equation: Any, given: list[Any], axes: Any, index_dtype: Any, **_: Any
    ) -> str:
        from onnx import helper

        found = self.add("ArgMax", given, axis=axes[0], keepdims=0)
        return self.add("Cast", [found], to=helper.np_dtype_to_tensor_dtype(np.dtype(index_dtype)))

    def _broadcast_in_dim(
        self,
        equation: Any,
        given: list[Any],
        shape: Sequence[Any],
        broadcast_dimensions: Any,
        **_: Any,
    ) -> str:
        before = equation.invars[0].aval.shape
        placed: list[Any] = [1] * len(shape)
        for size, axis in zip(before, broadcast_dimensions, strict=True):
            placed[axis] = size
        value = given[0]
        if list(before) != placed:
            value = self.reshaped(value, placed)
        if placed == list(shape):
            return value if isinstance(value, str) else self.named(value)
        return self.add("Expand", [value, self.integers(shape)])

    def _reshape(self, equation: Any, given: list[Any], **_: Any) -> str:
        return self.reshaped(given[0], equation.outvars[0].aval.shape)

    _squeeze = _expand_dims = _reshape

    def _transpose(self, equation: Any, given: list[Any], permutation: Any, **_: Any) -> str:
        return self.add("Transpose", given, perm=list(permutation))

    def _concatenate(self, equation: Any, given: list[Any], dimension: int, **_: Any) -> str:
        return self.add("Concat", given, axis=dimension)

    def _split(self, equation: Any, given: list[Any], sizes: Any, axis: int, **_: Any) -> list[str]:
        stops = np.cumsum(sizes)
        return [
            self.cut(given[0], [axis], [stop - size], [stop])
            for size, stop in zip(sizes, stops, strict=True)
        ]

    def cut(
        self, value: Any, axes: Sequence[int], starts: Sequence[int], stops: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> str:  # fmt: skip
        """Part of a value along some axes."""
        numbers = [
            np.array(one, np.int64) for one in (starts, stops, axes, steps or [1] * len(axes))
        ]
        return self.add("Slice", [value, *numbers])

    def _slice(
        self,
        equation: Any,
        given: list[Any],
        start_indices: Any,
        limit_indices: Any,
        strides: Any,
        **_: Any,
    ) -> str:
        sizes = equation.invars[0].aval.shape
        steps = strides or (1,) * len(sizes)
        whole = [
            start == 0 and step == 1 and not isinstance(stop, str) and stop == size
            for start, stop, step, size in zip(
                start_indices, limit_indices, steps, sizes, strict=True
            )
        ]
        axes = [axis for axis, is_whole in enumerate(whole) if not is_whole]
        if not axes:
            return self.add("Identity", given)
        chosen = [[int(of[axis]) for axis in axes] for of in (start_indices, limit_indices, steps)]
        return self.cut(given[0], axes, chosen[0], chosen[1], chosen[2])

    def _rev(self, equation: Any, given: list[Any], dimensions: Any, **_: Any) -> str:
        count, lowest = len(dimensions), np.iinfo(np.int64).min
        return self.cut(given[0], list(dimensions), [-1] * count, [lowest] * count, [-1] * count)

    def _pad(self, equation: Any, given: list[Any], padding_config: Any, **_: Any) -> str:
        if any(inner for _, _, inner in padding_config):
            raise ValueError("padding between values has no form in ONNX here")
        value, filler = given
        lows, highs = ([int(one[side]) for one in padding_config] for side in (0, 1))
        negative = [axis for axis in range(len(lows)) if lows[axis] < 0 or highs[axis] < 0]
        if negative:
            ends = [highs[axis] if highs[axis] < 0 else np.iinfo(np.int64).max for axis in negative]
            value = self.cut(value, negative, [max(0, -lows[axis]) for axis in negative], ends)
        pads = np.maximum([*lows, *highs], 0).astype(np.int64)
        return self.add("Pad", [value, pads, filler]) if pads.any() else value

    def _dot_general(
        self, equation: Any, given: list[Any], dimension_numbers: Any, **_: Any
    ) -> str:
        contracted, batched = dimension_numbers
        ranks = [len(variable.aval.shape) for variable in equation.invars]
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        names = [[""] * rank for rank in ranks]
        for pairs in (batched, contracted):
            for left, right in zip(*pairs, strict=True):
                names[0][left] = names[1][right] = next(letters)
        for side in names:
            side[:] = [letter or next(letters) for letter in side]
        shared = [names[0][axis] for axis in batched[0]]
        inner = {names[0][axis] for axis in contracted[0]}
        own = [letter for side in names for letter in side if letter not in {*shared, *inner}]
        left, right = ("".join(side) for side in names)
        return self.add("Einsum", given, equation=f"{left},{right}->{''.join([*shared, *own])}")

    def _conv_general_dilated(
        self,
        equation: Any,
        given: list[Any],
        window_strides: Any,
        padding: Any,
        lhs_dilation: Any,
        rhs_dilation: Any,
        dimension_numbers: Any,
        feature_group_count: int,
        batch_group_count: int,
        **_: Any,
    ) -> str:
        ends = [end for pair in padding for end in pair]
        if any(one != 1 for one in lhs_dilation or ()) or batch_group_count != 1 or min(ends) < 0:
            raise ValueError("a transposed convolution has no form in ONNX here")
        images, kernel = given
        lows, highs = zip(*padding, strict=True)
        spec = dimension_numbers
        images = self.add("Transpose", [images], perm=list(spec.lhs_spec))
        if isinstance(kernel, str):
            kernel = self.add("Transpose", [kernel], perm=list(spec.rhs_spec))
        else:
            kernel = kernel.transpose(spec.rhs_spec)
        made = self.add(
            "Conv",
            [images, kernel],
            strides=list(window_strides),
            pads=[*lows, *highs],
            dilations=list(rhs_dilation or (1,) * len(lows)),
            group=feature_group_count,
        )
        return self.add("Transpose", [made], perm=np.argsort(spec.out_spec).tolist())

    def _convolve_3x3(self, equation: Any, given: list[Any], turned: bool, **_: Any) -> str:
        images, kernel = given
        if turned or isinstance(kernel, str):
            raise ValueError("a transposed convolution has no form in ONNX here")
        images = self.add("Transpose", [images], perm=[0, 3, 1, 2])
        made = self.add("Conv", [images, kernel.transpose(3, 2, 0, 1)], pads=[1, 1, 1, 1])
        return self.add("Transpose", [made], perm=[0, 2, 3, 1])

    def _reduce_window_max(
        self,
        equation: Any,
        given: list[Any],
        window_dimensions: Any,
        window_strides: Any,
        padding: Any,
        base_dilation: Any,
        window_dilation: Any,
        **_: Any,
    ) -> str:
        if any(one != 1 for one in (*base_dilation, *window_dilation)):
            raise ValueError("a maximum over such windows has no form in ONNX here")
        spatial = [axis for axis, size in enumerate(window_dimensions) if size > 1]
        others = [axis for axis in range(len(window_dimensions)) if axis not in spatial]
        if len(others) < 2 or any(window_strides[axis] != 1 for axis in others):
            raise ValueError("a maximum over such windows has no form in ONNX here")
        # Batch and channels first; further axes without a window are spatial ones of size 1.
        order = [others[0], others[-1], *spatial, *others[1:-1]]
        inner = order[2:]
        moved = self.add("Transpose", given, perm=order)
        made = self.add(
            "MaxPool",
            [moved],
            kernel_shape=[window_dimensions[axis] for axis in inner],
            strides=[window_strides[axis] for axis in inner],
            pads=[*(padding[axis][0] for axis in inner), *(padding[axis][1] for axis in inner)],
        )
        return self.add("Transpose", [made], perm=np.argsort(order).tolist())

    def _gather(
        self, equation: Any, given: list[Any], dimension_numbers: Any, slice_sizes: Any, **_: Any
    ) -> str:
        """A window at known places; or rows of a table, single places along some axes."""
        value, places = given
        aval, out, numbers = equation.invars[0].aval, equation.outvars[0].aval, dimension_numbers
        indexed, batched = list(numbers.start_index_map), list(numbers.operand_batching_dims)
        if not isinstance(places, str) and places.ndim == 1:
            stops = [int(at) + slice_sizes[axis] for at, axis in zip(places, indexed, strict=True)]
            window = self.cut(value, indexed, places.tolist(), stops)
            return window if len(out.shape) == len(aval.shape) else self.reshaped(window, out.shape)
        taken = [*batched, *indexed]
        rest = [axis for axis in range(len(aval.shape)) if axis not in taken]
        in_front = list(range(len(batched)))
        if (
            any(slice_sizes[axis] != 1 for axis in taken)
            or any(slice_sizes[axis] != aval.shape[axis] for axis in rest)
            or list(numbers.start_indices_batching_dims) != in_front
            or set(numbers.collapsed_slice_dims) != set(indexed)
        ):
            raise ValueError("such a choice of places has no form in ONNX here")
        moved = self.add("Transpose", [value], perm=[*taken, *rest])
        if isinstance(places, str):
            from onnx import TensorProto

            places = self.add("Cast", [places], to=TensorProto.INT64)
        else:
            places = places.astype(np.int64)
        found = self.add("GatherND", [moved, places], batch_dims=len(batched))
        # [places ..., rest ...], of which the latter belong at the offset dimensions.
        others = [axis for axis in range(len(out.shape)) if axis not in numbers.offset_dims]
        order = np.argsort([*others, *numbers.offset_dims]).tolist()
        return self.add("Transpose", [found], perm=order)

    def _scan(
        self,
        equation: Any,
        given: list[Any],
        jaxpr: Any,
        length: int,
        reverse: bool,
        **_: Any,
    ) -> list[Any]:
        if length > _LONGEST:
            raise ValueError(f"a recurrence of {length} steps is unrolled in ONNX to {_LONGEST}")
        body = getattr(jaxpr, "jaxpr", jaxpr)

        def alike(outer: Any, inner: Any) -> int:
            """How many have no axis of steps."""
            pairs = zip(outer, inner, strict=True)
            return sum(len(one.aval.shape) == len(other.aval.shape) for one, other in pairs)

        # Versions of jax say the numbers differently; ranks tell them in all.
        num_carry = alike(equation.outvars, body.outvars)
        num_whole = alike(equation.invars, body.invars)
        consts = given[: num_whole - num_carry]
        carry, sequences = given[num_whole - num_carry : num_whole], given[num_whole:]
        outputs: list[list[Any]] = []
        for step in range(length)[:: -1 if reverse else 1]:
            now = [
                self.add("Gather", [one, np.array(step, np.int64)], axis=0)
                if isinstance(one, str)
                else one[step]
                for one in sequences
            ]
            made = self.run(body, getattr(jaxpr, "consts", ()), [*consts, *carry, *now])
            carry = made[:num_carry]
            outputs.append(made[num_carry:])
        if reverse:
            outputs.reverse()
        stacked = [
            self.add(
                "Concat",
                [self.add("Unsqueeze", [one, np.array([0], np.int64)]) for one in column],
                axis=0,
            )
            for column in zip(*outputs, strict=True)
        ]
        return [*carry, *stacked]

    def model(self, name: str, inputs: Any, outputs: Any) -> bytes:
        """The whole as a file's bytes, checked."""
        onnx = import_extra("onnx", "onnx")
        from onnx import helper, numpy_helper

        def described(title: str, aval: Any) -> Any:
            sizes = [size if isinstance(size, int) else "n" for size in aval.shape]
            dtype = helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype))
            return helper.make_tensor_value_info(title, dtype, sizes)

        tensors = [numpy_helper.from_array(array, title) for title, array in self.arrays.items()]
        graph = helper.make_graph(
            self.nodes,
            name,
            [described("inputs", inputs)],
            [described("features", outputs)],
            tensors,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
        made.ir_version, made.producer_name = _IR, "jaxcl"
        if made.ByteSize() >= 2**31:
            raise ValueError("the model has 2 GB or more, which one file of ONNX does not hold")
        try:
            onnx.checker.check_model(made, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            said = str(error).strip().splitlines()[0]
            raise ValueError(
                f"the graph has types that ONNX does not take together ({said}): an encoder that "
                "computes in bfloat16 has none in it"
            ) from error
        return bytes(made.SerializeToString())
