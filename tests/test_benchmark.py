"""What the benchmark counts: by hand, by XLA, and what that says of the compiled gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdc_jax import clip as clip_lib

pytestmark = [
    pytest.mark.slow,  # compiles whole steps
    pytest.mark.usefixtures("full_optimization"),
]

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture(scope="module")
def benchmarks():
    """The modules of experiments/benchmarks that other tests here use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        from benchmarks import measuring, step, text

        yield measuring, text, step


@pytest.fixture(scope="module")
def clip(benchmarks):
    """Few layers, wide enough that products with weights prevail."""
    config = clip_lib.ClipConfig(
        vision=clip_lib.Transformer(64, 2, 4, 256),
        text=clip_lib.Transformer(64, 3, 4, 256),
        embed_width=32,
        image_size=32,
        patch_size=8,
        vocab_size=100,
        context_length=77,
        eot_id=99,
    )
    return benchmarks[0].random_clip(config, std=0.2)


def small_sizes(vision, text, patch_size):
    return clip_lib.ClipConfig(
        vision=clip_lib.Transformer(*vision),
        text=clip_lib.Transformer(*text),
        embed_width=32,
        image_size=32,
        patch_size=patch_size,
        vocab_size=3000,
        context_length=77,
        eot_id=2999,
    )


def flops(measuring, function, *arguments):
    lowered = jax.jit(function).lower(*arguments)
    sooner = {"xla_backend_optimization_level": 0}  # the same products
    return measuring.product_flops(lowered.compile(sooner).as_text())


# ---- Counting


def powers(unroll):
    def power(a, b):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ b), None), a, length=7, unroll=unroll)[0]

    return power


def test_products_in_loops_count_as_often_as_they_run(benchmarks):
    measuring, *_ = benchmarks
    a, b = jnp.ones((40, 50)), jnp.ones((50, 50))
    expected = 7 * 2 * 40 * 50 * 50
    assert flops(measuring, powers(1), a, b) == expected
    assert flops(measuring, powers(7), a, b) == expected
    compiled = jax.jit(powers(7)).lower(a, b).compile()
    elementwise = 7 * 40 * 50
    assert compiled.cost_analysis()["flops"] == pytest.approx(expected, abs=2 * elementwise)


def test_batched_and_nested_products(benchmarks):
    measuring, *_ = benchmarks
    a, b = jnp.ones((3, 5, 20, 30)), jnp.ones((3, 5, 30, 10))

    def rows(a, b):
        return jax.lax.map(lambda pair: powers(1)(pair[0] @ pair[1], jnp.ones((10, 10))), (a, b))

    expected = 3 * (5 * 2 * 20 * 30 * 10 + 7 * 5 * 2 * 20 * 10 * 10)
    assert flops(measuring, rows, a, b) == expected


def test_a_loop_of_unknown_length_is_refused(benchmarks):
    measuring, *_ = benchmarks

    def until(a):
        return jax.lax.while_loop(lambda x: x.sum() < 1e9, lambda x: x @ a, a)

    with pytest.raises(ValueError, match="loop over products of unknown length"):
        flops(measuring, until, jnp.ones((64, 64)))


def test_products_of_a_library_count(benchmarks):
    measuring, *_ = benchmarks
    config = '"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}'
    call = 'custom-call({}), custom_call_target="__cublas$gemm", backend_config={{{}}}'
    compiled = f"""
ENTRY %main (p: f32[4,8], q: f32[8,6]) -> f32[4,6] {{
  %p = f32[4,8]{{1,0}} parameter(0)
  %q = f32[8,6]{{1,0}} parameter(1)
  %a = (f32[4,6]{{1,0}}, s8[33554432]{{0}}) {call.format("%p, %q", config)}
  ROOT %b = f32[4,6]{{1,0}} {call.format("f32[4,8]{1,0} %p, f32[8,6]{1,0} %q", config)}
}}
"""
    assert measuring.product_flops(compiled) == 2 * (2 * 4 * 8 * 6)


def test_a_case_runs_in_a_process_of_its_own(benchmarks):
    measuring, *_ = benchmarks
    case = measuring.Case(measuring.product, "float32")
    try:
        program = case.programs["product"]
        assert program.flops == 2 * measuring.PRODUCT**3
        assert program.memory >= 3 * 4 * measuring.PRODUCT**2
        assert case.seconds("product") > 0
        assert case.peak() >= program.memory
    finally:
        case.close()


# ---- The text path


