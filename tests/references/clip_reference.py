"""Small CLIPs with weights of a fixed seed, and inputs: shared by the tests and `make_clip.py`.

Names, shapes and layouts are those of `transformers`, written out here a second time.
"""

import json

import numpy as np
import safetensors.numpy


def _config(vision, text, embed, **others):
    def section(width, heads, depth, mlp, activation, epsilon=1e-5, **settings):
        return {
            "hidden_size": width,
            "num_attention_heads": heads,
            "num_hidden_layers": depth,
            "intermediate_size": mlp,
            "hidden_act": activation,
            "layer_norm_eps": epsilon,
            "projection_dim": embed,
        } | settings

    return {
        "model_type": "clip",
        "projection_dim": embed,
        "vision_config": section(**vision),
        "text_config": section(**text),
    } | others


START = 1  # id of the start-of-text token
# eos_token_id 2 is the legacy value; in two others the end-of-text is not the largest id.
CONFIGS = {
    "patch32_legacy": _config(
        dict(width=40, heads=5, depth=2, mlp=96, activation="quick_gelu", image_size=64,
             patch_size=32),
        dict(width=24, heads=3, depth=3, mlp=64, activation="quick_gelu", vocab_size=64,
             max_position_embeddings=77, eos_token_id=2),
        embed=20,
    ),
    "patch16": _config(
        dict(width=32, heads=4, depth=3, mlp=128, activation="quick_gelu", image_size=48,
             patch_size=16),
        dict(width=48, heads=6, depth=2, mlp=100, activation="quick_gelu", vocab_size=70,
             max_position_embeddings=77, eos_token_id=60),
        embed=24,
    ),
    "patch14_gelu_legacy": _config(
        dict(width=24, heads=2, depth=4, mlp=60, activation="gelu", image_size=42, patch_size=14),
        dict(width=40, heads=5, depth=2, mlp=80, activation="gelu", vocab_size=61,
             max_position_embeddings=24, eos_token_id=2),
        embed=56,
    ),
    "patch14_gelu": _config(
        dict(width=30, heads=3, depth=1, mlp=120, activation="gelu", image_size=28, patch_size=14,
             epsilon=1e-3),
        dict(width=16, heads=1, depth=4, mlp=64, activation="gelu", vocab_size=80,
             max_position_embeddings=32, eos_token_id=58, epsilon=1e-2),
        embed=8,
    ),
    "patch8_mixed": _config(
        dict(width=16, heads=8, depth=2, mlp=32, activation="gelu", image_size=32, patch_size=8),
        dict(width=64, heads=4, depth=1, mlp=48, activation="quick_gelu", vocab_size=60,
             max_position_embeddings=20, eos_token_id=59),
        embed=32,
    ),
}  # fmt: skip

# The towers of `make_methods.py`: deep enough for three prompted layers and one more.
METHODS = _config(
    dict(width=48, heads=6, depth=4, mlp=192, activation="quick_gelu", image_size=32,
         patch_size=8),
    dict(width=32, heads=4, depth=4, mlp=128, activation="quick_gelu", vocab_size=100,
         max_position_embeddings=24, eos_token_id=99),
    embed=40,
)  # fmt: skip


