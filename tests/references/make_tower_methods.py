"""Made `tower_methods.npz`: what methods that train the towers answer on a small random CLIP.

  pip install torch==2.13.0 numpy safetensors && python make_tower_methods.py

Literal and in float64, on the towers of `methods_reference.py`, from what is published:
  CLIP-LoRA  Zanella and Ben Ayed 2024, "Low-rank few-shot adaptation of vision-language models"
  CLIP-SVD   Koleilat et al. 2025, "Singular value few-shot adaptation of vision-language models"
  2SFS       Farina et al. 2025, "Rethinking few-shot adaptation of vision-language models in two
             stages"
Settings are those of the authors' code, with 40 steps. Of each training: what it starts from, and
logits, losses, gradients at the start, and how far the parameters moved in three steps.
"""

from pathlib import Path

import clip_reference
import methods_reference as reference
import numpy as np
import torch
from make_methods import CONFIG, NAMES, PHRASE, VOCABULARY
from torch.nn import functional as F

FILE = Path(__file__).with_name("tower_methods.npz")
IMAGES, STEPS, TOTAL, RATE = 4, 3, 40, 0.25
TOWERS = {"text": "text_model", "vision": "vision_model"}
DEPTH, PATCHES = 4, 16
LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
WIDTHS = {tower: CONFIG[f"{tower}_config"]["hidden_size"] for tower in TOWERS}


def drawn(array):
    """An array as it is stored, in float32."""
    return torch.tensor(np.float32(array)).double()


def layer_name(tower, block, layer):
    module = "mlp" if layer.startswith("fc") else "self_attn"
    return f"{TOWERS[tower]}.encoder.layers.{block}.{module}.{layer}"


class Towers(dict):
    """Weights by name; a linear layer with a branch adds up(down(mask * x))."""

    branches: dict = {}


def linear(x, weights, name):
    out = F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
    if name in weights.branches:
        down, up, mask = weights.branches[name]
        if mask is not None:  # texts stand at full length, and have masks up to the longest end
            rest = torch.ones(len(x), x.shape[1] - mask.shape[1], x.shape[2]).double()
            x = x * torch.cat([mask / (1 - RATE), rest], 1)
        out = out + F.linear(F.linear(x, down), up)
    return out


reference.linear = linear


def logits(weights, pixels, names=NAMES):
    text = reference.class_features(CONFIG, weights, VOCABULARY, names, PHRASE)
    image = reference.encode_image(CONFIG, weights, pixels)
    return weights["logit_scale"].exp() * image @ text.T


def train(initial, forward, labels, rate):
    """Answers of a training; `forward` maps parameters and step to logits."""
    parameters = {name: array.clone().requires_grad_() for name, array in initial.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TOTAL, eta_min=1e-6)
    answers, losses = {}, []
    for step in range(STEPS):
        found = forward(parameters, step)
        loss = F.cross_entropy(found, labels)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            answers["logits"] = found.detach()
            answers |= {f"gradient/{name}": p.grad.clone() for name, p in parameters.items()}
        optimizer.step()
        schedule.step()
    for name, array in parameters.items():
        answers |= {
            f"initial/{name}": initial[name],
            f"moved/{name}": array.detach() - initial[name],
        }
    trained = {name: array.detach() for name, array in parameters.items()}
    return answers | {"losses": torch.tensor(losses)}, trained


def clip_lora(rng, weights, data):
    """Branches with given masks in training, and merged into the weights for a prediction."""
    initial = {}
    for tower, width in WIDTHS.items():
        for part in ("down", "up"):
            shape = (DEPTH, 3, 2, width) if part == "down" else (DEPTH, 3, width, 2)
            initial[f"{tower}/{part}"] = drawn(rng.normal(0, 0.1, shape))

    def adapted(p, step=None):
        towers = Towers(weights)
        towers.branches = {}
        for tower in TOWERS:
            for block in range(DEPTH):
                for i, layer in enumerate(LINEAR[:3]):
                    down, up = p[f"{tower}/down"][block, i], p[f"{tower}/up"][block, i]
                    name = layer_name(tower, block, layer)
                    if step is None:
                        product = up @ down / 2**0.5
                        towers[f"{name}.weight"] = weights[f"{name}.weight"] + product
                    else:
                        mask = data[f"masks/{tower}"][step, block, :, :, i]
                        towers.branches[name] = (down, up / 2**0.5, mask)
        return towers

    answers, trained = train(
        initial, lambda p, step: logits(adapted(p, step), data["pixels"]), data["labels"], 2e-4
    )
    answers["merged"] = logits(adapted(initial), data["pixels"])
    return answers


