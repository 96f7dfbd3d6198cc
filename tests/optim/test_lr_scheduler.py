"""Learning-rate schedules: PyTorch's sequences, and the laws of warmup_cosine."""

import copy
import warnings
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm.optim import SGD, lr_scheduler


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def optimizer(lib, kind="SGD", **options):
    groups = [{"params": [lib.nn.Parameter(lib.ones(1))]}, {"params": [lib.nn.Parameter(lib.ones(1))], "lr": 0.3}]
    return getattr(lib.optim, kind)(groups, lr=0.1, **options)


def rates(lib, build, steps=25):
    """The rates of both groups at t = 0, 1, 2, ..."""
    opt = optimizer(lib)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch wants optimizer.step() called in between
        schedulers = build(lib.optim.lr_scheduler, opt)
        schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
        found = []
        for _ in range(steps):
            found.append([group["lr"] for group in opt.param_groups])
            assert schedulers[-1].get_last_lr() == found[-1]
            for scheduler in schedulers:
                scheduler.step()
    return found


def same(torch, build, steps=25):
    ours, theirs = rates(tg, build, steps), rates(torch, build, steps)
    for t, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a == pytest.approx(b, rel=1e-12, abs=1e-15), f"at t = {t}"


BUILDERS = {
    "lambda": lambda s, o: s.LambdaLR(o, lambda t: 0.9**t),
    "lambdas": lambda s, o: s.LambdaLR(o, [lambda t: 0.9**t, lambda t: 1 / (t + 1)]),
    "step": lambda s, o: s.StepLR(o, 4, 0.5),
    "constant": lambda s, o: s.ConstantLR(o, 0.2, 6),
    "linear": lambda s, o: s.LinearLR(o, 0.1, 0.7, 8),
    "linear to zero": lambda s, o: s.LinearLR(o, 1.0, 0.0, 8),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, 6, 0.01),
    "cosine, one way": lambda s, o: s.CosineAnnealingLR(o, 25),
    "warm-up and cosine": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, total_iters=5), s.CosineAnnealingLR(o, 12)], [5]
    ),
    "three in a row": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.5, 2), s.StepLR(o, 3), s.LambdaLR(o, lambda t: 1 + t)], [4, 11]
    ),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, lambda t: 1 - 0.01 * t),
    "multi-step": lambda s, o: s.MultiStepLR(o, [3, 7, 7, 20], 0.5),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.9),
    "polynomial": lambda s, o: s.PolynomialLR(o, 12, 2.0),
    "restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4),
    "restarts, longer and longer": lambda s, o: s.CosineAnnealingWarmRestarts(o, 2, 2, 0.01),
    "cyclic": lambda s, o: s.CyclicLR(o, 0.01, 0.2, 4),
    "cyclic, uneven and lower": lambda s, o: s.CyclicLR(o, 0.01, [0.2, 0.4], 2, 5, "triangular2"),
    "cyclic, exponential": lambda s, o: s.CyclicLR(o, 0.01, 0.2, 3, mode="exp_range", gamma=0.9),
    "cyclic, by a function": lambda s, o: s.CyclicLR(o, 0.01, 0.2, 3, scale_fn=lambda x: 1 / x),
    "one cycle": lambda s, o: s.OneCycleLR(o, 0.5, 25),
    "one cycle, straight": lambda s, o: s.OneCycleLR(
        o, [0.5, 0.2], epochs=5, steps_per_epoch=6, anneal_strategy="linear"
    ),
    "one cycle, three phases": lambda s, o: s.OneCycleLR(o, 0.5, 30, three_phase=True, div_factor=10.0),
    "chained in one": lambda s, o: s.ChainedScheduler([s.LinearLR(o, 0.1, total_iters=5), s.ExponentialLR(o, 0.9)]),
    "chained": lambda s, o: [s.LinearLR(o, 0.1, total_iters=5), s.StepLR(o, 4, 0.5)],
}


@pytest.mark.torch
@pytest.mark.parametrize("name", BUILDERS)
def test_rates_are_pytorchs(torch, name):
    same(torch, BUILDERS[name])


