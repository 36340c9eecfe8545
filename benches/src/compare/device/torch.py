"""A training step in PyTorch eager as it is usually written: bf16 autocast, SDPA, fused AdamW.

Reads a JSON object of sizes from its only argument and prints one JSON object a line for each precision and batch:
{"ternary", "batch", "seconds": [of each step], "peak_bytes"}. Steps are timed by events on the device, so that the host
runs ahead as it likes.
"""

import json
import sys

import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-5


class Ternary(torch.autograd.Function):
    """One scale a row, straight-through gradient."""

    @staticmethod
    def forward(ctx, weight):
        scale = weight.abs().mean(-1, keepdim=True).clamp(min=EPS)
        return (weight / scale).round().clamp(-1, 1) * scale

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Linear(nn.Linear):
    """Ternary weights and int8 activations when `ternary` is set."""

    def __init__(self, rows, cols, ternary):
        super().__init__(cols, rows, bias=False)
        self.ternary = ternary

    def forward(self, x):
        if not self.ternary:
            return F.linear(x, self.weight)
        scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=EPS)
        x = x + ((x * scale).round().clamp(-127, 127) / scale - x).detach()
        return F.linear(x, Ternary.apply(self.weight))


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.gain, EPS)


class Block(nn.Module):
    def __init__(self, dim, heads, ffn, ternary):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(3 * dim, dim, ternary)
        self.out = Linear(dim, dim, ternary)
        self.gate_up = Linear(2 * ffn, dim, ternary)
        self.down = Linear(dim, ffn, ternary)
        self.attn_norm = Norm(dim)
        self.ffn_norm = Norm(dim)

    def forward(self, x, cos, sin):
        batch, length, dim = x.shape
        qkv = self.qkv(self.attn_norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin), qkv[2]
        o = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.out(o.transpose(1, 2).reshape(batch, length, dim))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Model(nn.Module):
    def __init__(self, c, ternary):
        super().__init__()
        self.embedding = nn.Embedding(c["vocab"], c["dim"])
        blocks = [Block(c["dim"], c["heads"], c["ffn"], ternary) for _ in range(c["layers"])]
        self.blocks = nn.ModuleList(blocks)
        self.norm = Norm(c["dim"])
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        half = c["dim"] // c["heads"] // 2
        angles = torch.outer(torch.arange(c["length"]).float(), 10000 ** -(torch.arange(half) / half))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, ids, targets):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def measure(c, ternary, batch):
    torch.manual_seed(1)
    model = Model(c, ternary).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    ids = torch.randint(c["vocab"], (batch, c["length"] + 1), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    marks = []
    for _ in range(c["warmup"] + c["steps"] + 1):
        marks.append(torch.cuda.Event(enable_timing=True))
        marks[-1].record()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    torch.cuda.synchronize()
    marks = marks[c["warmup"] :]
    seconds = [a.elapsed_time(b) / 1e3 for a, b in zip(marks, marks[1:])]
    return {"ternary": ternary, "batch": batch, "seconds": seconds, "peak_bytes": torch.cuda.max_memory_allocated()}


def main():
    c = json.loads(sys.argv[1])
    for ternary in (False, True):
        for batch in c["batches"]:
            print(json.dumps(measure(c, ternary, batch)), flush=True)


main()