def clip_svd(rng, weights, data):
    factors, initial = {}, {}
    for tower in TOWERS:
        for layer in LINEAR:
            matrices = [weights[f"{layer_name(tower, b, layer)}.weight"] for b in range(DEPTH)]
            left, values, right = torch.linalg.svd(torch.stack(matrices), full_matrices=False)
            factors[tower, layer] = (left, right)
            initial[f"{tower}/{layer}"] = drawn(
                values.numpy() * rng.uniform(0.8, 1.2, values.shape)
            )

    def adapted(p):
        towers = Towers(weights)
        for tower, layer in factors:
            left, right = factors[tower, layer]
            for block in range(DEPTH):
                matrix = left[block] @ torch.diag(p[f"{tower}/{layer}"][block]) @ right[block]
                towers[f"{layer_name(tower, block, layer)}.weight"] = matrix
        return towers

    answers, _ = train(
        initial, lambda p, step: logits(adapted(p), data["pixels"]), data["labels"], 5e-4
    )
    return answers


def two_sfs(rng, weights, data):
    """Both stages; the second starts from what the three steps of the first gave."""
    initial = {}
    for tower, module in TOWERS.items():
        for norm in ("layer_norm1", "layer_norm2"):
            for part in ("weight", "bias"):
                names = [f"{module}.encoder.layers.{b}.{norm}.{part}" for b in range(DEPTH)]
                values = torch.stack([weights[name] for name in names])
                noise = rng.normal(0, 0.1, values.shape)
                initial[f"{tower}/{norm}/{part}"] = drawn(values.numpy() + noise)

    def adapted(p):
        towers = Towers(weights)
        for name, values in p.items():
            tower, norm, part = name.split("/")
            for block in range(DEPTH):
                towers[f"{TOWERS[tower]}.encoder.layers.{block}.{norm}.{part}"] = values[block]
        return towers

    first, norms = train(
        initial, lambda p, step: logits(adapted(p), data["pixels"]), data["labels"], 2e-4
    )
    towers = adapted(norms)
    image = reference.encode_image(CONFIG, towers, data["pixels"])
    scale = weights["logit_scale"].exp()
    text = reference.class_features(CONFIG, towers, VOCABULARY, NAMES, PHRASE)

    def classified(p):
        return scale * image @ F.normalize(p["classifier"], dim=-1).T

    second, trained = train(
        {"classifier": text}, lambda p, step: classified(p), data["labels"], 2e-4
    )
    second["new"] = logits(towers, data["pixels"], ["picture", "sea"])
    second["base"] = classified(trained)
    answers = {f"first/{name}": answer for name, answer in first.items()}
    return answers | {f"second/{name}": answer for name, answer in second.items()}


def main():
    rng = np.random.default_rng(7)
    tensors = clip_reference.weights(CONFIG)
    weights = Towers({name: torch.tensor(tensor).double() for name, tensor in tensors.items()})
    _, ends = reference.tokenize(
        CONFIG, VOCABULARY, [f"{PHRASE} {name.replace('_', ' ')}." for name in NAMES]
    )
    tokens = {"text": (len(NAMES), int(ends.max()) + 1), "vision": (IMAGES, 1 + PATCHES)}
    stored = {
        "pixels": rng.normal(0, 1, (IMAGES, 32, 32, 3)).astype(np.float32),
        "labels": np.array([1, 0, 4, 2]),
    }
    masks = {
        f"masks/{tower}": rng.random((STEPS, DEPTH, *tokens[tower], 3, width)) >= RATE
        for tower, width in WIDTHS.items()
    }
    data = {name: torch.tensor(array) for name, array in (stored | masks).items()}
    data |= {name: data[name].double() for name in ("pixels", *masks)}
    for name, mask in masks.items():
        stored |= {name: np.packbits(mask), f"{name}/shape": np.array(mask.shape)}
    for method in (clip_lora, clip_svd, two_sfs):
        for name, answer in method(rng, weights, data).items():
            stored[f"{method.__name__}/{name}"] = np.float32(answer.detach())
    np.savez_compressed(FILE, **stored)


if __name__ == "__main__":
    main()