def weights(config, seed=0):
    """The tensors of `CLIPModel` in PyTorch's layout: every one matters to the output."""
    vision, text, embed = config["vision_config"], config["text_config"], config["projection_dim"]
    patch, patches = vision["patch_size"], (vision["image_size"] // vision["patch_size"]) ** 2
    width, text_width = vision["hidden_size"], text["hidden_size"]
    shapes = {
        "logit_scale": (),
        "text_model.embeddings.token_embedding.weight": (text["vocab_size"], text_width),
        "text_model.embeddings.position_embedding.weight": (
            text["max_position_embeddings"],
            text_width,
        ),
        "text_model.final_layer_norm": text_width,
        "text_projection.weight": (embed, text_width),
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": (patches + 1, width),
        "vision_model.pre_layrnorm": width,
        "vision_model.post_layernorm": width,
        "visual_projection.weight": (embed, width),
    }
    for tower, sizes in {"text_model": text, "vision_model": vision}.items():
        width, mlp = sizes["hidden_size"], sizes["intermediate_size"]
        for i in range(sizes["num_hidden_layers"]):
            layer = f"{tower}.encoder.layers.{i}"
            shapes |= {f"{layer}.layer_norm{j}": width for j in (1, 2)}
            linear = {f"self_attn.{x}": (width, width) for x in ("q_proj", "k_proj", "v_proj")}
            linear |= {"self_attn.out_proj": (width, width)}
            linear |= {"mlp.fc1": (mlp, width), "mlp.fc2": (width, mlp)}
            for name, shape in linear.items():
                shapes[f"{layer}.{name}.weight"] = shape
                shapes[f"{layer}.{name}.bias"] = shape[:1]
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        if isinstance(shape, int):  # a layer norm
            tensors[f"{name}.weight"] = rng.uniform(0.5, 1.5, shape)
            tensors[f"{name}.bias"] = rng.normal(0, 0.2, shape)
        elif name == "logit_scale":
            tensors[name] = np.log(rng.uniform(10, 50))
        elif name.endswith(".bias") or "embedding" in name and "patch" not in name:
            tensors[name] = rng.normal(0, 0.3, shape)
        else:
            tensors[name] = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
    return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}


def flax_tree(tensors):
    """The same weights as the tree of transformers 4's FlaxCLIPModel (its `flax_model.msgpack`)."""
    tree = {}
    for name, value in tensors.items():
        *path, leaf = name.split(".")
        if leaf == "weight":
            if "embedding" in path[-1] and value.ndim == 2:
                leaf = "embedding"
            elif value.ndim == 1:
                leaf = "scale"
            else:
                leaf = "kernel"
                value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = np.ascontiguousarray(value).reshape(value.shape)
    return tree


def inputs(config, seed=1):
    """Normalised images (batch, height, width, 3), and token ids (texts, context length).

    The texts end at different places, one of them at the very end; behind the end stand other
    words, as some tokenizers pad.
    """
    text, size = config["text_config"], config["vision_config"]["image_size"]
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 1, (3, size, size, 3)).astype(np.float32)
    length, vocab, end = text["max_position_embeddings"], text["vocab_size"], end_of_text(config)
    ids = rng.integers(0, vocab - 1, (4, length))
    ids[ids == end] = 0
    ids[np.arange(4), [1, 5, length // 2, length - 1]] = end
    ids[:, 0] = START
    return pixels, ids.astype(np.int32)


def end_of_text(config):
    text = config["text_config"]
    return text["vocab_size"] - 1 if text["eos_token_id"] == 2 else text["eos_token_id"]


def write_folder(folder, config, preprocessor=None):
    """All files of a model but its weights, with a tokenizer that spells in single letters."""
    text, size = config["text_config"], config["vision_config"]["image_size"]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [".</w>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [f"<{i}>" for i in range(text["vocab_size"] - len(tokens) - 2)]
    tokens.insert(START, "<|startoftext|>")
    tokens.insert(end_of_text(config), "<|endoftext|>")
    files = {
        "config.json": config,
        "preprocessor_config.json": preprocessor or {"size": size, "crop_size": size},
        "vocab.json": {token: i for i, token in enumerate(tokens)},
        "tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer"},
    }
    folder.mkdir()
    for name, contents in files.items():
        (folder / name).write_text(json.dumps(contents))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def write_weights(folder, tensors, name="model.safetensors"):
    safetensors.numpy.save_file(tensors, folder / name)
    return folder


def write_shards(folder, tensors):
    """Two files and their index, as transformers writes big models."""
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for shard, part in shards.items():
        write_weights(folder, {name: tensors[name] for name in part}, shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder
