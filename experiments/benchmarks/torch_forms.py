"""CoOp, KgCoOp, MaPLe and CDC as their published PyTorch code runs them. Needs torch, not JAX.

Each text has CLIP's full length, the templates run one after the other, and opinions fuse pair by
pair with K x K products. The frozen weights need no gradient, and an image tower without prompts
runs without a graph. Written for this benchmark from the papers:

  CoOp    Zhou et al. 2022, "Learning to prompt for vision-language models"
  KgCoOp  Yao et al. 2023, "Visual-language prompt tuning with knowledge-guided context
          optimization"
  MaPLe   Khattak et al. 2023, "MaPLe: multi-modal prompt learning"
  CDC     Zhang et al. 2024, arXiv 2410.12816, its losses in this project's reading; evidence and
          fusion: Sensoy et al. 2018, Han et al. 2021
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Affine = tuple[Tensor, Tensor]  # weight and bias


@dataclasses.dataclass(frozen=True)
class Block:
    """The frozen weights of a transformer block."""

    norm1: Affine
    qkv: Affine
    out: Affine
    norm2: Affine
    fc1: Affine
    fc2: Affine


class Tower:
    """The blocks of one encoder.

    Args:
      tensors: of transformers' CLIPModel by name.
      root: `text_model` or `vision_model`.
      config: the encoder's part of config.json.
      dtype: of the matrices.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], root: str, config: Mapping, dtype: torch.dtype
    ):
        self.heads, self.epsilon = config["num_attention_heads"], config["layer_norm_eps"]
        self.quick, self.causal = config["hidden_act"] == "quick_gelu", root == "text_model"

        def affine(name: str, dtype: torch.dtype = torch.float32) -> Affine:
            return tensors[f"{name}.weight"].to(dtype), tensors[f"{name}.bias"].to(dtype)

        self.blocks = []
        for i in range(config["num_hidden_layers"]):
            layer = f"{root}.encoder.layers.{i}"
            qkv = [affine(f"{layer}.self_attn.{part}_proj", dtype) for part in "qkv"]
            weights, biases = zip(*qkv, strict=True)
            block = Block(
                norm1=affine(f"{layer}.layer_norm1"),
                qkv=(torch.cat(weights), torch.cat(biases)),
                out=affine(f"{layer}.self_attn.out_proj", dtype),
                norm2=affine(f"{layer}.layer_norm2"),
                fc1=affine(f"{layer}.mlp.fc1", dtype),
                fc2=affine(f"{layer}.mlp.fc2", dtype),
            )
            self.blocks.append(block)

    def __call__(self, x: Tensor, prompts: Sequence[Tensor] | Tensor, start: int) -> Tensor:
        """Runs all blocks; before block j, `prompts[j]` replaces the tokens from `start`."""
        for i, block in enumerate(self.blocks):
            if 0 < i < len(prompts):
                prompt = prompts[i].expand(len(x), -1, -1)
                x = torch.cat([x[:, :start], prompt, x[:, start + prompt.shape[1] :]], 1)
            x = x + F.linear(self._attend(self.norm(x, block.norm1), block), *block.out)
            hidden = F.linear(self.norm(x, block.norm2), *block.fc1)
            hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick else F.gelu(hidden)
            x = x + F.linear(hidden, *block.fc2)
        return x

    def norm(self, x: Tensor, affine: Affine) -> Tensor:
        """Layer normalisation of the last axis."""
        return F.layer_norm(x, x.shape[-1:], *affine, self.epsilon)

    def _attend(self, x: Tensor, block: Block) -> Tensor:
        q, k, v = F.linear(x, *block.qkv).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return mixed.transpose(1, 2).flatten(2)


