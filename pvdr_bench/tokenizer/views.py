"""What a frame tokenizer can show: reconstructions beside the originals.

Shapes: B frames, H = W image size, h x w token grid.
"""

from __future__ import annotations

import torch

from pvdr_bench.nets.quantizer import perplexity
from pvdr_bench.rl.views import Exhibits, Row, Strips, Trained, View, Views, difference, psnr
from pvdr_bench.tokenizer.frozen import load_tokenizer

MEASURED = 256  # frames that the numbers are of
GAIN = 4.0  # of the row of differences
COLUMNS = 8  # at most


def reconstructions(trained: Trained) -> Exhibits:
    """Held-out frames, drawn again from their tokens, and where they differ.

    Numbers: PSNR in dB of all frames together, of the lowest and of each shown one; the codes' perplexity, and how many
    of them were used at all.
    """
    tokenizer = load_tokenizer(trained.weights, trained.config, trained.device)
    cases = min(COLUMNS, 2 * trained.amounts.cases)
    frames = trained.clips(max(MEASURED, cases), 1, 1).frames[:, 0]
    codes = tokenizer.encode(torch.from_numpy(frames))
    drawn = tokenizer.decode(codes).cpu().numpy()
    each = [psnr(one, true) for one, true in zip(drawn, frames, strict=True)]
    usage = torch.bincount(codes.flatten().cpu(), minlength=tokenizer.codebook_size).float()
    numbers = {"frames": len(frames), "psnr": psnr(drawn, frames), "psnr_lowest": min(each), "psnr_shown": each[:cases],
               "perplexity": float(perplexity(usage)), "codes_used": int((usage > 0).sum()),
               "codes": tokenizer.codebook_size, "tokens_per_frame": tokenizer.grid**2}
    shown = slice(None, cases)
    rows = (Row("original", tuple(frames[shown])), Row("from tokens", tuple(drawn[shown])),
            Row(f"difference x {GAIN:g}", tuple(difference(drawn[shown], frames[shown], GAIN))))
    about = f"Held-out frames of its corpora, and the same from their {tokenizer.grid**2} tokens; PSNR above each."
    yield "reconstructions", Strips("Reconstructions", about, numbers,
                                    tuple(f"{value:.1f} dB" for value in each[:cases]), rows)


ARTEFACT: Views = {"reconstructions": View(reconstructions, ("cases", "seed"))}
