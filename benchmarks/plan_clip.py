"""What CLIP ViT-B/16 takes on TPU slices, from the compiler, with no TPU.

    python benchmarks/plan_clip.py --topology v5e:16x16 v5p:8x8x8 --batch 32768

jaxcl has the loss (`losses.clip`, over all devices) and the image tower; the text tower here is of
the paper's size (12 blocks of width 512, 8 heads, 77 tokens, 49,408 words) with attention to all
tokens. Towers compute in bfloat16, parameters, loss and AdamW in float32 (Radford et al., 2021).
"""

import argparse
import json
import os
import sys
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the chips are not here

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcl import losses, planning
from jaxcl.encoders import ViT
from jaxcl.encoders.vit import Block

AXIS, TOKENS, WORDS, WIDTH = "devices", 77, 49_408, 512


class TextTower(nn.Module):
    """A transformer over tokens, its last token's features."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(WORDS, WIDTH, dtype="bfloat16")(tokens)
        positions = self.param("positions", nn.initializers.normal(0.01), (TOKENS, WIDTH))
        x = x + positions.astype(x.dtype)
        for number in range(12):
            x = Block(8, 0.0, "bfloat16", name=f"block{number}")(x, True)
        return nn.LayerNorm()(x[:, -1])


class CLIP(nn.Module):
    """Both towers, projected to one space."""

    remat: str

    @nn.compact
    def __call__(self, images: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = ViT("base", patch=16, dtype="bfloat16", remat=self.remat, name="image")(images)
        text = TextTower(name="text")(tokens)
        self.param("logit_scale", nn.initializers.constant(np.log(1 / 0.07)), ())
        dense = [nn.Dense(WIDTH, use_bias=False, name=name) for name in ("to_image", "to_text")]
        return dense[0](image), dense[1](text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", nargs="+", default=["v5e:16x16"], metavar="CHIP:SHAPE")
    parser.add_argument("--batch", type=int, default=32_768)
    parser.add_argument("--remat", choices=["none", "blocks", "products"], default="none")
    parser.add_argument("--json", action="store_true", help="one JSON document, no table")
    options = parser.parse_args()
    plans = [plan(planning.find_slice(name), options) for name in options.topology]
    if options.json:
        print(json.dumps(planning.to_json(plans), indent=1))
    else:
        print(planning.report(plans))


def plan(where: planning.Slice, options: argparse.Namespace) -> planning.Plan:
    model, optimizer = CLIP(options.remat), optax.adamw(1e-3, weight_decay=0.2)

    def init() -> tuple[Any, Any]:
        images = jnp.zeros((1, 224, 224, 3))
        params = model.init(jax.random.key(0), images, jnp.zeros((1, TOKENS), jnp.int32))["params"]
        return params, optimizer.init(params)

    def step(state: tuple[Any, Any], batch: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        params, optimizer_state = state

        def loss(params: Any) -> jax.Array:
            pictures = batch[0].astype(jnp.float32) / 127.5 - 1
            image, text = model.apply({"params": params}, pictures, batch[1])
            scale = params["logit_scale"]
            return losses.clip(image, text, logit_scale=scale, axis_name=AXIS).mean()

        value, grads = jax.value_and_grad(loss)(params)
        value, grads = jax.lax.pmean((value, grads), AXIS)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), value

    mesh = Mesh(np.array(where.devices()), (AXIS,), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=(P(), P()), check_vma=False
    )
    shapes = jax.eval_shape(init)
    batch = (
        jax.ShapeDtypeStruct((options.batch, 224, 224, 3), jnp.uint8),
        jax.ShapeDtypeStruct((options.batch, TOKENS), jnp.int32),
    )

    def placed(tree: Any, spec: P) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    return planning.plan_step(
        jax.jit(mapped, donate_argnums=0),
        placed(shapes, P()),
        placed(batch, P(AXIS)),
        where,
        batch_size=options.batch,
        say=lambda text: print(f"{text} ...", file=sys.stderr, flush=True),
    )


if __name__ == "__main__":
    main()