@pytest.mark.torch
@settings(max_examples=20)
@given(
    start=st.floats(0.01, 1),
    end=st.floats(0, 1),
    line=st.integers(1, 9),
    period=st.integers(1, 9),
    floor=st.floats(0, 0.2),
)
def test_rates_are_pytorchs_over_options(start, end, line, period, floor):
    torch = pytest.importorskip("torch")
    same(torch, lambda s, o: s.LinearLR(o, start, end, line))
    same(torch, lambda s, o: s.CosineAnnealingLR(o, period, floor))
    same(torch, lambda s, o: s.ConstantLR(o, start, line))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LambdaLR", [lambda t: 0.9**t]),
        ("StepLR", [4]),
        ("ConstantLR", [0.2, 8]),
        ("LinearLR", [0.1, 0.7, 12]),
        ("CosineAnnealingLR", [6]),
        ("MultiStepLR", [[9, 12]]),
        ("ExponentialLR", [0.9]),
        ("PolynomialLR", [12]),
        ("MultiplicativeLR", [lambda t: 0.9]),
        ("CosineAnnealingWarmRestarts", [3, 2]),
    ],
)
def test_resuming_is_pytorchs(torch, kind, options):
    """A scheduler made with last_epoch, over an optimizer that knows its initial rates."""

    def build(s, o):
        for group in o.param_groups:
            group["initial_lr"] = 2 * group["lr"]
        return getattr(s, kind)(o, *options, last_epoch=7)

    same(torch, build)
    with pytest.raises(KeyError, match="initial_lr"):
        getattr(lr_scheduler, kind)(optimizer(tg), *options, last_epoch=7)


@pytest.mark.parametrize("name", [n for n in BUILDERS if n != "chained"])
def test_state_round_trip_goes_on_exactly(name):
    whole = rates(tg, BUILDERS[name], 20)
    one = optimizer(tg)
    scheduler = BUILDERS[name](lr_scheduler, one)
    for _ in range(9):
        scheduler.step()
    saved, saved_optimizer = copy.deepcopy(scheduler.state_dict()), one.state_dict()
    assert "optimizer" not in saved
    two = optimizer(tg)
    again = BUILDERS[name](lr_scheduler, two)
    two.load_state_dict(saved_optimizer)
    again.load_state_dict(saved)
    for t in range(9, 20):
        assert again.get_last_lr() == [group["lr"] for group in two.param_groups] == whole[t]
        again.step()


def test_sequences_may_hold_sequences():
    """A sequence inside a sequence counts its own steps from where it begins."""

    def flat(s, o):
        parts = [s.ConstantLR(o, f, 100) for f in (0.1, 0.2, 0.3, 0.4)]
        return s.SequentialLR(o, parts, [3, 5, 9])

    def nested(s, o):
        parts = [s.ConstantLR(o, f, 100) for f in (0.1, 0.2, 0.3, 0.4)]
        return s.SequentialLR(o, [s.SequentialLR(o, parts[:2], [3]), s.SequentialLR(o, parts[2:], [4])], [5])

    assert rates(tg, nested) == rates(tg, flat)


def test_wrong_arguments_are_refused():
    opt, other = optimizer(tg), optimizer(tg)
    s = lr_scheduler
    with pytest.raises(TypeError, match="int is not an Optimizer"):
        s.LRScheduler(3)
    with pytest.raises(ValueError, match="Expected 2 lr_lambdas, but got 1"):
        s.LambdaLR(opt, [lambda t: 1.0])
    with pytest.raises(ValueError, match="Constant multiplicative factor"):
        s.ConstantLR(opt, 1.5)
    with pytest.raises(ValueError, match="Starting multiplicative factor"):
        s.LinearLR(opt, 0.0)
    with pytest.raises(ValueError, match="Ending multiplicative factor"):
        s.LinearLR(opt, 0.5, 2.0)
    with pytest.raises(ValueError, match="at least one scheduler"):
        s.SequentialLR(opt, [], [])
    with pytest.raises(ValueError, match="number of schedulers 1 and the number of milestones to be equal to 1"):
        s.SequentialLR(opt, [s.StepLR(opt, 1)], [3])
    with pytest.raises(ValueError, match="scheduler StepLR at index 1 with another one"):
        s.SequentialLR(opt, [s.StepLR(opt, 1), s.StepLR(other, 1)], [3])


@given(total=st.integers(1, 300), share=st.floats(0, 1), floor=st.floats(0, 1))
def test_warmup_cosine_rises_then_falls(total, share, floor):
    warmup = int(share * total)
    factor = lr_scheduler.warmup_cosine(warmup, total, floor)
    values = [factor(t) for t in range(total + 5)]
    assert all(0 < v <= 1 or v >= floor for v in values)
    assert all(b > a for a, b in pairwise(values[:warmup]))
    down = values[warmup:]
    assert all(b <= a + 1e-12 for a, b in pairwise(down))
    assert values[total:] == [floor] * 5
    if warmup < total:
        assert values[warmup] == 1.0


