"""Made `regulated_prompts.npz`: what regulated prompts answer on `make_methods.py`'s small CLIP.

  pip install torch==2.13.0 numpy && python make_regulated_prompts.py

Literal and in float64, from what is published:
  IVLP, PromptSRC  Khattak et al. 2023, "Self-regulating prompts: foundational model adaptation
                   without forgetting"
  CoPrompt         Roy and Etemad 2024, "Consistency-guided prompt learning for vision-language
                   models"
Class names, labels and views are those of `methods.npz`. Of each case: logits, terms of the loss
and gradients at the start, and the parameters after three steps, an epoch each.
"""

import math
from pathlib import Path

import clip_reference
import methods_reference as reference
import numpy as np
import torch
from torch.nn import functional as F

FILE = Path(__file__).with_name("regulated_prompts.npz")
CONFIG = clip_reference.METHODS
TEACHERS = ["a photo of a", "the picture with a", "the"]
PHRASES = ["a photo of a", "the picture with a"]
SENTENCES = ["a photo of the {} with a lake.", "the {} or the red sea.", "a red picture of a {}."]
DRAWN = [2, 0, 1]  # the sentence of each step
LAYERS, CONTEXT, EPOCHS, RATE = 3, 2, 3, 0.05


class Data:
    """The frozen CLIP, and what is stored beside `methods.npz`."""

    def __init__(self):
        with np.load(Path(__file__).with_name("methods.npz")) as file:
            stored = dict(file)
        weights = clip_reference.weights(CONFIG)
        self.weights = {name: torch.tensor(tensor).double() for name, tensor in weights.items()}
        self.scale = self.weights["logit_scale"].exp()
        self.views = torch.tensor(stored["views"]).double()
        self.labels = torch.tensor(stored["labels"])
        self.names = [str(name) for name in stored["names"]]
        self.vocabulary = [str(word) for word in stored["vocabulary"]]
        self.shift = float(stored["shift"])
        self.teacher = F.normalize(sum(self.text(phrase) for phrase in TEACHERS) / 3, dim=-1)

    def text(self, phrase, context=None):
        arguments = (CONFIG, self.weights, self.vocabulary, self.names, phrase, context)
        return reference.class_features(*arguments, raw=True)

    def image(self, view, prompts=()):
        return reference.encode_image(CONFIG, self.weights, self.views[view], prompts, raw=True)

    def sentence(self, number):
        texts = [SENTENCES[number].format(name.replace("_", " ")) for name in self.names]
        ids, ends = reference.tokenize(CONFIG, self.vocabulary, texts)
        embedded = self.weights["text_model.embeddings.token_embedding.weight"][ids]
        return reference.encode_text(CONFIG, self.weights, embedded, ends)


def independent(rng, templates):
    widths = {
        name: CONFIG[f"{tower}_config"]["hidden_size"]
        for name, tower in (("context", "text"), ("visual", "vision"))
    }
    return {
        name: rng.normal(0, 0.3, (templates, LAYERS, CONTEXT, width))
        for name, width in widths.items()
    }


def coupled(rng):
    embed, hidden = CONFIG["projection_dim"], CONFIG["projection_dim"] // 4
    context = independent(rng, 1)
    width, vision = (context[name].shape[-1] for name in ("context", "visual"))

    def linear(outputs, inputs, *before):
        return rng.uniform(-(inputs**-0.5), inputs**-0.5, (*before, outputs, inputs))

    adapters = {
        f"{tower}_{name}": linear(*shape)
        for tower in ("image", "text")
        for name, shape in (("down", (hidden, embed)), ("up", (embed, hidden)))
    }
    coupling = {
        "coupling_weight": linear(vision, width, LAYERS),
        "coupling_bias": linear(vision, width, LAYERS)[..., 0],
    }
    return {"context": context["context"][0]} | coupling | adapters


def ivlp(data, p, step):
    """Features and logits of every template; template m has view step + m."""
    image, text = [], []
    for m, (context, visual) in enumerate(zip(p["context"], p["visual"], strict=True)):
        text.append(F.normalize(data.text(PHRASES[m], context), dim=-1))
        view = (step + m) % len(data.views)
        image.append(F.normalize(data.image(view, visual), dim=-1))
    logits = [data.scale * f @ t.T for f, t in zip(image, text, strict=True)]
    return image, text, logits


def ivlp_terms(data, p, step):
    logits = ivlp(data, p, step)[2]
    return {"classification": (1.0, F.cross_entropy(logits[0], data.labels))}


def regulation(data, features, step):
    """PromptSRC's three terms, summed over the templates."""
    text_distance = image_distance = divergence = 0.0
    for m, (f, t, z) in enumerate(zip(*features, strict=True)):
        frozen = F.normalize(data.image((step + m) % len(data.views)), dim=-1)
        text_distance = text_distance + F.l1_loss(t, data.teacher, reduction="mean")
        image_distance = image_distance + F.l1_loss(f, frozen, reduction="mean")
        taught = data.scale * frozen @ data.teacher.T
        kl = F.kl_div(z.log_softmax(-1), taught.log_softmax(-1), reduction="sum", log_target=True)
        divergence = divergence + kl / z.numel()
    return {
        "text_distance": (25.0, text_distance),
        "image_distance": (10.0, image_distance),
        "divergence": (1.0, divergence),
    }


