"""Bundles travel to a hub on loopback, to a file system of fsspec's and to a folder, and come back the same."""

import dataclasses
import errno
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import yaml
from fsspec.registry import known_implementations

from medclf.errors import BundleError, MedclfError, MedclfWarning, OutputError, in_shell
from medclf.files import sha256_of
from medclf.inference import hub
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.bundle_format import content_hash
from medclf.inference.hub import from_hub, pull, push

_SERVER = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
hub_server = importlib.util.module_from_spec(_SERVER)
_SERVER.loader.exec_module(hub_server)


@pytest.fixture(scope="module")
def bundle(learn, tmp_path_factory):
    card = {"intended_use": "teaching | research", "funding": "none", "sensitivity": {"hand": "90 % of 10 images"}}
    return save_bundle(learn, tmp_path_factory.mktemp("bundle") / "hands.bundle", calibration={}, card=card)


@pytest.fixture(name="server")
def hub_on_loopback(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # other tests go without any hub
    with hub_server.running_hub() as running:
        yield running


def same(folder, bundle):
    names = ("bundle.json", "weights.safetensors")
    assert sorted(file.name for file in folder.iterdir()) == list(names)
    return all((folder / name).read_bytes() == (bundle / name).read_bytes() for name in names)


def test_to_the_hub_and_back(server, bundle, images, tmp_path):
    place = "hf-hub:clinic/hands"
    address = push(bundle, place, licence="apache-2.0", message="first", endpoint=server.url)
    assert address == f"{server.url}/clinic/hands/commit/{hub_server.COMMIT}"
    assert sorted(server.files["clinic/hands"]) == ["README.md", "bundle.json", "weights.safetensors"]
    assert server.private == {"clinic/hands": True} and server.messages == ["first"]
    assert same(pull(place, tmp_path / "out", endpoint=server.url), bundle)
    assert same(pull(f"{place}@main", tmp_path / "main", endpoint=server.url), bundle)
    with pytest.raises(BundleError, match="gone"):
        pull(f"{place}@gone", tmp_path / "gone", endpoint=server.url)
    fetched = from_hub(place, endpoint=server.url)
    assert fetched.predict(images[0]).probs == load_bundle(bundle).predict(images[0]).probs
    assert fetched.name == "hands"
    server.files["clinic/hands"]["weights.safetensors"] = b"not fetched again, since bundle.json has not changed"
    assert from_hub(place, endpoint=server.url).hash == fetched.hash
    with pytest.raises(OutputError, match="holds a bundle already"):
        push(bundle, place, endpoint=server.url)
    push(bundle, place, overwrite=True, public=True, endpoint=server.url)
    assert server.private == {"clinic/hands": False} and len(server.messages) == 2


def test_who_has_no_right_is_told_so(server, bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(OutputError, match="hf-hub:clinic/hands: "):
        push(bundle, "hf-hub:clinic/hands", endpoint=server.url)
    with pytest.raises(BundleError, match="is not a bundle"):
        pull("hf-hub:clinic/none", tmp_path / "none", endpoint=server.url)
    with pytest.raises(MedclfError, match="is no repository"):
        push(bundle, "hf-hub:hands", endpoint=server.url)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_to_a_bucket_or_folder_and_back(kind, bundle, tmp_path):
    place = f"memory://models-{tmp_path.name}/hands" if kind == "memory" else str(tmp_path / "models" / "hands")
    assert push(bundle, place) == place
    out = pull(place, tmp_path / "out")
    assert same(out, bundle)
    with in_shell(), pytest.raises(OutputError, match="--overwrite"):
        push(bundle, place)
    push(bundle, place, overwrite=True)
    with pytest.raises(OutputError, match="exists already"):
        pull(place, out)
    assert same(pull(place, out, overwrite=True), bundle)
    assert from_hub(place).vocab == load_bundle(bundle).vocab


@pytest.mark.parametrize("other", ["pytorch_model.bin", "model.pkl", "modeling.py", "adapter.safetensors"])
def test_nothing_but_a_bundle_travels(other, bundle, tmp_path):
    place = tmp_path / "place"
    push(bundle, place)
    (place / other).write_bytes(b"x")
    with pytest.raises(BundleError, match=f"holds {other}: only safetensors and JSON"):
        pull(place, tmp_path / "out")
    with pytest.raises(BundleError, match=other):
        from_hub(place)
    with pytest.raises(OutputError, match=other):
        push(bundle, place, overwrite=True)
    (place / "README.md").unlink()
    with pytest.raises(BundleError, match=other):
        push(place, tmp_path / "elsewhere")
    assert not (tmp_path / "out").exists() and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_what_was_changed_or_lost_on_the_way_is_refused(name, bundle, tmp_path):
    place, out = tmp_path / "place", tmp_path / "out"
    push(bundle, place)
    whole = (place / name).read_bytes()
    (place / name).write_bytes(whole[:-7] + bytes(7))
    with pytest.raises(BundleError):
        pull(place, out)
    (place / name).unlink()
    with pytest.raises(BundleError, match=f"has no {name}"):
        pull(place, out)
    assert not out.exists()


def test_weights_that_are_no_safetensors_are_refused_whatever_their_hash_says(bundle, tmp_path):
    import pickle

    place = tmp_path / "place"
    push(bundle, place)
    (place / "weights.safetensors").write_bytes(pickle.dumps({"weights": [1.0]}))
    content = json.loads((place / "bundle.json").read_text())
    content["weights"]["sha256"] = sha256_of(place / "weights.safetensors")
    content["hash"] = content_hash(content)
    (place / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="no safetensors file"):
        pull(place, tmp_path / "out")


def test_the_card_leaves_no_question_open(bundle, tmp_path):
    push(bundle, tmp_path / "place", licence="apache-2.0")
    text = (tmp_path / "place" / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "apache-2.0" and head["library_name"] == "medclf" and "radiograph" in head["tags"]
    assert "teaching \\| research" in text and "Not a medical device" in text and "Funding: none" in text
    assert "| hand | 90 % of 10 images |" in text
    assert "abdomen, chest, hand" in text and "72 x 64 pixels" in text
    assert "from_hub('place')" in text and str(tmp_path) not in text
    assert "More information needed" not in text and "None" not in text and "{" not in text.partition("```")[0]


def sent(place):
    return "".join((place / name).read_text() for name in ("bundle.json", "README.md"))


def test_no_path_of_this_machine_travels(learn, tmp_path):
    weights = str(tmp_path / "mine.pth")
    named = SimpleNamespace(model=learn.model, spec=dataclasses.replace(learn.spec, weights=weights))
    bundle = save_bundle(named, tmp_path / "named.bundle", calibration={}, card={})
    push(bundle, tmp_path / "place")
    assert str(tmp_path) not in sent(tmp_path / "place") and "mine.pth" in sent(tmp_path / "place")
    content = json.loads((bundle / "bundle.json").read_text())
    content["recipe"]["weights"] = weights  # as 0.1 wrote it
    content["hash"] = content_hash(content)
    (bundle / "bundle.json").write_text(json.dumps(content))
    with pytest.warns(MedclfWarning, match=r"mine\.pth is sent in its place"):
        push(bundle, tmp_path / "earlier")
    assert str(tmp_path) not in sent(tmp_path / "earlier")
    assert pull(tmp_path / "earlier", tmp_path / "pulled").is_dir()


def test_no_password_of_an_address_stands_in_the_card(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda address: (fsspec.filesystem("file"), str(tmp_path / "there")))
    push(bundle, "ftp://me:secret@host/models/hands?sig=key")
    text = (tmp_path / "there" / "README.md").read_text()
    assert "from_hub('ftp://host/models/hands')" in text and "secret" not in text and "sig" not in text


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_what_leads_elsewhere_or_does_not_end_is_not_fetched(name, bundle, tmp_path, monkeypatch):
    place = tmp_path / "place"
    push(bundle, place)
    (place / name).rename(tmp_path / "elsewhere")
    (place / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="leads elsewhere"):
        pull(place, tmp_path / "out")
    remote = f"memory://endless-{tmp_path.name}"
    push(bundle, remote)
    system = fsspec.filesystem("memory")
    monkeypatch.setattr(type(system), "ls", lambda *_, **__: [{"name": n, "size": None} for n in hub._MOST])
    monkeypatch.setitem(hub._MOST, name, 10)
    with pytest.raises(BundleError, match=f"{name} does not end"):
        pull(remote, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_kept_by_a_name_of_its_own(bundle, tmp_path, monkeypatch):
    push(bundle, tmp_path / "place")
    (tmp_path / "place" / "README.md").unlink()
    monkeypatch.chdir(tmp_path / "place")
    assert from_hub(".").name == "place" and hub._name_of("s3://models/..") == "bundle"


def test_what_lies_at_a_place_is_not_lost(bundle, tmp_path):
    (tmp_path / "file.csv").write_text("kept")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("kept")
    for place, says in (("file.csv", "is a file"), ("notes", "holds a README.md already")):
        with pytest.raises(MedclfError, match=says):
            push(bundle, tmp_path / place)
    assert (tmp_path / "file.csv").read_text() == (tmp_path / "notes" / "README.md").read_text() == "kept"


@pytest.mark.parametrize(
    ("place", "says"), [*((one, "names no bucket") for one in ("s3://", "file:///", "s3:///")), ("", "empty path")]
)
def test_an_address_without_a_name_is_no_folder_of_this_machine(bundle, monkeypatch, tmp_path, place, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MedclfError, match=says):
        push(bundle, place)
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_of_place_says_what_is_missing(bundle, monkeypatch):
    with pytest.raises(MedclfError, match="ftq"):
        push(bundle, "ftq://somewhere/x")
    monkeypatch.setitem(known_implementations, "s4", {"class": "gone.S4", "err": "Install s4fs"})
    with pytest.raises(MedclfError, match="Install s4fs"):
        push(bundle, "s4://bucket/x")


def test_a_full_disk_is_no_matter_of_rights_over_there(bundle, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medclf.inference.hub.shutil.copyfile", full)
    with pytest.raises(OutputError, match="cannot be copied: No space left on device\nfree some space"):
        pull(bundle, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
