"""Made `conditional_methods.npz`: what CoCoOp, TCP and ProGrad answer on a small random CLIP.

  pip install torch==2.13.0 numpy safetensors && python make_conditional_methods.py

In float64, on the CLIP, the images and the class names of `methods.npz`. Literal and slow: CoCoOp
encodes one image after the other, every prompt at CLIP's full length. Written without a look at
this project's JAX code, from what is published:
  CoCoOp   Zhou et al. 2022, "Conditional prompt learning for vision-language models", section 3.2
  TCP      Yao et al. 2024, "TCP: textual-based class-aware prompt tuning for visual-language
           model", section 3.2
  ProGrad  Zhu et al. 2023, "Prompt-aligned gradient for prompt tuning", section 3.2
Settings are those of the authors' code; steps are those of PyTorch's optimisers, one an epoch.
"""

import math
from pathlib import Path

import clip_reference
import methods_reference as reference
import numpy as np
import torch
from make_methods import CONFIG, NAMES, PHRASE, VOCABULARY
from torch.nn import functional as F

FOLDER = Path(__file__).parent
FILE = FOLDER / "conditional_methods.npz"
EMBED, WIDTH = CONFIG["projection_dim"], CONFIG["text_config"]["hidden_size"]
EMBEDDING = "text_model.embeddings.token_embedding.weight"
REST = " with a lake."  # what follows a class name in TCP's texts


def linear(rng, inputs, outputs, name):
    bound = inputs**-0.5
    return {
        f"{name}/weight": rng.uniform(-bound, bound, (outputs, inputs)),
        f"{name}/bias": rng.uniform(-bound, bound, outputs),
    }


def apply(p, name, x):
    return F.linear(x, p[f"{name}/weight"], p[f"{name}/bias"])


def epoch_rate(base, epoch, epochs):
    return 1e-5 if epoch == 0 else base * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))


def train(initial, make_optimizer, rates, losses, update=None):
    """Logits, loss terms and gradients at the start, losses and parameters of three steps.

    `losses` gives logits and terms, of which the first is descended, or what `update` makes of the
    gradients of all.
    """
    p = {
        k: torch.tensor(v.astype(np.float32)).double().requires_grad_() for k, v in initial.items()
    }
    answers = {f"initial/{k}": v.detach().numpy().copy() for k, v in p.items()}
    optimizer, values = make_optimizer(p.values()), []
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        logits, terms = losses(p)
        gradients = [torch.autograd.grad(t, list(p.values()), retain_graph=True) for t in terms]
        followed = update(*gradients) if update else gradients[0]
        for parameter, gradient in zip(p.values(), followed, strict=True):
            parameter.grad = gradient.clone()
        if step == 0:
            answers |= {"logits": logits.detach().numpy()}
            answers |= {f"gradient/{k}": v.grad.numpy().copy() for k, v in p.items()}
        values.append([term.item() for term in terms])
        optimizer.step()
    answers |= {f"trained/{k}": v.detach().numpy() for k, v in p.items()}
    return answers | {"terms": np.array(values)}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1, momentum=0.9, weight_decay=5e-4)


def cocoop(rng, weights, scale, image, labels):
    hidden = EMBED // 16
    words = weights[EMBEDDING][[VOCABULARY.index(word) for word in PHRASE.split()]]
    initial = {"context": words.numpy()}
    initial |= linear(rng, EMBED, hidden, "down") | linear(rng, hidden, WIDTH, "up")

    def losses(p):
        rows = []
        for f in image:
            bias = apply(p, "up", torch.relu(apply(p, "down", f)))
            arguments = (CONFIG, weights, VOCABULARY, NAMES, PHRASE)
            text = reference.class_features(*arguments, (p["context"] + bias)[None])
            rows.append(scale * text @ f)
        logits = torch.stack(rows)
        return logits, [F.cross_entropy(logits, labels)]

    return train(initial, sgd, [epoch_rate(0.002, e, 10) for e in range(3)], losses)


