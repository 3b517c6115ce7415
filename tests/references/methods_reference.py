"""CoOp, KgCoOp, MaPLe and CDC on a CLIP in plain PyTorch and float64.

Literal and slow: one template after the other, every prompt at CLIP's full length, opinions fused
pair by pair. Written without a look at this project's JAX code, from what is published:
  CoOp    Zhou et al. 2022, "Learning to prompt for vision-language models", section 3.2
  KgCoOp  Yao et al. 2023, "Visual-language prompt tuning with knowledge-guided context
          optimization", section 3.2; its squared distance of unit vectors is 2 (1 - cos), and the
          published code, like this one, weighs 1 - cos
  MaPLe   Khattak et al. 2023, "MaPLe: multi-modal prompt learning", section 3.2
  CDC     Zhang et al. 2024, "Rethinking misalignment in vision-language model adaptation from a
          causal perspective", in this project's reading of its losses; evidence, opinions and their
          fusion: Sensoy et al. 2018, Han et al. 2021

`weights` are the tensors of transformers' CLIPModel by name, `config` its config.json.
"""

import re

import torch
from torch.distributions import Dirichlet, kl_divergence
from torch.nn import functional as F

START, PAD = 1, 0


# ---- CLIP, with prompts


def linear(x, weights, name):
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def layer_norm(x, weights, name):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)


def attention(x, weights, name, heads, mask):
    batch, tokens, width = x.shape
    q, k, v = (
        linear(x, weights, f"{name}.{part}_proj").view(batch, tokens, heads, -1).transpose(1, 2)
        for part in "qkv"
    )
    scores = q @ k.transpose(-1, -2) / (width // heads) ** 0.5 + mask
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width)
    return linear(mixed, weights, f"{name}.out_proj")


def block(x, weights, name, heads, mask=0.0):
    x = x + attention(
        layer_norm(x, weights, f"{name}.layer_norm1"), weights, f"{name}.self_attn", heads, mask
    )
    hidden = linear(layer_norm(x, weights, f"{name}.layer_norm2"), weights, f"{name}.mlp.fc1")
    return x + linear(hidden * torch.sigmoid(1.702 * hidden), weights, f"{name}.mlp.fc2")


def encode_text(config, weights, embedded, ends, deep=(), raw=False):
    """Unit or raw features of token embeddings (texts, length, width), pooled at `ends`.

    The vectors behind the start of text are replaced by `deep[j]` before layer j + 2.
    """
    sizes = config["text_config"]
    mask = torch.full((embedded.shape[1],) * 2, -torch.inf, dtype=torch.float64).triu(1)
    x = embedded + weights["text_model.embeddings.position_embedding.weight"]
    for i in range(sizes["num_hidden_layers"]):
        if 0 < i <= len(deep):
            prompt = deep[i - 1].expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], prompt, x[:, 1 + prompt.shape[1] :]], 1)
        name = f"text_model.encoder.layers.{i}"
        x = block(x, weights, name, sizes["num_attention_heads"], mask)
    x = layer_norm(x, weights, "text_model.final_layer_norm")[torch.arange(len(x)), ends]
    features = linear(x, weights, "text_projection")
    return features if raw else F.normalize(features, dim=-1)


def encode_image(config, weights, pixels, prompts=(), raw=False):
    """Unit or raw features of images (batch, height, width, 3).

    `prompts[0]` stands behind the patches in layer 1, `prompts[j]` takes its place in layer j + 1.
    """
    sizes, root = config["vision_config"], "vision_model.embeddings"
    patches = F.conv2d(
        pixels.permute(0, 3, 1, 2),
        weights[f"{root}.patch_embedding.weight"],
        stride=sizes["patch_size"],
    )
    first = weights[f"{root}.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)
    x = x + weights[f"{root}.position_embedding.weight"]
    image_tokens = x.shape[1]
    if len(prompts):
        x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], 1)
    x = layer_norm(x, weights, "vision_model.pre_layrnorm")
    for i in range(sizes["num_hidden_layers"]):
        if 0 < i < len(prompts):
            x = torch.cat([x[:, :image_tokens], prompts[i].expand(len(x), -1, -1)], 1)
        x = block(x, weights, f"vision_model.encoder.layers.{i}", sizes["num_attention_heads"])
    x = layer_norm(x[:, 0], weights, "vision_model.post_layernorm")
    features = linear(x, weights, "visual_projection")
    return features if raw else F.normalize(features, dim=-1)


