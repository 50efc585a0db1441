"""Stage ``tokenize``: the training of the VQGAN on single frames.

Shapes: B clips of T frames, all flattened to N frames; h x w token grid, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pvdr_bench.nets.optimizers import load_optimizer_state, optimizer_state, require_finite
from pvdr_bench.nets.quantizer import perplexity
from pvdr_bench.rl.contract import OfflineLearner, StageContext
from pvdr_bench.rl.process_group import ALONE
from pvdr_bench.tokenizer.config import TrainConfig, VQGANConfig
from pvdr_bench.tokenizer.frozen import SIZE_KEY
from pvdr_bench.tokenizer.gradients import Piece, Sums, add_gradients, grad_norm, step_with
from pvdr_bench.tokenizer.layers import to_float
from pvdr_bench.tokenizer.measures import PEAK, foreground_weights, motion_metrics, psnr
from pvdr_bench.tokenizer.networks import VQGAN
from pvdr_bench.tokenizer.patchgan import PatchDiscriminator, PerceptualLoss, adaptive_weight, hinge_loss
from pvdr_bench.tokenizer.shared import RowDropout, SharedBatchNorm


def lr_at(config: TrainConfig, step: int) -> float:
    """Learning rate: linear warm-up times a cosine from ``lr`` to ``lr * lr_final``."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))
    return config.lr * warm * (config.lr_final + (1 - config.lr_final) * cosine)


