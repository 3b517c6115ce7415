"""Finding a model: the hub's own client against a small hub on this machine, and its cache."""

import hashlib
import http.server
import json
import threading

import pytest
from huggingface_hub import constants
from references import clip_reference as reference

from cdc_jax import clip as clip_lib
from cdc_jax.clip import hub as hub_lib

CONFIG = reference.CONFIGS["patch8_mixed"]
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """The part of the hub's interface that a download needs; notes what was downloaded."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.models, self.gated, self.downloads = {}, set(), []


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def answer(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/").split("/")
        api, path = path[0] == "api", path[2:] if path[0] == "api" else path
        repo, rest = "/".join(path[:2]), path[2:]
        if repo not in self.server.models:
            return self.answer(b"", 401, X_Error_Code="RepoNotFound")
        files = self.server.models[repo]
        if api and rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": len(body), "oid": oid(body)}
                for name, body in files.items()
            ]
            return self.answer(json.dumps(tree).encode(), Content_Type="application/json")
        if api:
            info = {"id": repo, "sha": SHA, "siblings": [{"rfilename": name} for name in files]}
            return self.answer(json.dumps(info).encode(), Content_Type="application/json")
        name = "/".join(rest[2:])
        if repo in self.server.gated:
            return self.answer(b"", 403, X_Error_Code="GatedRepo")
        if name not in files:
            return self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=SHA)
        if self.command == "GET":
            self.server.downloads.append(name)
        return self.answer(files[name], ETag=f'"{oid(files[name])}"', X_Repo_Commit=SHA)

    do_HEAD = do_GET


def oid(body):
    return hashlib.sha1(body).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with Hub() as server:
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def files(tmp_path):
    """What a full repository holds, useful or not."""
    folder = reference.write_folder(tmp_path / "source", CONFIG)
    reference.write_weights(folder, reference.weights(CONFIG))
    for name in ("flax_model.msgpack", "pytorch_model.bin", "tf_model.h5", "README.md"):
        (folder / name).write_bytes(name.encode())
    return {file.name: file.read_bytes() for file in folder.iterdir()}


NEEDED = {
    "config.json",
    "preprocessor_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
}


def test_downloads_what_is_needed_once_and_works_offline(hub, files, monkeypatch):
    hub.models["someone/small"] = files
    config = clip_lib.read_config("someone/small")
    assert sorted(hub.downloads) == sorted(NEEDED)
    clip, tokenizer = clip_lib.load("someone/small")
    assert clip.config == config
    assert sorted(hub.downloads) == sorted(NEEDED | {"model.safetensors"})
    assert clip.config.image_size == 32 and tokenizer.vocab_size == 60
    digest = clip_lib.weights_hash(clip)
    hub.downloads.clear()
    assert clip_lib.weights_hash(clip_lib.load("someone/small")[0]) == digest
    assert hub.downloads == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert clip_lib.weights_hash(clip_lib.load("someone/small")[0]) == digest
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # nobody listens
    assert clip_lib.weights_hash(clip_lib.load("someone/small")[0]) == digest


def test_takes_shards_and_msgpack_where_there_is_nothing_better(hub, files):
    whole = files.pop("model.safetensors")
    hub.models["someone/flax"] = files
    with pytest.raises(ValueError, match="flax_model.msgpack can't be read"):
        clip_lib.load("someone/flax")
    assert sorted(hub.downloads) == sorted(NEEDED | {"flax_model.msgpack"})
    hub.downloads.clear()
    shard = "model-00001-of-00001.safetensors"
    index = json.dumps({"weight_map": {"logit_scale": shard}}).encode()
    hub.models["someone/shards"] = files | {shard: whole, "model.safetensors.index.json": index}
    clip_lib.load("someone/shards")
    assert sorted(hub.downloads) == sorted(NEEDED | {shard, "model.safetensors.index.json"})


def test_only_pickled_weights_are_refused_before_any_download(hub, files):
    del files["model.safetensors"], files["flax_model.msgpack"]
    hub.models["someone/pickled"] = files
    with pytest.raises(FileNotFoundError, match="someone/pickled has no .* never loaded"):
        clip_lib.load("someone/pickled")
    assert hub.downloads == []


def test_unknown_gated_and_impossible_names(hub, files):
    hub.models["someone/gated"] = files
    hub.gated.add("someone/gated")
    with pytest.raises(PermissionError, match="accept its terms on .*someone/gated, then log in"):
        clip_lib.load("someone/gated")
    for name in ("someone/else", "missing/../folder", "./missing", "/missing"):
        with pytest.raises(FileNotFoundError, match="neither 'world', nor a folder, nor a model"):
            clip_lib.load(name)


@pytest.mark.parametrize("offline", [True, False])
def test_an_unreachable_hub_says_how_to_work_offline(hub, monkeypatch, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ConnectionError) as caught:
        clip_lib.load("openai/clip-vit-base-patch16")
    for part in ("hf download openai/clip-vit-base-patch16 --local-dir FOLDER", "HF_HUB_OFFLINE=1"):
        assert part in str(caught.value)


def test_an_incomplete_cache_is_not_a_model(hub, monkeypatch, tmp_path):
    cached = tmp_path / "cache" / "models--someone--partial"
    for path, contents in {"refs/main": SHA, f"snapshots/{SHA}/config.json": "{}"}.items():
        (cached / path).parent.mkdir(parents=True)
        (cached / path).write_text(contents)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="someone/partial is not in the cache"):
        clip_lib.load("someone/partial")


def test_world_is_the_packages_own_folder(monkeypatch, tmp_path, files):
    monkeypatch.setattr(hub_lib, "_WORLD", tmp_path / "world")
    monkeypatch.chdir(tmp_path / "source")
    with pytest.raises(FileNotFoundError, match="reinstall the package, or .*pretrain.py"):
        clip_lib.load("world")
    (tmp_path / "source").rename(tmp_path / "world")
    assert clip_lib.load("world")[0].config.image_size == 32
