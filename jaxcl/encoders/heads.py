"""Projectors and predictors of the papers, each an MLP with the paper's widths and norms."""

from jaxcl.encoders.mlp import MLP


def moco_v1_projector(dim: int = 128) -> MLP:
    """One linear layer (He et al., 2020, section 3.3)."""
    return MLP((dim,))


def moco_v2_projector(dim: int = 128, *, hidden: int = 0) -> MLP:
    """Two layers without norm (Chen, Fan et al., 2020); `hidden` 0: as wide as the features."""
    return MLP((hidden, dim))


def moco_v3_projector(dim: int = 256, *, hidden: int = 4096, layers: int = 2) -> MLP:
    """Two layers for a ResNet, three for a ViT, BatchNorm after each, plain on the output (Chen,
    Xie & He, 2021)."""
    return MLP((*(hidden,) * (layers - 1), dim), batch_norm=True, output_norm="plain")


def moco_v3_predictor(dim: int = 256, *, hidden: int = 4096, output_norm: bool = False) -> MLP:
    """Two layers, BatchNorm after the first; a ViT's predictor normalizes its output too (Chen, Xie
    & He, 2021)."""
    return MLP(
        (hidden, dim),
        batch_norm=True,
        output_norm="plain" if output_norm else "none",
        output_bias=False,
    )


def simclr_v1_projector(dim: int = 128, *, hidden: int = 0) -> MLP:
    """Two layers, BatchNorm after both (Chen, Kornblith et al., 2020, appendix B.1); `hidden` 0: as
    the features."""
    return MLP((hidden, dim), batch_norm=True, output_norm="affine")


def simclr_v2_projector(dim: int = 128, *, hidden: int = 0) -> MLP:
    """Three layers, BatchNorm after each; fine-tuning starts from the first (Chen, Kornblith,
    Swersky et al., 2020)."""
    return MLP((hidden, hidden, dim), batch_norm=True, output_norm="affine")


def byol_projector(dim: int = 256, *, hidden: int = 4096) -> MLP:
    """Two layers, BatchNorm after the first (Grill et al., 2020); its predictor is
    the same."""
    return MLP((hidden, dim), batch_norm=True)


def simsiam_projector(dim: int = 2048, *, hidden: int = 0) -> MLP:
    """Three layers, BatchNorm after each, plain on the output (Chen & He, 2021)."""
    return MLP((hidden, hidden, dim), batch_norm=True, output_norm="plain")


def simsiam_predictor(dim: int = 2048, *, hidden: int = 512) -> MLP:
    """Two layers, BatchNorm after the first: a bottleneck (Chen & He, 2021)."""
    return MLP((hidden, dim), batch_norm=True)


def nnclr_projector(dim: int = 256, *, hidden: int = 2048) -> MLP:
    """Three layers, BatchNorm after each (Dwibedi et al., 2021)."""
    return MLP((hidden, hidden, dim), batch_norm=True, output_norm="affine")


def barlow_twins_projector(dim: int = 8192, *, hidden: int = 8192) -> MLP:
    """Three wide layers, BatchNorm after the first two (Zbontar et al., 2021); VICReg's too."""
    return MLP((hidden, hidden, dim), batch_norm=True, output_bias=False)


def swav_projector(dim: int = 128, *, hidden: int = 2048) -> MLP:
    """Two layers, BatchNorm after the first (Caron et al., 2020)."""
    return MLP((hidden, dim), batch_norm=True)


def dino_projector(dim: int = 256, *, hidden: int = 2048) -> MLP:
    """Three layers with GELU and no norm (Caron et al., 2021)."""
    return MLP((hidden, hidden, dim), activation="gelu")