class Clip:
    """CLIP's towers with the slots for prompts.

    Args:
      tensors: of transformers' CLIPModel by name, float32.
      config: its config.json.
      dtype: "float32" or "bfloat16", of the matrices of the blocks.
    """

    def __init__(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], dtype: str):
        self._tensors, self._patch = tensors, config["vision_config"]["patch_size"]
        matrices = getattr(torch, dtype)
        self._text = Tower(tensors, "text_model", config["text_config"], matrices)
        self._vision = Tower(tensors, "vision_model", config["vision_config"], matrices)
        self.logit_scale = tensors["logit_scale"].exp()

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings."""
        return self._tensors["text_model.embeddings.token_embedding.weight"][ids]

    def text(self, embedded: Tensor, ends: Tensor, prompts: Tensor) -> Tensor:
        """Unit features of embedded texts whose ends of text stand at `ends`.

        `prompts` (layers, d, width) take the places behind the start of text, a row a block.
        """
        prompt = prompts[0].expand(len(embedded), -1, -1)
        x = torch.cat([embedded[:, :1], prompt, embedded[:, 1 + prompt.shape[1] :]], 1)
        x = x + self._tensors["text_model.embeddings.position_embedding.weight"]
        x = self._text(x, prompts, 1)
        x = self._normed(self._text, x, "text_model.final_layer_norm")
        x = x[torch.arange(len(x), device=x.device), ends]
        return F.normalize(F.linear(x, self._tensors["text_projection.weight"]).float(), dim=-1)

    def image(self, pixels: Tensor, prompts: Sequence[Tensor] = ()) -> Tensor:
        """Unit features of images (batch, 3, rows, columns).

        `prompts[0]` (d, width) stands behind the patches, `prompts[j]` replaces it before block j.
        """
        root = "vision_model.embeddings"
        patches = F.conv2d(
            pixels, self._tensors[f"{root}.patch_embedding.weight"], stride=self._patch
        )
        first = self._tensors[f"{root}.class_embedding"].expand(len(pixels), 1, -1)
        x = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)
        x = x + self._tensors[f"{root}.position_embedding.weight"]
        tokens = x.shape[1]
        if len(prompts):
            x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], 1)
        x = self._normed(self._vision, x, "vision_model.pre_layrnorm")
        x = self._vision(x, prompts, tokens)[:, 0]
        x = self._normed(self._vision, x, "vision_model.post_layernorm")
        return F.normalize(F.linear(x, self._tensors["visual_projection.weight"]).float(), dim=-1)

    def _normed(self, tower: Tower, x: Tensor, name: str) -> Tensor:
        return tower.norm(x, (self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]))


# ---- Losses


def dempster(alpha1: Tensor, alpha2: Tensor) -> Tensor:
    """The rule for two opinions, concentrations to concentration: (images, classes)."""
    classes = alpha1.shape[1]
    (belief1, u1), (belief2, u2) = (
        ((alpha - 1) / alpha.sum(1, keepdim=True), classes / alpha.sum(1, keepdim=True))
        for alpha in (alpha1, alpha2)
    )
    products = belief1[:, :, None] @ belief2[:, None, :]
    conflict = products.sum((1, 2)) - products.diagonal(dim1=1, dim2=2).sum(1)
    agreement = 1 - conflict[:, None]
    belief = (belief1 * belief2 + belief1 * u2 + belief2 * u1) / agreement
    return belief * classes / (u1 * u2 / agreement) + 1


def trusted_cross_entropy(alpha: Tensor, labels: Tensor, kl_weight: float) -> Tensor:
    """Expected cross-entropy under Dir(alpha), and the divergence of wrong evidence from none."""
    target = F.one_hot(labels, alpha.shape[1])
    strength = alpha.sum(1, keepdim=True)
    expected = (target * (strength.digamma() - alpha.digamma())).sum(1)
    wrong = target + (1 - target) * alpha
    total = wrong.sum(1, keepdim=True)
    divergence = (
        total.lgamma()[:, 0]
        - wrong.lgamma().sum(1)
        - math.lgamma(alpha.shape[1])
        + ((wrong - 1) * (wrong.digamma() - total.digamma())).sum(1)
    )
    return expected + kl_weight * divergence


def trusted(logits: Sequence[Tensor], labels: Tensor, shift: float, kl_weight: float) -> Tensor:
    """Trusted cross-entropy of each template's evidence exp(z - shift), and of all fused."""
    alphas = [torch.exp(z - shift) + 1 for z in logits]
    fused = alphas[0]
    for alpha in alphas[1:]:
        fused = dempster(fused, alpha)
    losses = [trusted_cross_entropy(alpha, labels, kl_weight) for alpha in (*alphas, fused)]
    return sum(losses[1:], losses[0]).mean()