def test_warmup_cosine_drives_lambda_lr():
    opt = SGD([tg.nn.Parameter(tg.ones(1))], lr=2.0)
    scheduler = lr_scheduler.LambdaLR(opt, lr_scheduler.warmup_cosine(3, 7, 0.5))
    found = []
    for _ in range(9):
        found.append(scheduler.get_last_lr()[0])
        scheduler.step()
    assert found == pytest.approx([0.5, 1.0, 1.5, 2.0, 1.853553, 1.5, 1.146447, 1.0, 1.0], rel=1e-6)
    for wrong in ((5, 3, 0.1), (-1, 3, 0.1)):
        with pytest.raises(ValueError, match="warmup_steps"):
            lr_scheduler.warmup_cosine(*wrong)
    with pytest.raises(ValueError, match=r"min_ratio must lie in 0\.\.1, not 2"):
        lr_scheduler.warmup_cosine(1, 2, 2)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_momentum_goes_the_other_way_as_pytorchs(torch, kind, name):
    found = []
    for lib in (tg, torch):
        opt = optimizer(lib, kind, **({"momentum": 0.5} if kind == "SGD" else {}))
        options = ((0.5, 20),) if name == "OneCycleLR" else ((0.01, 0.2, 4),)
        scheduler = getattr(lib.optim.lr_scheduler, name)(opt, *options[0])
        values = []
        for _ in range(20):
            values += [g["momentum"] if kind == "SGD" else g["betas"][0] for g in opt.param_groups]
            opt.step()
            scheduler.step()
        found.append(values)
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    with pytest.raises(ValueError, match="must support momentum"):
        getattr(lr_scheduler, name)(optimizer(tg, "Adagrad"), *options[0])


@pytest.mark.torch
@pytest.mark.parametrize("epoch", [0, 0.5, 3, 5.25, 17])
def test_restarts_go_to_any_time_as_pytorchs(torch, epoch):
    found = []
    for lib in (tg, torch):
        opt = optimizer(lib)
        scheduler = lib.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, 3, 2)
        scheduler.step(epoch)
        found.append([g["lr"] for g in opt.param_groups])
        opt.step()
        scheduler.step()
        found[-1] += [g["lr"] for g in opt.param_groups]
    assert found[0] == pytest.approx(found[1], rel=1e-9)


METRICS = [5.0, 4.0, 4.0, 4.1, 3.99, 4.2, 4.3, 4.0, 4.0, 4.0, 3.0, 3.5, 3.5, 3.5, 3.5, 3.5, 3.5, float("nan"), 9.0, 9.0]


@pytest.mark.torch
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2}, {"patience": 1, "mode": "max"}, {"patience": 0, "factor": 0.5, "cooldown": 2},
        {"patience": 1, "threshold": 0.1, "threshold_mode": "abs"}, {"patience": 0, "min_lr": [0.05, 0.1]},
        {"patience": 0, "eps": 0.02}, {"patience": 1, "mode": "max", "threshold_mode": "abs"},
    ],
)  # fmt: skip
def test_plateaus_are_pytorchs(torch, options):
    found = []
    for lib in (tg, torch):
        opt = optimizer(lib)
        scheduler = lib.optim.lr_scheduler.ReduceLROnPlateau(opt, **options)
        rates = []
        for metric in METRICS:
            opt.step()
            scheduler.step(lib.tensor(metric))
            rates += scheduler.get_last_lr()
        state = {k: v for k, v in scheduler.state_dict().items() if k in ("best", "num_bad_epochs", "cooldown_counter")}
        found.append((rates, state))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert found[0][1] == found[1][1]


def test_the_others_refuse_wrong_arguments():
    opt, other = optimizer(tg, momentum=0.9), optimizer(tg)
    s = lr_scheduler
    for wrong in (
        lambda: s.ReduceLROnPlateau(opt, factor=1.0),
        lambda: s.ReduceLROnPlateau(opt, mode="low"),
        lambda: s.ReduceLROnPlateau(opt, threshold_mode="x"),
        lambda: s.ReduceLROnPlateau(opt, min_lr=[0.1]),
        lambda: s.OneCycleLR(opt, 0.1),
        lambda: s.OneCycleLR(opt, 0.1, 0),
        lambda: s.OneCycleLR(opt, 0.1, epochs=3, steps_per_epoch=-1),
        lambda: s.OneCycleLR(opt, 0.1, 10, pct_start=1.5),
        lambda: s.OneCycleLR(opt, 0.1, 10, anneal_strategy="sin"),
        lambda: s.OneCycleLR(opt, [0.1], 10),
        lambda: s.CyclicLR(opt, 0.1, 0.2, mode="square"),
        lambda: s.CosineAnnealingWarmRestarts(opt, 0),
        lambda: s.CosineAnnealingWarmRestarts(opt, 3, 0),
        lambda: s.CosineAnnealingWarmRestarts(opt, 3).step(-1),
        lambda: s.ChainedScheduler([]),
        lambda: s.ChainedScheduler([s.StepLR(opt, 1), s.StepLR(other, 1)]),
    ):
        with pytest.raises(ValueError):
            wrong()
    scheduler = s.OneCycleLR(opt, 0.1, 3)
    for _ in range(3):
        scheduler.step()
    with pytest.raises(ValueError, match="Tried to step 4 times"):
        scheduler.step()


def test_a_schedule_that_runs_ahead_of_its_optimizer_warns_once():
    opt = optimizer(tg)
    scheduler = lr_scheduler.StepLR(opt, 3)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
        opt = optimizer(tg)
        scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
        opt.step()
        scheduler.step()
