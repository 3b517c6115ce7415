"""Made `feature_methods.npz`: what methods on frozen features answer on small random features.

  pip install torch==2.13.0 numpy && python make_feature_methods.py

Literal and in float64, from what is published:
  CLIP-Adapter       Gao et al. 2021, "CLIP-Adapter: better vision-language models with feature
                     adapters"
  TaskRes            Yu et al. 2023, "Task residual for tuning vision-language models"
  Tip-Adapter        Zhang et al. 2022, "Tip-Adapter: training-free adaption of CLIP for few-shot
                     classification"
  LP++               Huang et al. 2024, "LP++: a surprisingly strong linear probe for few-shot CLIP"
  cross-modal probe  Lin et al. 2023, "Multimodality helps unimodality"
Settings are those of the papers or of the authors' code.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

FILE = Path(__file__).with_name("feature_methods.npz")
CLASSES, SHOTS, TEXTS, WIDTH, VIEWS = 5, 3, 2, 16, 10


def unit(x):
    return F.normalize(x, dim=-1)


def epoch_rate(base, epoch, epochs):
    return 1e-5 if epoch == 0 else base * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))


def train(parameters, optimizer, rates, loss):
    """Losses and first gradients of a training, whose steps have these rates."""
    losses, first = [], None
    for step, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        value = loss(step)
        value.backward()
        losses.append(value.item())
        first = first or {name: p.grad.clone() for name, p in parameters.items()}
        optimizer.step()
    return losses, first


def three_steps(initial, make_optimizer, rates, logits, loss):
    """Logits and gradients at the start, losses and parameters of three steps."""
    parameters = {name: array.clone().requires_grad_() for name, array in initial.items()}
    answers = {"logits": logits(parameters).detach()}
    losses, gradients = train(
        parameters, make_optimizer(parameters.values()), rates, lambda step: loss(parameters, step)
    )
    answers["losses"] = torch.tensor(losses)
    for name in initial:
        answers |= {
            f"initial/{name}": initial[name],
            f"gradient/{name}": gradients[name],
            f"trained/{name}": parameters[name].detach(),
        }
    return answers


def clip_adapter(rng, data):
    x, text = data["images"], unit(unit(data["texts"]).mean(1))
    bound, hidden = WIDTH**-0.5, WIDTH // 4
    initial = {
        "down": torch.tensor(rng.uniform(-bound, bound, (hidden, WIDTH))),
        "up": torch.tensor(rng.uniform(-(hidden**-0.5), hidden**-0.5, (WIDTH, hidden))),
    }

    def logits(p):
        added = torch.relu(F.linear(torch.relu(F.linear(x, p["down"])), p["up"]))
        return data["scale"] * unit(0.2 * added + 0.8 * x) @ text.T

    return three_steps(
        initial,
        lambda p: torch.optim.SGD(p, lr=1, momentum=0.9, weight_decay=5e-4),
        [epoch_rate(0.002, e, 200) for e in range(3)],
        logits,
        lambda p, step: F.cross_entropy(logits(p), data["labels"]),
    )


def taskres(rng, data):
    f, raw = unit(data["images"]), data["texts"].mean(1)
    initial = {"residual": torch.tensor(rng.normal(0, 0.1, (CLASSES, WIDTH)))}

    def logits(p):
        return data["scale"] * f @ unit(raw + 0.5 * p["residual"]).T

    return three_steps(
        initial,
        lambda p: torch.optim.Adam(p, lr=1, weight_decay=5e-4),
        [epoch_rate(0.002, e, 200) for e in range(3)],
        logits,
        lambda p, step: F.cross_entropy(logits(p), data["labels"]),
    )


def tip_logits(f, text, keys, one_hot, scale, alpha, beta):
    return scale * f @ text.T + alpha * torch.exp(-beta * (1 - f @ keys.T)) @ one_hot


def tip_search(f, labels, *cache):
    best, chosen = -1, None
    for i in range(200):
        beta = 0.1 + i * (7 - 0.1) / 200
        for j in range(20):
            alpha = 0.1 + j * (3 - 0.1) / 20
            found = (tip_logits(f, *cache, alpha, beta).argmax(-1) == labels).sum().item()
            if found > best:
                best, chosen = found, (alpha, beta)
    return torch.tensor(chosen)


def tip_adapter(rng, data):
    text = unit(unit(data["texts"]).mean(1))
    keys = unit(data["views"].mean(1))
    one_hot = F.one_hot(data["labels"], CLASSES).double()
    cache = (text, keys, one_hot, data["scale"])
    f = unit(data["images"])
    return {
        "keys": keys,
        "logits": tip_logits(f, *cache, 1.17, 1.0),
        "chosen": tip_search(unit(data["validation"]), data["validation_labels"], *cache),
    }


def tip_adapter_f(rng, data):
    text, f = unit(unit(data["texts"]).mean(1)), unit(data["images"])
    one_hot = F.one_hot(data["labels"], CLASSES).double()

    def logits(p):
        return tip_logits(f, text, p["keys"], one_hot, data["scale"], 1.17, 1.0)

    return three_steps(
        {"keys": unit(data["views"].mean(1))},
        lambda p: torch.optim.AdamW(p, lr=1, eps=1e-4, weight_decay=0.01),
        [0.001 * 0.5 * (1 + math.cos(math.pi * s / 20)) for s in range(3)],
        logits,
        lambda p, step: F.cross_entropy(logits(p), data["labels"]),
    )


def lp_plus_plus(rng, data):
    """Twenty steps: alpha moves in the tenth, and by the sum of all gradients in the twentieth."""
    text, f, labels = unit(unit(data["texts"]).mean(1)), unit(data["images"]), data["labels"]
    validation = unit(data["validation"])
    similarity = f @ text.T
    own = [similarity[labels == k, k].mean() for k in range(CLASSES)]
    p = {
        "weights": torch.stack([f[labels == k].sum(0) for k in range(CLASSES)]),
        "bias": torch.tensor(rng.uniform(-(WIDTH**-0.5), WIDTH**-0.5, CLASSES)),
        "alpha": 250 * torch.stack(own).mean() * torch.ones(CLASSES).double(),
    }
    answers = {f"initial/{name}": array.clone() for name, array in p.items()}
    rate = 4 * len(f) / torch.linalg.eigvalsh(f.T @ f).max()
    alpha_rate = len(f) / (4 * similarity.square().sum(0).max())
    p = {name: array.requires_grad_() for name, array in p.items()}

    def logits(x):
        return x @ p["weights"].T + p["bias"] + p["alpha"] * (x @ text.T)

    answers |= {"logits": logits(f).detach(), "rates": torch.tensor([rate, alpha_rate])}
    optimizer = torch.optim.SGD([p["weights"], p["bias"]], lr=rate, momentum=0.9)
    losses, best = [], -1
    for step in range(20):
        optimizer.zero_grad()  # leaves alpha's gradient as it is
        loss = F.cross_entropy(logits(f), labels)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            answers |= {f"gradient/{name}": array.grad.clone() for name, array in p.items()}
        optimizer.step()
        if (step + 1) % 10 == 0:
            p["alpha"].data -= alpha_rate * p["alpha"].grad
        right = (logits(validation).argmax(-1) == data["validation_labels"]).sum().item()
        if right >= best:
            best = right
            answers |= {f"best/{name}": a.detach().clone() for name, a in p.items()}
            answers["best/step"] = torch.tensor(step)
        if step in (2, 19):
            stage = "trained" if step == 2 else "later"
            answers |= {f"{stage}/{name}": a.detach().clone() for name, a in p.items()}
    return answers | {"losses": torch.tensor(losses)}


def cross_modal_probe(rng, data):
    """Batches of ten images, of view 0, 1 and 0, and all ten texts."""
    views = [unit(data["images"]), unit(data["mirrored"])]
    texts = unit(data["texts"]).flatten(0, 1)
    owners = torch.arange(CLASSES).repeat_interleave(TEXTS)
    labels = torch.cat([data["labels"][:10], owners])

    def loss(p, step):
        batch = torch.cat([views[step % 2][:10], texts])
        return F.cross_entropy(data["scale"] * F.linear(batch, p["weights"]), labels)

    return three_steps(
        {"weights": unit(data["texts"].mean(1))},
        lambda p: torch.optim.AdamW(p, lr=1, weight_decay=0.01),
        [1e-5, 0.001 / 50, 0.001 * 2 / 50],
        lambda p: data["scale"] * F.linear(views[0], p["weights"]),
        loss,
    )


def main():
    rng = np.random.default_rng(6)
    centres, labels = rng.normal(0, 1, (CLASSES, WIDTH)), np.repeat(np.arange(CLASSES), SHOTS)
    validation_labels = np.repeat(np.arange(CLASSES), 8)

    def raw(shape, about, noise):
        """Features with norms between 5 and 15."""
        features = about + noise * rng.normal(0, 1, (*shape, WIDTH))
        features /= np.linalg.norm(features, axis=-1, keepdims=True)
        return features * rng.uniform(5, 15, (*shape, 1))

    drawn = {
        "images": raw(labels.shape, centres[labels], 1.5),
        "mirrored": raw(labels.shape, centres[labels], 1.5),
        "views": raw((len(labels), VIEWS), centres[labels][:, None], 1.5),
        "texts": raw((CLASSES, TEXTS), centres[:, None], 2.0),
        "validation": raw(validation_labels.shape, centres[validation_labels], 1.5),
        "labels": labels,
        "validation_labels": validation_labels,
        "scale": np.array(20.0),
    }
    data = {name: torch.tensor(array) for name, array in drawn.items()}
    stored = dict(drawn)
    methods = (
        clip_adapter, taskres, tip_adapter, tip_adapter_f, lp_plus_plus, cross_modal_probe,
    )  # fmt: skip
    for method in methods:
        answers = method(rng, data)
        stored |= {f"{method.__name__}/{name}": a.numpy() for name, a in answers.items()}
    np.savez_compressed(FILE, **stored)


if __name__ == "__main__":
    main()