def decoupling(text: Sequence[Tensor]) -> Tensor:
    """How alike the templates are: for each the mean of positive cosines with the others."""
    total = text[0].new_zeros(())
    for m, features in enumerate(text):
        others = [(features * other).sum(1) for n, other in enumerate(text) if n != m]
        total = total + torch.stack(others).clamp(min=0).mean()
    return total


# ---- Training


class Training:
    """A method's steps on one batch, with SGD and the published schedule of one step an epoch.

    Args:
      clip: the frozen model.
      arrays: `pixels` (batch, 3, rows, columns), `labels`, `texts` (templates, classes, context
        length) token ids, `ends` (classes,), `anchors` (classes, embed); `context` (templates,
        layers, d, width), and with visual prompts `coupling_weight` (templates, layers, vision
        width, text width) and `coupling_bias`.
      settings: `kl_weight`, `shift`, `decoupling`, `consistency`, `evidential`, and the optimiser's
        `rate`, `warmup`, `decay`, `epochs`.
      autocast: whether products run in bfloat16.
      device: where the frozen model is.
    """

    def __init__(
        self,
        clip: Clip,
        arrays: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        autocast: bool,
        device: str = "cpu",
    ):
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        self.device = device
        learned = [n for n in ("context", "coupling_weight", "coupling_bias") if n in tensors]
        self.learned = {name: tensors[name].requires_grad_() for name in learned}
        self.clip, self.settings, self.autocast, self.steps = clip, settings, autocast, 0
        self.pixels, self.labels, self.ends = (tensors[n] for n in ("pixels", "labels", "ends"))
        self.anchors, self.embedded = tensors["anchors"], [clip.embed(t) for t in tensors["texts"]]
        self.optimizer = torch.optim.SGD(
            self.learned.values(), momentum=0.9, weight_decay=settings["decay"]
        )

    def step(self) -> float:
        """One step of training; the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.steps += 1
        self.optimizer.zero_grad()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            text, logits = self._forward()
        loss = self._loss(text, logits)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def velocity(self) -> dict[str, np.ndarray]:
        """The optimiser's momentum of everything learned."""
        return {
            name: self.optimizer.state[tensor]["momentum_buffer"].cpu().numpy()
            for name, tensor in self.learned.items()
        }

    def _forward(self) -> tuple[list[Tensor], list[Tensor]]:
        """Class features and logits of each template."""
        text, logits = [], []
        for m, embedded in enumerate(self.embedded):
            image = self._image(m)
            text.append(self.clip.text(embedded, self.ends, self.learned["context"][m]))
            with torch.autocast(self.device, enabled=False):
                logits.append(self.clip.logit_scale * image @ text[m].T)
        return text, logits

    def _image(self, m: int) -> Tensor:
        """Image features under a template; without visual prompts no gradient passes."""
        if "coupling_weight" not in self.learned:
            with torch.no_grad():
                return self.clip.image(self.pixels)
        layers = zip(*(tensor[m] for tensor in self.learned.values()), strict=True)
        return self.clip.image(self.pixels, [F.linear(*layer) for layer in layers])

    def _loss(self, text: list[Tensor], logits: list[Tensor]) -> Tensor:
        settings = self.settings
        if settings["evidential"]:
            progress = (self.steps - 1) / settings["steps"]
            kl_weight = settings["kl_weight"] * min(1.0, 2 * progress)
            loss = trusted(logits, self.labels, settings["shift"], kl_weight)
        else:
            loss = F.cross_entropy(sum(logits) / len(logits), self.labels)
        if settings["decoupling"]:
            loss = loss + settings["decoupling"] * decoupling(text)
        if settings["consistency"]:
            distance = sum((1 - (features * self.anchors).sum(1)).mean() for features in text)
            loss = loss + settings["consistency"] * distance
        return loss

    def _rate(self) -> float:
        settings, epoch = self.settings, self.steps
        cosine = 0.5 * (1 + math.cos(math.pi * (epoch - 1) / settings["epochs"]))
        return settings["warmup"] if epoch == 0 else settings["rate"] * cosine
