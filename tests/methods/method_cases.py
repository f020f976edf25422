"""Methods to hold to what all share, of given networks."""

from jaxcl.encoders import MLP, keep_feature_map
from jaxcl.methods import (
    BYOL,
    COLA,
    CURL,
    DINO,
    GE2E,
    NNCLR,
    DenseCL,
    InstanceDiscrimination,
    JointEmbedding,
    Linear,
    MoCoV2Plus,
    ReSSL,
    SimCLR,
    SimCSE,
    SimSiam,
    SupCon,
    SwAV,
    criteria,
)

CRITERIA = (
    criteria.BarlowTwins(),
    criteria.VICReg(),
    criteria.MMCR(),
    criteria.WMSE(),
    criteria.AlignUniform(),
    criteria.SIGReg(directions=16),
)


class MapMLP(MLP):
    """Has a feature map of four cells, which are the quarters of its features."""

    def __call__(self, inputs, *, train=False, axis_name=None):
        x = super().__call__(inputs, train=train, axis_name=axis_name)
        keep_feature_map(self, x.reshape(len(x), 2, 2, -1))
        return x


def make_methods(encoder, projector, predictor, examples):
    """By name; batches are of up to 40 of so many examples."""
    networks, with_predictor = (encoder, projector), (encoder, projector, predictor)
    with_map = MapMLP(
        encoder.widths, encoder.batch_norm, batch_norm_groups=encoder.batch_norm_groups
    )
    dense = {"projector": projector, "dense_projector": MLP((9, 6)), "queue_size": 40}
    return {
        "moco_v2_plus": MoCoV2Plus(*networks, queue_size=40),
        "dense_cl": DenseCL(with_map, **dense),
        "dense_cl, own keys masked": DenseCL(with_map, **dense, mask_own_keys=True),
        "byol": BYOL(*with_predictor),
        "simsiam": SimSiam(*with_predictor),
        "nnclr": NNCLR(*with_predictor, queue_size=40),
        "nnclr, nt_xent": NNCLR(*with_predictor, queue_size=40, contrast="nt_xent"),
        "ressl": ReSSL(*networks, queue_size=40),
        "supcon": SupCon(*networks, base_temperature=0.07),
        "cola": COLA(*networks),
        "cola, cosine": COLA(*networks, likeness="cosine"),
        "curl": CURL(*networks),
        "ge2e": GE2E(*networks),
        "simcse": SimCSE(*networks),
        "swav": SwAV(*networks, prototypes=10),
        "swav, queue": SwAV(*networks, prototypes=10, queue_size=40),
        "dino": DINO(*networks, prototypes=12, target_temperature=Linear(0.04, 0.07, 0.5)),
        "instances": InstanceDiscrimination(*networks, bank_size=examples),
        "instances, some": InstanceDiscrimination(*networks, bank_size=examples, negatives=16),
        "instances, nce": InstanceDiscrimination(
            *networks, bank_size=examples, negatives=16, contrast="nce", temperature=0.5
        ),
        "dcl": SimCLR(*networks, contrast="dcl"),
        "dclw": SimCLR(*networks, contrast="dclw"),
        "hard_nt_xent": SimCLR(*networks, contrast="hard_nt_xent", temperature=0.5),
        "tico": JointEmbedding(*networks, criterion=criteria.TiCo(), momentum=0.99),
        **{
            type(criterion).__name__: JointEmbedding(*networks, criterion=criterion)
            for criterion in CRITERIA
        },
    }
