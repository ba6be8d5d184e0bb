"""What is read from a program's text, against programs counted by hand."""

import math

import jax
import jax.numpy as jnp
import pytest

from alexnet_jax.targets.arithmetic import read_products, work_by_layer
from alexnet_jax.targets.catalogue import TARGETS
from alexnet_jax.targets.compiling import find_collectives
from alexnet_jax.targets.cycles import cycles_by_layer
from alexnet_jax.targets.program import read_program
from alexnet_jax.targets.traffic import traffic


# A kilobyte is 1,024 bytes: f32[256], or bf16[512].
COUNTED = """HloModule counted, is_scheduled=true

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  %b = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%a, %b)
}

%fused_cut (p.0: f32[256], p.1: f32[256]) -> f32[64] {
  %p.0 = f32[256]{0} parameter(0)
  %p.1 = f32[256]{0} parameter(1)
  %flat = f32[256]{0} bitcast(%p.0)
  %first = f32[64]{0} slice(%flat), slice={[0:64]}
  %twice = f32[256]{0} add(%p.1, %p.1)
  %second = f32[64]{0} slice(%twice), slice={[0:64]}
  ROOT %both = f32[64]{0} add(%first, %second)
}

%fused_update (p.2: f32[256], p.3: f32[64], p.4: s32[]) -> f32[256] {
  %p.2 = f32[256]{0} parameter(0)
  %p.3 = f32[64]{0} parameter(1)
  %p.4 = s32[] parameter(2)
  %negated = f32[64]{0} negate(%p.3)
  ROOT %updated = f32[256]{0} dynamic-update-slice(%p.2, %negated, %p.4)
}

%fused_inner (p.5: f32[256]) -> f32[64] {
  %p.5 = f32[256]{0} parameter(0)
  ROOT %third = f32[64]{0} slice(%p.5), slice={[64:128]}
}

%fused_outer (p.6: f32[256], p.7: f32[64]) -> f32[64] {
  %p.6 = f32[256]{0} parameter(0)
  %p.7 = f32[64]{0} parameter(1)
  %within = f32[64]{0} fusion(%p.6), kind=kLoop, calls=%fused_inner
  %called = f32[64]{0} call(%p.6), to_apply=%fused_inner
  ROOT %sum.1 = f32[64]{0} add(%within, %called)
}

%fused_pair (p.8: f32[256], p.9: f32[64], p.10: s32[]) -> (f32[256], f32[64]) {
  %p.8 = f32[256]{0} parameter(0)
  %p.9 = f32[64]{0} parameter(1)
  %p.10 = s32[] parameter(2)
  %negated.1 = f32[64]{0} negate(%p.9)
  %updated.1 = f32[256]{0} dynamic-update-slice(%p.8, %negated.1, %p.10)
  ROOT %pair.1 = (f32[256]{0}, f32[64]{0}) tuple(%updated.1, %negated.1)
}

%body (state: (f32[256], s32[])) -> (f32[256], s32[]) {
  %state = (f32[256]{0}, s32[]) parameter(0)
  %value = f32[256]{0} get-tuple-element(%state), index=0
  %count = s32[] get-tuple-element(%state), index=1
  %next = f32[256]{0} multiply(%value, %value)
  ROOT %pair = (f32[256]{0}, s32[]) tuple(%next, %count)
}

%condition (state.1: (f32[256], s32[])) -> pred[] {
  %state.1 = (f32[256]{0}, s32[]) parameter(0)
  ROOT %always = pred[] constant(true)
}

%light (given: f32[256]) -> f32[256] {
  ROOT %given = f32[256]{0} parameter(0)
}

%heavy (given.1: f32[256]) -> f32[256] {
  %given.1 = f32[256]{0} parameter(0)
  ROOT %changed = f32[256]{0} exponential(%given.1)
}

ENTRY %main (x: f32[256], y: bf16[512]) -> f32[256] {
  %x = f32[256]{0} parameter(0)
  %y = bf16[512]{0} parameter(1)
  %zero = s32[] constant(0)
  BODY
}
"""
# Instructions, and the kilobytes that each moves.
CASES = {
    "reads two, writes one": (
        ["%z = f32[256]{0} add(%x, %wide)", "%wide = f32[256]{0} convert(%y)"],
        3 + 2,
    ),
    "an operand that stands twice is read once": (
        ["%z = f32[256]{0} add(%x, %x)"],
        2,
    ),
    "names of memory are free": (
        ["%z = f32[16,16]{1,0} bitcast(%x)", "%t = (f32[256]{0}) tuple(%x)"],
        0,
    ),
    "the chip's own memory is free": (
        [
            "%z = f32[256]{0:S(1)} negate(%x)",
            "%w = f32[256]{0:T(256)S(1)} negate(%z)",
        ],
        1,
    ),
    "a copy into the chip's memory counts where it starts": (
        [
            "%s = (f32[256]{0:S(1)}, f32[256]{0}, u32[]) copy-start(%x)",
            "%z = f32[256]{0:S(1)} copy-done(%s)",
        ],
        1,
    ),
    "a fusion that cuts reads the part": (
        [
            "%z = f32[64]{0} fusion(%x, %w), kind=kLoop, calls=%fused_cut",
            "%w = f32[256]{0:S(1)} constant({...})",
        ],
        0.25 + 0.25,
    ),
    "one that uses all of an operand reads it": (
        ["%z = f32[64]{0} fusion(%x, %x), kind=kLoop, calls=%fused_cut"],
        0.25 + 1 + 0.25,
    ),
    "an update in place moves the update": (
        [
            "%u = f32[64]{0} constant({...})",
            "%z = f32[256]{0} fusion(%x, %u, %zero), kind=kLoop, calls=%fused_update",
        ],
        0.25 + 0.25 + 4 / 1024,
    ),
    "parts that a fusion's own fusions and calls cut are parts": (
        [
            "%u = f32[64]{0:S(1)} constant({...})",
            "%z = f32[64]{0} fusion(%x, %u), kind=kLoop, calls=%fused_outer",
        ],
        0.25 + 0.25 + 0.25,
    ),
    "of several results each is written, or updated in place": (
        [
            "%u = f32[64]{0} constant({...})",
            "%z = (f32[256]{0}, f32[64]{0:S(1)}) fusion(%x, %u, %zero), kind=kLoop, "
            "calls=%fused_pair",
        ],
        0.25 + 0.25 + 4 / 1024,
    ),
    "an array in the chip's memory is updated for free": (
        [
            "%u = f32[64]{0:S(1)} constant({...})",
            "%w = f32[256]{0:S(1)} constant({...})",
            "%z = f32[256]{0:S(1)} dynamic-update-slice(%w, %u, %zero)",
            "%v = f32[256]{0} dynamic-update-slice(%x, %u, %zero)",
        ],
        0.25,
    ),
    "a part that is copied into the chip's memory": (
        [
            "%s = ((f32[256]{0}), f32[64]{0:S(1)}, s32[]{:S(2)}) slice-start(%x), "
            "slice={[0:64]}",
            "%z = f32[64]{0:S(1)} slice-done(%s)",
        ],
        0.25,
    ),
    "parts that are put side by side there are one array": (
        [
            "%u = f32[64]{0:S(1)} constant({...})",
            "%z = f32[128]{0:S(1)} custom-call(%u, %u), "
            'custom_call_target="ConcatBitcast"',
        ],
        0,
    ),
    "a gather reads what it takes": (
        ["%z = f32[64]{0} gather(%x, %zero), offset_dims={0}"],
        0.25 + 0.25 + 4 / 1024,
    ),
    "a loop counts as often as it runs": (
        [
            "%t = (f32[256]{0}, s32[]) tuple(%x, %zero)",
            "%z = (f32[256]{0}, s32[]) while(%t), condition=%condition, body=%body, "
            'backend_config={"known_trip_count":{"n":"5"}}',
        ],
        5 * 2,
    ),
    "the heavier branch counts": (
        [
            "%z = f32[256]{0} conditional(%zero, %x, %x), "
            "branch_computations={%light, %heavy}",
        ],
        2,
    ),
    "a gather reads its part and writes the whole": (
        [
            "%s = (bf16[512]{0}, bf16[2,512]{1,0}) all-gather-start(%y), "
            "dimensions={0}",
            "%z = bf16[2,512]{1,0} all-gather-done(%s)",
        ],
        1 + 2,
    ),
    "a scatter reads the whole and writes its part": (
        [
            "%s = ((bf16[512]{0}), bf16[256]{0}) reduce-scatter-start(%y), "
            "dimensions={0}, to_apply=%add",
            "%z = bf16[256]{0} reduce-scatter-done(%s)",
        ],
        1 + 0.5,
    ),
    "a sum over devices reads and writes all": (
        [
            "%s = bf16[512]{0} all-reduce-start(%y), to_apply=%add",
            "%z = bf16[512]{0} all-reduce-done(%s)",
        ],
        2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_traffic_is_what_one_counts_by_hand(name):
    body, kilobytes = CASES[name]
    program = read_program(COUNTED.replace("BODY", "\n  ".join(body)))
    assert traffic(program) == kilobytes * 1024


def test_an_instruction_says_which_layer_it_serves():
    line = '%z = f32[256]{{0}} negate(%x), metadata={{op_name="jit(step)/{}"}}'
    for path, layer in (
        ("jvp()/shard_map/AlexNet/conv3/all_gather", "conv3"),
        ("transpose(jvp())/AlexNet/fc6/AlexNet._linear/dot_general", "fc6"),
        ("transpose(jvp())/shard_map/psum", None),
    ):
        program = read_program(COUNTED.replace("BODY", line.format(path)))
        assert program.computations["main"]["z"].layer == layer


def test_an_exchange_has_the_bytes_of_the_whole_array():
    lines = [
        '%g = bf16[2,512]{1,0} all-gather(%y), dimensions={0}, metadata={op_name="jit('
        'step)/conv3/all_gather"}',
        "%s = ((bf16[512]{0}), bf16[256]{0}) reduce-scatter-start(%y), "
        "dimensions={0}, to_apply=%add",
        "%z = bf16[256]{0} reduce-scatter-done(%s)",
        "%r = bf16[256]{0} reduce-scatter(%y), dimensions={0}, to_apply=%add",
        # Several arrays may be exchanged together, as the sums of gradients are.
        "%a = f32[256]{0} constant(0)",
        "%b = f32[128]{0} constant(0)",
        "%c = (f32[256]{0}, f32[128]{0}) all-reduce(%a, %b), to_apply=%add",
        "%d = ((f32[256]{0}, f32[128]{0}), (f32[512]{0}, f32[256]{0})) "
        "all-gather-start(%a, %b), dimensions={0}",
        "%e = (f32[128]{0}, f32[128]{0}, u32[], u32[]) collective-permute-start(%b)",
    ]
    program = read_program(COUNTED.replace("BODY", "\n  ".join(lines)))
    found = [(c.kind, c.layer, c.bytes) for c in find_collectives(program)]
    assert found == [
        ("all-gather", "conv3", 2048),
        ("reduce-scatter", None, 1024),
        ("reduce-scatter", None, 1024),
        ("all-reduce", None, 1536),
        ("all-gather", None, 3072),
        ("collective-permute", None, 512),
    ]


def test_a_text_that_is_no_program_is_an_error():
    with pytest.raises(ValueError, match="ENTRY"):
        read_program("module @jit_f {}")


def test_cycles_are_those_that_xla_estimates():
    estimate = 'backend_config={"estimated_cycles":"%s"}'
    lines = [
        '%z = f32[256]{0} negate(%x), metadata={op_name="jit(step)/conv3/neg"}, '
        + estimate % 40,
        "%t = (f32[256]{0}, s32[]) tuple(%x, %zero)",
        "%w = (f32[256]{0}, s32[]) while(%t), condition=%condition, body=%body, "
        'backend_config={"known_trip_count":{"n":"5"}}',
    ]
    product = "multiply(%value, %value)"
    text = COUNTED.replace("BODY", "\n  ".join(lines))
    text = text.replace(product, f"{product}, {estimate % 7}")
    assert cycles_by_layer(read_program(text)) == {"conv3": 40, None: 5 * 7}
    assert not cycles_by_layer(read_program(COUNTED))


def counted(text):
    return [product.operations for product in read_products(text)]


def test_arithmetic_is_two_for_each_multiply_and_add():
    x, kernel = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 5))

    def function(x, kernel, weights):
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=dimensions
        )
        return y.reshape(2, -1) @ weights

    arguments = (x, kernel, jnp.ones((80, 7)))
    forward = [2 * math.prod((2, 4, 4, 5, 3, 3, 3)), 2 * 2 * 80 * 7]
    text = jax.jit(function).lower(*arguments).as_text()
    assert counted(text) == forward

    def loss(*arguments):
        return (function(*arguments) ** 2).sum()

    # Each product again, for the kernel and the weights, and one for the features.
    text = jax.jit(jax.grad(loss, argnums=(1, 2))).lower(*arguments).as_text()
    assert sorted(counted(text)) == sorted([*forward, *forward, forward[1]])


@pytest.mark.parametrize(
    ("target", "images", "expected"),
    [
        # Three channels of 16 that an instruction contracts; five outputs of eight, or
        # all places.
        ("h100", 2, 3 / 16),
        ("h100", 1, 3 / 16 * 16 / 16),
        # The taps are contracted too: 27 of 128, and 32 places of 128.
        ("v5e", 2, 27 / 128 * 32 / 128),
        ("v6e", 2, 27 / 256 * 32 / 256),
    ],
)
def test_a_shape_fills_a_part_of_the_matrix_unit(target, images, expected):
    def function(x, kernel):
        with jax.named_scope("conv1"):
            dimensions = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, kernel, (2, 2), "VALID", dimension_numbers=dimensions
            )

    arguments = (jnp.ones((images, 9, 9, 3)), jnp.ones((3, 3, 3, 5)))
    text = jax.jit(function).lower(*arguments).as_text(debug_info=True)
    work = work_by_layer(read_products(text), TARGETS[target])
    assert list(work) == ["conv1"]
    assert work["conv1"].filled == pytest.approx(expected)
