"""The network's promises: specification shapes, neutral gate, padding that does not matter, a cache that changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mimo_runtime.model.config import FusionConfig, MaskDecoderConfig, MimoConfig
from mimo_runtime.model.graph_spec import graph_specs
from mimo_train.model import Mimo, PromptBatch
from mimo_train.model.graphs import graph_modules
from mimo_train.model.position import mask_geometry
from mimo_train.model.prompt_encoder import box_map


def make(seed: int = 0, **changes) -> Mimo:
    torch.manual_seed(seed)
    model = Mimo(MimoConfig.from_preset("micro", **changes)).eval()
    # Fresh layers are zero in places (gates, pulls): give them values, or the tests below would pass without them.
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    return model


def ask(model: Mimo, rows: int = 2, boxes: bool = False, points: bool = False, mask: bool = False) -> PromptBatch:
    c, side = model.config.prompts, model.config.image_size // 4
    g = torch.Generator().manual_seed(1)
    low = torch.rand(rows, c.max_boxes, 2, generator=g) * 0.5
    tokens = torch.randint(3, 300, (rows, model.config.text.max_length), generator=g)
    tokens[:, 9:] = 0
    labels = lambda n, on: torch.full((rows, n), 1 if on else -1, dtype=torch.int32)  # noqa: E731
    return PromptBatch(
        tokens,
        torch.cat((low, low + 0.3), -1),
        labels(c.max_boxes, boxes),
        torch.rand(rows, c.max_points, 2, generator=g),
        labels(c.max_points, points),
        (torch.rand(rows, 1, side, side, generator=g) > 0.7).float(),
        labels(1, mask),
        torch.tensor([[1.0, 0.75]]).repeat(rows, 1),
    )


def images(model: Mimo, rows: int = 2) -> torch.Tensor:
    return torch.rand(rows, 3, model.config.image_size, model.config.image_size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("upsample", [1, 2])
@torch.no_grad()
def test_every_graph_keeps_its_spec(levels, upsample):
    config = MimoConfig.from_preset("micro")
    model = make(mask_decoder=replace(config.mask_decoder, levels=levels, upsample=upsample))
    values: dict[str, torch.Tensor] = {}
    modules = graph_modules(model)
    for name, spec in graph_specs(model.config).items():
        inputs = []
        for tensor in spec.inputs:
            shape = tensor.concrete(batch=2, past=3)
            new = torch.ones(shape, dtype=torch.int32) if tensor.dtype == "int32" else torch.rand(shape)
            inputs.append(values.get(tensor.name, new))
            assert tuple(inputs[-1].shape) == shape
        for tensor, value in zip(spec.outputs, modules[name](*inputs), strict=True):
            assert tuple(value.shape) == tensor.concrete(batch=2, past=3), (name, tensor.name)
            assert torch.isfinite(value).all()
            values[tensor.name] = value


@torch.no_grad()
def test_without_references_the_gate_is_exactly_neutral():
    model = make()
    plain = replace(model.config, fusion=FusionConfig(layers=1, heads=2, gate=False, region_bias=False))
    without = Mimo(plain).eval()
    surplus = without.load_state_dict(model.state_dict(), strict=False)
    assert not surplus.missing_keys and all("gate" in k or "references" in k for k in surplus.unexpected_keys)
    pixels = images(model)
    for prompts, same in (({}, True), ({"boxes": True}, False)):
        a, b = (m.ground(pixels, ask(m, **prompts)) for m in (model, without))
        assert torch.equal(a.memory, b.memory) is same
        assert torch.equal(model.decode_masks(a)[0][-1], without.decode_masks(b)[0][-1]) is same


@torch.no_grad()
def test_what_stands_in_padded_slots_does_not_matter():
    model = make()
    pixels, question = images(model), ask(model, points=True)
    other = ask(model, points=True)
    other.boxes, other.mask = torch.rand_like(other.boxes), torch.rand_like(other.mask)
    first, second = model.ground(pixels, question), model.ground(pixels, other)
    assert torch.equal(first.memory, second.memory)
    for a, b in zip(model.decode_masks(first)[0], model.decode_masks(second)[0]):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["boxes", "points", "mask"])
@torch.no_grad()
def test_each_kind_of_reference_changes_the_answer(kind):
    model = make()
    pixels = images(model)
    nothing, something = (model.decode_masks(model.ground(pixels, ask(model, **g)))[0][-1] for g in ({}, {kind: True}))
    assert not torch.allclose(nothing, something, atol=1e-3)


@torch.no_grad()
def test_the_step_with_cache_gives_the_logits_of_teacher_forcing():
    model = make()
    grounding = model.ground(images(model), ask(model, boxes=True))
    tokens = torch.randint(1, 300, (2, 7), generator=torch.Generator().manual_seed(3))
    whole = model.text_decoder(tokens, grounding.memory, grounding.memory_valid)
    config = model.config.text_decoder
    cross = model.text_decoder.cross_cache(grounding.memory)
    keys = values = torch.zeros(config.layers, 2, config.heads, 0, model.config.dim // config.heads)
    for i in range(tokens.shape[1]):
        logits, keys, values = model.text_decoder.step(
            tokens[:, i : i + 1], torch.full((2, 1), i), keys, values, *cross, grounding.memory_valid
        )
        torch.testing.assert_close(logits[:, 0], whole[:, i], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_selected_masks_are_those_of_the_whole():
    model = make()
    grounding = model.ground(images(model), ask(model, boxes=True))
    select = torch.tensor([[0, 5, 9], [3, 0, 31]])
    some, everything = model.decode_masks(grounding, select), model.decode_masks(grounding)
    for row in range(2):
        for a, b in zip((*some[0], *some[1:]), (*everything[0], *everything[1:])):
            torch.testing.assert_close(a[row], b[row, select[row]])


@torch.no_grad()
def test_the_finest_masks_equal_dot_products_with_every_sub_pixel():
    """The decoder multiplies the weights of its last layer into the queries; the long way must give the same."""
    decoder = make().mask_decoder
    queries, pixels = torch.randn(2, 3, 32), torch.randn(2, 16, 8, 8)
    fine = torch.nn.functional.pixel_shuffle(decoder.fine(pixels), decoder.config.upsample)
    torch.testing.assert_close(decoder._draw_fine(queries, pixels), decoder._draw(2, queries, fine))


@torch.no_grad()
def test_the_target_token_says_where_the_target_is():
    """Geometry of the located map, by hand: a sure square in the upper left quarter of an image half as wide as the square."""
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 0:4, 0:4] = 1.0
    x, y, root, wide, high = mask_geometry(mask)[0].tolist()
    assert x == pytest.approx(0.125, abs=1e-4) and y == pytest.approx(0.125, abs=1e-4) and root == pytest.approx(0.25, abs=1e-4)
    assert wide == pytest.approx(high) and wide == pytest.approx(2 * (0.25**2 * (1 - 1 / 16) / 12) ** 0.5, abs=2e-3)


@torch.no_grad()
def test_the_extent_of_the_image_reaches_the_memory():
    model = make()
    pixels, question = images(model), ask(model)
    narrow = replace(question, extent=torch.tensor([[0.5, 1.0]]).repeat(2, 1))
    a, b = model.ground(pixels, question), model.ground(pixels, narrow)
    assert torch.equal(a.memory[:, :-1], b.memory[:, :-1]) and not torch.allclose(a.memory[:, -1], b.memory[:, -1])


@torch.no_grad()
def test_prompts_of_one_image_equal_prompts_of_repeated_images():
    model = make()
    pixels = images(model, 1)
    question = ask(model, boxes=True)
    together = model.ground(pixels, question).memory
    apart = model.ground(pixels.expand(2, -1, -1, -1), question).memory
    torch.testing.assert_close(together, apart)


@torch.no_grad()
def test_box_map_is_exact_area_coverage():
    drawn = box_map(torch.tensor([[[0.125, 0.25, 0.625, 1.0]]]), 8)[0, 0]
    assert drawn.sum().item() == pytest.approx((0.625 - 0.125) * 0.75 * 64)
    assert drawn[2:, 1:5].min() == 1 and drawn[:2].max() == 0 and drawn[:, 5:].max() == 0


def test_masked_attention_follows_the_previous_level():
    """Features outside the coarser mask must weigh less than those inside."""
    model = make()
    grounding = model.ground(images(model), ask(model, boxes=True))
    decoder = model.mask_decoder
    biases = []
    hook = decoder.blocks[1].register_forward_hook(lambda _m, args, _o: biases.append(args[2]))
    with torch.no_grad():
        coarse = model.decode_masks(grounding)[0][0]
    hook.remove()
    up = torch.nn.functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False).flatten(2)
    bias = biases[0][:, 0]
    assert up.std() > 0 and (bias < 0).all()
    torch.testing.assert_close(bias, torch.nn.functional.logsigmoid(up).clamp(min=-6.0))


def test_presets_build_and_tiny_is_small():
    sizes = {}
    for name in ("micro", "tiny"):
        sizes[name] = sum(p.numel() for p in Mimo(MimoConfig.from_preset(name)).parameters())
    assert sizes["micro"] < 1e6 < sizes["tiny"] <= 10e6
    with torch.device("meta"):  # shapes alone: base and large would take minutes to initialise
        assert 120e6 < sum(p.numel() for p in Mimo(MimoConfig.from_preset("base")).parameters()) < 250e6
        assert sum(p.numel() for p in Mimo(MimoConfig.from_preset("large")).parameters()) > 400e6
    assert MaskDecoderConfig().levels == 3


def test_a_faint_map_is_located_at_its_peak():
    """A map that is unsure of a small target is faintly on everywhere: its own centroid is the middle of the image."""
    from mimo_train.model.fusion import TargetLocator
    from mimo_train.model.position import mask_geometry

    inputs_by_name = {}

    class Score(torch.nn.Module):
        def forward(self, tokens):
            return tokens[..., :1]

    locator = TargetLocator(8)
    locator.score = Score()
    locator.geometry.register_forward_hook(lambda module, inputs, output: inputs_by_name.update(numbers=inputs[0][0]))
    logits = torch.full((16, 16), -2.5)
    logits[1:4, 2:5] = -0.2
    tokens = torch.zeros(1, 256, 8)
    tokens[0, :, 0] = logits.flatten()
    locator(tokens, torch.tensor([[1.0, 0.5]]))
    numbers = inputs_by_name["numbers"]
    assert numbers.shape == (23,)
    torch.testing.assert_close(numbers[:5], mask_geometry(torch.sigmoid(logits)[None, None])[0])
    peak = torch.tensor([3.5 / 16, 2.5 / 16])
    assert (numbers[:2] - peak).abs().max() > 0.15 and (numbers[5:7] - peak).abs().max() < 0.05
    torch.testing.assert_close(numbers[15:17], numbers[5:7] / torch.tensor([1.0, 0.5]))