class VQGANLearner(OfflineLearner):
    """Trains encoder, quantiser and decoder, and from ``disc_start`` on against a PatchGAN.

    A step's gradient is that of the whole batch, however it is cut into micro-batches, but for dropout and the
    discriminator's batch norm. The adaptive weight is computed once per step from the summed gradients: this costs
    a second backward pass through the generator while the discriminator is on.

    Several processes cut the batch as one does, and each takes its rows of every micro-batch: the masks of dropout are
    those of one process. The discriminator's batch norm sees the whole batch of all ranks where it is one micro-batch;
    else it sees a rank's rows of one, and a micro-batch that lies on two ranks is normalised in two.

    Args:
        config: the algorithm's config. image_size: H.
    """

    def __init__(self, config: VQGANConfig, seed: int, device: torch.device, image_size: int) -> None:
        self.config, self.seed, self.device, self.step = config, seed, device, 0
        loss, train = config.loss, config.train
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = VQGAN(config, image_size)
            self.disc = (PatchDiscriminator(loss.disc_width, loss.disc_layers, loss.disc_norm)
                         if loss.disc_weight else None)
        self.format = torch.channels_last if train.channels_last else torch.contiguous_format
        self._place(self.net)
        self.parameters = list(self.net.parameters())
        self.last = next(i for i, p in enumerate(self.parameters) if p is self.net.decoder.last.weight)
        self.optimiser = self._adam(self.parameters)
        if self.disc is not None:
            self._place(self.disc)
            self.disc_optimiser = self._adam(list(self.disc.parameters()))
        self.dropouts = [m for m in self.net.modules() if isinstance(m, RowDropout) and m.p]
        self.norms = [m for m in self.disc.modules() if isinstance(m, SharedBatchNorm)] if self.disc is not None else []
        self.perceptual = PerceptualLoss(loss.perceptual_weights).to(device) if loss.perceptual_weights else None
        self.forward: Callable[[Tensor], Any] = self.net
        if train.compile:
            import torch._functorch.config as functorch

            functorch.donated_buffer = False  # two losses are differentiated through one graph
            self.forward = torch.compile(self.net)

    @classmethod
    def for_stage(cls, context: StageContext) -> VQGANLearner:
        """On single frames."""
        return cls(context.config, context.seed, context.device, context.image_size)

    def _place(self, module: nn.Module) -> None:
        module.to(memory_format=self.format).to(self.device)  # type: ignore[call-overload]

    def _adam(self, parameters: list[nn.Parameter]) -> torch.optim.Adam:
        train = self.config.train
        return torch.optim.Adam(parameters, lr=train.lr, betas=(train.beta1, train.beta2), fused=True)

    def _images(self, frames: Tensor) -> Tensor:
        return to_float(frames.to(self.device, non_blocking=True)).contiguous(memory_format=self.format)

    def _generator(self) -> torch.Generator:
        """The random numbers of one step: a function of seed and step, so there is no state to keep."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)

    def update(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """One optimiser step on uint8 frames [B, T, H, W, 3].

        Raises:
            TrainingError: a loss is not finite.
        """
        pieces = self._pieces(batch.reshape(-1, *batch.shape[-3:]))
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # for dropout
            torch.manual_seed(self.seed * 1_000_003 + self.step)
            if self.step == 0 and self.config.codebook.data_init:
                self._initialise_codes(pieces)
            sums = self._accumulate(pieces, batch.shape[:-3].numel() * self.group.size)
        self._add_ranks(sums)
        require_finite({name: sums.terms[name] for name in ("loss", "commitment")}, f"tokenizer, step {self.step}")
        metrics = {**sums.terms, **self._apply(sums)}
        names = sorted(metrics)
        values = torch.stack([metrics[name].float().to(self.device) for name in names]).tolist()
        self.step += 1
        found = dict(zip(names, values, strict=True))
        return {**found, "psnr": psnr(found.pop("mse")), "lr": lr_at(self.config.train, self.step - 1)}

    def _pieces(self, frames: Tensor) -> list[Piece]:
        """Micro-batches of this rank's frames uint8 [N, H, W, 3], cut where one process would cut the whole batch.

        Micro-batches that are all with other ranks are among them only for dropout, whose random numbers they use up.
        """
        own, total = len(frames), len(frames) * self.group.size
        size, start = self.config.train.micro_batch or total, self.group.rank * len(frames)
        for norm in self.norms:
            norm.group = self.group if size >= total else ALONE
        pieces = []
        for first in range(0, total, size):
            last = min(first + size, total)
            a, b = max(first - start, 0), min(last - start, own)
            if a < b:
                pieces.append(Piece(frames[a:b], a + start - first, last - b - start))
            elif self.dropouts:
                pieces.append(Piece(frames[:1], last - first - 1, 0, empty=True))
        return pieces

    def _place_rows(self, piece: Piece) -> None:
        """Tell dropout what the piece is a part of."""
        for dropout in self.dropouts:
            dropout.around = (piece.before, piece.after)

    @torch.no_grad()
    def _use_up(self, images: Tensor) -> None:
        """Draw the masks of a micro-batch that other ranks have."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.dtype == "bfloat16"):
            self.forward(images)

    def _initialise_codes(self, pieces: Sequence[Piece]) -> None:
        """Start the codes at random encodings of the batch."""
        quantizer, found = self.net.quantizer, []
        with torch.no_grad():
            for piece in pieces:
                self._place_rows(piece)
                z = self.net.features(self._images(piece.frames)).reshape(-1, quantizer.dim)
                if not piece.empty:
                    found.append(z)
        vectors = torch.cat(found)
        order = torch.randint(len(vectors) * self.group.size, (quantizer.size,), generator=self._generator())
        chosen = self.group.pick(vectors, order.to(self.device))
        quantizer.set_codes(torch.arange(quantizer.size, device=self.device), chosen.float())

    def _accumulate(self, pieces: Sequence[Piece], total: int) -> Sums:
        """Gradients and statistics of all micro-batches, each weighted by its share of the frames."""
        train, loss, quantizer = self.config.train, self.config.loss, self.net.quantizer
        own = [piece.frames for piece in pieces if not piece.empty]
        sums, foreground = Sums(), self._background(own, total) if loss.foreground else None
        for piece in pieces:
            self._place_rows(piece)
            share, images = len(piece.frames) / total, self._images(piece.frames)
            if piece.empty:
                self._use_up(images)
                continue
            with torch.autocast(self.device.type, torch.bfloat16, enabled=train.dtype == "bfloat16"):
                recon, z, quantised = self.forward(images)
                adversarial = -self.disc(recon).float().mean() if self.disc is not None and self._gan_on() else None
            recon = recon.float()
            value, terms = self._loss(images, recon, foreground)
            beta = self.config.codebook.commitment
            main = value + self.config.codebook.weight * (quantised.codebook + beta * quantised.commitment)
            sums.main = add_gradients(sums.main, main * share, self.parameters, adversarial is not None)
            if adversarial is not None:
                sums.gan = add_gradients(sums.gan, adversarial * share, self.parameters)
                terms |= {"generator_loss": adversarial, "disc_loss": self._discriminate(images, recon, share, sums)}
            sums.add_terms({"loss": main, "commitment": quantised.commitment, "codebook": quantised.codebook, **terms},
                           share)
            count, vector_sum = quantizer.statistics(z, quantised.codes)
            sums.count = count if sums.count is None else sums.count + count
            sums.total = vector_sum if sums.total is None else sums.total + vector_sum
            if self._restart_due():
                sums.vectors.append(z.detach().float().reshape(-1, quantizer.dim))
        return sums

    def _add_ranks(self, sums: Sums) -> None:
        """Make the sums those of all ranks."""
        assert sums.main is not None and sums.count is not None and sums.total is not None
        self.group.sum_tensors([*sums.main, *(sums.gan or []), *(sums.disc or []), *sums.terms.values(), sums.count,
                                sums.total])

    def _background(self, parts: Sequence[Tensor], total: int) -> tuple[Tensor, Tensor]:
        """Mean frame [3, H, W] of the whole batch and the mean absolute difference from it (scalar)."""
        mean = torch.stack([self._images(part).sum(0) for part in parts]).sum(0)
        self.group.sum_tensors([mean])
        mean = mean / total
        spread = torch.stack([(self._images(part) - mean).abs().mean() * (len(part) / total) for part in parts]).sum()
        self.group.sum_tensors([spread])
        return mean, spread

    def _loss(self, images: Tensor, recon: Tensor,
              background: tuple[Tensor, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction loss and metrics (l1 in [0, 1])."""
        config, error = self.config.loss, (recon - images).abs()
        pixel = error * (config.l1 + config.l2 * error) if config.l2 else error * config.l1
        if background is not None:
            pixel = pixel * foreground_weights(images, *background, config.foreground)
        loss, plain = pixel.mean(), error.detach()
        terms = {"l1": plain.mean() / 2, "mse": plain.square().mean()}
        if self.perceptual is not None and config.perceptual:
            terms["perceptual"] = self.perceptual(images, recon)
            loss = loss + config.perceptual * terms["perceptual"]
        return loss, terms

    def _discriminate(self, images: Tensor, recon: Tensor, share: float, sums: Sums) -> Tensor:
        """The discriminator's loss on a micro-batch; its gradient is added to ``sums``."""
        assert self.disc is not None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.dtype == "bfloat16"):
            real, fake = self.disc(images), self.disc(recon.detach())
        loss = hinge_loss(real.float(), fake.float())
        sums.disc = add_gradients(sums.disc, loss * share, list(self.disc.parameters()))
        return loss

    def _gan_on(self) -> bool:
        return self.disc is not None and self.step >= self.config.loss.disc_start

    def _restart_due(self) -> bool:
        book, step = self.config.codebook, self.step
        return bool(book.restart_below and step and step % book.restart_every == 0
                    and step < book.restart_until * self.config.train.steps)

    def _apply(self, sums: Sums) -> dict[str, Tensor]:
        """Step the optimisers and the codes; returns metrics."""
        assert sums.main is not None and sums.count is not None and sums.total is not None
        grads, metrics = sums.main, {"perplexity": perplexity(sums.count), "used_codes": (sums.count > 0).sum()}
        if sums.gan is not None and sums.disc is not None and self.disc is not None:
            weight = adaptive_weight(grads[self.last], sums.gan[self.last]) * self.config.loss.disc_weight
            torch._foreach_add_(grads, [g * weight for g in sums.gan])
            metrics |= {"adaptive_weight": weight, "grad_discriminator": grad_norm(sums.disc)}
            step_with(self.disc_optimiser, list(self.disc.parameters()), sums.disc, lr_at(self.config.train, self.step))
        start = 0
        for name in ("encoder", "quantizer", "decoder"):
            count = len(list(getattr(self.net, name).parameters()))
            if count:
                metrics[f"grad_{name}"] = grad_norm(grads[start : start + count])
            start += count
        if self.config.train.max_grad_norm:
            scale = (self.config.train.max_grad_norm / (grad_norm(grads) + 1e-6)).clamp_max(1.0)
            torch._foreach_mul_(grads, scale)
        step_with(self.optimiser, self.parameters, grads, lr_at(self.config.train, self.step))
        if self.net.quantizer.ema:
            self.net.quantizer.ema_update(sums.count, sums.total, self.config.codebook.decay)
        if sums.vectors:
            metrics["restarted"] = self._restart(torch.cat(sums.vectors))
        return metrics

    def _restart(self, vectors: Tensor) -> Tensor:
        """Put random encodings of all ranks' [M, q] in place of dead codes; returns how many."""
        quantizer = self.net.quantizer
        dead = quantizer.dead(self.config.codebook.restart_below)
        chosen = torch.randint(len(vectors) * self.group.size, (len(dead),), generator=self._generator())
        quantizer.set_codes(dead, self.group.pick(vectors, chosen.to(self.device)))
        return torch.tensor(float(len(dead)))

    @torch.no_grad()
    def validate(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """Metrics on held-out clips uint8 [B, T, H, W, 3].

        l1 (in [0, 1]), psnr, perplexity and used_codes over the batch. With T > 1 also, between neighbouring frames:
        token_change (share of tokens that change), token_flicker (the same where no value of the token's cell changes
        by more than 2 of 255), token_response (the same where one does) and l1_moving (of those cells).
        """
        self.net.eval()
        try:
            recon, codes = self._reconstruct(batch)
        finally:
            self.net.train()
        target = batch.float() / 255
        error = (recon - target).abs()
        count = torch.bincount(codes.flatten(), minlength=self.net.quantizer.size)
        out = {"l1": float(error.mean()), "psnr": psnr(PEAK * float(error.square().mean())),
               "perplexity": float(perplexity(count)), "used_codes": float((count > 0).sum())}
        if batch.shape[1] > 1:
            out |= motion_metrics(batch.cpu(), error, codes, self.config.factor)
        return out

    def _reconstruct(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions float [B, T, H, W, 3] in [0, 1] and codes int64 [B, T, h, w], both on the CPU."""
        recons, codes = [], []
        frames = batch.reshape(-1, *batch.shape[-3:])
        for part in torch.split(frames, self.config.train.micro_batch or 64):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.dtype == "bfloat16"):
                recon, _, quantised = self.net(self._images(part))
            recons.append(((recon.float() + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).cpu())
            codes.append(quantised.codes.cpu())
        grid = self.net.grid
        return torch.cat(recons).view(batch.shape), torch.cat(codes).view(*batch.shape[:2], grid, grid)

    def export(self) -> dict[str, Tensor]:
        """Weights of encoder, quantiser and decoder, and the image size, for ``load_tokenizer``."""
        weights = {name: value.detach().cpu().contiguous() for name, value in self.net.state_dict().items()}
        return {**weights, SIZE_KEY: torch.tensor(self.net.image_size)}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly."""
        state: dict[str, Any] = {"step": self.step, "net": self.net.state_dict(),
                                 "optimiser": optimizer_state(self.optimiser)}
        if self.disc is not None:
            state |= {"disc": self.disc.state_dict(), "disc_optimiser": optimizer_state(self.disc_optimiser)}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.step = int(state["step"])
        self.net.load_state_dict(state["net"])
        load_optimizer_state(self.optimiser, state["optimiser"])
        if self.disc is not None:
            self.disc.load_state_dict(state["disc"])
            load_optimizer_state(self.disc_optimiser, state.get("disc_optimiser", {}))