def tcp_text(weights, context, vectors):
    """Features of "<context> <name> with a lake.", the vectors of a class in place from block 2."""
    sizes, features = CONFIG["text_config"], []
    texts = [f"{PHRASE} {name.replace('_', ' ')}{REST}" for name in NAMES]
    ids, ends = reference.tokenize(CONFIG, VOCABULARY, texts)
    mask = torch.full((ids.shape[1],) * 2, -torch.inf, dtype=torch.float64).triu(1)
    for k, end in enumerate(ends):
        x = torch.cat([weights[EMBEDDING][ids[k, :1]], context, weights[EMBEDDING][ids[k, 5:]]])
        x = (x + weights["text_model.embeddings.position_embedding.weight"])[None]
        for i in range(sizes["num_hidden_layers"]):
            if i == 2:
                x = torch.cat([x[:, :1], vectors[k][None], x[:, 5:]], 1)
            name = f"text_model.encoder.layers.{i}"
            x = reference.block(x, weights, name, sizes["num_attention_heads"], mask)
        x = reference.layer_norm(x[0, end], weights, "text_model.final_layer_norm")
        features.append(F.normalize(F.linear(x, weights["text_projection.weight"]), dim=-1))
    return torch.stack(features)


def tcp(rng, weights, scale, image, labels):
    hidden = EMBED // 4
    initial = {"context": rng.normal(0, 0.02, (4, WIDTH))}
    initial |= linear(rng, EMBED, hidden, "down") | linear(rng, hidden, 4 * WIDTH, "up")
    ids, ends = reference.tokenize(
        CONFIG, VOCABULARY, [f"{PHRASE} {name.replace('_', ' ')}{REST}" for name in NAMES]
    )
    anchors = reference.encode_text(CONFIG, weights, weights[EMBEDDING][ids], ends)

    def losses(p):
        inner = apply(p, "down", anchors)
        vectors = apply(p, "up", inner * torch.sigmoid(1.702 * inner)).view(-1, 4, WIDTH)
        text = tcp_text(weights, p["context"], vectors)
        logits = scale * image @ text.T
        distance = 1 - F.cosine_similarity(text, anchors).mean()
        cross_entropy = F.cross_entropy(logits, labels)
        return logits, [cross_entropy + 8.0 * distance, cross_entropy, distance]

    adam = lambda p: torch.optim.Adam(p, lr=1, eps=1e-3, weight_decay=5e-4)  # noqa: E731
    return train(initial, adam, [epoch_rate(0.002, e, 50) for e in range(3)], losses)


def prograd(rng, weights, scale, image, labels):
    words = weights[EMBEDDING][[VOCABULARY.index(word) for word in PHRASE.split()]]
    initial = {"context": np.concatenate([np.zeros((2, WIDTH)), words.numpy()])}
    phrase = "red red " + PHRASE  # two words more, whose vectors are 0
    arguments = (CONFIG, weights, VOCABULARY, NAMES)
    teacher = (scale * image @ reference.class_features(*arguments, PHRASE).T).softmax(-1)
    products = []

    def losses(p):
        text = reference.class_features(*arguments, phrase, p["context"][None])
        logits = scale * image @ text.T
        knowledge = -(teacher * logits.log_softmax(-1)).sum(-1).mean()
        return logits, [F.cross_entropy(logits, labels), knowledge]

    def update(of_loss, of_knowledge):
        followed = []
        for g, h in zip(of_loss, of_knowledge, strict=True):
            unit = h.flatten() / h.norm()
            product = g.flatten() @ unit
            products.append(product.item())
            followed.append(g - product * unit.view_as(g) if product < 0 else g)
        return followed

    rates = [epoch_rate(0.002, e, 200) for e in range(3)]
    return train(initial, sgd, rates, losses, update) | {"products": np.array(products)}


def main():
    rng = np.random.default_rng(5)
    weights = {
        name: torch.tensor(tensor).double()
        for name, tensor in clip_reference.weights(CONFIG).items()
    }
    with np.load(FOLDER / "methods.npz") as known:
        views, labels = torch.tensor(known["views"][0]).double(), torch.tensor(known["labels"])
    image = reference.encode_image(CONFIG, weights, views)
    scale = weights["logit_scale"].exp()
    opposed = torch.tensor([0, 3, 0, 3])
    cases = {
        "cocoop": (cocoop, labels),
        "tcp": (tcp, labels),
        "prograd": (prograd, opposed),
        "prograd_agreeing": (prograd, labels),
    }
    stored = {}
    for name, (method, case_labels) in cases.items():
        answers = method(rng, weights, scale, image, case_labels)
        answers["labels"] = case_labels.numpy()
        stored |= {f"{name}/{key}": array for key, array in answers.items()}
    assert (stored["prograd/products"] < 0).all() and (
        stored["prograd_agreeing/products"] > 0
    ).all()
    np.savez_compressed(FILE, **stored)


if __name__ == "__main__":
    main()
