"""The device computes what the CPU does: augmentation to the bit, networks and gradients nearly."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from effnet.config import Augment
from effnet.data.augment.policies import augment_batch
from effnet.models.build import Network, build
from effnet.train.schedule import stage
from effnet.train.step import draw_noise, take_step
from gpukit.kit import Findings, Kit, batch, network, pictures, training

POLICIES = ("autoaugment_v0", "autoaugment_imagenet", "randaugment")
NETWORKS = ("efficientnet_b0", "mobilenet_v2", "resnet50")


def run(kit: Kit) -> Findings:
    """Compare."""
    found = Findings()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    _augmentation(kit, found)
    for name in NETWORKS if kit.gpu else NETWORKS[1:2]:
        _network(kit, name, found)
    _noise(kit, found)
    _steps(kit, found)
    return found


def _augmentation(kit: Kit, found: Findings) -> None:
    pixels = torch.from_numpy(pictures(kit.of(256, 16), 96, 96)).permute(0, 3, 1, 2)
    samples = np.arange(len(pixels))
    if kit.gpu:
        _launches(kit, found, pixels.to(kit.device), samples)
    for policy in POLICIES:
        config = Augment(policy=policy, erase=0.25)
        here = augment_batch(pixels.clone(), config, samples, 0, 1)
        there = augment_batch(pixels.to(kit.device), config, samples, 0, 1).cpu()
        differ = int((here != there).any(dim=(1, 2, 3)).sum())
        found.numbers[f"{policy}_images_that_differ"] = differ
        found.check(f"{policy}: the same bits as on the CPU", differ == 0)


def _launches(kit: Kit, found: Findings, pixels: Tensor, samples: Any) -> None:
    """Count what augmentation of a batch launches on the device: kernels and copies."""
    config = Augment(policy="randaugment", erase=0.25)
    augment_batch(pixels, config, samples, 0, 0)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        augment_batch(pixels, config, samples, 0, 1)
        kit.wait()
    launched = sum(event.count for event in seen.key_averages() if event.device_type.name == "CUDA")
    found.numbers["augmentation_kernels_and_copies"] = launched
    found.check("augmentation: at most 10 kernels and copies", launched <= 10)


def _network(kit: Kit, name: str, found: Findings) -> None:
    side, number = kit.of((128, 32), (64, 8))
    arch = network(name, side)
    here = build(arch, 10, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    there = build(arch, 10, seed=0).to(kit.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(number, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(number) % 10
    outputs, gradients = zip(*(_pass(net, images, labels, False) for net in (here, there)), strict=True)
    distance = float((outputs[0] - outputs[1]).norm() / outputs[0].norm())
    alike = float(functional.cosine_similarity(gradients[0], gradients[1], dim=0))
    low, low_gradient = _pass(build(arch, 10, seed=0).to(kit.device), images, labels, True)
    found.numbers[name] = {
        "logits_relative_distance": distance,
        "gradient_cosine": alike,
        "bfloat16_logits_relative_distance": float((outputs[0] - low).norm() / outputs[0].norm()),
        "bfloat16_gradient_cosine": float(functional.cosine_similarity(gradients[0], low_gradient, dim=0)),
    }
    found.check(f"{name}: logits within 1e-3 of the CPU's", distance <= 1e-3)
    found.check(f"{name}: gradient's cosine to the CPU's at least 0.999", alike >= 0.999)
    if kit.gpu:
        found.check(f"{name}: channels last at every convolution", not _not_channels_last(there, images))


def _pass(net: Network, images: Tensor, labels: Tensor, bfloat16: bool) -> tuple[Tensor, Tensor]:
    """Return logits and the whole gradient of a step without anything random, on the CPU."""
    where = next(net.parameters()).device
    for module in net.modules():
        if hasattr(module, "drop_rate"):
            module.drop_rate = 0.0
    net.train()
    net.dropout.p = 0.0
    with torch.autocast(where.type, torch.bfloat16, enabled=bfloat16):
        logits = net(images.to(where))
    functional.cross_entropy(logits.float(), labels.to(where)).backward()  # type: ignore[no-untyped-call]
    whole = torch.cat([param.grad.flatten() for param in net.parameters() if param.grad is not None])
    return logits.detach().float().cpu(), whole.float().cpu()


def _not_channels_last(net: Network, images: Tensor) -> list[str]:
    """Return the convolutions whose input is not channels last."""
    found: list[str] = []

    def look(name: str) -> object:
        def hook(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
            image = given[0]
            if min(image.shape[2:]) > 1 and not image.is_contiguous(memory_format=torch.channels_last):
                found.append(name)

        return hook

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(look(name))  # type: ignore[arg-type]
    with torch.autocast("cuda", torch.bfloat16):
        net(images.cuda())
    return found


def _noise(kit: Kit, found: Findings) -> None:
    arch = network("efficientnet_b0", 64)
    state = training(kit, arch, batch_size=16, epochs=1)
    there = draw_noise(state, np.arange(16), 3)
    state.world.device = torch.device("cpu")
    here = draw_noise(state, np.arange(16), 3)
    found.check(
        "noise: the same bits as on the CPU", all(torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))
    )


def _steps(kit: Kit, found: Findings) -> None:
    """Take real steps with everything on; none may wait for the device."""
    arch = network("efficientnet_b0", 64)
    augment = Augment(policy="randaugment", erase=0.25, mixup=0.2, cutmix=0.2)
    state = training(kit, arch, batch_size=32, epochs=1, augment=augment, ema_decay=0.99)
    now = stage(state.spec.recipe, arch, 0)
    state.network.train()
    take_step(state, batch(kit, 32, 64), now)
    if not kit.gpu:
        return
    batches = [batch(kit, 32, 64) for _ in range(3)]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        for one in batches:
            take_step(state, one, now)
        torch.cuda.set_sync_debug_mode("default")
    places = [
        f"{w.filename.rpartition('/')[2]}:{w.lineno}" for w in heard if "called a synchronizing" in str(w.message)
    ]
    found.numbers["waits_in_three_steps"] = {place: places.count(place) for place in sorted(set(places))}
    found.check("no step waits for the device", not places)
