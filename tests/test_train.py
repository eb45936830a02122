"""The trainer: it learns, it is repeatable, it resumes, and it never loses or overwrites anything."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import threading

import pytest
import torch
from torch.utils.data import Dataset

from d2lmini import AnchorSpec, LossConfig, TinyBackbone, TinySSD, checkpoint, train
from d2lmini.data.augment import AugmentConfig
from d2lmini.data.samples import Batch, Sample
from d2lmini.data.sources import LoaderSource
from d2lmini.engine import state
from d2lmini.engine.distributed import Ranks
from d2lmini.engine.state import Interrupted, TrainingDiverged
from d2lmini.engine.validation import validate
from d2lmini.model import fuse_conv_bn
from d2lmini.train import TrainConfig, fit

CLASSES = ("light", "dark")
SPEC = AnchorSpec(sizes=((0.2, 0.35), (0.5,), (0.8,)), ratios=((1, 2, 0.5), (1,), (1,)))


def squares(count: int, seed: int = 0, size: int = 32) -> Batch:
    """Grey images with one light or dark square each; every fifth has none."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.full((count, 3, size, size), 128, dtype=torch.uint8)
    boxes, labels = torch.zeros(count, 2, 4), torch.full((count, 2), -1)
    for i in range(count):
        if i % 5 == 4:
            continue
        side = int(torch.randint(8, 16, (), generator=generator))
        x, y = torch.randint(0, size - side, (2,), generator=generator).tolist()
        kind = int(torch.randint(0, 2, (), generator=generator))
        images[i, :, y : y + side, x : x + side] = 255 if kind == 0 else 0
        boxes[i, 0] = torch.tensor([x, y, x + side, y + side]) / size
        labels[i, 0] = kind
    return Batch(images, boxes, labels)


def small_model() -> TinySSD:
    torch.manual_seed(0)
    return TinySSD(2, 32, SPEC, TinyBackbone(channels=(8, 12), width=16, extra=1))


def config(**options) -> TrainConfig:
    defaults = {
        "epochs": 3,
        "batch_size": 8,
        "lr": 1e-2,
        "precision": "float32",
        "device": "cpu",
        "anchors": SPEC,
        "disable_malloc_trim": False,
    }
    return TrainConfig(**(defaults | options))


def weights(model: TinySSD) -> torch.Tensor:
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


def run(cfg: TrainConfig, **options) -> train.FitResult:
    data = squares(40), squares(20, seed=1)
    return fit(*data, CLASSES, cfg, model=small_model(), progress=False, **options)


def test_it_learns_to_find_squares():
    result = run(config(epochs=25, augment=AugmentConfig(color=0, expand=0, crop=0.2)))
    first, last = result.history[0], result.history[-1]
    assert last["loss"] < 0.5 * first["loss"]
    assert last["ap50"] > 0.6
    assert last["class_error"] < last["background_class_error"]
    assert not result.model.training


