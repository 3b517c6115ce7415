"""Made `representation_tokens.npz`: what MMRL and MMRL++ answer on a small random CLIP.

  pip install torch==2.13.0 numpy safetensors && python make_representation_tokens.py

Literal and in float64, every text at CLIP's full length plus the tokens, from what is published:
  MMRL    Guo and Gu 2025, "MMRL: multi-modal representation learning for vision-language models"
  MMRL++  Guo and Gu 2025, "MMRL++: parameter-efficient and interaction-aware representation
          learning for vision-language models"
The parts of CLIP are those of `methods_reference.py`. Towers of four layers have the tokens from
layer 2 on. Settings are those of the papers or of the authors' code; sizes are smaller.
"""

import math
from pathlib import Path

import clip_reference
import numpy as np
import torch
from make_methods import NAMES, VOCABULARY
from methods_reference import block, layer_norm, linear, tokenize
from torch.nn import functional as F

FILE = Path(__file__).with_name("representation_tokens.npz")
CONFIG = clip_reference.METHODS
TOKENS, WIDTH, FIRST, RANK, PROJECTION_RANK = 3, 12, 2, 2, 3
TEXT, OTHER_TEXT, OTHER_NAMES = "a photo of a {}.", "the picture with {}.", ["lake", "cat", "red"]
IMAGES, STEPS = 4, 3
LAMBDA, SHARE = 0.7, 0.3


def encode_text(weights, texts, rows=(), beta=1.0):
    """Features of texts; row j is inserted behind the start of text in layer FIRST + j."""
    sizes = CONFIG["text_config"]
    ids, ends = tokenize(CONFIG, VOCABULARY, texts)
    x = weights["text_model.embeddings.token_embedding.weight"][ids]
    x = x + weights["text_model.embeddings.position_embedding.weight"]
    for layer in range(1, sizes["num_hidden_layers"] + 1):
        x = with_tokens(x, rows, layer, beta)
        mask = torch.full((x.shape[1],) * 2, -torch.inf, dtype=torch.float64).triu(1)
        name = f"text_model.encoder.layers.{layer - 1}"
        x = block(x, weights, name, sizes["num_attention_heads"], mask)
    ends = ends + (TOKENS if len(rows) else 0)
    x = layer_norm(x, weights, "text_model.final_layer_norm")[torch.arange(len(x)), ends]
    return F.normalize(linear(x, weights, "text_projection"), dim=-1)


def with_tokens(x, rows, layer, beta):
    """The input of a layer: tokens stand behind the first place."""
    if not len(rows) or layer < FIRST:
        return x
    own = rows[layer - FIRST].expand(len(x), -1, -1)
    if layer == FIRST:
        return torch.cat([x[:, :1], own, x[:, 1:]], 1)
    before = x[:, 1 : 1 + TOKENS]
    return torch.cat([x[:, :1], beta * own + (1 - beta) * before, x[:, 1 + TOKENS :]], 1)


def encode_image(weights, pixels, rows=(), beta=1.0):
    """The features of the class token, and the tokens behind `post_layernorm`."""
    sizes, root = CONFIG["vision_config"], "vision_model.embeddings"
    kernel = weights[f"{root}.patch_embedding.weight"]
    patches = F.conv2d(pixels.permute(0, 3, 1, 2), kernel, stride=sizes["patch_size"])
    first = weights[f"{root}.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)
    x = x + weights[f"{root}.position_embedding.weight"]
    x = layer_norm(x, weights, "vision_model.pre_layrnorm")
    for layer in range(1, sizes["num_hidden_layers"] + 1):
        x = with_tokens(x, rows, layer, beta)
        name = f"vision_model.encoder.layers.{layer - 1}"
        x = block(x, weights, name, sizes["num_attention_heads"])
    x = layer_norm(x, weights, "vision_model.post_layernorm")
    features = F.normalize(linear(x[:, 0], weights, "visual_projection"), dim=-1)
    return features, x[:, 1 : 1 + TOKENS]


def mmrl_rows(p, tower):
    """A Linear of its own for each layer."""
    maps = zip(p[f"{tower}_weight"], p[f"{tower}_bias"], strict=True)
    return [F.linear(p["space"], weight, bias) for weight, bias in maps]


def mmrl_plus_plus_rows(p, tower):
    """One weight, and for each layer a residual A B and a bias."""
    maps = zip(p[f"{tower}_a"], p[f"{tower}_b"], p[f"{tower}_bias"], strict=True)
    return [F.linear(p["space"], p[f"{tower}_weight"] + a @ b, bias) for a, b, bias in maps]


def initial(rng, plus_plus):
    """Nothing is zero, unlike at the authors' start."""
    widths = {t: CONFIG[f"{t}_config"]["hidden_size"] for t in ("text", "vision")}
    embed, shapes = CONFIG["projection_dim"], {"space": (TOKENS, WIDTH)}
    layers = CONFIG["text_config"]["num_hidden_layers"] - FIRST + 1
    for tower, width in widths.items():
        shapes[f"{tower}_bias"] = (layers, width)
        shapes[f"{tower}_weight"] = (width, WIDTH) if plus_plus else (layers, width, WIDTH)
        if plus_plus:
            shapes[f"{tower}_a"] = (layers, width, RANK)
            shapes[f"{tower}_b"] = (layers, RANK, WIDTH)
    if plus_plus:
        shapes |= {"projection_a": (widths["vision"], PROJECTION_RANK)}
        shapes |= {"projection_b": (PROJECTION_RANK, embed)}
    else:
        shapes["projection"] = (widths["vision"], embed)
    drawn = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: torch.tensor(array).double() for name, array in drawn.items()}


