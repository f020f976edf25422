"""Losses of two or more views as parts of a method: hyper-parameters, and what they remember."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcl import losses


@dataclasses.dataclass(frozen=True)
class Criterion(abc.ABC):
    """A loss of views. Subclasses are frozen dataclasses of its hyper-parameters."""

    def init(self, key: jax.Array, dim: int) -> Any:
        """What is kept from step to step, for embeddings [N, dim]; None: nothing."""
        del key, dim
        return None

    @abc.abstractmethod
    def __call__(
        self, views: Sequence[jax.Array], state: Any, *, axis_name: str | None = None
    ) -> tuple[jax.Array, Any]:
        """The mean loss of this device, and the new state.

        Args:
          views: [N, D] embeddings of each view.
          state: what the last step returned.
          axis_name: mapped axis of the devices.
        """


def _pair(views: Sequence[jax.Array], criterion: Criterion) -> Sequence[jax.Array]:
    if len(views) != 2:
        raise ValueError(
            f"{type(criterion).__name__} compares two views; the batch has {len(views)}"
        )
    return views


@dataclasses.dataclass(frozen=True)
class BarlowTwins(Criterion):
    """`jaxcl.losses.barlow_twins` (Zbontar et al., 2021)."""

    lambd: float = 5.1e-3
    """Weight of the correlations between different dimensions."""
    scale: float = 1.0
    """Multiplies the loss; solo-learn's recipes have 0.1."""

    def __call__(
        self, views: Sequence[jax.Array], state: Any, *, axis_name: str | None = None
    ) -> tuple[jax.Array, Any]:
        z0, z1 = _pair(views, self)
        loss = losses.barlow_twins(z0, z1, lambd=self.lambd, axis_name=axis_name)
        return self.scale * loss, state


@dataclasses.dataclass(frozen=True)
class VICReg(Criterion):
    """`jaxcl.losses.vicreg` (Bardes et al., 2022)."""

    lambd: float = 25.0
    """Weight of the distance between views."""
    mu: float = 25.0
    """Weight of the hinge on standard deviations."""
    nu: float = 1.0
    """Weight of covariances."""

    def __call__(
        self, views: Sequence[jax.Array], state: Any, *, axis_name: str | None = None
    ) -> tuple[jax.Array, Any]:
        z0, z1 = _pair(views, self)
        loss = losses.vicreg(z0, z1, lambd=self.lambd, mu=self.mu, nu=self.nu, axis_name=axis_name)
        return loss, state


@dataclasses.dataclass(frozen=True)
class TiCo(Criterion):
    """`jaxcl.losses.tico` (Zhu et al., 2022); the state is the covariance."""

    beta: float = 0.9
    """Share of the old covariance that stays."""
    rho: float = 8.0
    """Weight of the covariance term."""

    def init(self, key: jax.Array, dim: int) -> jax.Array:
        return jnp.zeros((dim, dim))

    def __call__(
        self, views: Sequence[jax.Array], state: jax.Array, *, axis_name: str | None = None
    ) -> tuple[jax.Array, jax.Array]:
        z0, z1 = _pair(views, self)
        rows, state = losses.tico(z0, z1, state, beta=self.beta, rho=self.rho, axis_name=axis_name)
        return rows.mean(), state


@dataclasses.dataclass(frozen=True)
class MMCR(Criterion):
    """`jaxcl.losses.mmcr` (Yerxa et al., 2023)."""

    lambd: float = 0.0
    """Weight of the nuclear norm of each example's own views."""

    def __call__(
        self, views: Sequence[jax.Array], state: Any, *, axis_name: str | None = None
    ) -> tuple[jax.Array, Any]:
        return losses.mmcr(jnp.stack(views), lambd=self.lambd, axis_name=axis_name), state


@dataclasses.dataclass(frozen=True)
class WMSE(Criterion):
    """`jaxcl.losses.w_mse` (Ermolov et al., 2021), whitened over the whole batch."""

    epsilon: float = 1e-4
    """Share of the identity in the correlations, 0 to 1, so that any batch can be whitened."""

    def __call__(
        self, views: Sequence[jax.Array], state: Any, *, axis_name: str | None = None
    ) -> tuple[jax.Array, Any]:
        rows = losses.w_mse(jnp.stack(views), epsilon=self.epsilon, axis_name=axis_name)
        return rows.mean(), state


@dataclasses.dataclass(frozen=True)
class AlignUniform(Criterion):
    """`jaxcl.losses.alignment` and `uniformity` of each view (Wang & Isola, 2020)."""

    alignment: float = 1.0
    """Weight of the alignment."""
    uniformity: float = 1.0
    """Weight of the uniformity, the mean of both views'."""
    alpha: float = 2.0
    """Power of the distance in the alignment."""
    t: float = 2.0
    """Inverse width of the kernel in the uniformity."""

    def __call__(
        self, views: Sequence[jax.Array], state: Any, *, axis_name: str | None = None
    ) -> tuple[jax.Array, Any]:
        z0, z1 = _pair(views, self)
        near = losses.alignment(z0, z1, alpha=self.alpha).mean()
        spread = [losses.uniformity(z, t=self.t, axis_name=axis_name) for z in (z0, z1)]
        return self.alignment * near + self.uniformity * (spread[0] + spread[1]) / 2, state


@dataclasses.dataclass(frozen=True)
class SIGReg(Criterion):
    """LeJEPA (Balestriero & LeCun, 2025): views near their mean, each view's rows Gaussian.

    (1 - lambd) mean_v |z_v - mean of the global views|^2 / D + lambd mean_v sig_reg(z_v). Any
    number of views.
    """

    lambd: float = 0.05
    """Weight of the distance to the Gaussian, 0 to 1."""
    directions: int = 256
    """Random directions, drawn anew each step."""
    knots: int = 17
    """Where the integrand of the statistic is formed."""
    global_views: int = 2
    """How many views, the first, the mean is of; the others are small crops."""

    def init(self, key: jax.Array, dim: int) -> jax.Array:
        return jax.random.key_data(key)

    def __call__(
        self, views: Sequence[jax.Array], state: jax.Array, *, axis_name: str | None = None
    ) -> tuple[jax.Array, jax.Array]:
        key, following = jax.random.split(jax.random.wrap_key_data(state))
        rows = jnp.stack(views)
        mean = rows[: self.global_views].mean(0)
        distance = jnp.square(rows - mean).mean()
        options: dict[str, Any] = {
            "directions": self.directions,
            "knots": self.knots,
            "axis_name": axis_name,
        }
        gaussian = jnp.stack([losses.sig_reg(key, view, **options) for view in views]).mean()
        loss = (1 - self.lambd) * distance + self.lambd * gaussian
        return loss, jax.random.key_data(following)
