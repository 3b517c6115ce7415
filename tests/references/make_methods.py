"""Made `methods.npz`: what the methods of `methods_reference.py` answer on a small random CLIP.

  pip install torch==2.13.0 numpy safetensors && python make_methods.py

Of each case: the learned tensors and what was fixed, unit features of classes and images, logits
(images, templates, classes), the loss and its gradients with respect to every learned tensor.
"""

from pathlib import Path

import clip_reference
import methods_reference as reference
import numpy as np
import torch
from torch.nn import functional as F

FILE = Path(__file__).with_name("methods.npz")
CONFIG = clip_reference.METHODS
VOCABULARY = [
    *"<pad> <start> . a photo of the picture with cat sea or lake dog red".split(),
    *(f"<{i}>" for i in range(15, 99)),
    "<end>",
]
NAMES = ["cat", "sea_or_lake", "red dog", "dog", "lake"]
PHRASE = "a photo of a"
IMAGES = 4


def learned(rng, templates, layers, context, multimodal):
    """Vectors of the size of token embeddings, maps as PyTorch's Linear starts, all different."""
    width, vision = (CONFIG[f"{tower}_config"]["hidden_size"] for tower in ("text", "vision"))
    tensors = {"context": rng.normal(0, 0.3, (templates, layers, context, width))}
    if multimodal:
        bound = width**-0.5
        shape = (templates, layers, vision, width)
        tensors["coupling_weight"] = rng.uniform(-bound, bound, shape)
        tensors["coupling_bias"] = rng.uniform(-bound, bound, shape[:-1])
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def forward(weights, tensors, phrases, views):
    """Features and logits of every template, each with its own view or all with one."""
    text, image, logits = [], [], []
    for m, phrase in enumerate(phrases):
        of_m = {name: tensor[m] for name, tensor in tensors.items()}
        text.append(
            reference.class_features(CONFIG, weights, VOCABULARY, NAMES, phrase, of_m["context"])
        )
        prompts = reference.visual_prompts(**of_m) if len(of_m) > 1 else ()
        image.append(reference.encode_image(CONFIG, weights, views[m % len(views)], prompts))
        logits.append(weights["logit_scale"].exp() * image[m] @ text[m].T)
    return text, image, logits


def main():
    rng = np.random.default_rng(2)
    weights = {
        name: torch.tensor(tensor).double()
        for name, tensor in clip_reference.weights(CONFIG).items()
    }
    pixels = rng.normal(0, 1, (3, IMAGES, 32, 32, 3)).astype(np.float32)
    views, labels = torch.tensor(pixels).double(), torch.tensor([1, 0, 4, 2])
    anchors = reference.class_features(CONFIG, weights, VOCABULARY, NAMES, PHRASE)
    zero_shot = reference.encode_image(CONFIG, weights, views.flatten(0, 1)) @ anchors.T
    shift = float((weights["logit_scale"].exp() * zero_shot).mean())

    def cross_entropy(text, logits):
        return F.cross_entropy(sum(logits) / len(logits), labels)

    def kgcoop(text, logits):
        return cross_entropy(text, logits) + 8.0 * reference.consistency(text, anchors)

    def cdc(text, logits):
        loss = reference.trusted_loss(logits, labels, shift, kl_weight=0.01, fused_weight=1.0)
        loss = loss + 0.1 * reference.decoupling(text)
        return loss + 8.0 * reference.consistency(text, anchors)

    shallow = dict(layers=1, context=4, multimodal=False)
    deep = dict(layers=3, context=2, multimodal=True)
    phrases = [PHRASE, "the picture with a", PHRASE]
    cases = {
        "coop": (shallow, phrases[:1], views[:1], cross_entropy),
        "kgcoop": (shallow, phrases[:1], views[:1], kgcoop),
        "maple": (deep, phrases[:1], views[:1], cross_entropy),
        "multi_template": (deep, phrases[:2], views[:1], cross_entropy),
        "cdc": (deep, phrases, views, cdc),
    }
    stored = {
        "vocabulary": np.array(VOCABULARY), "names": np.array(NAMES), "views": pixels,
        "labels": labels.numpy(), "anchors": anchors.numpy(), "shift": shift,
    }  # fmt: skip
    for name, (prompts, phrases, views, loss) in cases.items():
        initial = learned(rng, len(phrases), **prompts)
        tensors = {k: torch.tensor(v).double().requires_grad_() for k, v in initial.items()}
        text, image, logits = forward(weights, tensors, phrases, views)
        value = loss(text, logits)
        value.backward()
        answers = {
            "text": torch.stack(text), "image": torch.stack(image),
            "logits": torch.stack(logits, 1), "loss": value,
        }  # fmt: skip
        answers |= {f"gradient/{k}": tensor.grad for k, tensor in tensors.items()}
        stored |= {f"{name}/{k}": tensor for k, tensor in initial.items()}
        stored |= {f"{name}/{k}": tensor.detach().numpy() for k, tensor in answers.items()}
    np.savez_compressed(FILE, **stored)


if __name__ == "__main__":
    main()
