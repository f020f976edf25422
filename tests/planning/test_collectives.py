"""Collectives, found in what compilers write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxcl.planning import find_collectives
from jaxcl.planning.collectives import Exchanges, by_kind

# ruff: noqa: E501
TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %moved = f32[8,4]{1,0} collective-permute(%rows), source_target_pairs={{0,1},{1,0}}
}

%never (x: f32[2]) -> f32[2] {
  ROOT %unused = f32[2]{0} all-reduce(%x), to_apply=%add
}

%first (x: bf16[4]) -> bf16[8] {
  ROOT %gather.1 = bf16[8]{0:T(8)S(1)} all-gather(%x), replica_groups={{0,1}}, frontend_attributes={chain_id="0"}
}

%second (x: bf16[4]) -> bf16[8] {
  ROOT %gather.2 = bf16[8]{0:T(8)S(1)} all-gather(%x), replica_groups={{0,1}}, frontend_attributes={chain_id="0"}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %loop = (s32[], f32[8,4]) while(%tuple), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %both = (f32[6]{0}, pred[2,3]{1,0}) all-reduce(%p, %q), replica_groups=[4,2]<=[8], to_apply=%add, metadata={op_name="jit(step)/psum"}
  %start = (f32[4]{0}, f32[16]{0}, u32[], u32[]) all-gather-start(%x), replica_groups={{0,1,2,3}}, dimensions={0}
  %meanwhile = f32[2]{0} fusion(%x), kind=kLoop, calls=%add
  %other = f32[16]{0} all-gather-done(%start.1)
  %done = f32[16]{0} all-gather-done(%start)
  %after = f32[2]{0} fusion(%x), kind=kLoop, calls=%add
  %fusion.1 = bf16[8]{0} fusion(%x), kind=kLoop, calls=%first
  %fusion.2 = bf16[8]{0} fusion(%x), kind=kLoop, calls=%second
}
"""


def test_kinds_sizes_groups_and_passes():
    found = {each.kind: each for each in find_collectives(TEXT)}
    assert len(find_collectives(TEXT)) == 4  # what nobody calls does not count
    permute = found["collective-permute"]
    assert (permute.bytes, permute.times, permute.group) == (128, 3, 0)
    reduce = found["all-reduce"]
    assert (reduce.bytes, reduce.times, reduce.group) == (6 * 4 + 6, 1, 2)
    assert reduce.source == "jit(step)/psum"
    whole, cut = [each for each in find_collectives(TEXT) if each.kind == "all-gather"]
    assert sorted([(whole.bytes, whole.beside), (cut.bytes, cut.beside)]) == [(16, 2), (64, 1)]
    kinds = by_kind(find_collectives(TEXT))
    assert kinds["collective-permute"] == Exchanges(3, 384, 0)
    assert kinds["all-gather"] == Exchanges(2, 80, 80)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3}}", 2),
        ("[4,2]<=[8]", 2),
        ("mesh['devices'=8] {'devices'}", 8),
        ("mesh['hosts'=2, 'chips'=4] {'chips'}", 4),
        ("{}", 0),
    ],
)
def test_groups_as_compilers_write_them(groups, size):
    text = TEXT.replace("replica_groups=[4,2]<=[8]", f"replica_groups={groups}")
    (reduce,) = [each for each in find_collectives(text) if each.kind == "all-reduce"]
    assert reduce.group == size


def test_what_a_device_has_to_send():
    found = {each.kind: each for each in find_collectives(TEXT)}
    assert found["collective-permute"].sent(8) == 3 * 128  # each pass all of it
    assert found["all-reduce"].sent(8) == 30  # in groups of 2: half there, half back


@pytest.mark.parametrize(
    ("function", "kind", "size", "sent"),
    [
        (lambda x: jax.lax.psum(x, "d"), "all-reduce", 32, 2 * 32 * 3 / 4),
        (lambda x: jax.lax.all_gather(x, "d", tiled=True), "all-gather", 128, 128 * 3 / 4),
        (lambda x: jax.lax.psum_scatter(x, "d", tiled=True), "reduce-scatter", 8, 8 * 3),
        (lambda x: jax.lax.ppermute(x, "d", [(0, 1), (1, 0)]), "collective-permute", 32, 32),
        (
            lambda x: jax.lax.fori_loop(
                0, 5, lambda _, y: jax.lax.ppermute(y, "d", [(0, 1), (1, 2), (2, 0)]), x
            ),
            "collective-permute",
            5 * 32,
            5 * 32,
        ),
    ],
    ids=["psum", "all_gather", "psum_scatter", "ppermute", "loop"],
)
def test_of_compiled_programs(function, kind, size, sent):
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P("d"), out_specs=P(), check_vma=False)
    text = jax.jit(mapped).lower(jnp.zeros((32,), jnp.float32)).compile().as_text()
    found = find_collectives(text)
    assert {each.kind for each in found} == {kind}
    assert sum(each.bytes * each.times for each in found) == size
    assert sum(each.sent(4) for each in found) == pytest.approx(sent)