# ---- Prompts of a template


def tokenize(config, vocabulary, texts):
    """Start, words, end, padding: (texts, length) and where each text ends."""
    sizes = config["text_config"]
    rows = [
        [START, *map(vocabulary.index, re.findall(r"\w+|[^\w\s]", text)), sizes["eos_token_id"]]
        for text in texts
    ]
    length = sizes["max_position_embeddings"]
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    return ids, torch.tensor([len(row) - 1 for row in rows])


def class_features(config, weights, vocabulary, names, phrase, context=None, raw=False):
    """Unit or raw text features of "<phrase> <name>." with learned vectors for its first words.

    `context` (layers, d, width): row 0 instead of the d first words of the phrase, row j in their
    place before layer j + 1. Without it, the text is hand-crafted.
    """
    ids, ends = tokenize(
        config, vocabulary, [f"{phrase} {name.replace('_', ' ')}." for name in names]
    )
    embedded = weights["text_model.embeddings.token_embedding.weight"][ids]
    if context is None:
        return encode_text(config, weights, embedded, ends, raw=raw)
    shallow = context[0].expand(len(ids), -1, -1)
    embedded = torch.cat([embedded[:, :1], shallow, embedded[:, 1 + shallow.shape[1] :]], 1)
    return encode_text(config, weights, embedded, ends, context[1:], raw)


def visual_prompts(context, coupling_weight, coupling_bias):
    """MaPLe's coupling: of every layer a Linear of its own, from text prompts to visual ones."""
    return [F.linear(*layer) for layer in zip(context, coupling_weight, coupling_bias, strict=True)]


# ---- Losses; logits are a list, (images, classes) of each template


def consistency(text, anchors):
    """KgCoOp's distance from the hand-crafted features, summed over the templates."""
    return sum((1 - (features * anchors).sum(-1)).mean() for features in text)


def decoupling(text):
    """How alike the templates' features of a class are: for each, the mean over others, above 0."""
    total = 0.0
    for m, features in enumerate(text):
        others = [(features * other).sum(-1) for n, other in enumerate(text) if n != m]
        total = total + torch.stack(others).clamp(min=0).mean()
    return total


def dempster(first, second):
    """Dempster's rule for two opinions (belief, uncertainty): (images, classes), (images, 1)."""
    (belief_1, u_1), (belief_2, u_2) = first, second
    products = belief_1[:, :, None] * belief_2[:, None, :]
    agreed = products.diagonal(dim1=1, dim2=2)
    conflict = (products.sum((1, 2)) - agreed.sum(1))[:, None]
    belief = (agreed + belief_1 * u_2 + belief_2 * u_1) / (1 - conflict)
    return belief, u_1 * u_2 / (1 - conflict)


def trusted_cross_entropy(alpha, labels, kl_weight):
    """Expected cross-entropy under Dir(alpha), and the divergence of wrong evidence from none."""
    target = F.one_hot(labels, alpha.shape[1]).double()
    expected = (target * (alpha.sum(1, keepdim=True).digamma() - alpha.digamma())).sum(1)
    wrong = target + (1 - target) * alpha
    divergence = kl_divergence(Dirichlet(wrong), Dirichlet(torch.ones_like(wrong)))
    return expected + kl_weight * divergence


def trusted_loss(logits, labels, shift, kl_weight, fused_weight):
    """Trusted cross-entropy of every template's evidence exp(z - shift), and of all fused."""
    classes = logits[0].shape[1]
    losses, opinions = [], []
    for z in logits:
        evidence = torch.exp(z - shift)
        alpha = evidence + 1
        losses.append(trusted_cross_entropy(alpha, labels, kl_weight))
        strength = alpha.sum(1, keepdim=True)
        opinions.append((evidence / strength, classes / strength))
    belief, uncertainty = opinions[0]
    for opinion in opinions[1:]:
        belief, uncertainty = dempster((belief, uncertainty), opinion)
    alpha = belief * classes / uncertainty + 1
    fused = trusted_cross_entropy(alpha, labels, kl_weight)
    return (sum(losses) + fused_weight * fused).mean()