def test_necessary_operations_at_vit_b16_sizes(benchmarks):
    measuring, text, _ = benchmarks
    full = text.necessary(measuring.VIT_B16, "full", 100, 8)
    # 400 texts of 77 tokens: 12 layers of 3,145,728 weights; each token attends to those before.
    assert full == 400 * (12 * (2 * 77 * 3_145_728 + 4 * 512 * 77 * 78 // 2) + 2 * 512 * 512)
    assert full / text.necessary(measuring.VIT_B16, "prefix", 100, 8) == pytest.approx(
        7.73, abs=0.005
    )
    assert full / text.necessary(measuring.VIT_B16, "prefix", 100, 4) == pytest.approx(
        12.84, abs=0.005
    )


def test_the_compiled_prefix_path_does_as_little_as_it_must(benchmarks, clip):
    measuring, text, _ = benchmarks
    found, expected, features = {}, {}, {}
    for form in ("full", "prefix"):
        programs = text.programs(clip, form, 40, 8)
        compiled = {
            key: jax.jit(f).lower(*inputs).compile() for key, (f, inputs) in programs.items()
        }
        features[form] = compiled["forward"](*programs["forward"][1])
        found[form] = {key: measuring.product_flops(c.as_text()) for key, c in compiled.items()}
        expected[form] = text.necessary(clip.config, form, 40, 8)
        # Compiled attention spans later tokens, too, and is computed again in the derivative.
        spare = 1.25 if form == "full" else 1.1
        assert expected[form] < found[form]["forward"] < spare * expected[form]
        # A gradient of weights would make it three forward passes.
        assert found[form]["gradient"] < 2.3 * found[form]["forward"]
    np.testing.assert_allclose(features["prefix"], features["full"], atol=2e-6)
    for program in ("forward", "gradient"):
        ratio = found["full"][program] / found["prefix"][program]
        assert ratio > 0.95 * expected["full"] / expected["prefix"]


def test_bfloat16_computes_no_product_again(benchmarks, clip):
    measuring, text, _ = benchmarks
    low = measuring.random_clip(clip.config, "bfloat16")
    function, inputs = text.programs(low, "prefix", 40, 8)["gradient"]
    expected = 2 * text.necessary(clip.config, "prefix", 40, 8)
    assert expected < flops(measuring, function, *inputs) < 1.15 * expected


def test_the_image_gradient_has_no_products_for_weights(benchmarks, clip):
    measuring, *_ = benchmarks
    pixels, visual = jnp.ones((4, 32, 32, 3)), jnp.ones((2, 2, 64))

    def total(visual, clip, pixels):
        return clip.vision(pixels, visual).sum()

    forward = flops(measuring, total, visual, clip, pixels)
    assert flops(measuring, jax.grad(total), visual, clip, pixels) < 2.2 * forward


@pytest.mark.parametrize("method", ["coop", "cdc"])
def test_the_compiled_step_does_as_little_as_it_must(benchmarks, method):
    measuring, _, step = benchmarks

    sizes = small_sizes((128, 9, 4, 512), (128, 9, 4, 512), 8)
    setup = step.Setup(method, sizes)
    function, inputs = step.build_step(setup)["step"]
    expected = step.step_flops(setup)
    assert expected < flops(measuring, function, *inputs) < 1.05 * expected


def test_a_step_on_cached_views_has_no_product_of_the_image_tower(benchmarks):
    from benchmarks import cached

    measuring, *_ = benchmarks
    sizes = small_sizes((128, 3, 4, 512), (128, 3, 4, 512), 8)
    expected = cached.necessary(sizes)
    assert expected["fresh"] == expected["cached"] + expected["encode"]
    for name, (function, inputs) in cached.build(sizes).items():
        # Beside the towers there are only the logits and the crops of views.
        assert expected[name] < flops(measuring, function, *inputs) < 1.05 * expected[name], name


@pytest.mark.parametrize(
    ("row", "parameters"),
    [
        ("coop", 4 * 64),
        ("clip_adapter", 2 * 32 * 8),
        ("tip_adapter_f", 5 * 16 * 32),
        ("cross_modal_probe", 5 * 32),
        # Prompts of two words in nine layers, and their maps with a bias; four templates.
        ("cdc", 4 * 9 * (2 * 64 + 64 * 128 + 128)),
        ("cdc_plus", 4 * 4 * 64),
    ],
)
def test_parameters_that_a_row_trains(benchmarks, row, parameters):
    from benchmarks import cost

    sizes = small_sizes((128, 9, 4, 128), (64, 9, 4, 64), 16)
    assert row in cost.trained_rows() and "zero_shot" not in cost.trained_rows()
    assert cost.Setup.of(row, sizes, classes=5).parameters() == {"stage 1": parameters}


@pytest.mark.parametrize("row", ["taskres", "tip_adapter_f"])
def test_cost_times_the_step_of_training(benchmarks, row):
    from benchmarks import cost

    sizes = small_sizes((32, 1, 2, 32), (32, 1, 2, 32), 16)
    ((step, arguments),) = cost.build(row, sizes, classes=5).values()
    state, losses = jax.jit(step)(*arguments)
    assert np.isfinite(losses["loss"]) and losses["gradient_norm"] > 0
    assert state["step"] == 1
