"""Linear probe: multinomial logistic regression on frozen features, solved to convergence.

optax's L-BFGS runs full batch inside one compiled loop, on whatever device JAX uses, where
scikit-learn's solver would stay on the host; both have the same minimum (a test compares them).
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxcl.evaluation.validation import as_features, as_labels, check_count

# Weaker than this, the tolerance would stop the fit before the strength shows.
L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)


@dataclasses.dataclass(frozen=True)
class LinearClassifier:
    """A fitted probe: standardizes with the training statistics, then one affine map."""

    classes: np.ndarray  # [C] int64, what the columns stand for
    mean: np.ndarray  # [D]
    scale: np.ndarray  # [D]
    weights: np.ndarray  # [D, C], of standardized features
    bias: np.ndarray  # [C]
    steps: int  # of L-BFGS
    gradient_norm: float  # largest entry of the objective's gradient where it stopped
    converged: bool  # gradient_norm <= tolerance

    def logits(self, features: ArrayLike) -> np.ndarray:
        """[M, C] float32 logits of features [M, D]."""
        rows = as_features("features", features, width=len(self.mean))
        return (rows - self.mean) / self.scale @ self.weights + self.bias

    def predict(self, features: ArrayLike) -> np.ndarray:
        """[M] int64 classes of features [M, D]."""
        return self.classes[self.logits(features).argmax(axis=1)]


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """What a linear probe found."""

    accuracy: float  # on the test part, 0 to 1
    class_accuracy: dict[int, float]  # the same for each class of the test part
    l2: float  # strength used
    validation_accuracy: dict[float, float]  # by strength, on the split; empty if none was swept
    converged: bool  # of the final fit
    steps: int
    gradient_norm: float


def fit_linear(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    l2: float,
    tolerance: float = 1e-5,
    max_steps: int = 1000,
) -> LinearClassifier:
    """Multinomial logistic regression on standardized features.

    Minimizes mean cross-entropy + l2 / 2 * ||weights||^2, the bias free: scikit-learn's
    `LogisticRegression(C=1 / (l2 * N))`.

    Args:
      features: [N, D]. A dimension that does not vary is left unscaled.
      labels: [N] int >= 0, at least two classes.
      l2: > 0.
      tolerance: the fit has converged when no entry of the gradient is larger.
      max_steps: of L-BFGS; reaching it gives `converged=False`.

    Returns:
      The classifier.

    Raises:
      ValueError: if shapes do not fit, there is one class, an option is out of range, or a feature
        is not finite.
    """
    problem = _Problem(features, labels, tolerance=tolerance, max_steps=max_steps)
    everyone = np.ones(len(problem.targets), np.float32)
    return problem.classifier(problem.solve(everyone, _positive_l2(l2), problem.start()))


def linear_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    l2: float | Sequence[float] = L2_GRID,
    validation_share: float = 0.1,
    tolerance: float = 1e-5,
    max_steps: int = 1000,
    seed: int = 0,
) -> LinearProbe:
    """Accuracy of a linear classifier on frozen features.

    The strength of regularization is chosen on a stratified split of the training part (of equal
    accuracies the strongest; each fit starts where the stronger one ended, with ten times the
    tolerance), then the classifier is fitted to the whole training part. The test part is only
    scored.

    Args:
      train_features: [N, D].
      train_labels: [N] int >= 0.
      test_features: [M, D].
      test_labels: [M] int >= 0; a class that training lacks counts as errors.
      l2: strengths to try, or one to use; each > 0, see `fit_linear`.
      validation_share: of each class's training examples, 0 to 1, used if several are tried. A
        class with one example keeps it for fitting; others give at least one.
      tolerance: see `fit_linear`.
      max_steps: see `fit_linear`.
      seed: of the split.

    Returns:
      Accuracy, chosen strength and whether the final fit converged.

    Raises:
      ValueError: as `fit_linear`, or if no class has two examples to split.
    """
    problem = _Problem(train_features, train_labels, tolerance=tolerance, max_steps=max_steps)
    width = problem.rows.shape[1]
    probes = as_features("test_features", test_features, width=width)
    truth = as_labels("test_labels", test_labels, len(probes))
    strengths = [l2] if isinstance(l2, float | int) else sorted(set(l2), reverse=True)
    if not strengths:
        raise ValueError("l2 is empty, expected a strength or several to try")
    strengths = [_positive_l2(strength) for strength in strengths]
    by_strength: dict[float, float] = {}
    chosen, start = strengths[0], problem.start()
    if len(strengths) > 1:
        by_strength, solutions = _sweep(problem, strengths, validation_share, seed)
        # max takes the first of equals: the strongest.
        chosen = max(by_strength, key=lambda strength: by_strength[strength])
        start = solutions[chosen]  # near the minimum, which is one, so it saves steps only
    everyone = np.ones(len(problem.targets), np.float32)
    classifier = problem.classifier(problem.solve(everyone, chosen, start))
    right = classifier.predict(probes) == truth
    return LinearProbe(
        accuracy=float(right.mean()),
        class_accuracy={int(c): float(right[truth == c].mean()) for c in np.unique(truth)},
        l2=chosen,
        validation_accuracy=by_strength,
        converged=classifier.converged,
        steps=classifier.steps,
        gradient_norm=classifier.gradient_norm,
    )


def stratified_split(labels: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """Marks about `share` of each class's examples, at random.

    Args:
      labels: [N] int.
      share: 0 < share < 1. At least one example of a class with two or more is marked, and at
        least one is not; a class with one example is not marked.
      seed: of the draw.

    Returns:
      [N] bool.
    """
    generator = np.random.default_rng(seed)
    marked = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        marked[members[:count]] = True
    return marked


def _positive_l2(l2: float) -> float:
    if not l2 > 0:
        raise ValueError(
            f"l2 is {l2}, expected more than 0: separable classes have no solution at 0"
        )
    return float(l2)


def _sweep(
    problem: "_Problem", strengths: Sequence[float], validation_share: float, seed: int
) -> tuple[dict[float, float], dict[float, "_Solution"]]:
    """Validation accuracies and solutions by strength, strongest first."""
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share is {validation_share}, expected between 0 and 1")
    held_out = stratified_split(problem.targets, validation_share, seed=seed)
    if not held_out.any():
        raise ValueError(
            "no class has two training examples, so none can be held out to choose l2: give one l2"
        )
    # Weights 0 and 1 instead of two arrays: the final fit has the same shape, so one compilation.
    fitted = (~held_out).astype(np.float32)
    accuracies: dict[float, float] = {}
    solutions: dict[float, _Solution] = {}
    solution = problem.start()
    for strength in strengths:
        solution = problem.solve(fitted, strength, solution, slack=10.0)
        logits = problem.rows[held_out] @ solution.weights + solution.bias
        right = logits.argmax(axis=1) == problem.targets[held_out]
        accuracies[strength], solutions[strength] = float(right.mean()), solution
    return accuracies, solutions


@dataclasses.dataclass(frozen=True)
class _Solution:
    weights: np.ndarray  # [D, C]
    bias: np.ndarray  # [C]
    steps: int
    gradient_norm: float
    converged: bool


class _Problem:
    """Standardized features and numbered classes, on the device once for all fits."""

    def __init__(
        self, features: ArrayLike, labels: ArrayLike, *, tolerance: float, max_steps: int
    ) -> None:
        raw = as_features("train_features", features)
        self.classes, self.targets = np.unique(
            as_labels("train_labels", labels, len(raw)), return_inverse=True
        )
        if len(self.classes) < 2:
            raise ValueError(
                f"train_labels hold class {self.classes[0]} alone, expected at least two classes"
            )
        if not tolerance > 0:
            raise ValueError(f"tolerance is {tolerance}, expected more than 0")
        check_count("max_steps", max_steps)
        self.tolerance, self.max_steps = tolerance, max_steps
        self.mean = raw.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = raw.std(axis=0, dtype=np.float64)
        # Below float32's resolution a deviation is rounding, and dividing by it would be noise.
        constant = deviation <= 1e-6 * np.abs(raw).max(axis=0)
        self.scale = np.where(constant, 1.0, deviation).astype(np.float32)
        self.rows = (raw - self.mean) / self.scale
        self._device_rows, self._device_targets = jnp.asarray(self.rows), jnp.asarray(self.targets)

    def start(self) -> _Solution:
        width, classes = self.rows.shape[1], len(self.classes)
        zeros = np.zeros((width, classes), np.float32), np.zeros(classes, np.float32)
        return _Solution(*zeros, steps=0, gradient_norm=np.inf, converged=False)

    def solve(
        self, example_weights: np.ndarray, l2: float, start: _Solution, *, slack: float = 1.0
    ) -> _Solution:
        tolerance = self.tolerance * slack
        (weights, bias), steps, gradient_norm = _minimize(
            (jnp.asarray(start.weights), jnp.asarray(start.bias)),
            self._device_rows,
            self._device_targets,
            jnp.asarray(example_weights),
            l2,
            tolerance,
            self.max_steps,
        )
        norm = float(gradient_norm)
        return _Solution(
            np.asarray(weights), np.asarray(bias), int(steps), norm, converged=norm <= tolerance
        )

    def classifier(self, solution: _Solution) -> LinearClassifier:
        return LinearClassifier(
            self.classes,
            self.mean,
            self.scale,
            solution.weights,
            solution.bias,
            solution.steps,
            solution.gradient_norm,
            solution.converged,
        )


Parameters = tuple[jax.Array, jax.Array]


@jax.jit
def _minimize(
    start: Parameters,
    rows: jax.Array,
    targets: jax.Array,
    example_weights: jax.Array,
    l2: float,
    tolerance: float,
    max_steps: int,
) -> tuple[Parameters, jax.Array, jax.Array]:
    """L-BFGS: (parameters, steps, largest entry of the gradient there)."""

    def objective(parameters: Parameters) -> jax.Array:
        weights, bias = parameters
        logits = jnp.matmul(rows, weights, precision=jax.lax.Precision.HIGHEST) + bias  # [N, C]
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets)
        fit = jnp.sum(losses * example_weights) / jnp.sum(example_weights)
        return fit + l2 / 2 * jnp.sum(weights**2)

    optimizer = optax.lbfgs(memory_size=20)  # a fifth fewer steps than the default 10
    value_and_grad = optax.value_and_grad_from_state(objective)  # reuses the line search's last

    def largest(tree: Parameters) -> jax.Array:
        return jnp.maximum(jnp.abs(tree[0]).max(), jnp.abs(tree[1]).max())

    def unfinished(carry: tuple[Parameters, optax.OptState, jax.Array, jax.Array]) -> jax.Array:
        return (carry[2] < max_steps) & (carry[3] > tolerance)

    def step(
        carry: tuple[Parameters, optax.OptState, jax.Array, jax.Array],
    ) -> tuple[Parameters, optax.OptState, jax.Array, jax.Array]:
        parameters, state, steps, _ = carry
        value, gradient = value_and_grad(parameters, state=state)
        updates, state = optimizer.update(
            gradient, state, parameters, value=value, grad=gradient, value_fn=objective
        )
        parameters = optax.apply_updates(parameters, updates)
        return parameters, state, steps + 1, largest(optax.tree.get(state, "grad"))

    initial = (start, optimizer.init(start), jnp.int32(0), largest(jax.grad(objective)(start)))
    parameters, _, steps, gradient_norm = jax.lax.while_loop(unfinished, step, initial)
    return parameters, steps, gradient_norm