def promptsrc_terms(data, p, step):
    features = ivlp(data, p, step)
    classification = F.cross_entropy(features[2][0], data.labels)
    return {"classification": (1.0, classification)} | regulation(data, features, step)


def promptsrc_dstc_terms(data, p, step):
    """The divergence of wrong evidence has weight 0 at the start and 0.01 from halfway on."""
    features = ivlp(data, p, step)
    kl_weight = 0.01 * min(1.0, 2 * step / EPOCHS)
    classification = reference.trusted_loss(features[2], data.labels, data.shift, kl_weight, 1.0)
    return {"classification": (1.0, classification)} | regulation(data, features, step)


def coprompt(data, p, step):
    def adapted(x, tower, ratio):
        hidden = torch.relu(F.linear(x, p[f"{tower}_down"]))
        added = torch.relu(F.linear(hidden, p[f"{tower}_up"]))
        return F.normalize(ratio * added + (1 - ratio) * x, dim=-1)

    layers = zip(p["context"], p["coupling_weight"], p["coupling_bias"], strict=True)
    visual = [F.linear(*layer) for layer in layers]
    text = adapted(data.text(PHRASES[0], p["context"]), "text", 0.2)
    image = adapted(data.image(step % len(data.views), visual), "image", 0.1)
    return [image], [text], [data.scale * image @ text.T]


def coprompt_terms(data, p, step):
    (image,), (text,), (logits,) = coprompt(data, p, step)
    frozen = F.normalize(data.image((step + 1) % len(data.views)), dim=-1)
    sentence = data.sentence(DRAWN[step])
    return {
        "classification": (1.0, F.cross_entropy(logits, data.labels)),
        "text_distance": (8.0, 1 - F.cosine_similarity(text, sentence).mean()),
        "image_distance": (8.0, 1 - F.cosine_similarity(image, frozen).mean()),
    }


def answers(data, initial, forward, terms):
    """At the start, and after each of three steps of the authors' optimiser."""
    p = {name: torch.tensor(array).float().double() for name, array in initial.items()}
    p = {name: tensor.requires_grad_() for name, tensor in p.items()}
    stored = {"logits": torch.stack(forward(data, p, 0)[2], 1)}
    stored |= {f"initial/{name}": tensor.clone() for name, tensor in p.items()}
    optimizer = torch.optim.SGD(p.values(), lr=1, momentum=0.9, weight_decay=5e-4)
    density = [math.exp(-0.5 * (epoch - 2.0) ** 2) for epoch in range(1, EPOCHS + 1)]
    average = {name: torch.zeros_like(tensor) for name, tensor in p.items()}
    losses = []
    for step in range(EPOCHS):
        rate = RATE * 0.5 * (1 + math.cos(math.pi * (step - 1) / EPOCHS))
        optimizer.param_groups[0]["lr"] = 1e-5 if step == 0 else rate
        optimizer.zero_grad()
        values = terms(data, p, step)
        loss = sum(weight * value for weight, value in values.values())
        loss.backward()
        losses.append(loss)
        if step == 0:
            stored |= {f"term/{name}": value for name, (_, value) in values.items()}
            stored |= {f"gradient/{name}": tensor.grad.clone() for name, tensor in p.items()}
        optimizer.step()
        with torch.no_grad():
            for name, tensor in p.items():
                average[name] += density[step] / sum(density) * tensor
    stored |= {f"trained/{name}": tensor for name, tensor in p.items()}
    stored |= {f"average/{name}": tensor for name, tensor in average.items()}
    stored = stored | {"losses": torch.stack(losses)}
    return {name: tensor.detach().numpy().astype(np.float32) for name, tensor in stored.items()}


def main():
    rng, data = np.random.default_rng(3), Data()
    cases = {
        "ivlp": (independent(rng, 1), ivlp, ivlp_terms),
        "promptsrc": (independent(rng, 1), ivlp, promptsrc_terms),
        "promptsrc_dstc": (independent(rng, 2), ivlp, promptsrc_dstc_terms),
        "coprompt": (coupled(rng), coprompt, coprompt_terms),
    }
    stored = {
        "teachers": np.array(TEACHERS), "phrases": np.array(PHRASES),
        "sentences": np.array(SENTENCES), "drawn": np.array(DRAWN), "rate": RATE,
    }  # fmt: skip
    for name, case in cases.items():
        stored |= {f"{name}/{key}": array for key, array in answers(data, *case).items()}
    np.savez_compressed(FILE, **stored)


if __name__ == "__main__":
    main()
