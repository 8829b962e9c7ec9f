"""Published checkpoints load into the rank-4 network and give the published network's logits."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from d3d_edge.errors import DataError
from d3d_edge.models import S3DG, checkpoints
from d3d_edge.models.checkpoints import Imported
from d3d_edge.models.recogniser import OFFSET, SCALE
from tests.unit.models import published, reference
from tests.unit.models.published import CLASSES, WIDTH, torch_network, video

TOLERANCE = 1e-9


SLOTS = ("Momentum", "Adam", "Adam_1", "RMSProp_2", "Adagrad", "Adadelta_1", "Ftrl")


def rank4(path: Path, **options: Any) -> tuple[S3DG, Imported]:
    """The network that the checkpoint implies, with its weights."""
    net = S3DG(CLASSES, **{**checkpoints.load(path).options, **options}).double().eval()
    return net, checkpoints.load_into(net, path)


@torch.no_grad()
def assert_equal_logits(net: S3DG, expected: Callable[[Tensor], Tensor], x: Tensor) -> None:
    wanted = expected(x)
    assert wanted.std() > 1e-3, "logits too small to tell anything"
    actual = net(reference.frames_from_clips(x), len(x))
    assert (actual - wanted).abs().max() < TOLERANCE * max(1, wanted.abs().max())


class TestTorchvision:
    def test_logits_are_those_of_the_published_network(
        self, torchvision: published.Torchvision, tmp_path: Path
    ) -> None:
        path = tmp_path / "s3d.pth"
        torch.save(torchvision.state_dict(), path)
        net, imported = rank4(path)
        assert imported == Imported("torchvision", CLASSES, classifier_kept=True)
        assert len(checkpoints.load(path).state) == sum("num_batches" not in name for name in net.state_dict())
        assert_equal_logits(net, torchvision, video(14, 224))

    def test_the_published_parameter_count_is_found_again(self, tmp_path: Path) -> None:
        with torch.device("meta"):
            net = published.Torchvision(400, 1.0)
        # As torchvision documents it: the names and shapes above are those of the real thing.
        assert sum(p.numel() for p in net.parameters()) == 8_320_048

    @pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
    def test_options(self, key: str, torchvision: published.Torchvision, tmp_path: Path) -> None:
        path = tmp_path / "s3d.pth"
        torch.save({"epoch": 3, "optimizer": {"state": {}, "param_groups": []}, key: torchvision.state_dict()}, path)
        loaded = checkpoints.load(path)
        assert loaded.classes == CLASSES
        assert loaded.options == {
            "stem": "separable",
            "gating": False,
            "padding": "symmetric",
            "bn_scale": True,
            "width": WIDTH,
            "in_channels": 3,
        }

    def test_a_network_kept_with_its_settings(self, torchvision: published.Torchvision, tmp_path: Path) -> None:
        path = tmp_path / "s3d.pth"
        optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}
        model = {"state_dict": torchvision.state_dict(), "cfg": {"classes": CLASSES}}
        torch.save({"epoch": 3, "optimizer": optimizer, "model": model}, path)
        assert checkpoints.load(path).classes == CLASSES

    def test_an_archive_of_arrays_by_another_name(self, torchvision: published.Torchvision, tmp_path: Path) -> None:
        path = tmp_path / "s3d.pt"
        with path.open("wb") as file:
            np.savez(file, **{name: value.numpy() for name, value in torchvision.state_dict().items()})
        assert checkpoints.load(path).classes == CLASSES

    def test_frames_may_be_normalised_as_here(self, torchvision: published.Torchvision, tmp_path: Path) -> None:
        path = tmp_path / "s3d.pth"
        torch.save(torchvision.state_dict(), path)
        net, _ = rank4(path)
        own = S3DG(CLASSES, **checkpoints.load(path).options).double().eval()
        checkpoints.load_into(own, path, own_frames=True)
        pixels = torch.randint(0, 256, (4, 3, 40, 40)).double()
        mean = torch.tensor([0.43216, 0.394666, 0.37645]).double().reshape(3, 1, 1)
        std = torch.tensor([0.22803, 0.22145, 0.216989]).double().reshape(3, 1, 1)
        with torch.no_grad():
            theirs = net.Conv2d_1a_7x7((pixels / 255 - mean) / std)
            ours = own.Conv2d_1a_7x7(pixels * SCALE + OFFSET)
        difference = (theirs - ours).abs()
        assert difference[:, :, 2:-2, 2:-2].max() < 1e-6 < theirs.std()
        assert difference.max() > 1e-3, "the border is not exact, and is said not to be"


class TestKylemin:
    @pytest.mark.parametrize("clips", [1, 2])
    def test_logits_are_those_of_the_published_network(
        self, clips: int, kylemin: published.Kylemin, kylemin_file: Path
    ) -> None:
        net, imported = rank4(kylemin_file)
        assert imported.format == "kylemin"
        assert_equal_logits(net, kylemin, video(16, 64, clips=clips))

    def test_an_old_file_of_a_parallel_network_without_counters(
        self, kylemin: published.Kylemin, tmp_path: Path
    ) -> None:
        path = tmp_path / "S3D_kinetics400.pt"
        state = {f"module.{name}": v for name, v in kylemin.state_dict().items() if "num_batches" not in name}
        torch.save(state, path, _use_new_zipfile_serialization=False)
        net, _ = rank4(path)
        assert_equal_logits(net, kylemin, video(16, 32))

    @pytest.mark.parametrize("before", ["_orig_mod.", "model.", "module._orig_mod.", "backbone.", "model.net."])
    def test_below_what_training_wrapped_it_in(
        self, before: str, kylemin: published.Kylemin, kylemin_file: Path, tmp_path: Path
    ) -> None:
        state = {f"{before}{name}": value for name, value in kylemin.state_dict().items()}
        torch.save({"state_dict": state | {f"{before}n_averaged": torch.tensor(3)}}, tmp_path / "s3d.pt")
        bare, wrapped = (checkpoints.load(path).state for path in (kylemin_file, tmp_path / "s3d.pt"))
        assert bare.keys() == wrapped.keys()
        assert all(torch.equal(value, wrapped[name]) for name, value in bare.items())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_of_fewer_bits(self, dtype: torch.dtype, kylemin: published.Kylemin, tmp_path: Path) -> None:
        path = tmp_path / "s3d.pt"
        torch.save({name: value.to(dtype) for name, value in kylemin.state_dict().items()}, path)
        kernel = checkpoints.load(path).state["Conv2d_2c_3x3.spatial.conv.weight"]
        assert torch.equal(kernel, kylemin.state_dict()["base.3.conv_s.weight"].squeeze(2).to(dtype).float())

    @pytest.mark.parametrize("own_frames", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_of_16_bits_is_what_the_same_numbers_are_in_float32(
        self, dtype: torch.dtype, own_frames: bool, kylemin: published.Kylemin, tmp_path: Path
    ) -> None:
        """Nothing that is made of them, such as a folded kernel, is rounded to 16 bits again."""
        few = {name: value.to(dtype) for name, value in kylemin.state_dict().items()}
        torch.save(few, tmp_path / "few.pt")
        torch.save({name: value.float() for name, value in few.items()}, tmp_path / "many.pt")
        nets = []
        for name in ("few.pt", "many.pt"):
            net = S3DG(CLASSES, **checkpoints.load(tmp_path / name).options)
            checkpoints.load_into(net, tmp_path / name, own_frames=own_frames)
            nets.append(net)
        few_bits, many_bits = (net.state_dict() for net in nets)
        assert all(torch.equal(value, many_bits[name]) for name, value in few_bits.items())
        assert few_bits.keys() == many_bits.keys()

    def test_a_kernel_may_leave_the_range_of_float16_when_it_is_folded(
        self, kylemin: published.Kylemin, tmp_path: Path
    ) -> None:
        state = {name: value.half() for name, value in kylemin.state_dict().items()}
        state["base.3.conv_t.weight"] *= 1000
        state["base.3.bn_t.weight"] *= 1000
        torch.save(state, tmp_path / "s3d.pt")
        kernel = checkpoints.load(tmp_path / "s3d.pt").state["Conv2d_2c_3x3.temporal.conv.weight"]
        assert 65504 < kernel.abs().max() < torch.inf

    def test_in_float32_and_at_full_width(self, tmp_path: Path) -> None:
        net = torch_network(published.Kylemin(3, 1.0)).float()
        path = tmp_path / "s3d.pt"
        torch.save(net.state_dict(), path)
        loaded = checkpoints.load(path)
        assert loaded.options["width"] == 1.0
        own = S3DG(3, **loaded.options).eval()
        checkpoints.load_into(own, path)
        x = video(16, 32).float()
        with torch.no_grad():
            wanted = net(x)
            assert torch.allclose(own(reference.frames_from_clips(x)), wanted, atol=1e-4 * float(wanted.abs().max()))


class TestSlim:
    @pytest.mark.parametrize(
        ("options", "channels", "implied"),
        [
            ({}, 3, {"stem": "conv3d_k3", "gating": True, "temporal_from": "Conv2d_2c_3x3"}),
            ({"taps": 7}, 2, {"stem": "conv3d_k7", "in_channels": 2}),
            ({"taps": 1, "temporal_from": "4b"}, 3, {"stem": "conv3d_k1", "temporal_from": "Mixed_4b"}),
            ({"gating_from": "5b"}, 3, {"gating": True, "gating_from": "Mixed_5b"}),
            ({"taps": 5, "gating_from": None, "gamma": True}, 3, {"gating": False, "bn_scale": True}),
        ],
        ids=str,
    )
    def test_logits_are_those_of_the_published_network(
        self, options: dict[str, Any], channels: int, implied: dict[str, Any], tmp_path: Path
    ) -> None:
        slim = published.Slim(CLASSES, WIDTH, **options)
        x = video(12, 40, clips=2, channels=channels)
        slim.logits(x)
        path = tmp_path / "s3dg.npz"
        np.savez(path, **published.below("RGB/", slim.variables), global_step=np.int64(80_000))
        loaded = checkpoints.load(path)
        assert loaded.format == "slim"
        assert implied.items() <= loaded.options.items()
        net, _ = rank4(path)
        assert_equal_logits(net, slim.logits, x)

    def test_of_fewer_bits(self, slim_file: Path, tmp_path: Path) -> None:
        variables = {name: value.astype(np.float16) for name, value in np.load(slim_file).items()}
        np.savez(tmp_path / "s3dg.npz", **variables)
        state = checkpoints.load(tmp_path / "s3dg.npz").state
        assert {value.dtype for value in state.values()} == {torch.float32}
        expected = torch.from_numpy(variables["InceptionV1/Logits/Conv2d_0c_1x1/biases"]).float()
        assert torch.equal(state["Logits.Conv2d_0c_1x1.bias"], expected)

    def test_variables_of_a_machine_with_another_order_of_bytes(self, slim_file: Path, tmp_path: Path) -> None:
        there = {name: value.astype(value.dtype.newbyteorder(">")) for name, value in np.load(slim_file).items()}
        np.savez(tmp_path / "s3dg.npz", **there)
        read, expected = (checkpoints.load(path).state for path in (tmp_path / "s3dg.npz", slim_file))
        assert all(torch.equal(value, expected[key]) for key, value in read.items())

    @pytest.mark.parametrize("width", [0.125, 0.25, 0.33, 0.35, 0.75, 1.0])
    def test_width_is_told_by_the_channels(self, width: float, tmp_path: Path) -> None:
        slim = published.Slim(2, width)
        slim.logits(video(1, 1))
        np.savez(tmp_path / "s3dg.npz", **slim.variables)
        assert checkpoints.load(tmp_path / "s3dg.npz").options["width"] == width

    def test_frames_may_be_normalised_as_here(self, slim_file: Path) -> None:
        net, _ = rank4(slim_file)
        own = S3DG(CLASSES, **checkpoints.load(slim_file).options).double().eval()
        checkpoints.load_into(own, slim_file, own_frames=True)
        pixels = torch.randint(0, 256, (8, 3, 32, 32)).double()
        with torch.no_grad():
            assert torch.allclose(own(pixels * SCALE + OFFSET), net(pixels / 127.5 - 1), rtol=1e-6)

    def test_what_an_optimiser_kept_beside_each_variable_is_passed_over(self, slim_file: Path, tmp_path: Path) -> None:
        variables = dict(np.load(slim_file))
        slots = {f"{name}/{slot}": value for name, value in variables.items() for slot in SLOTS}
        np.savez(tmp_path / "trained.npz", **variables, **slots, beta1_power=np.float32(0.9))
        (tmp_path / "trained.npz").rename(tmp_path / "trained.NPZ")
        plain, trained = (checkpoints.load(path).state for path in (slim_file, tmp_path / "trained.NPZ"))
        assert plain.keys() == trained.keys()
        assert all(torch.equal(value, trained[name]) for name, value in plain.items())

    def test_bfloat16_is_read_and_text_is_not(self, slim_file: Path, tmp_path: Path) -> None:
        """NumPy knows no bfloat16, and writes two bytes; tf.train.Checkpoint adds the graph of its objects as text."""
        variables = dict(np.load(slim_file))
        halves = {name: torch.from_numpy(value).to(torch.bfloat16) for name, value in variables.items()}
        written: dict[str, Any] = {name: half.view(torch.int16).numpy().view("V2") for name, half in halves.items()}
        np.savez(tmp_path / "half.npz", **written, _CHECKPOINTABLE_OBJECT_GRAPH=np.array(b"graph"))
        whole = {name: half.double().numpy() for name, half in halves.items()}
        np.savez(tmp_path / "whole.npz", **whole)
        expected, read = (checkpoints.load(tmp_path / f"{name}.npz").state for name in ("whole", "half"))
        assert all(torch.allclose(value, read[name].double(), rtol=1e-6) for name, value in expected.items())

    def test_the_average_of_a_variable_is_read_where_training_kept_one(self, slim_file: Path, tmp_path: Path) -> None:
        variables = dict(np.load(slim_file))
        kept = {
            f"{name}/ExponentialMovingAverage": value / 2 for name, value in variables.items() if "/moving" not in name
        }
        np.savez(tmp_path / "averaged.npz", **variables, **kept)
        plain, averaged = (checkpoints.load(path).state for path in (slim_file, tmp_path / "averaged.npz"))
        assert plain.keys() == averaged.keys()
        halved = {name for name, value in plain.items() if torch.equal(value / 2, averaged[name])}
        same = {name for name, value in plain.items() if torch.equal(value, averaged[name])}
        assert "Mixed_3b.Branch_0.Conv2d_0a_1x1.spatial.conv.weight" in halved
        assert "Mixed_3b.Branch_0.Conv2d_0a_1x1.spatial.bn.running_mean" in same
        assert halved | same == plain.keys()

    def test_two_networks_in_one_file(self, slim_file: Path, tmp_path: Path) -> None:
        variables = dict(np.load(slim_file))
        path = tmp_path / "two.npz"
        np.savez(path, **published.below("RGB/", variables), **published.below("Flow/", variables))
        with pytest.raises(DataError, match=r"more than one network, below Flow/, RGB/"):
            checkpoints.load(path)

    def test_a_tensorflow_checkpoint_is_told_how_to_become_an_npz(self, tmp_path: Path) -> None:
        (tmp_path / "model.ckpt.index").touch()
        for name in ("model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001"):
            with pytest.raises(DataError, match=r"is a TensorFlow checkpoint") as caught:
                checkpoints.load(tmp_path / name)
            command = shlex.split(caught.value.hint)
            assert command[:2] == ["python", "-c"]
            ast.parse(command[2])


class TestAnotherClassCount:
    def test_keeps_the_trunk_and_leaves_the_classifier(self, kylemin_file: Path) -> None:
        options = checkpoints.load(kylemin_file).options
        net = S3DG(7, **options).double()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        imported = checkpoints.load_into(net, kylemin_file)
        assert (imported.classes, imported.classifier_kept) == (CLASSES, False)
        unchanged = {name for name, value in net.state_dict().items() if torch.equal(value, before[name])}
        assert {name for name in unchanged if "num_batches" not in name} == {
            "Logits.Conv2d_0c_1x1.weight",
            "Logits.Conv2d_0c_1x1.bias",
        }

    def test_is_left_out_of_the_state(self, kylemin_file: Path) -> None:
        whole, trunk = (checkpoints.load(kylemin_file, classes=n).state for n in (CLASSES, 7))
        assert whole.keys() - trunk.keys() == {"Logits.Conv2d_0c_1x1.weight", "Logits.Conv2d_0c_1x1.bias"}