@pytest.mark.parametrize("cls", ["cross_entropy", "focal"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_batch_can_be_learnt_by_heart(cls, optimizer):
    data = squares(4, seed=3)
    loss = LossConfig(cls=cls, negatives=None if cls == "focal" else 3.0)
    rate = 2e-2 if optimizer == "sgd" else 1e-2
    cfg = config(epochs=120, batch_size=4, augment=None, loss=loss, optimizer=optimizer, lr=rate)
    cfg = dataclasses.replace(cfg, weight_decay=0.0, eval_every=120)
    result = fit(data, data, CLASSES, cfg, model=small_model(), progress=False)
    assert result.history[-1]["ap50"] > 0.99
    assert result.history[-1]["loss"] < 0.1 * result.history[0]["loss"]


def test_equal_seeds_give_equal_weights_and_others_do_not():
    one, two = run(config()), run(config())
    assert torch.equal(weights(one.model), weights(two.model))
    assert not torch.equal(weights(one.model), weights(run(config(seed=1)).model))


def test_deterministic_holds_while_it_runs_and_gives_equal_bits():
    seen = []

    def look(model, row):
        seen.append(torch.are_deterministic_algorithms_enabled())

    one, two = (run(config(deterministic=True, epochs=2), on_epoch=look) for _ in range(2))
    assert seen == [True] * 4
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(weights(one.model), weights(two.model))
    assert [r["loss"] for r in one.history] == [r["loss"] for r in two.history]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_gpu_gives_equal_bits_too(optimizer):
    options = {"device": "cuda", "precision": "auto", "deterministic": True, "optimizer": optimizer}
    one, two = run(config(**options)), run(config(**options))
    assert torch.equal(weights(one.model), weights(two.model))


def test_a_run_of_an_older_version_without_todays_options_goes_on(tmp_path):
    whole = run(config(), out=tmp_path / "whole")
    run(config(), out=tmp_path / "old")
    tensors, record = checkpoint.load_tensors(tmp_path / "old" / state.LAST)
    for name in ("compile", "graph", "sync_batch_norm", "deterministic"):
        del record["config"][name]
    checkpoint.save_tensors(tmp_path / "old" / state.LAST, tensors, record)
    again = run(config(), out=tmp_path / "old", resume=True)
    assert torch.equal(weights(again.model), weights(whole.model))
    with pytest.raises(ValueError, match="sync_batch_norm=False, now it is True"):
        run(config(sync_batch_norm=True), out=tmp_path / "old", resume=True)


def test_a_fresh_model_is_seeded_and_the_callers_stream_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    data = squares(8, size=64)
    cfg = TrainConfig(epochs=1, batch_size=8, precision="float32", disable_malloc_trim=False)
    one = fit(data, None, CLASSES, cfg, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    two = fit(data, None, CLASSES, cfg, progress=False)
    assert torch.equal(weights(one.model), weights(two.model))


def stop_after(monkeypatch, steps: int) -> None:
    """Press Ctrl-C in the middle of a step."""
    original, done = train.train_step, [0]

    def step(*args):
        done[0] += 1
        if done[0] == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(train, "train_step", step)


@pytest.mark.parametrize("steps", [1, 5, 7, 10, 15])
def test_a_run_stopped_anywhere_resumes_bit_for_bit(tmp_path, monkeypatch, steps):
    whole = run(config(), out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Interrupted, match="--resume"):
            run(config(), out=tmp_path / "cut")
    resumed = run(config(), out=tmp_path / "cut", resume=True)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.best_epoch == whole.best_epoch
    for a, b in zip(resumed.history, whole.history, strict=True):
        drop = {"seconds", "images_per_second"}
        assert {k: v for k, v in a.items() if k not in drop} == {k: v for k, v in b.items() if k not in drop}
    best = [checkpoint.load_model(tmp_path / d / state.BEST)[0] for d in ("whole", "cut")]
    assert torch.equal(weights(best[0]), weights(best[1]))


class Squares(Dataset):
    """`squares` one at a time, as if they lay on a disk."""

    classes = CLASSES

    def __init__(self, count: int, seed: int = 0) -> None:
        self.batch = squares(count, seed)

    def __len__(self) -> int:
        return len(self.batch.images)

    def __getitem__(self, index: int) -> Sample:
        return self.batch.sample(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_on_disk_train_as_those_in_memory_bit_for_bit(tmp_path, monkeypatch, workers):
    """Also when stopped within an epoch, and with other threads before and after."""
    cfg = config(augment=AugmentConfig())
    held = run(cfg)

    def stream(threads: int, **options) -> train.FitResult:
        data = (LoaderSource(Squares(*which), threads) for which in ((40,), (20, 1)))
        return fit(*data, CLASSES, cfg, model=small_model(), progress=False, **options)

    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Interrupted):
            stream(workers, out=tmp_path)
    streamed = stream(2 - workers, out=tmp_path, resume=True)
    assert torch.equal(weights(streamed.model), weights(held.model))
    for a, b in zip(streamed.history, held.history, strict=True):
        drop = {"seconds", "images_per_second"}
        assert {k: v for k, v in a.items() if k not in drop} == {k: v for k, v in b.items() if k not in drop}


def test_a_data_set_of_more_classes_than_named_is_refused():
    with pytest.raises(ValueError, match="label 1, but only 1 classes"):
        fit(Squares(4), None, CLASSES[:1], config(), model=small_model(), progress=False)


def test_a_checkpoint_tells_how_images_got_into_the_square(tmp_path):
    run(config(epochs=1, resize_mode="letterbox"), out=tmp_path)
    for name in (state.BEST, state.LAST):
        assert checkpoint.load_model(tmp_path / name)[1].resize_mode == "letterbox"
    with pytest.raises(ValueError, match="resize_mode is 'crop'"):
        config(resize_mode="crop")


def test_ctrl_c_without_a_folder_says_that_nothing_was_saved(monkeypatch):
    stop_after(monkeypatch, 2)
    with pytest.raises(Interrupted, match="nothing was saved"):
        run(config())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_trains_in_another_thread_where_signals_cannot_be_caught():
    results = []
    thread = threading.Thread(target=lambda: results.append(run(config(epochs=1))))
    thread.start()
    thread.join()
    assert len(results[0].history) == 1


def test_the_folder_holds_what_it_says(tmp_path):
    result = run(config(), out=tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {state.LAST, state.BEST, state.HISTORY, state.LOCK}
    saved = json.loads((tmp_path / state.HISTORY).read_text())
    assert saved["epochs"] == result.history
    assert saved["config"] == config().record()
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    for row in result.history:
        assert row["loss"] == pytest.approx(row["cls_loss"] + row["box_loss"])
        assert row["images_per_second"] == pytest.approx(40 / row["seconds"])
    model, info = checkpoint.load_model(tmp_path / state.LAST)
    assert torch.equal(weights(model), weights(result.model))
    assert info.classes == CLASSES
    assert info.notes["config"]["lr"] == 1e-2


def test_a_finished_run_is_not_repeated(tmp_path):
    first = run(config(), out=tmp_path)
    again = run(config(), out=tmp_path, resume=True)
    assert again.history == first.history
    assert torch.equal(weights(again.model), weights(first.model))


def test_another_run_is_never_overwritten_or_mixed_up(tmp_path):
    run(config(epochs=1), out=tmp_path)
    before = (tmp_path / state.LAST).read_bytes()
    with pytest.raises(ValueError, match="already holds a run"):
        run(config(epochs=1), out=tmp_path)
    with pytest.raises(ValueError, match=r"lr=0\.01, now it is 0\.5"):
        run(config(epochs=1, lr=0.5), out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="classes"):
        fit(squares(40), None, ("a", "b"), config(epochs=1), out=tmp_path, resume=True,
            model=small_model(), progress=False)  # fmt: skip
    assert (tmp_path / state.LAST).read_bytes() == before


def changed(data: Batch, what: str) -> Batch:
    images, boxes, labels = (t.clone() for t in data)
    if what == "a label":
        labels[3, 0] = 1 - labels[3, 0]
    elif what == "a box":
        boxes[3, 0, 2] += 0.01
    elif what == "a pixel":
        images[3, 0, 0, 0] += 1
    else:
        return Batch(images[:-1], boxes[:-1], labels[:-1])
    return Batch(images, boxes, labels)


@pytest.mark.parametrize("what", ["a label", "a box", "a pixel", "an image less"])
def test_a_run_is_not_resumed_on_other_data(tmp_path, what):
    """Whether the anchors are fixed or fitted to the data, it is the data that is named."""
    options = {"model": small_model(), "progress": False, "out": tmp_path}
    fit(squares(40), None, CLASSES, config(epochs=1), **options)
    for cfg in (config(epochs=1), config(epochs=1, anchors=AnchorSpec(((0.3,),) * 3, ((1,),) * 3))):
        with pytest.raises(ValueError, match="training data changed") as said:
            fit(changed(squares(40), what), None, CLASSES, cfg, resume=True, **options)
        assert len(str(said.value)) < 300
    assert len(fit(squares(40), None, CLASSES, config(epochs=1), resume=True, **options).history) == 1


def test_other_anchors_are_named_without_their_numbers(tmp_path):
    run(config(epochs=1), out=tmp_path)
    with pytest.raises(ValueError, match=r"was trained with other anchors: resume") as said:
        run(config(epochs=1, anchors=AnchorSpec(((0.3,),) * 3, ((1,),) * 3)), out=tmp_path, resume=True)
    assert len(str(said.value)) < 250


def test_a_lock_is_free_when_its_process_died_and_readers_were_forked(tmp_path):
    """Readers inherit the open file; killed with their parent still alive in them, they must not hold it."""
    pytest.importorskip("fcntl")
    ready, done = os.pipe(), os.pipe()
    parent = os.fork()
    if parent == 0:
        with state.run_lock(tmp_path, Ranks()):
            if os.fork() == 0:
                os.write(ready[1], b"x")
                os.read(done[0], 1)  # a reader that outlives its parent
                os._exit(0)
            signal.pause()
    os.read(ready[0], 1)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    try:
        with state.run_lock(tmp_path, Ranks()):
            pass
    finally:
        os.write(done[1], b"x")


def test_two_runs_at_once_do_not_share_a_folder(tmp_path):
    pytest.importorskip("fcntl")
    with state.run_lock(tmp_path, Ranks()), pytest.raises(ValueError, match="another run is writing"):
        run(config(epochs=1), out=tmp_path)
    run(config(epochs=1), out=tmp_path)


def test_a_damaged_checkpoint_is_not_resumed(tmp_path):
    run(config(epochs=1), out=tmp_path)
    path = tmp_path / state.LAST
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(checkpoint.CheckpointError, match=r"last\.safetensors"):
        run(config(epochs=1), out=tmp_path, resume=True)


def test_a_model_file_is_not_a_run(tmp_path):
    result = run(config(epochs=1))
    checkpoint.save_model(tmp_path / state.LAST, result.model, checkpoint.ModelInfo(CLASSES))
    with pytest.raises(checkpoint.CheckpointError, match="not a training run"):
        run(config(epochs=1), out=tmp_path, resume=True)


def test_nan_stops_with_advice_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    original = train.ssd_loss

    def explode(logits, offsets, targets, loss):
        if (tmp_path / state.LAST).exists():
            offsets = offsets * math.nan
        return original(logits, offsets, targets, loss)

    monkeypatch.setattr(train, "ssd_loss", explode)
    with pytest.raises(TrainingDiverged, match=r"epoch 2, step 1 .*learning rate"):
        run(config(), out=tmp_path)
    model, _ = checkpoint.load_model(tmp_path / state.LAST)
    assert torch.isfinite(weights(model)).all()


def test_images_without_any_object_train(tmp_path):
    data = squares(16)
    data = data._replace(labels=torch.full_like(data.labels, -1))
    result = fit(data, data, CLASSES, config(epochs=1), model=small_model(), progress=False)
    row = result.history[0]
    assert math.isfinite(row["loss"])
    assert row["box_loss"] == 0
    assert row["ap"] is None
    assert result.best_epoch is None


def test_fewer_images_than_a_batch_train():
    data = squares(3)
    result = fit(data, None, CLASSES, config(epochs=2), model=small_model(), progress=False)
    assert len(result.history) == 2
    assert result.best_epoch is None


def test_a_look_after_every_epoch_changes_nothing():
    seen = []

    def look(model, row):
        assert not model.training
        seen.append((row["epoch"], row["ap50"], weights(model)))
        row.clear()
        model.train()
        torch.rand(7)  # a backbone with dropout would draw others from here on

    plain, watched = run(config()), run(config(), on_epoch=look)
    assert torch.equal(weights(plain.model), weights(watched.model))
    assert [epoch for epoch, _, _ in seen] == [1, 2, 3]
    assert [ap50 for _, ap50, _ in seen] == [row["ap50"] for row in plain.history]
    assert not torch.equal(seen[0][2], seen[1][2])
    assert torch.equal(seen[-1][2], weights(watched.model))


def test_validation_now_and_then_and_always_at_the_end():
    result = run(config(epochs=5, eval_every=2))
    assert ["ap" in row for row in result.history] == [False, True, False, True, True]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_precision_and_layout_do_not_change_what_is_learnt(precision, channels_last):
    result = run(config(precision=precision, channels_last=channels_last, epochs=1))
    assert result.history[0]["loss"] == pytest.approx(run(config(epochs=1)).history[0]["loss"], rel=0.1)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", math.nan),
        ("max_grad_norm", -1.0),
        ("warmup", 1.5),
        ("optimizer", "adam"),
        ("precision", "float8"),
        ("eval_every", 0),
        ("schedule", "cosine"),
        ("prior_prob", 1.0),
    ],
)
def test_senseless_options_are_named(option, value):
    with pytest.raises(ValueError, match=option):
        config(**{option: value})


def test_data_that_does_not_fit_is_named():
    good = squares(8)
    for bad, classes, text in (
        (good.select(slice(0, 0)), CLASSES, "no images"),
        (good, ("light",), "label 1"),
        (good, (), "no classes"),
    ):
        with pytest.raises(ValueError, match=text):
            fit(bad, None, classes, config(), model=small_model(), progress=False)
    with pytest.raises(ValueError, match="one size"):
        fit(good, squares(4, size=16), CLASSES, config(), model=small_model(), progress=False)
    with pytest.raises(ValueError, match="device"):
        run(config(device="abacus"))


def test_an_unwritable_folder_is_said_before_training(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        run(config(), out=blocker / "run")


def test_one_cycle_rises_and_falls_to_nothing():
    rates = [train.one_cycle(s, 200, 0.1, 0.3) for s in range(200)]
    peak = max(range(200), key=rates.__getitem__)
    assert peak == 59
    assert rates[peak] == pytest.approx(0.1)
    assert rates[:60] == sorted(rates[:60])
    assert rates[59:] == sorted(rates[59:], reverse=True)
    assert 0 <= rates[-1] < 1e-6
    assert all(rate > 0 for rate in (train.one_cycle(0, n, 0.1, w) for n in (1, 2) for w in (0, 1)))


def test_a_constant_rate_stays_where_it_is_and_one_cycle_ends_near_0():
    rates = {
        schedule: [row["lr"] for row in run(config(schedule=schedule)).history]
        for schedule in train.SCHEDULES
    }
    assert rates["constant"] == [1e-2] * 3
    assert rates["one_cycle"][-1] < 1e-3


def test_without_clipping_a_long_gradient_moves_the_weights_further():
    moved = []
    for clip in (1e-3, None):
        result = run(
            config(epochs=1, optimizer="sgd", lr=1e-3, momentum=0.0, weight_decay=0.0, max_grad_norm=clip)
        )
        before, after = (
            torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (small_model(), result.model)
        )
        moved.append(float((after - before).norm()))
    assert moved[0] < 1e-5  # 5 steps of at most lr × clip each
    assert moved[1] > 100 * moved[0]


def test_a_new_network_can_start_from_a_prior():
    """Its first loss is that of a network which believes in background; one that is handed in is left."""
    data = squares(16, size=64)
    cfg = TrainConfig(epochs=1, batch_size=16, lr=1e-9, precision="float32", disable_malloc_trim=False)
    cfg = dataclasses.replace(cfg, loss=LossConfig(negatives=None, cls_normalizer="anchors"))
    costs = {}
    for prior in (None, 0.01):
        result = fit(data, None, CLASSES, dataclasses.replace(cfg, prior_prob=prior), progress=False)
        costs[prior] = result.history[0]["cls_loss"]
    assert costs[None] > 0.5
    assert costs[0.01] < 0.3
    own = run(config(epochs=1, lr=1e-9, prior_prob=0.01)).history[0]["loss"]
    assert own == pytest.approx(run(config(epochs=1, lr=1e-9)).history[0]["loss"])


def test_a_run_with_random_negatives_resumes_bit_for_bit(tmp_path, monkeypatch):
    cfg = config(loss=LossConfig(mining="random"))
    whole = run(cfg)
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Interrupted):
            run(cfg, out=tmp_path)
    resumed = run(cfg, out=tmp_path, resume=True)
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_a_run_from_before_an_option_existed_resumes(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Interrupted):
            run(config(), out=tmp_path)
    tensors, record = checkpoint.load_tensors(tmp_path / state.LAST)
    del record["config"]["schedule"], record["config"]["loss"]["mining"]
    checkpoint.save_tensors(tmp_path / state.LAST, tensors, record)
    assert len(run(config(), out=tmp_path, resume=True).history) == 3


def test_weight_decay_spares_biases_and_normalization():
    groups = train.make_optimizer(small_model(), config(weight_decay=0.1)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert all(p.ndim == 4 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    count = sum(p.numel() for g in groups for p in g["params"])
    assert count == sum(p.numel() for p in small_model().parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_learns_on_a_gpu():
    result = run(config(epochs=25, device="cuda", precision="auto"))
    assert result.history[-1]["ap50"] > 0.5


def test_a_model_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="the model has 2 classes, but 3 are named"):
        fit(squares(8), None, (*CLASSES, "grey"), config(), model=small_model(), progress=False)


def test_patience_counts_scores_that_are_no_better():
    history = [{"epoch": i, "ap": 0.0} for i in range(1, 4)]
    now = state.TrainState(small_model(), None, None, {}, {}, history=history)
    assert not now.stalled(None)
    assert not now.stalled(3)
    assert now.stalled(2)


def test_how_often_a_run_is_scored_and_when_it_gives_up_may_change(tmp_path):
    run(config(epochs=1), out=tmp_path)
    again = run(config(epochs=1, eval_every=2, patience=3), out=tmp_path, resume=True)
    assert [row["epoch"] for row in again.history] == [1]


def test_the_optimizers_state_comes_back_in_the_weights_memory_layout(tmp_path):
    cfg = config(epochs=1, optimizer="adamw")
    run(cfg, out=tmp_path)
    start = train.start_run(train.as_source(squares(40)), CLASSES, cfg, small_model(), torch.device("cpu"))
    start.state.open_folder(tmp_path, True, cfg.record(), Ranks())
    weights_of = [p for group in start.state.optimizer.param_groups for p in group["params"]]
    for weight in weights_of:
        assert start.state.optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    assert any(weight.stride() != weight.contiguous().stride() for weight in weights_of)


@pytest.mark.parametrize("seed", [-1])
def test_a_seed_below_0_is_named(seed):
    with pytest.raises(ValueError, match="seed is -1: it must be at least 0"):
        config(seed=seed)


def test_nothing_to_score_is_said():
    with pytest.raises(ValueError, match="no images to score"):
        validate(small_model(), squares(0), CLASSES)


def test_synchronized_batch_norm_is_saved_and_fused_as_batch_norm(tmp_path):
    """What a run with `sync_batch_norm` leaves in the model is no nn.BatchNorm2d."""
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(small_model())
    checkpoint.save_model(tmp_path / "m.safetensors", model, checkpoint.ModelInfo(CLASSES))
    again, _ = checkpoint.load_model(tmp_path / "m.safetensors")
    assert torch.equal(weights(again), weights(model))
    images = squares(2).images
    torch.testing.assert_close(fuse_conv_bn(model)(images).logits, again(images).logits, rtol=1e-4, atol=1e-4)