def answers(rng, weights, views, labels, plus_plus, beta):
    texts = [TEXT.format(name.replace("_", " ")) for name in NAMES]
    others = [OTHER_TEXT.format(name) for name in OTHER_NAMES]
    frozen_text, scale = encode_text(weights, texts), weights["logit_scale"].exp()
    rows = mmrl_plus_plus_rows if plus_plus else mmrl_rows
    start = initial(rng, plus_plus)
    p = {name: array.clone().requires_grad_() for name, array in start.items()}

    def image(view):
        of_class, states = encode_image(weights, view, rows(p, "vision"), beta)
        if plus_plus:
            projection = weights["visual_projection.weight"].T + (
                p["projection_a"] @ p["projection_b"]
            )
        else:
            projection = p["projection"]
        return of_class, F.normalize(states.mean(1) @ projection, dim=-1)

    def terms(view):
        text = encode_text(weights, texts, rows(p, "text"), beta)
        of_class, of_tokens = image(view)
        frozen, _ = encode_image(weights, view)
        return {
            "classification": F.cross_entropy(scale * of_class @ text.T, labels),
            "representation": F.cross_entropy(scale * of_tokens @ text.T, labels),
            "image_consistency": 1 - F.cosine_similarity(of_class, frozen).mean(),
            "text_consistency": 1 - F.cosine_similarity(text, frozen_text).mean(),
        }

    text = encode_text(weights, texts, rows(p, "text"), beta)
    other_text = encode_text(weights, others, rows(p, "text"), beta)
    of_class, of_tokens = image(views[0])
    found = {
        "text": text, "image": torch.stack([of_class, of_tokens]),
        "logits": scale * ((1 - SHARE) * of_class + SHARE * of_tokens) @ text.T,
        "other_logits": scale * of_class @ other_text.T,
    }  # fmt: skip
    found |= {f"initial/{name}": array for name, array in start.items()}
    optimizer, losses = torch.optim.AdamW(p.values(), lr=1, weight_decay=5e-4), []
    for step in range(STEPS):  # one an epoch
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 1) / 10))
        optimizer.param_groups[0]["lr"] = 0.001 * cosine if step else 1e-5
        optimizer.zero_grad()
        values = terms(views[step])
        loss = (1 - SHARE) * values["classification"] + SHARE * values["representation"]
        loss = loss + LAMBDA * (values["image_consistency"] + values["text_consistency"])
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            found |= {f"term/{name}": value for name, value in values.items()}
            found |= {f"gradient/{name}": array.grad.clone() for name, array in p.items()}
        optimizer.step()
    found |= {f"trained/{name}": array for name, array in p.items()}
    return found | {"losses": torch.tensor(losses, dtype=torch.float64)}


def main():
    rng = np.random.default_rng(8)
    weights = {
        name: torch.tensor(tensor).double()
        for name, tensor in clip_reference.weights(CONFIG).items()
    }
    pixels = rng.normal(0, 1, (STEPS, IMAGES, 32, 32, 3)).astype(np.float16)
    labels = np.array([1, 0, 4, 2])
    stored = {
        "vocabulary": np.array(VOCABULARY), "names": np.array(NAMES), "text": np.array(TEXT),
        "other_names": np.array(OTHER_NAMES), "other_text": np.array(OTHER_TEXT),
        "views": pixels, "labels": labels,
    }  # fmt: skip
    views = torch.tensor(pixels).double()
    for row, plus_plus, beta in (("mmrl", False, 1.0), ("mmrl_plus_plus", True, 0.6)):
        found = answers(rng, weights, views, torch.tensor(labels), plus_plus, beta)
        stored |= {f"{row}/{name}": a.detach().float().numpy() for name, a in found.items()}
    np.savez_compressed(FILE, **stored)


if __name__ == "__main__":
    main()
